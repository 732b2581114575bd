"""Images: their stored range and layout, as floats for networks, as bytes and text, in a grid.

A stored image is uint8 [height, width, channels], levels 0 (black) to 255, channels 1 (gray) or 3 (RGB). Networks
compute with floats −1…1 and the channels first.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import PIL.Image

from gan_plugin.errors import UserError

Image = npt.NDArray[np.uint8]  # [height, width, channels], channels 1 or 3
Images = npt.NDArray[np.uint8]  # [N, height, width, channels]

WHITE = 255
ROUNDING = 1 / 12  # squared levels: what rounding to whole ones costs, and no error of an image counts as less
HALF_RANGE = 127.5  # from the middle of the levels to either end
CHANNELS_LAST = (0, 2, 3, 1)  # axes of [N, C, H, W] in the order [N, H, W, C]
CHANNELS_FIRST = (0, 3, 1, 2)  # and the way back

MAX_WEBP = 16_383  # pixels of a side, by the file format
SMALL = 64  # pixels of a side, below which encoding is mostly Python's own work

F = TypeVar("F", bound="FloatTensor")


class ImageRows(Protocol):
    """Images uint8 [N, height, width, channels] that are read by rows: an array, or what takes them from a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that an array of them has."""

    @property
    def ndim(self) -> int:
        """4."""

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Unsigned bytes."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, rows: slice | npt.NDArray[np.int64], /) -> Images:
        """Return the images of these rows."""


class FloatTensor(Protocol):
    """What normalizing needs of a tensor, so that torch's can be passed where torch is not imported."""

    def __add__(self: F, other: float, /) -> F: ...
    def __sub__(self: F, other: float, /) -> F: ...
    def __mul__(self: F, other: float, /) -> F: ...
    def __truediv__(self: F, other: float, /) -> F: ...


def normalize(levels: F) -> F:
    """Map levels 0…255, as floats, to −1…1.

    >>> normalize(np.array([0.0, 127.5, 255.0])).tolist()
    [-1.0, 0.0, 1.0]
    """
    return levels / HALF_RANGE - 1


def denormalize(values: F) -> F:
    """Map −1…1 to levels 0…255, still floats: rounding and clipping to uint8 is left to the caller.

    >>> denormalize(np.array([-1.0, 0.0, 1.0])).tolist()
    [0.0, 127.5, 255.0]
    """
    return values * HALF_RANGE + HALF_RANGE


def psnr(images: Images, reconstructions: Images) -> npt.NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of N pairs, float64 [N], in decibels: 10·log₁₀(255² / mean (x − x̂)²).

    Of equal images it is 58.9, that of a rounding error.

    >>> psnr(np.zeros((1, 2, 2, 1), np.uint8), np.full((1, 2, 2, 1), 255, np.uint8)).tolist()
    [0.0]
    """
    errors = np.square(images.astype(np.float64) - reconstructions).reshape(len(images), -1).mean(1)
    decibels: npt.NDArray[np.float64] = 10 * np.log10(WHITE**2 / np.maximum(errors, ROUNDING))
    return decibels


def to_pil(image: Image) -> PIL.Image.Image:
    """Return the same pixels as Pillow's image, of mode L or RGB."""
    return PIL.Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def png(image: Image) -> bytes:
    """Encode as a PNG file."""
    return _file(image, format="PNG")


def png_base64(image: Image) -> str:
    """Encode as PNG in base64, one line as in ``data:image/png;base64,…``; quicker than :func:`png`, 7 % larger."""
    return _base64(_file(image, format="PNG", compress_level=1))


def webp_base64(image: Image) -> str:
    """Encode as lossless WebP in base64: smaller and quicker than PNG for photographs, neither for small gray images.

    Raises:
        UserError: the image is larger than the format allows.
    """
    if max(image.shape) > MAX_WEBP:
        raise UserError(
            f"An image of {image.shape[1]}×{image.shape[0]} pixels is too large for WebP, whose sides have at "
            f"most {MAX_WEBP:,}: ask for format=png, or for fewer images."
        )
    return _base64(_file(image, format="WEBP", lossless=True, method=0))


def levels(image: Image) -> list[list[list[int]]]:
    """Return the levels 0…255 as nested lists, [height][width][channels]."""
    values: list[list[list[int]]] = image.tolist()
    return values


ENCODERS: dict[str, Callable[[Image], Any]] = {"png": png_base64, "webp": webp_base64, "array": levels}


def image_grid(images: Images, columns: int, gap: int = 2) -> Image:
    """Arrange images uint8 [N, H, W, C] in a grid, row by row, with ``gap`` white pixels between and around."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    grid = np.full((gap + rows * (height + gap), gap + columns * (width + gap), channels), WHITE, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def _file(image: Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    to_pil(image).save(buffer, **options)
    return buffer.getvalue()


def _base64(file: bytes) -> str:
    return base64.b64encode(file).decode("ascii")
