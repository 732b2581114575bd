"""Parquet files and the hub, through real files written as their library writes them."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import chw, encoded, noise, ramp_of_16_bits, save
from helpers import ROOT, refusal
from PIL import Image

from gan_plugin.data import check_data_argument, hub, load_dataset
from gan_plugin.data.parquet import HubDataset, find_parquet_files, split_in_name


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables go to a cache of the test's own, not to the person's."""
    if importlib.util.find_spec("datasets") is not None:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write_table(path: Path, columns: dict[str, list[Any]], features: dict[str, Any] | None = None) -> Path:
    """A parquet file as ``datasets`` writes it with these features, or with plain types where there are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if features is None:
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pytest.importorskip("pyarrow").table(columns), path)
    else:
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)
    return path


def noises(count: int = 4, start: int = 0) -> list[Any]:
    return [encoded(noise(seed)) for seed in range(start, start + count)]


def stacked(*seeds: int) -> torch.Tensor:
    return torch.stack([chw(noise(seed)) for seed in seeds])


def test_parquet_with_declared_columns(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = write_table(
        tmp_path / "pets [1].parquet",
        {"id": [7, 8, 9, 10], "animal": [1, 0, 1, 1], "image": noises()},
        {
            "id": datasets.Value("int64"),
            "animal": datasets.ClassLabel(names=["cat", "dog", "fox"]),
            "image": datasets.Image(),
        },
    )
    dataset = load_dataset(str(path))
    assert torch.equal(dataset.samples, stacked(0, 1, 2, 3))
    assert dataset.labels is not None
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == [1, 0, 1, 1]
    assert dataset.spec.class_names == ("cat", "dog", "fox")
    assert (dataset.name, dataset.source, dataset.split) == ("pets [1]", str(path), "train")
    assert dataset.notes[:2] == (
        "The images are those in column 'image'.",
        "The labels are those in column 'animal'.",
    )


def test_parquet_with_raw_bytes_and_integer_labels(tmp_path: Path) -> None:
    path = write_table(tmp_path / "raw.parquet", {"image": noises(), "label": [30, 5, 30, 7]})
    dataset = load_dataset(str(path))
    assert torch.equal(dataset.samples, stacked(0, 1, 2, 3))
    assert dataset.spec.class_names == ("5", "7", "30")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 0, 2, 1]


def test_parquet_with_structs_of_bytes_or_path(tmp_path: Path) -> None:
    file = save(noise(1), tmp_path / "files/1.png")
    cells: list[Any] = [{"bytes": encoded(noise(0)), "path": "0.png"}, {"bytes": None, "path": str(file)}]
    path = write_table(tmp_path / "structs.parquet", {"thumb": [b"1", b"2"], "image": cells, "label": [0.5, 1.5]})
    dataset = load_dataset(str(path))
    assert torch.equal(dataset.samples, stacked(0, 1))
    assert dataset.labels is None
    note = "(those in 'label' are neither integers nor of type ClassLabel), so the images have no classes."
    assert f"There is no column of labels {note}" in dataset.notes


@pytest.mark.parametrize("missing", [-1, None])
def test_parquet_with_missing_labels(missing: int | None, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    path = write_table(tmp_path / "x.parquet", {"image": noises(3), "label": [0, missing, 1]}, features)
    dataset = load_dataset(str(path))
    assert dataset.labels is None
    assert dataset.spec.class_names == ()
    assert "Column 'label' has no label for 1 images, so the labels are not used." in dataset.notes


@pytest.mark.parametrize("label", [2, -2, 2**40])
def test_a_label_beyond_the_declared_classes_is_refused_before_an_image_is_read(label: int, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    metadata = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    table = pa.table({"image": [{"bytes": b"is not read", "path": None}] * 3, "label": [0, 1, label]})
    path = tmp_path / "x.parquet"
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert refusal(lambda: load_dataset(str(path))) == (
        f"{path} has the label {label} in column 'label', row 2: the column declares 2 classes, 0 to 1."
    )


def test_parquet_rows_are_converted_as_files_are(tmp_path: Path) -> None:
    deep = encoded(Image.fromarray(ramp_of_16_bits()))
    transparent = encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 0)))
    dataset = load_dataset(str(write_table(tmp_path / "x.parquet", {"image": [deep, transparent]})))
    assert dataset.spec.channels == 1
    assert dataset.samples[0, 0].flatten().tolist() == list(range(256))
    assert dataset.samples[1].min() == 255


def test_parquet_images_that_are_not_square(tmp_path: Path) -> None:
    cells = [encoded(noise(seed, 40, 24)) for seed in range(3)]
    path = write_table(tmp_path / "x.parquet", {"image": cells})
    dataset = load_dataset(str(path))
    assert torch.equal(dataset.samples, torch.stack([chw(noise(seed, 40, 24)) for seed in range(3)]))
    assert dataset.spec.shape == (24, 40, 3)
    assert load_dataset(str(path), image_size=(48, 16), channels=1).samples.shape == (3, 1, 48, 16)


def test_unreadable_rows(tmp_path: Path) -> None:
    cells: list[Any] = [encoded(noise(0)), b"", encoded(noise(2, 40, 40))[:-900], None, encoded(noise(4))]
    path = write_table(tmp_path / "x.parquet", {"image": cells, "label": [3, 9, 9, 9, 1]})
    message = refusal(lambda: load_dataset(str(path)))
    assert message.startswith(f"3 of 5 images in {path} cannot be read: row 1 (not an image), row 2 (image file is tr")
    assert "row 3 (empty cell); repair" in message
    dataset = load_dataset(str(path), skip_unreadable=True)
    assert torch.equal(dataset.samples, stacked(0, 4))
    assert dataset.spec.class_names == ("1", "3")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.notes[-1].startswith("3 unreadable images were left out: row 1 (not an image), ")


def test_splits_of_a_folder_of_parquet(tmp_path: Path) -> None:
    root = tmp_path / "table"
    write_table(root / "data/train-00000-of-00002.parquet", {"image": noises(2, 0)})
    write_table(root / "data/train-00001-of-00002.parquet", {"image": noises(2, 2)})
    write_table(root / "data/test-00000-of-00001.parquet", {"image": noises(3, 10)})
    (root / "README.md").write_text("x")
    train = load_dataset(str(root))
    assert torch.equal(train.samples, stacked(0, 1, 2, 3))
    assert train.notes[0] == "Split 'train' is read from 2 of 3 parquet files."
    assert (train.name, train.source) == ("table", str(root))
    assert torch.equal(load_dataset(str(root), split="test").samples, stacked(10, 11, 12))
    message = refusal(lambda: check_data_argument(str(root), "validation"))
    assert message == f"{root} has no split 'validation': the splits there are 'test', 'train'."
    one = root / "data/test-00000-of-00001.parquet"
    assert len(load_dataset(str(one), split="test")) == 3
    assert refusal(lambda: load_dataset(str(one))) == f"{one} has no split 'train': the splits there are 'test'."


def test_parquet_files_without_splits_in_their_names(tmp_path: Path) -> None:
    write_table(tmp_path / "b.parquet", {"image": noises(2, 2)})
    write_table(tmp_path / "a.parquet", {"image": noises(2, 0)})
    assert torch.equal(load_dataset(str(tmp_path)).samples, stacked(0, 1, 2, 3))
    message = refusal(lambda: load_dataset(str(tmp_path), split="test"))
    assert message.endswith("has no split 'test': the splits there are 'train', as no file is named after a split.")


def test_split_in_name() -> None:
    names = [
        "train-00000-of-00001.parquet",
        "data/val-00000-of-00003-abc.parquet",
        "c/test/0000.parquet",
        "x/Valid.parquet",
    ]
    assert [split_in_name(name) for name in names] == ["train", "val", "test", "Valid"]
    assert split_in_name("trained.parquet") is None
    pytest.importorskip("datasets")
    assert find_parquet_files(Path("/t"), names, "validation").files == (Path("/t", names[1]), Path("/t", names[3]))


def test_a_changed_parquet_file_is_read_anew(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", {"image": noises(2, 0)})
    assert torch.equal(load_dataset(str(path)).samples, stacked(0, 1))
    write_table(path, {"image": noises(2, 5)})
    assert torch.equal(load_dataset(str(path)).samples, stacked(5, 6))


def test_parquet_without_images_or_no_parquet(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", {"text": ["a", "b"], "label": [0, 1]})
    message = refusal(lambda: load_dataset(str(path)))
    assert message == (
        f"{path} has no column of images among text, label: "
        "it should be of type Image, a struct of bytes and path, or bytes."
    )
    path.write_text("text")
    assert refusal(lambda: load_dataset(str(path))).startswith(f"{path} cannot be read as parquet: ")


def test_parquet_and_hub_without_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_text("x")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for data in (str(tmp_path), str(tmp_path / "x.parquet"), "hub:owner/name"):
        assert 'pip install "gan-plugin[hub]"' in refusal(partial(check_data_argument, data))


def test_hub_repository_laid_out_in_a_local_folder(tmp_path: Path) -> None:
    """The library takes a folder for a repository, so the code for the hub runs with no network."""
    pytest.importorskip("datasets")
    for split, start in (("train", 0), ("test", 10)):
        write_table(tmp_path / f"data/{split}-00000-of-00001.parquet", {"image": noises(2, start), "label": [1, 0]})
    dataset = HubDataset("hub:owner/pets", str(tmp_path), None, split="test").load((32, 24), None, False)
    cut = [noise(seed).crop((2, 0, 14, 16)).resize((24, 32), Image.Resampling.LANCZOS) for seed in (10, 11)]
    assert torch.equal(dataset.samples, torch.stack([chw(image) for image in cut]))
    assert dataset.spec.class_names == ("0", "1")
    assert (dataset.source, dataset.split) == ("hub:owner/pets", "test")
    message = refusal(lambda: HubDataset("hub:owner/pets", str(tmp_path), None, split="dev").load(None, None, False))
    assert message == "data='hub:owner/pets' has no split 'dev': its splits are 'train', 'test'."


def test_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    program = (
        "from gan_plugin.data import check_data_argument, hub, load_dataset\n"
        "check_data_argument('hub:owner/name:small')  # the form is right, and the hub is not asked\n"
        "load_dataset('hub:owner/name:small')\n"
    )
    # The library reads the variable when it is imported, so it takes a process of its own.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("gan_plugin.errors.UserError: data='hub:owner/name:small' cannot be loaded from the Hugging")
    assert "Couldn't reach" in last


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_never_answers_is_given_up_soon(
    offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes the connection and stays silent; what was downloaded before is used all the same.

    Where the library is offline it is not even asked.
    """
    datasets, constants = pytest.importorskip("datasets"), pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    table = write_table(tmp_path / "pets/train.parquet", {"image": noises(3)})
    builder = datasets.load_dataset_builder("parquet", data_files=[str(table)])
    builder.download_and_prepare()
    prepared = Path(builder.cache_dir)  # what the library leaves of a download has another name
    downloaded = Path(datasets.config.HF_DATASETS_CACHE) / "owner___pets/default/0.0.0" / prepared.name
    shutil.copytree(prepared, downloaded)
    for file in downloaded.glob("*.arrow"):
        file.rename(file.with_name(file.name.replace("parquet", "pets")))
    with socket.socket() as silent, caplog.at_level(logging.INFO):
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.setblocking(False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(hub, "TIMEOUT", 0.5)
        start = time.perf_counter()
        message = refusal(lambda: load_dataset("hub:owner/missing"))
        assert message.startswith("data='hub:owner/missing' cannot be loaded from the Hugging Face hub (")
        assert len(load_dataset("hub:owner/pets")) == 3
        assert time.perf_counter() - start < 10  # the library alone takes half a minute for the first
        assert constants.HF_HUB_OFFLINE == datasets.config.HF_HUB_OFFLINE == offline
        assert "Loading owner/pets from the Hugging Face hub, or from what was downloaded before." in caplog.text
        assert ("cannot be reached (" in caplog.text) == (not offline)
        if offline:
            with pytest.raises(BlockingIOError):
                silent.accept()
        else:
            silent.accept()[0].close()
