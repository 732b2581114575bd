"""Pictures as bytes, text and contact sheets. A picture is uint8 [height, width, channels], channels 1 or 3."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gan_plugin.errors import UserError

Picture = npt.NDArray[np.uint8]


LARGEST_WEBP = 16_383  # pixels of a side, by the file format
SMALL = 64  # pixels of a side, below which encoding is mostly Python's own work


def to_pil(picture: Picture) -> Image.Image:
    return Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)


def png(picture: Picture) -> bytes:
    return _file(picture, format="PNG")


def png_base64(picture: Picture) -> str:
    """Base64 without line breaks, as ``data:image/png;base64,…`` wants it; quicker than :func:`png`, 7 % larger."""
    return _base64(_file(picture, format="PNG", compress_level=1))


def webp_base64(picture: Picture) -> str:
    """Lossless, in base64; of photographs smaller than PNG and quicker, of small grey pictures neither.

    Raises:
        UserError: the picture is larger than the format allows.
    """
    if max(picture.shape) > LARGEST_WEBP:
        raise UserError(
            f"A picture of {picture.shape[1]}×{picture.shape[0]} pixels is too large for WebP, whose sides have at "
            f"most {LARGEST_WEBP:,}: ask for format=png, or for fewer pictures."
        )
    return _base64(_file(picture, format="WEBP", lossless=True, method=0))


def levels(picture: Picture) -> list[list[list[int]]]:
    """Grey levels 0…255, [height][width][channels]."""
    values: list[list[list[int]]] = picture.tolist()
    return values


ENCODERS: dict[str, Callable[[Picture], Any]] = {"png": png_base64, "webp": webp_base64, "array": levels}


def contact_sheet(pictures: Picture, columns: int, gap: int = 2) -> Picture:
    """Pictures uint8 [N, H, W, C] → one picture, row by row, with white gaps of ``gap`` pixels between and around."""
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((gap + rows * (height + gap), gap + columns * (width + gap), channels), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def _file(picture: Picture, **options: Any) -> bytes:
    buffer = io.BytesIO()
    to_pil(picture).save(buffer, **options)
    return buffer.getvalue()


def _base64(file: bytes) -> str:
    return base64.b64encode(file).decode("ascii")
