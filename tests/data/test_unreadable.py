"""Folders with unreadable images: refused by name, or left out and counted."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import chw, noise, save
from helpers import refusal
from PIL import Image

from gan_plugin.data import load_dataset


@pytest.fixture
def unreadable(classes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Beside the good images: truncated, empty, no image at all, too large, out of range; each of another size."""
    encoded = io.BytesIO()
    noise(0, 80, 60).save(encoded, "JPEG", quality=95)
    (classes / "cat/cut.jpg").write_bytes(encoded.getvalue()[: len(encoded.getvalue()) // 2])
    png = io.BytesIO()
    noise(0, 50, 60).save(png, "PNG")
    (classes / "dog/cut.png").write_bytes(png.getvalue()[:-2000])
    (classes / "cat/empty.png").write_bytes(b"")
    (classes / "cat/text.jpg").write_text("not an image")
    (classes / "dog/script.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    save(Image.new("L", (200, 200)), classes / "fox/bomb.png")
    save(Image.fromarray(np.full((16, 16), 2.5, np.float32)), classes / "fox/float.tif")
    return classes


def test_unreadable_images_are_refused_by_name(unreadable: Path) -> None:
    message = refusal(lambda: load_dataset(str(unreadable)))
    assert message.startswith(f"7 of 12 images in {unreadable} cannot be read: cat/cut.jpg (image file is truncated (")
    assert "cat/empty.png (not an image), cat/text.jpg (not an image)" in message
    assert "dog/cut.png (image file is truncated" in message
    assert "dog/script.jpg (not an image)" in message
    assert "fox/bomb.png (Image size (40000 pixels) exceeds limit of 20000 pixels" in message
    assert "fox/float.tif (gray values from 2.5 to 2.5, outside 0 to 1)" in message
    assert message.endswith("; repair or remove them, or set skip_unreadable to leave them out.")


def test_unreadable_images_are_left_out_and_counted(unreadable: Path, classes: Path) -> None:
    dataset = load_dataset(str(unreadable), skip_unreadable=True)
    # The size is that of the readable images, though others had readable headers.
    assert dataset.samples.shape == (5, 3, 16, 16)
    assert torch.equal(dataset.samples[0], chw(noise(3)))
    assert torch.equal(dataset.samples[4], chw(noise(0)))
    assert dataset.spec.class_names == ("cat", "dog")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert any(note.startswith("7 unreadable images were left out: cat/cut.jpg (") for note in dataset.notes)
    assert dataset.notes[-1] == "No readable image is left in fox, so those are not classes."
    requested = load_dataset(str(unreadable), skip_unreadable=True, image_size=16)
    assert requested.digest == dataset.digest


def test_at_most_ten_unreadable_images_are_named(classes: Path) -> None:
    for index in range(13):
        (classes / f"cat/bad{index:02}.png").write_bytes(b"")
    message = refusal(lambda: load_dataset(str(classes)))
    assert message.startswith("13 of 18 images")
    assert message.count("not an image") == 10
    assert "cat/bad09.png (not an image) and 3 more; repair" in message


def test_too_few_readable_images(tmp_path: Path) -> None:
    save(noise(0), tmp_path / "0.png")
    message = f"{tmp_path} has 1 readable images: training needs at least 2."
    assert refusal(lambda: load_dataset(str(tmp_path))) == message
    (tmp_path / "1.png").write_bytes(b"")
    assert refusal(lambda: load_dataset(str(tmp_path), skip_unreadable=True)) == message
    (tmp_path / "0.png").write_bytes(b"")
    message = refusal(lambda: load_dataset(str(tmp_path), skip_unreadable=True))
    assert message.startswith(f"None of the 2 images in {tmp_path} can be read: 0.png (not an image)")
