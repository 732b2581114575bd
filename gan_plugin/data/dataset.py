"""What loading data gives, and the rules for image size and channels that all kinds of data share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gan_plugin.errors import UserError
from gan_plugin.spec import SampleSpec, image_spec

MIN_SIZE = 16
MAX_SIZE = 256
SIZE_STEP = 4
DEFAULT_SIZE = 64  # where the images' own sizes do not settle it
MIN_SAMPLES = 2


class NoSuchSplit(UserError):
    """The data is there, and has no split of this name."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training images, all square and of one size.

    Attributes:
        samples: uint8 [N, C, H, W], values 0 (black) to 255; C is 1 (gray) or 3 (RGB).
        labels: int64 [N], indices into the spec's class names, or None where the data has no classes.
        spec: what one sample is.
        name: a short name for people, such as "digits" or "fashion-mnist".
        source: where the images came from: an absolute path, "sklearn.datasets.load_digits" or "hub:owner/name".
        split: the split that was read, such as "train".
        digest: 32 hexadecimal characters, a SHA-256 over the shape, every pixel, every label and the class names.
        notes: sentences about what was done to the images: resizing, cropping, color, images left out.
    """

    samples: torch.Tensor
    labels: torch.Tensor | None
    spec: SampleSpec
    name: str
    source: str
    split: str
    digest: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return self.samples.shape[0]


def make_dataset(
    images: torch.Tensor,
    labels: torch.Tensor | None,
    class_names: Sequence[str],
    *,
    name: str,
    source: str,
    split: str,
    notes: Sequence[str],
) -> Dataset:
    """Dataset with their digest; arguments as the attributes of ``Dataset``.

    Raises:
        UserError: there are fewer than 2 images.
    """
    if len(images) < MIN_SAMPLES:
        raise UserError(f"{source} has {len(images)} readable images: training needs at least {MIN_SAMPLES}.")
    names = tuple(class_names)
    _, channels, height, width = images.shape
    spec = image_spec(height, width, channels, names)
    return Dataset(images, labels, spec, name, source, split, digest(images, labels, names), tuple(notes))


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
    return size % SIZE_STEP == 0 and MIN_SIZE <= size <= MAX_SIZE


def check_image_size(image_size: int | None) -> None:
    """Refuse an ``image_size`` that is neither None nor a multiple of 4 from 16 to 256.

    Raises:
        UserError: the size is none of those.
    """
    if image_size is not None and not is_allowed_size(image_size):
        raise UserError(f"image_size={image_size} is not a multiple of {SIZE_STEP} from {MIN_SIZE} to {MAX_SIZE}.")


def check_channels(channels: int | None) -> None:
    """Refuse ``channels`` other than None, 1 and 3.

    Raises:
        UserError: the number is none of those.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels={channels} is neither 1 (gray) nor 3 (RGB).")


def automatic_size(sizes: Collection[tuple[int, int]]) -> int:
    """The images' own size where all share one that networks can be built for, else 64.

    Args:
        sizes: (width, height) of each image, pixels.
    """
    if len(distinct := set(sizes)) == 1:
        width, height = distinct.pop()
        if width == height and is_allowed_size(width):
            return width
    return DEFAULT_SIZE


def size_notes(sizes: Collection[tuple[int, int]], size: int, asked: int | None) -> list[str]:
    """Sentences on how images of these sizes became ``size`` pixels square.

    Args:
        sizes: (width, height) of each image as it was, pixels.
        size: height and width the images have now.
        asked: the ``image_size`` that was asked for; None for an automatic one.
    """
    distinct = set(sizes)
    if distinct == {(size, size)}:
        return [f"The images are {size}x{size} pixels and keep that size."]
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
        f"from {MIN_SIZE} to {MAX_SIZE}"
    )
    notes = [f"The images were {were} and are resized to {size}x{size} (Lanczos), {why}."]
    if oblong := sum(width != height for width, height in sizes):
        notes.append(f"{oblong:,} of {len(sizes):,} images were not square: the square in their middle was cut out.")
    return notes


def gray_as_channels(gray: torch.Tensor, channels: int | None) -> torch.Tensor:
    """Gray images [N, H, W] as [N, C, H, W]: C = 1, or 3 equal channels where ``channels`` is 3."""
    return gray[:, None].repeat(1, channels or 1, 1, 1)


def list_some(items: Sequence[str], most: int = 10) -> str:
    """The first items, joined by commas, then how many more there are."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
