"""What loading data gives, and the rules for picture size and channels that all kinds of data share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gan_plugin.errors import UserError

SMALLEST_SIZE = 16
LARGEST_SIZE = 256
SIZE_STEP = 4
DEFAULT_SIZE = 64  # where the pictures' own sizes do not settle it
FEWEST_PICTURES = 2


class NoSuchSplit(UserError):
    """The data is there, and has no split of this name."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Training pictures, all square and of one size.

    Attributes:
        images: uint8 [N, C, H, W] with H = W, values 0 (black) to 255; C is 1 (grey) or 3 (RGB).
        labels: int64 [N], indices into ``class_names``, or None where the data has no classes.
        class_names: one name per class; () where there are no labels.
        name: a short name for people, such as "digits" or "fashion-mnist".
        source: where the pictures came from: an absolute path, "sklearn.datasets.load_digits" or "hub:owner/name".
        split: the split that was read, such as "train".
        digest: 32 hexadecimal characters, a SHA-256 over the shape, every pixel, every label and the class names.
        notes: sentences about what was done to the pictures: resizing, cropping, colour, pictures left out.
    """

    images: torch.Tensor
    labels: torch.Tensor | None
    class_names: tuple[str, ...]
    name: str
    source: str
    split: str
    digest: str
    notes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.images.shape[1]

    def __len__(self) -> int:
        return self.images.shape[0]


def make_pictures(
    images: torch.Tensor,
    labels: torch.Tensor | None,
    class_names: Sequence[str],
    *,
    name: str,
    source: str,
    split: str,
    notes: Sequence[str],
) -> Pictures:
    """Pictures with their digest; arguments as the attributes of ``Pictures``.

    Raises:
        UserError: there are fewer than 2 pictures.
    """
    if len(images) < FEWEST_PICTURES:
        raise UserError(f"{source} has {len(images)} readable pictures: training needs at least {FEWEST_PICTURES}.")
    names = tuple(class_names)
    return Pictures(images, labels, names, name, source, split, digest(images, labels, names), tuple(notes))


def digest(images: torch.Tensor, labels: torch.Tensor | None, class_names: Sequence[str]) -> str:
    """The first 32 hexadecimal characters of a SHA-256 over shape, pixels, labels and class names.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N] or None.
        class_names: one name per class.
    """
    header = {"shape": list(images.shape), "labelled": labels is not None, "class_names": list(class_names)}
    hasher = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    hasher.update(np.ascontiguousarray(images.numpy()).data)
    if labels is not None:
        hasher.update(labels.numpy().astype("<i8").data)  # one byte order on every machine
    return hasher.hexdigest()[:32]


def is_allowed_size(size: int) -> bool:
    return size % SIZE_STEP == 0 and SMALLEST_SIZE <= size <= LARGEST_SIZE


def check_image_size(image_size: int | None) -> None:
    """Refuse an ``image_size`` that is neither None nor a multiple of 4 from 16 to 256.

    Raises:
        UserError: the size is none of those.
    """
    if image_size is not None and not is_allowed_size(image_size):
        raise UserError(
            f"image_size={image_size} is not a multiple of {SIZE_STEP} from {SMALLEST_SIZE} to {LARGEST_SIZE}."
        )


def check_channels(channels: int | None) -> None:
    """Refuse ``channels`` other than None, 1 and 3.

    Raises:
        UserError: the number is none of those.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels={channels} is neither 1 (grey) nor 3 (RGB).")


def automatic_size(sizes: Collection[tuple[int, int]]) -> int:
    """The pictures' own size where all share one that networks can be built for, else 64.

    Args:
        sizes: (width, height) of each picture, pixels.
    """
    if len(distinct := set(sizes)) == 1:
        width, height = distinct.pop()
        if width == height and is_allowed_size(width):
            return width
    return DEFAULT_SIZE


def size_notes(sizes: Collection[tuple[int, int]], size: int, asked: int | None) -> list[str]:
    """Sentences on how pictures of these sizes became ``size`` pixels square.

    Args:
        sizes: (width, height) of each picture as it was, pixels.
        size: height and width the pictures have now.
        asked: the ``image_size`` that was asked for; None for an automatic one.
    """
    distinct = set(sizes)
    if distinct == {(size, size)}:
        return [f"The pictures are {size}x{size} pixels and keep that size."]
    if len(distinct) == 1:
        ((width, height),) = distinct
        were = f"{width}x{height} pixels"
    else:
        sides = [side for pair in distinct for side in pair]
        were = f"of different sizes, with sides of {min(sides)} to {max(sides)} pixels"
    why = (
        f"since image_size={asked}"
        if asked is not None
        else f"the size taken where not all share one square size that is a multiple of {SIZE_STEP} "
        f"from {SMALLEST_SIZE} to {LARGEST_SIZE}"
    )
    notes = [f"The pictures were {were} and are resized to {size}x{size} (Lanczos), {why}."]
    if oblong := sum(width != height for width, height in sizes):
        notes.append(f"{oblong:,} of {len(sizes):,} pictures were not square: the square in their middle was cut out.")
    return notes


def grey_as_channels(grey: torch.Tensor, channels: int | None) -> torch.Tensor:
    """Grey pictures [N, H, W] as [N, C, H, W]: C = 1, or 3 equal channels where ``channels`` is 3."""
    return grey[:, None].repeat(1, channels or 1, 1, 1)


def list_some(items: Sequence[str], most: int = 10) -> str:
    """The first items, joined by commas, then how many more there are."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
