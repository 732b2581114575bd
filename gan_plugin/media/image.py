"""Dataset as bytes, text and contact sheets. An image is uint8 [height, width, channels], channels 1 or 3."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from gan_plugin.errors import UserError

Image = npt.NDArray[np.uint8]  # [height, width, channels], channels 1 or 3
Images = npt.NDArray[np.uint8]  # [N, height, width, channels]

HALF_RANGE = 127.5  # from the middle of the levels to either end

MAX_WEBP = 16_383  # pixels of a side, by the file format
SMALL = 64  # pixels of a side, below which encoding is mostly Python's own work


def to_pil(image: Image) -> PIL.Image.Image:
    return PIL.Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def png(image: Image) -> bytes:
    return _file(image, format="PNG")


def png_base64(image: Image) -> str:
    """Base64 without line breaks, as ``data:image/png;base64,…`` wants it; quicker than :func:`png`, 7 % larger."""
    return _base64(_file(image, format="PNG", compress_level=1))


def webp_base64(image: Image) -> str:
    """Lossless, in base64; of photographs smaller than PNG and quicker, of small gray images neither.

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
    """Gray levels 0…255, [height][width][channels]."""
    values: list[list[list[int]]] = image.tolist()
    return values


ENCODERS: dict[str, Callable[[Image], Any]] = {"png": png_base64, "webp": webp_base64, "array": levels}


def normalize(levels: Any) -> Any:
    return levels / HALF_RANGE - 1


def contact_sheet(images: Images, columns: int, gap: int = 2) -> Image:
    """Dataset uint8 [N, H, W, C] → one image, row by row, with white gaps of ``gap`` pixels between and around."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    sheet = np.full((gap + rows * (height + gap), gap + columns * (width + gap), channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _file(image: Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    to_pil(image).save(buffer, **options)
    return buffer.getvalue()


def _base64(file: bytes) -> str:
    return base64.b64encode(file).decode("ascii")
