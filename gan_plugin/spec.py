"""What one sample is: the same record from the data to the answer of a server. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SampleSpec:
    """Describe one sample of the data and of the generator that learns from it.

    Attributes:
        kind: what a sample is; "image" so far. It also names the output of the exported file.
        shape: of a sample as it is answered: for an image (height, width, channels) in pixels, channels 1 (gray) or 3
            (RGB). In tensors the channels come first.
        class_names: one name per class; () where samples have no labels, or the generator takes none.
    """

    kind: str
    shape: tuple[int, ...]
    class_names: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return self.shape[0]

    @property
    def width(self) -> int:
        return self.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def classes(self) -> int:
        """How many there are; 0 for samples without labels."""
        return len(self.class_names)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of a generator of such samples, by name and in order."""
        return ("z", "label") if self.class_names else ("z",)

    def unlabeled(self) -> SampleSpec:
        """Return the same samples without their labels."""
        return dataclasses.replace(self, class_names=())

    def __str__(self) -> str:
        return "×".join(map(str, self.shape))


def image_spec(height: int, width: int, channels: int, class_names: Sequence[str] = ()) -> SampleSpec:
    """Return the spec of images of ``height`` × ``width`` pixels.

    >>> str(image_spec(28, 28, 1))
    '28×28×1'
    """
    return SampleSpec("image", (height, width, channels), tuple(class_names))


def size_text(size: tuple[int, int]) -> str:
    height, width = size
    return str(height) if height == width else f"{height}x{width}"
