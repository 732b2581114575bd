"""Scikit-learn's handwritten digits, the data that needs no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gan_plugin.data.convert import resize_grey
from gan_plugin.data.pictures import NoSuchSplit, Pictures, grey_as_channels, make_pictures

DIGITS_SIZE = 28  # the size of MNIST, for which most small networks are drawn
BRIGHTEST = 16
SPLITS = ("train", "test")
TEST_EVERY = 5  # of each class in the order of the file, every fifth digit is held out


@dataclass(frozen=True)
class Digits:
    """1,797 real handwritten digits of 8x8 pixels, test set of the UCI "optical recognition" data.

    They come without splits. Here every fifth of each class is the split "test" (355), the others are "train" (1,442);
    which is which is fixed by the file's order alone. The same writers are in both.
    """

    split: str

    def load(self, image_size: int | None, channels: int | None, skip_unreadable: bool) -> Pictures:
        """The digits enlarged to ``image_size`` (28 where None); none of them is unreadable."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        size = image_size or DIGITS_SIZE
        small = np.rint(digits.images * (255 / BRIGHTEST)).astype(np.uint8)  # [N, 8, 8], from 0..16 to 0..255
        # Bicubic, not Lanczos: at this scale the latter leaves rings on the black around a stroke.
        images = resize_grey(small, size, Image.Resampling.BICUBIC)
        labels = digits.target.astype(np.int64)
        chosen = held_out(labels) == (self.split == "test")  # [N]
        return make_pictures(
            grey_as_channels(torch.from_numpy(images[chosen]), channels),
            torch.from_numpy(labels[chosen]),
            [str(name) for name in digits.target_names],
            name="digits",
            source="sklearn.datasets.load_digits",
            split=self.split,
            notes=[f"The digits were 8x8 pixels and are enlarged to {size}x{size} (bicubic)."],
        )


def held_out(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of the digits are "test": every fifth of its class, bool [N]."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        held[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return held


def find_digits(split: str) -> Digits:
    """The digits, which have the splits "train" and "test".

    Raises:
        NoSuchSplit: another split is asked for.
    """
    if split not in SPLITS:
        raise NoSuchSplit(f"data='digits' has no split {split!r}: its splits are 'train' and 'test'.")
    return Digits(split)
