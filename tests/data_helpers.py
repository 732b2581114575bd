"""Images and files of them, for tests of data."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def noise(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    """A color image whose pixels all differ from those of another seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def reopened(image: Image.Image, suffix: str, tmp_path: Path, **options: Any) -> Image.Image:
    return Image.open(save(image, tmp_path / f"image{suffix}", **options))


def chw(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def ramp_of_16_bits() -> np.ndarray:
    return (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
