"""Scikit-learn's handwritten digits, the data that needs no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from gan_plugin.data.convert import resize_grey
from gan_plugin.data.pictures import Pictures, grey_as_channels, make_pictures
from gan_plugin.errors import UserError

DIGITS_SIZE = 28  # the size of MNIST, for which most small networks are drawn
BRIGHTEST = 16


@dataclass(frozen=True)
class Digits:
    """1,797 real handwritten digits of 8x8 pixels, test set of the UCI "optical recognition" data."""

    split: str

    def load(self, image_size: int | None, channels: int | None, skip_unreadable: bool) -> Pictures:
        """The digits enlarged to ``image_size`` (28 where None); none of them is unreadable."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        size = image_size or DIGITS_SIZE
        small = np.rint(digits.images * (255 / BRIGHTEST)).astype(np.uint8)  # [N, 8, 8], from 0..16 to 0..255
        # Bicubic, not Lanczos: at this scale the latter leaves rings on the black around a stroke.
        images = resize_grey(small, size, Image.Resampling.BICUBIC)
        return make_pictures(
            grey_as_channels(torch.from_numpy(images), channels),
            torch.from_numpy(digits.target.astype(np.int64)),
            [str(name) for name in digits.target_names],
            name="digits",
            source="sklearn.datasets.load_digits",
            split=self.split,
            notes=[f"The digits were 8x8 pixels and are enlarged to {size}x{size} (bicubic)."],
        )


def find_digits(split: str) -> Digits:
    """The digits, which have the one split "train".

    Raises:
        UserError: another split is asked for.
    """
    if split != "train":
        raise UserError(f"data='digits' has no split {split!r}: its only split is 'train'.")
    return Digits(split)
