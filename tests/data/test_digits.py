"""The built-in digits."""

from __future__ import annotations

import numpy as np
import torch
from helpers import refusal
from PIL import Image
from sklearn.datasets import load_digits

from gan_plugin.data import check_data_argument, load_dataset
from gan_plugin.data.digits import held_out


def test_digits() -> None:
    dataset = load_dataset("digits")
    assert dataset.samples.shape == (1438, 1, 28, 28)
    assert dataset.samples.dtype == torch.uint8
    assert (len(dataset), dataset.spec.shape) == (1438, (28, 28, 1))
    assert dataset.labels is not None
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels[:12].tolist() == [0, 1, 2, 3, 7, 8, 0, 1, 2, 3, 5, 6]
    assert dataset.spec.class_names == tuple("0123456789")
    assert (dataset.name, dataset.source, dataset.split) == ("digits", "sklearn.datasets.load_digits", "train")
    assert dataset.notes == ("The digits were 8x8 pixels and are enlarged to 28x28 (bicubic).",)
    # The first image is a nought: dark outside and in the middle, bright on its ring.
    nought = dataset.samples[0, 0]
    assert nought[:, 0].max() == 0
    assert nought[12:16, 13:15].max() < 20
    assert nought[4:24, 8:20].float().mean() > 100
    assert dataset.samples.max() == 255


def test_digits_in_another_size_and_three_channels() -> None:
    small = load_dataset("digits", image_size=16, channels=3)
    assert small.samples.shape == (1438, 3, 16, 16)
    assert torch.equal(small.samples[:, 0], small.samples[:, 2])
    # Averaged back to 8x8 the digits are those of scikit-learn.
    back = torch.nn.functional.avg_pool2d(small.samples[:, 0].float(), 2) * (16 / 255)
    is_train = ~held_out(1797)
    assert (back - torch.from_numpy(load_digits().images[is_train])).abs().mean() < 0.8  # of 16


def test_digits_that_are_not_square() -> None:
    tall = load_dataset("digits", image_size=(32, 16))
    assert tall.samples.shape == (1438, 1, 32, 16)
    assert tall.spec.shape == (32, 16, 1)
    assert tall.notes == ("The digits were 8x8 pixels and are enlarged to 32x16 (bicubic).",)
    middle = np.rint(load_digits().images[0, :, 2:6] * (255 / 16)).astype(np.uint8)  # four of eight columns
    expected = Image.fromarray(middle).resize((16, 32), Image.Resampling.BICUBIC)
    assert torch.equal(tall.samples[0, 0], torch.from_numpy(np.array(expected)))
    assert load_dataset("digits", image_size=(28, 28)).digest == load_dataset("digits").digest


def test_a_fifth_of_the_digits_is_held_out() -> None:
    """No digit is in both splits, none in neither, and which is which never changes: published figures depend on it."""
    train, test = load_dataset("digits"), load_dataset("digits", split="test")
    assert (len(train), len(test)) == (1438, 359)
    both = torch.cat([train.samples, test.samples]).flatten(1)
    originals = torch.from_numpy(load_digits().images).flatten(1)
    assert len(both) == len(originals) == 1797
    assert len(both.unique(dim=0)) == len(originals.unique(dim=0))
    assert test.labels is not None
    assert test.labels.bincount().tolist() == [27, 35, 36, 29, 30, 40, 44, 39, 38, 41]
    first = np.flatnonzero(held_out(1797))[:8].tolist()
    assert first == [4, 5, 6, 9, 14, 17, 18, 19]


def test_digits_have_no_other_split() -> None:
    for call in (lambda: load_dataset("digits", split="dev"), lambda: check_data_argument("digits", "dev")):
        assert refusal(call) == "data='digits' has no split 'dev': its splits are 'train' and 'test'."
