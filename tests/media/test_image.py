"""Stored images: their range for networks, files that decode to the same pixels, grids."""

from __future__ import annotations

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import refusal
from PIL import Image

from gan_plugin.media.image import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    denormalize,
    image_grid,
    levels,
    normalize,
    png,
    png_base64,
    to_pil,
    webp_base64,
)


def image(height: int = 20, width: int = 30, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_normalizing_and_back_gives_every_level_again() -> None:
    stored = torch.arange(256, dtype=torch.uint8)
    values = normalize(stored.float())
    assert (values[0], values[255]) == (-1, 1)
    assert torch.equal(values, stored.float() / 127.5 - 1)  # to the bit: weights under a seed depend on it
    assert torch.equal(denormalize(values).round().to(torch.uint8), stored)
    values = torch.linspace(-1, 1, 1001)
    assert torch.equal(denormalize(values), values * 127.5 + 127.5)


def test_layouts_are_each_others_inverse() -> None:
    batch = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # [N, C, H, W]
    last = batch.permute(CHANNELS_LAST)
    assert last.shape == (2, 4, 5, 3)
    assert last[1, 2, 3, 0] == batch[1, 0, 2, 3]
    assert torch.equal(last.permute(CHANNELS_FIRST), batch)


@pytest.mark.parametrize("channels", [1, 3])
def test_files_decode_to_the_same_pixels(channels: int) -> None:
    original = image(channels=channels)
    files = [png(original), *(base64.b64decode(encode(original)) for encode in (png_base64, webp_base64))]
    for file, kind in zip(files, ("PNG", "PNG", "WEBP"), strict=True):
        decoded = Image.open(io.BytesIO(file))
        assert (decoded.format, decoded.size) == (kind, (30, 20))
        pixels = np.asarray(decoded.convert("L" if channels == 1 else "RGB")).reshape(original.shape)
        assert np.array_equal(pixels, original)
    assert np.array_equal(np.array(levels(original)), original)
    assert to_pil(original).mode == {1: "L", 3: "RGB"}[channels]


def test_too_large_for_webp() -> None:
    message = refusal(lambda: webp_base64(np.zeros((1, 16_384, 1), np.uint8)))
    assert message.startswith("An image of 16384×1 pixels is too large for WebP, whose sides have at most 16,383: ")


def test_contact_sheet_of_images_that_are_not_square() -> None:
    images = np.stack([np.full((4, 6, 1), value, np.uint8) for value in (10, 20, 30)])
    sheet = image_grid(images, columns=2, gap=1)
    assert sheet.shape == (1 + 2 * 5, 1 + 2 * 7, 1)
    assert (sheet[1:5, 1:7] == 10).all()
    assert (sheet[1:5, 8:14] == 20).all()
    assert (sheet[6:10, 1:7] == 30).all()
    assert (sheet[6:10, 8:14] == 255).all()
    assert (sheet[[0, 5, 10]] == 255).all()
    assert (sheet[:, [0, 7, 14]] == 255).all()


def test_torch_is_not_imported() -> None:
    code = "import sys, gan_plugin.media.image, gan_plugin.spec, gan_plugin.seeds; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
