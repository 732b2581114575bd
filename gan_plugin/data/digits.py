"""Scikit-learn's handwritten digits, the data that needs no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gan_plugin.data.convert import resize_gray
from gan_plugin.data.dataset import Dataset, NoSuchSplit, gray_as_channels, make_dataset

DIGITS_SIZE = 28  # the size of MNIST, for which most small networks are drawn
BRIGHTEST = 16
SPLITS = ("train", "test")
HELD_OUT = 359  # a fifth


@dataclass(frozen=True)
class Digits:
    """1,797 real handwritten digits of 8x8 pixels, test set of the UCI "optical recognition" data.

    They come without splits. Here 359 drawn at random, once and for all, are the split "test", and the other 1,438
    "train". Drawn from all alike and not from each class: equal shares of classes would make the two sets closer to
    each other than two samples are. The same writers are in both.
    """

    split: str

    def load(self, image_size: int | None, channels: int | None, skip_unreadable: bool) -> Dataset:
        """The digits enlarged to ``image_size`` (28 where None); none of them is unreadable."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        size = image_size or DIGITS_SIZE
        small = np.rint(digits.images * (255 / BRIGHTEST)).astype(np.uint8)  # [N, 8, 8], from 0..16 to 0..255
        # Bicubic, not Lanczos: at this scale the latter leaves rings on the black around a stroke.
        images = resize_gray(small, size, Image.Resampling.BICUBIC)
        labels = digits.target.astype(np.int64)
        chosen = held_out(len(labels)) == (self.split == "test")  # [N]
        return make_dataset(
            gray_as_channels(torch.from_numpy(images[chosen]), channels),
            torch.from_numpy(labels[chosen]),
            [str(name) for name in digits.target_names],
            name="digits",
            source="sklearn.datasets.load_digits",
            split=self.split,
            notes=[f"The digits were 8x8 pixels and are enlarged to {size}x{size} (bicubic)."],
        )


def held_out(count: int) -> npt.NDArray[np.bool_]:
    """Which of ``count`` digits are "test", bool [count]; numpy keeps this generator's numbers for ever."""
    held = np.zeros(count, bool)
    held[np.random.RandomState(0).permutation(count)[:HELD_OUT]] = True
    return held


def find_digits(split: str) -> Digits:
    """The digits, which have the splits "train" and "test".

    Raises:
        NoSuchSplit: another split is asked for.
    """
    if split not in SPLITS:
        raise NoSuchSplit(f"data='digits' has no split {split!r}: its splits are 'train' and 'test'.")
    return Digits(split)
