"""Requests that bring an image in place of a seed, over loopback: the answers, the bounds, and every refusal."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from encoders import export_autoencoder, images_of
from helpers import ROOT, Project, Server, refusal, serving

from gan_plugin import flavor
from gan_plugin.data import load_dataset
from gan_plugin.media.image import Image, Images, png_base64
from gan_plugin.seeds import between, latents
from gan_plugin.serving import image_rows
from gan_plugin.serving.image_rows import UNLIKE
from gan_plugin.serving.images import max_file_bytes, read_image
from gan_plugin.spec import image_spec

EVALUATIONS = 256
GRAY, COLOR = image_spec(16, 16, 1), image_spec(16, 16, 3)


@pytest.fixture(scope="module")
def digits() -> Images:
    return images_of(load_dataset("digits", image_size=16), 200)


@pytest.fixture(scope="module")
def models(make_project: Callable[[], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A store with the generator that ships, and an autoencoder."""
    project = make_project()
    dataset = load_dataset("digits", image_size=16).take(torch.arange(200))
    files = export_autoencoder(dataset, tmp_path_factory.mktemp("autoencoder"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
        patch.chdir(project.folder)
        with mlflow.start_run():
            flavor.log_model(ROOT / "examples" / "digits.onnx", registered_model_name="digits")
            flavor.log_model(files.generator, encoder_file=files.encoder, registered_model_name="autoencoder")
    return project


@pytest.fixture(scope="module")
def server(models: Project) -> Iterator[Server]:
    config = {"device": "cpu", "project_evaluations": EVALUATIONS, "max_images": 3}
    with serving(models, "models:/digits/1", SERVING_MODEL_CONFIG=json.dumps(config)) as running:
        yield running


def pixels(text: str) -> Image:
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(text))))


def test_an_answers_own_image_is_found_again(server: Server) -> None:
    (row,) = server.records({"seed": 7}).body["predictions"]
    assert set(row) == {"seed", "image"}
    reply = server.records({"image": row["image"]}, {"seed": 7})
    assert reply.status == 200, reply.text
    of_image, same = reply.body["predictions"]
    assert of_image["psnr"] > 30
    assert (of_image["seed"], of_image["label"], of_image["anomaly"], of_image["note"]) == (None, "7", None, None)
    assert (same["seed"], same["label"], same["psnr"]) == (7, "7", None)
    assert same["image"] == row["image"]
    np.testing.assert_allclose(same["z"], latents(7, 64)[0], rtol=1e-6)
    again = server.records({"z": of_image["z"], "label": "7"}).body["predictions"][0]
    assert again["image"] == of_image["image"]
    assert np.abs(pixels(of_image["image"]).astype(int) - pixels(row["image"])).mean() < 5


def test_a_way_leads_from_an_image_to_a_seed(server: Server) -> None:
    image = server.records({"seed": 3}).body["predictions"][0]["image"]
    rows: list[dict[str, object]] = [{"image": image, "to_seed": 8, "position": p} for p in (0, 0.5, 1)]
    start, middle, end = server.records(*rows).body["predictions"]
    assert start["image"] == server.records({"image": image}).body["predictions"][0]["image"]
    np.testing.assert_allclose(end["z"], latents(8, 64)[0], rtol=1e-5)
    z = between(np.array([start["z"]], np.float32), latents(8, 64), [0.5])
    np.testing.assert_allclose(middle["z"], z[0], rtol=1e-5, atol=1e-6)
    assert {row["label"] for row in (start, middle, end)} == {"3"}


def test_a_class_that_is_given_is_kept(server: Server) -> None:
    image = server.records({"seed": 3}).body["predictions"][0]["image"]
    (row,) = server.records({"image": image, "label": "8"}).body["predictions"]
    assert row["label"] == "8"


def test_an_image_that_is_unlike_the_data_is_said_to_be(models: Project, digits: Images) -> None:
    """By the bounds in the encoder's file: here ones beyond which noise lies, and others that leave it within."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", models.tracking_uri)
        model = mlflow.pyfunc.load_model("models:/autoencoder/1", model_config={"project_evaluations": 64})
    generator = model.get_raw_model()
    own = generator.generate(*(x[:1] for x in (generator.encoder.encode(digits).z, np.array([0]))))
    encoder = generator.encoder
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    encoder.description = type(encoder.description)("", low_psnr=None, high_anomaly=1e9)
    answer = model.predict(pd.DataFrame({"image": [png_base64(own[0]), png_base64(noise)]}))
    assert answer["note"].tolist() == [None, None]
    assert answer["anomaly"][0] < answer["anomaly"][1]
    encoder.description = type(encoder.description)("", high_anomaly=float(np.mean(answer["anomaly"])))
    answer = model.predict(pd.DataFrame({"image": [png_base64(own[0]), png_base64(noise)]}))
    assert answer["note"].tolist() == [None, UNLIKE]


def test_a_grid_may_hold_images_that_were_sent(server: Server) -> None:
    image = server.records({"seed": 3}).body["predictions"][0]["image"]
    (row,) = server.records({"image": image}, {"seed": 4}, grid=2).body["predictions"]
    assert pixels(row["image"]).shape == (32, 62)


def test_more_searches_than_a_server_works_at_are_refused(models: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", models.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/digits/1", model_config={"device": "cpu", "project_evaluations": 64})
    image = model.predict([{"seed": 1}])["image"][0]
    python_model = model._model_impl
    for _ in range(image_rows.MAX_SEARCHES):
        python_model.searches.free.acquire()
    with pytest.raises(mlflow.MlflowException) as caught:
        model.predict([{"image": image}])
    assert caught.value.error_code == "TEMPORARILY_UNAVAILABLE"
    assert caught.value.message == "The server works at 4 requests with images and takes no more: try again in 1 s."
    assert len(model.predict([{"seed": 1}])) == 1  # others are answered
    python_model.searches.free.release()
    assert model.predict([{"image": image}])["psnr"][0] > 18


# ---- what is refused -------------------------------------------------------------------------------------------------


def file(mode: str, size: tuple[int, int], kind: str = "PNG", **options: Any) -> str:
    buffer = io.BytesIO()
    PIL.Image.new(mode, size, **options).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def animated() -> str:
    buffer = io.BytesIO()
    frames = [PIL.Image.new("L", (16, 16), level) for level in (0, 255)]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return base64.b64encode(buffer.getvalue()).decode()


def damaged() -> str:
    content = base64.b64decode(file("RGB", (16, 16)))
    return base64.b64encode(content[:-24]).decode()


def with_head_of(side: int) -> str:
    """Return a small file that says to be of so many pixels."""
    content = bytearray(base64.b64decode(file("L", (16, 16))))
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return base64.b64encode(content).decode()


REFUSALS = [
    (5, "is no text: give a file in base64."),
    ("a photo", "is no base64: give a file in base64."),
    (base64.b64encode(b"GIF89a").decode(), "is no PNG, JPEG or WEBP file."),
    (file("L", (16, 16), "GIF"), "is no PNG, JPEG or WEBP file."),
    (file("L", (17, 16)), "has 17×16 pixels, and this generator's images have 16×16: crop and resize it."),
    (with_head_of(9_000), "has 9000×9000 pixels, and this generator's images have 16×16: crop and resize it."),
    (with_head_of(60_000), "has far too many pixels."),
    (animated(), "is animated: give a single image."),
    (file("I;16", (16, 16)), "has more than 8 bits a channel, or other colors: give one in gray or RGB."),
    (file("CMYK", (16, 16), "JPEG"), "has more than 8 bits a channel, or other colors: give one in gray or RGB."),
    (damaged(), "is damaged."),
    (file("RGBA", (16, 16), color=(1, 1, 1, 254)), "has transparent pixels: give one without."),
    (file("RGB", (16, 16), color=(1, 2, 3)), "is in color, and this generator's are gray: make it gray."),
    ("A" * 200_000, "has more than 66,560 bytes: one of 16×16×1 takes no more."),
]


@pytest.mark.parametrize(("value", "problem"), REFUSALS, ids=[problem[:30] for _, problem in REFUSALS])
def test_an_image_that_cannot_be_taken_is_refused(value: object, problem: str) -> None:
    sentence = refusal(lambda: read_image(value, 3, GRAY))
    assert sentence == f"The image of row 3 {problem}"


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_what_loses_nothing_is_converted(prefix: str, mode: str) -> None:
    for spec in (GRAY, COLOR):
        white = {"LA": (255, 255), "RGB": (255, 255, 255), "RGBA": (255,) * 4}.get(mode, 1 if mode == "1" else 255)
        text = prefix + file("L" if mode == "P" else mode, (16, 16), color=white)
        image = read_image(text, 0, spec)
        assert image.shape == spec.shape
        assert (image == 255).all()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"image": "x", "seed": 1}], "Row 0 has both seed and image: give one of them."),
        ([{"image": "x", "truncation": 1}], "Row 0 has both image and truncation: truncation applies to seeds only."),
        ([{"seed": 0}, {"image": "x"}], "The image of row 1 is no base64: give a file in base64."),
        ([{"image": {"file": "x"}}], "Row 0 has an object in the column image: give a single value."),
        ([{"image": "x"}] * 4, "The request has 4 images and 3 is the limit: send several requests."),
        (
            [{"image": "x", "position": 0.5}],
            "Row 0 has position and no to_seed: an image between two seeds needs both.",
        ),
    ],
)
def test_a_request_with_images_that_cannot_be_honored(
    server: Server, rows: list[dict[str, object]], sentence: str
) -> None:
    reply = server.records(*rows)
    assert (reply.status, reply.body["message"]) == (400, sentence)


def test_a_body_has_room_for_the_images_that_a_request_may_bring(server: Server) -> None:
    """Of the largest file that is read, thrice; a fourth is too much."""
    spec = image_spec(28, 28, 1)
    padding = "A" * (max_file_bytes(spec) * 4 // 3 // 4 * 4)
    reply = server.records(*[{"image": padding}] * 3)
    assert (reply.status, reply.body["message"]) == (400, "The image of row 0 is no PNG, JPEG or WEBP file.")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"project_evaluations": 63},
            "project_evaluations=63 is not possible: give a whole number from 64 to 131,072",
        ),
        ({"max_images": 0}, "max_images=0 is not possible: give a whole number from 1 to 1,024"),
    ],
)
def test_wrong_options(config: dict[str, int], sentence: str, tmp_path: Path) -> None:
    flavor.save_model(ROOT / "examples" / "digits.onnx", tmp_path / "model")
    with pytest.raises(mlflow.MlflowException) as caught:
        mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config=config)
    assert caught.value.message == f"{sentence}."
