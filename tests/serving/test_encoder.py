"""An encoder's file beside its generator's: what it answers, and that the two belong together."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest
import torch
from encoders import Files, export_autoencoder, images_of
from helpers import refusal

from gan_plugin import flavor
from gan_plugin.data import Dataset, load_dataset
from gan_plugin.media.image import normalize, psnr
from gan_plugin.networks.wrappers import Quantized
from gan_plugin.serving.description import EncoderDescription
from gan_plugin.serving.encoder import OnnxEncoder
from gan_plugin.serving.projection import anomaly_scores, reconstruct


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", image_size=16).take(torch.arange(200))


@pytest.fixture(scope="module")
def files(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return export_autoencoder(digits, tmp_path_factory.mktemp("autoencoder"))


def test_both_files_together_are_the_autoencoder(files: Files, digits: Dataset) -> None:
    """Through codes in z: the mixture is undone by the one and done by the other, whatever the batch."""
    images = images_of(digits, 70)
    generator = files.open()
    assert generator.encoder is not None
    projected = reconstruct(generator, generator.encoder, images)
    with torch.no_grad():
        encoding = files.network.encoder(normalize(digits.samples[torch.arange(70)].float()))
        assert encoding.class_logits is not None
        labels = encoding.class_logits.argmax(1)
        expected = Quantized(files.network.decoder)(encoding.code, labels).numpy()
    assert projected.labels is not None
    assert projected.labels.tolist() == labels.tolist()
    assert np.abs(projected.images.astype(int) - expected).max() <= 1
    np.testing.assert_allclose(projected.psnr, psnr(images, projected.images))
    assert projected.z.shape == (70, 9)
    assert projected.z.dtype == np.float32


def test_the_file_says_whose_it_is_and_has_no_random_operator(files: Files) -> None:
    encoder = OnnxEncoder(files.encoder, device="cpu")
    expected = EncoderDescription(flavor.pyfunc.digest_of(files.generator), low_psnr=12.5, high_anomaly=0.25)
    assert encoder.description == expected
    model = onnx.load(files.encoder)
    assert {node.op_type for node in model.graph.node if "Random" in node.op_type} == set()
    assert [value.name for value in model.graph.output] == ["z", "features", "class_logits"]


def test_a_score_of_anomaly_is_low_where_image_and_reconstruction_are_alike(files: Files, digits: Dataset) -> None:
    encoder, images = OnnxEncoder(files.encoder, device="cpu"), images_of(digits, 3)
    near, far = images.copy(), 255 - images
    near[:, 0, 0] ^= 1
    scores = [anomaly_scores(encoder, images, other) for other in (images, near, far)]
    assert scores[0].tolist() == [0, 0, 0]
    assert (scores[0] < scores[1]).all()
    assert (scores[1] < scores[2]).all()


def test_a_model_carries_its_encoder(files: Files, digits: Dataset, tmp_path: Path) -> None:
    flavor.save_model(files.generator, tmp_path / "model", encoder_file=files.encoder)
    generator = flavor.load_model(str(tmp_path / "model"), device="cpu")
    assert generator.encoder is not None
    images = images_of(digits, 4)
    np.testing.assert_array_equal(
        generator.encoder.encode(images).z, OnnxEncoder(files.encoder, device="cpu").encode(images).z
    )
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"device": "cpu"}).get_raw_model()
    assert served.encoder is not None


def test_another_generators_encoder_is_refused(files: Files, digits: Dataset, tmp_path: Path) -> None:
    other = export_autoencoder(digits, tmp_path / "other", seed=1)
    sentence = refusal(lambda: flavor.save_model(files.generator, tmp_path / "model", encoder_file=other.encoder))
    assert sentence == "The encoder is that of another generator: give the one that was exported with it."


def test_an_encoder_that_was_changed_or_lost_is_refused(files: Files, tmp_path: Path) -> None:
    root = tmp_path / "model"
    flavor.save_model(files.generator, root, encoder_file=files.encoder)
    (root / "encoder.onnx").write_bytes(files.encoder.read_bytes() + b" ")
    sentence = refusal(lambda: flavor.load_model(str(root), device="cpu"))
    assert sentence == "The model's encoder.onnx is not the file that was logged: its SHA-256 digest is another."
    (root / "encoder.onnx").unlink()
    assert refusal(lambda: flavor.load_model(str(root), device="cpu")) == (
        "The model has no file encoder.onnx: it is damaged, log it again."
    )


def test_a_generator_is_no_encoder(files: Files) -> None:
    sentence = refusal(lambda: OnnxEncoder(files.generator, device="cpu"))
    assert sentence == "This ONNX file is not an encoder of gan_plugin: its metadata have no gan.generator."


@pytest.mark.parametrize("value", ["many", "NaN", "[1]"])
def test_a_number_that_is_none_is_refused(value: str) -> None:
    metadata = EncoderDescription("digest", low_psnr=20.0).to_metadata() | {"gan.low_psnr": value}
    assert refusal(lambda: EncoderDescription.from_metadata(metadata)) == (
        "This ONNX file's metadata have no possible gan.low_psnr: it is damaged, or no encoder."
    )
