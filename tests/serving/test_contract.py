"""What a file's metadata may say: files of contract 1 and of later ones work, and what is no image is refused."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import onnx
import pandas as pd
import pytest
from generators import as_contract_1, with_metadata
from helpers import ROOT, refusal

from gan_plugin import flavor
from gan_plugin.explorer import write_page
from gan_plugin.sampling import write_samples
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.spec import image_spec

DIGITS = ROOT / "examples" / "digits.onnx"
SAMPLE = {"seeds": [0, 7], "truncation": None, "label": None, "columns": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def first_contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_contract_1(DIGITS, tmp_path_factory.mktemp("contract") / "digits.onnx")


def test_the_file_of_the_examples_is_of_the_newest_contract_and_the_other_of_the_first(first_contract: Path) -> None:
    newest, first = (
        {entry.key: entry.value for entry in onnx.load(path).metadata_props} for path in (DIGITS, first_contract)
    )
    added = {"gan.kind": "image", "gan.layout": "HWC", "gan.range": "0..255"}
    assert newest == first | added | {"gan.contract": "2"}
    assert first["gan.contract"] == "1"
    assert not added.keys() & first.keys()


def test_a_file_of_contract_1_gives_the_same_images(first_contract: Path) -> None:
    first, newest = (OnnxGenerator(path, device="cpu") for path in (first_contract, DIGITS))
    assert first.description == newest.description
    np.testing.assert_array_equal(first.sample(range(20)), newest.sample(range(20)))


def test_a_file_of_contract_1_is_logged_and_served(first_contract: Path, tmp_path: Path) -> None:
    flavor.save_model(first_contract, tmp_path / "first")
    flavor.save_model(DIGITS, tmp_path / "newest")
    first, newest = (
        mlflow.pyfunc.load_model(str(tmp_path / name), model_config={"device": "cpu"}) for name in ("first", "newest")
    )
    rows = pd.DataFrame({"seed": [1, 2], "label": ["3", 4]})
    pd.testing.assert_frame_equal(first.predict(rows), newest.predict(rows))
    assert flavor.load_model(str(tmp_path / "first")).description.spec.height == 28


def test_a_file_of_contract_1_is_sampled_and_explored(first_contract: Path, tmp_path: Path) -> None:
    for path, out in ((first_contract, tmp_path / "first.png"), (DIGITS, tmp_path / "newest.png")):
        write_samples(None, path, out, **SAMPLE)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "newest.png").read_bytes()
    write_page(first_contract, tmp_path / "page.html")
    assert (tmp_path / "page.html").exists()


def test_a_later_contract_with_more_keys_is_read_all_the_same(tmp_path: Path) -> None:
    later = with_metadata(DIGITS, tmp_path / "later.onnx", contract="4", colors="sRGB")
    assert OnnxGenerator(later, device="cpu").description == OnnxGenerator(DIGITS, device="cpu").description


DESCRIPTION = Description(
    64,
    image_spec(48, 32, 3, class_names=("cat", "große Katze")),
    recipe="r3gan",
    run_id="run",
    data="animals",
    data_digest="1f",
    seen_features=("2e", "3d"),
)


def test_a_description_survives_the_metadata() -> None:
    assert Description.from_metadata(DESCRIPTION.to_metadata()) == DESCRIPTION
    assert all(isinstance(value, str) for value in DESCRIPTION.to_metadata().values())


@pytest.mark.parametrize("name", ["recipe", "run_id", "data", "data_digest", "seen_features", "layout", "range"])
def test_what_only_tells_the_origin_may_be_missing(name: str) -> None:
    metadata = DESCRIPTION.to_metadata()
    del metadata[f"gan.{name}"]
    assert Description.from_metadata(metadata).spec == DESCRIPTION.spec


def test_a_file_without_the_contract_is_refused() -> None:
    assert refusal(lambda: Description.from_metadata({"author": "somebody"})) == (
        "This ONNX file is not a generator of gan_plugin: its metadata have no gan.contract."
    )


def test_another_kind_than_images_is_refused() -> None:
    metadata = DESCRIPTION.to_metadata() | {"gan.contract": "3", "gan.kind": "sound"}
    assert refusal(lambda: Description.from_metadata(metadata)) == (
        "This ONNX file makes samples of the kind 'sound', and this version of gan_plugin knows only 'image': install "
        "a newer one."
    )


@pytest.mark.parametrize("value", [None, "", "0", "-28", "28.5", "²", "x"])
@pytest.mark.parametrize("name", ["latent_size", "height", "width", "channels"])
def test_a_size_that_is_missing_or_not_possible_is_refused(name: str, value: str | None) -> None:
    metadata = DESCRIPTION.to_metadata()
    del metadata[f"gan.{name}"]
    metadata |= {} if value is None else {f"gan.{name}": value}
    sentence = f"This ONNX file's metadata have no possible gan.{name}: it is damaged, or no generator."
    assert refusal(lambda: Description.from_metadata(metadata)) == sentence


def test_a_file_that_does_not_record_what_chose_it_names_no_features() -> None:
    assert OnnxGenerator(DIGITS, device="cpu").description.seen_features == ()


@pytest.mark.parametrize("value", ["", "2e", '{"2e": 0}', "[0, 1]"])
def test_seen_features_that_are_no_list_are_refused(value: str) -> None:
    metadata = DESCRIPTION.to_metadata() | {"gan.seen_features": value}
    sentence = "This ONNX file's metadata have no possible gan.seen_features: it is damaged, or no generator."
    assert refusal(lambda: Description.from_metadata(metadata)) == sentence


@pytest.mark.parametrize("value", [None, "", "cat", '{"cat": 0}', "[0, 1]"])
def test_class_names_that_are_missing_or_not_possible_are_refused(value: str | None) -> None:
    metadata = DESCRIPTION.to_metadata()
    del metadata["gan.class_names"]
    metadata |= {} if value is None else {"gan.class_names": value}
    sentence = "This ONNX file's metadata have no possible gan.class_names: it is damaged, or no generator."
    assert refusal(lambda: Description.from_metadata(metadata)) == sentence
