"""Scikit-learn's handwritten digits, the data that needs no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gan_plugin.data.convert import gray_to_channels, resize_gray
from gan_plugin.data.dataset import Dataset, SplitNotFoundError, make_dataset
from gan_plugin.media.image import WHITE
from gan_plugin.spec import Size

DIGITS_SIZE = (28, 28)  # the size of MNIST, for which most small networks are designed
MAX_LEVEL = 16
SPLITS = ("train", "test")
HELD_OUT = 359  # a fifth


@dataclass(frozen=True)
class Digits:
    """1,797 real handwritten digits of 8x8 pixels, test set of the UCI "optical recognition" data.

    They come without splits. Here the split "test" is 359 of them, drawn at random once and for all, and "train" the
    other 1,438. The draw is not stratified: equal shares of classes would make the two sets closer to each other than
    two random samples are. The same writers are in both.
    """

    split: str

    def load(self, image_size: Size | None, channels: int | None, skip_unreadable: bool) -> Dataset:
        """Enlarge the digits to ``image_size`` (28×28 where None); none of them is unreadable."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        size = height, width = image_size or DIGITS_SIZE
        levels = np.rint(digits.images * (WHITE / MAX_LEVEL)).astype(np.uint8)  # [N, 8, 8], from 0..16 to 0..255
        # Bicubic, not Lanczos: at this scale the latter leaves rings on the black around a stroke.
        images = resize_gray(levels, size, Image.Resampling.BICUBIC)
        labels = digits.target.astype(np.int64)
        chosen = held_out(len(labels)) == (self.split == "test")  # [N]
        return make_dataset(
            torch.from_numpy(gray_to_channels(images[chosen], channels)),
            torch.from_numpy(labels[chosen]),
            [str(name) for name in digits.target_names],
            name="digits",
            source="sklearn.datasets.load_digits",
            split=self.split,
            notes=[f"The digits were 8x8 pixels and are enlarged to {height}x{width} (bicubic)."],
        )


def held_out(count: int) -> npt.NDArray[np.bool_]:
    """Return which of ``count`` digits are "test", bool [count]; NumPy's ``RandomState`` is frozen."""
    is_test = np.zeros(count, bool)
    is_test[np.random.RandomState(0).permutation(count)[:HELD_OUT]] = True
    return is_test


def find_digits(split: str) -> Digits:
    """Find a split of the digits, "train" or "test".

    Raises:
        SplitNotFoundError: ``split`` is neither.
    """
    if split not in SPLITS:
        raise SplitNotFoundError(f"data='digits' has no split {split!r}: its splits are 'train' and 'test'.")
    return Digits(split)
