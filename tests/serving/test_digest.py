"""The MLmodel file holds the digest of the ONNX file: another file in its place is noticed at every door."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest
from helpers import ROOT, refusal
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from gan_plugin import flavor

DIGITS = ROOT / "examples" / "digits.onnx"
SENTENCE = "The model's generator.onnx is not the file that was logged: its SHA-256 digest is another."


@pytest.fixture
def model(tmp_path: Path) -> Path:
    flavor.save_model(DIGITS, tmp_path / "model")
    return tmp_path / "model"


def change(onnx_file: Path) -> None:
    """Change one weight, so that the file is a generator still."""
    content = bytearray(onnx_file.read_bytes())
    content[len(content) // 2] ^= 1
    onnx_file.write_bytes(content)


def test_a_file_that_was_changed_is_not_loaded(model: Path) -> None:
    assert len(flavor.load_model(str(model), device="cpu").sample([1])) == 1
    change(model / "generator.onnx")
    assert refusal(lambda: flavor.load_model(str(model), device="cpu")) == SENTENCE
    assert refusal(lambda: flavor.download_onnx(str(model))) == SENTENCE
    with pytest.raises(MlflowException) as refused:
        mlflow.pyfunc.load_model(str(model), model_config={"device": "cpu"})
    assert str(refused.value) == SENTENCE


def test_a_file_that_is_missing_is_named(model: Path) -> None:
    (model / "generator.onnx").unlink()
    assert refusal(lambda: flavor.download_onnx(str(model))).startswith("The model has no file generator.onnx: ")


def test_a_model_that_was_logged_without_a_digest_is_loaded(model: Path) -> None:
    old = Model.load(str(model))
    digest = old.flavors["gan"].pop("onnx_sha256")
    assert len(digest) == 64
    old.save(str(model / "MLmodel"))
    change(shutil.copy(DIGITS, model / "generator.onnx"))
    assert flavor.download_onnx(str(model)) == model / "generator.onnx"
    assert len(mlflow.pyfunc.load_model(str(model), model_config={"device": "cpu"}).predict({"seed": [1]})) == 1
