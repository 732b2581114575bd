"""What one sample is: the same record from the data to the answer of a server. Imports no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

MIN_SIDE = 16  # pixels
MAX_SIDE = 1024
MAX_SEED = 2**53 - 1  # the largest integer that JSON, JavaScript and float64 all hold exactly

Size = tuple[int, int]  # height, width, as in the shape of a tensor

_SIZE = re.compile(r"([0-9]{1,9})(?:x([0-9]{1,9}))?")


@dataclass(frozen=True)
class SampleSpec:
    """Description of one sample of the data and of the generator that learns from it.

    Attributes:
        kind: what a sample is; "image" so far. It also names the output of the exported file.
        shape: shape of a sample in the exported file's output: for an image (height, width, channels) in pixels,
            channels 1 (gray) or 3 (RGB). In tensors the channels come first.
        class_names: one name per class; () where samples have no labels, or the generator takes none.
    """

    kind: str
    shape: tuple[int, ...]
    class_names: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.shape[1]

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.height, self.width

    @property
    def channels(self) -> int:
        """Size of the last axis: 1 for gray, 3 for RGB."""
        return self.shape[-1]

    @property
    def classes(self) -> int:
        """Number of classes; 0 for samples without labels."""
        return len(self.class_names)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs of a generator of such samples, in order."""
        return ("z", "label") if self.class_names else ("z",)

    def unlabeled(self) -> SampleSpec:
        """Return the spec of the same samples without labels."""
        return dataclasses.replace(self, class_names=())

    def __str__(self) -> str:
        return shape_text(self.shape)


def shape_text(shape: Sequence[int]) -> str:
    """Format the shape of a sample for people.

    >>> shape_text((48, 32, 3))
    '48×32×3'
    """
    return "×".join(map(str, shape))


def image_spec(height: int, width: int, channels: int, *, class_names: Sequence[str] = ()) -> SampleSpec:
    """Return the spec of images of ``height`` × ``width`` pixels.

    >>> str(image_spec(28, 28, 1))
    '28×28×1'
    """
    return SampleSpec("image", (height, width, channels), tuple(class_names))


def is_possible_size(size: Size) -> bool:
    """Return whether images may have this size: both sides from 16 to 1,024 pixels.

    A family of networks may be able to make fewer sizes, and says so itself.
    """
    return min(size) >= MIN_SIDE and max(size) <= MAX_SIDE


def parse_size(text: str) -> Size:
    """Parse ``HEIGHTxWIDTH``, or one number for a square, into (height, width) in pixels.

    Raises:
        ValueError: the text has another form, or a side is not from 16 to 1,024.

    >>> parse_size("256x128"), parse_size("64")
    ((256, 128), (64, 64))
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is neither HEIGHTxWIDTH nor one number")
    size = int(match[1]), int(match[2] or match[1])
    if not is_possible_size(size):
        raise ValueError(f"{text!r} has a side that is not from {MIN_SIDE} to {MAX_SIDE:,} pixels")
    return size


def size_text(size: Size) -> str:
    """Format (height, width) as :func:`parse_size` reads it.

    >>> size_text((256, 128)), size_text((64, 64))
    ('256x128', '64')
    """
    height, width = size
    return str(height) if height == width else f"{height}x{width}"
