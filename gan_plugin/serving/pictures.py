"""Pictures as bytes, text and contact sheets. A picture is uint8 [height, width, channels], channels 1 or 3."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.uint8]


def to_pil(picture: Picture) -> Image.Image:
    return Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)


def png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    to_pil(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def png_base64(picture: Picture) -> str:
    """Base64 without line breaks, as ``data:image/png;base64,…`` wants it."""
    return base64.b64encode(png(picture)).decode("ascii")


def contact_sheet(pictures: Picture, columns: int, gap: int = 2) -> Picture:
    """Pictures uint8 [N, H, W, C] → one picture, row by row, with white gaps of ``gap`` pixels between and around."""
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((gap + rows * (height + gap), gap + columns * (width + gap), channels), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet
