"""Names that cannot be stored with a model are refused when the data is found; of files nothing but bytes is needed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from data_helpers import encoded, noise, save
from helpers import refusal, refused

from gan_plugin.data import check_data_argument, load_dataset

BAD = os.fsdecode(b"caf\xe9")  # Latin-1, as old archives have it


@pytest.fixture(autouse=True)
def utf8(tmp_path: Path) -> None:
    try:
        (tmp_path / BAD).touch()
    except OSError:
        pytest.skip("this file system takes only names that are text")
    (tmp_path / BAD).unlink()


def test_a_class_folder_that_is_not_utf8_is_refused_before_an_image_is_read(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    (root / BAD).mkdir(parents=True)
    (root / BAD / "0.png").write_bytes(b"is not read")
    save(noise(1), root / "dog/1.png")
    expected = (
        f"In {root} the folder 'caf\\xe9' has a name that is not UTF-8 text, as which it is stored with the model: "
        "rename it."
    )
    assert refusal(lambda: check_data_argument(str(root))) == expected
    assert refused("train", {"data": root}) == expected
    (root / BAD).rename(root / "café")
    save(noise(0), root / "café/0.png")
    assert load_dataset(str(root)).spec.class_names == ("café", "dog")


def test_a_folder_of_data_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    save(noise(0), tmp_path / BAD / "images/0.png")
    (tmp_path / "link").symlink_to(tmp_path / BAD / "images")
    for data in (tmp_path / BAD / "images", tmp_path / "link"):
        message = refusal(lambda data=data: check_data_argument(str(data)))
        assert message.startswith(f"The data '{tmp_path}/caf\\xe9/images' has a name that is not UTF-8 text, ")


def test_files_and_deeper_folders_may_have_any_name(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    save(noise(0), root / "cat" / BAD / f"{BAD}.png")
    save(noise(1), root / "cat" / "a\nb.png")
    (root / "cat" / f"{BAD}.txt").touch()
    dataset = load_dataset(str(root))
    assert len(dataset) == 2
    notes = "\n".join(dataset.notes)
    assert "left out: cat/caf\\xe9.txt." in notes
    notes.encode()  # so that it can be printed and logged
    (root / "cat" / f"{BAD}.png").touch()
    (root / "cat" / "a\nb.png").write_bytes(b"")
    message = refusal(lambda: load_dataset(str(root)))
    assert "cannot be read: cat/a\\nb.png (not an image), cat/caf\\xe9.png (not an image); " in message
    (root / "0.png").touch()
    (root / "cat" / "a\nb.png").unlink()
    assert refused("train", {"data": root}).startswith(f"{root} has images both beside sub-folders (0.png) and inside")


def test_class_names_of_parquet_that_are_not_text(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "\udc80"])})
    table = pa.table({"image": [{"bytes": encoded(noise(0)), "path": None}] * 2, "label": [0, 1]})
    metadata = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    message = refusal(lambda: load_dataset(str(tmp_path / "x.parquet")))
    assert message.startswith(f"In {tmp_path}/x.parquet the class '\\x80' has a name that is not UTF-8 text, ")


def test_a_folder_without_images_is_no_class_and_is_named(tmp_path: Path) -> None:
    for seed, name in enumerate(["cat/0.png", "dog/1.png"]):
        save(noise(seed), tmp_path / name)
    (tmp_path / "fox").mkdir()
    (tmp_path / ".hidden").mkdir()
    dataset = load_dataset(str(tmp_path))
    assert dataset.spec.class_names == ("cat", "dog")
    assert "No image is in fox, so those are not classes." in dataset.notes
