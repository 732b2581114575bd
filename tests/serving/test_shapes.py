"""Images that are higher than wide: height and width keep their places in every answer, sheet and page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from generators import CORNERS, TALL, assert_corners, export_corners
from helpers import Project, serving
from PIL import Image

from gan_plugin import flavor
from gan_plugin.sampling import write_samples
from gan_plugin.serving.generator import OnnxGenerator

GAP = 2  # pixels between the images of a sheet
HEIGHT, WIDTH, _ = TALL.shape


@pytest.fixture(scope="module")
def project(make_project: Callable[[], Project]) -> Project:
    project = make_project()
    export_corners(project.folder / "corners.onnx")
    flavor.save_model(project.folder / "corners.onnx", project.folder / "model")
    return project


def decode(image: str) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))


def assert_sheet_of_corners(sheet: npt.NDArray[np.uint8], rows: int, columns: int) -> None:
    assert sheet.shape == (GAP + rows * (HEIGHT + GAP), GAP + columns * (WIDTH + GAP), 3)
    for row in range(rows):
        for column in range(columns):
            top, left = GAP + row * (HEIGHT + GAP), GAP + column * (WIDTH + GAP)
            assert_corners(sheet[top : top + HEIGHT, left : left + WIDTH])


def test_the_file(project: Project) -> None:
    """By ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(project.folder / "corners.onnx", providers=["CPUExecutionProvider"])
    (image,) = session.run(["image"], {"z": np.zeros((1, 4), np.float32)})[0]
    assert_corners(image)
    metadata = session.get_modelmeta().custom_metadata_map
    assert [metadata[f"gan.{name}"] for name in ("height", "width", "channels")] == ["48", "32", "3"]


@pytest.mark.parametrize("batching", ["off", "on"])
def test_the_generator(batching: str, project: Project) -> None:
    generator = OnnxGenerator(project.folder / "corners.onnx", device="cpu", batching=batching)
    assert generator.description.spec == TALL
    images = generator.sample(range(9))
    assert images.shape == (9, 48, 32, 3)
    for image in images:
        assert_corners(image)
    assert len({image[5, 5, 0] for image in images}) > 5  # the rest is each seed's own


def test_every_form_of_an_answer(project: Project) -> None:
    with serving(project, "model", SERVING_MODEL_CONFIG='{"device": "cpu"}') as server:
        rows = [{"seed": seed} for seed in range(3)]
        for image_format in ("png", "webp"):
            for row in server.records(*rows, format=image_format).body["predictions"]:
                assert_corners(decode(row["image"]))
        (row,) = server.records({"seed": 1}, format="array").body["predictions"]
        assert_corners(np.array(row["image"], np.uint8))
        (row,) = server.records(*rows, {"seed": 3}, grid=2).body["predictions"]
        assert_sheet_of_corners(decode(row["image"]), rows=2, columns=2)


def test_the_sheet_of_samples(project: Project, tmp_path: Path) -> None:
    write_samples(
        None,
        project.folder / "corners.onnx",
        tmp_path / "sheet.png",
        seeds=list(range(6)),
        truncation=None,
        label=None,
        columns=3,
        device="cpu",
    )
    assert_sheet_of_corners(np.asarray(Image.open(tmp_path / "sheet.png")), rows=2, columns=3)


def test_the_models_own_words(project: Project) -> None:
    info = mlflow.models.get_model_info(str(project.folder / "model"))
    assert info.flavors["gan"]["image_shape"] == [48, 32, 3]


def test_the_check_sees_an_image_that_is_turned() -> None:
    image = np.zeros(TALL.shape, np.uint8)
    for place, color in CORNERS.items():
        image[place] = color
    assert_corners(image)
    for wrong in (image[::-1], image[:, ::-1], image.transpose(1, 0, 2)):
        with pytest.raises(AssertionError):
            assert_corners(wrong)
