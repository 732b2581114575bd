"""``gan-plugin project``: image files beside what a generator makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from encoders import export_autoencoder
from helpers import ROOT, refusal

from gan_plugin import flavor
from gan_plugin.cli import main
from gan_plugin.data import load_dataset
from gan_plugin.media.image import to_pil
from gan_plugin.projection import read_file, write_projection
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.spec import image_spec

DIGITS = ROOT / "examples" / "digits.onnx"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two images of the generator's own, and a photo-sized one."""
    for seed, image in zip((4, 5), OnnxGenerator(DIGITS, device="cpu").sample([4, 5])):
        to_pil(image).save(tmp_path / f"{seed}.png")
    PIL.Image.open(tmp_path / "4.png").resize((280, 280)).convert("RGB").save(tmp_path / "photo.jpg")
    return [tmp_path / "4.png", tmp_path / "5.png"]


def test_each_file_stands_beside_what_is_made_of_it(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    words = ["project", *map(str, files), "--onnx", str(DIGITS), "--device", "cpu", "--out", str(out)]
    main(words, standalone_mode=False)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in rows] == ["4", "5"]
    assert min(row["psnr"] for row in rows) > 30
    sheet = np.asarray(PIL.Image.open(out))
    assert sheet.shape == (2 + 2 * 30, 2 + 2 * 30)
    np.testing.assert_array_equal(sheet[2:30, 2:30], np.asarray(PIL.Image.open(files[0])))
    expected = OnnxGenerator(DIGITS, device="cpu").generate(np.array([rows[0]["z"]], np.float32), np.array([4]))
    np.testing.assert_array_equal(sheet[2:30, 32:60], expected[0, :, :, 0])


def test_a_model_brings_its_encoder(files: list[Path], tmp_path: Path) -> None:
    dataset = load_dataset("digits", image_size=28).take(torch.arange(100))
    pair = export_autoencoder(dataset, tmp_path / "pair")
    flavor.save_model(pair.generator, tmp_path / "model", encoder_file=pair.encoder)
    options: dict[str, Any] = {"label": "3", "evaluations": 64, "crop": False, "device": "cpu"}
    (line,) = write_projection(str(tmp_path / "model"), None, files[:1], out=tmp_path / "sheet.png", **options)
    assert json.loads(line)["anomaly"] > 0
    assert json.loads(line)["label"] == "3"


def test_a_photo_is_cropped_where_that_is_asked_for(files: list[Path], tmp_path: Path) -> None:
    photo, spec = tmp_path / "photo.jpg", image_spec(28, 28, 1)
    assert refusal(lambda: read_file(photo, spec, crop=False)) == (
        f"The file {photo} has 280×280 pixels, and this generator's images have 28×28: crop and resize it."
    )
    image = read_file(photo, spec, crop=True)
    assert image.shape == (28, 28, 1)
    original = np.asarray(PIL.Image.open(files[0])).astype(float)
    assert np.abs(image[:, :, 0] - original).mean() < 15


def test_a_photo_lies_as_its_file_says_and_is_not_transparent(tmp_path: Path) -> None:
    pixels, spec = np.zeros((32, 16), np.uint8), image_spec(16, 32, 1)
    pixels[:8] = 255
    exif = PIL.Image.Exif()
    exif[0x0112] = 8  # to be turned by a quarter against the clock
    PIL.Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    for crop in (False, True):
        image = read_file(tmp_path / "turned.png", spec, crop=crop)
        assert image.shape == (16, 32, 1)
        assert (image[:, :7] == 255).all()
        assert (image[:, 9:] == 0).all()
    PIL.Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert refusal(lambda: read_file(tmp_path / "clear.png", spec, crop=True)) == (
        f"The file {tmp_path / 'clear.png'} has transparent pixels: give one without."
    )


def test_wrong_values_are_refused_in_one_sentence(files: list[Path], tmp_path: Path) -> None:
    def project(**changes: object) -> str:
        usual = {"out": tmp_path / "x.png", "label": None, "evaluations": 64, "crop": False, "device": "cpu"}
        options: dict[str, Any] = {**usual, **changes}
        return refusal(lambda: write_projection(None, DIGITS, files, **options))

    assert project(evaluations=8) == "evaluations=8 is not possible: give at least 64."
    assert project(label="eleven").startswith("label='eleven' is not possible: give 0, 1, ")
    assert project(out=tmp_path / "no" / "x.png").endswith(f"the folder {tmp_path / 'no'} does not exist.")
    missing = tmp_path / "missing.png"
    assert refusal(lambda: read_file(missing, image_spec(28, 28, 1), crop=False)) == (
        f"The file {missing} cannot be read: No such file or directory."
    )
    (tmp_path / "text.png").write_text("no image")
    assert refusal(lambda: read_file(tmp_path / "text.png", image_spec(28, 28, 1), crop=True)) == (
        f"The file {tmp_path / 'text.png'} is no PNG, JPEG or WEBP file."
    )
