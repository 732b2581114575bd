"""Datasets for MLflow: found by MLflow, light to import, with held-out images beside them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.data
import numpy as np
import pytest
import torch
from mlflow.data.code_dataset_source import CodeDatasetSource
from PIL import Image

from gan_plugin.data import Dataset, load_dataset, load_divided, load_held_out
from gan_plugin.data.dataset import make_dataset
from gan_plugin.data.sources import check_held_out
from gan_plugin.datasets import SampleDataset, dataset_source, from_samples
from gan_plugin.errors import UserError


def test_mlflow_offers_the_constructor_and_stays_light() -> None:
    """In a fresh process, with warnings as errors: MLflow only warns of a constructor that it cannot take."""
    code = (
        "import sys, mlflow, mlflow.data, mlflow.models; mlflow.data.from_samples;"
        "from mlflow.models.evaluation.evaluator_registry import _model_evaluation_registry as r;"
        "assert r.is_registered('gan'); print([m for m in ('torch', 'onnx', 'torchmetrics') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), "Failure attempting" in done.stderr) == ("[]", False), done.stderr


def test_the_constructor_reads_both_splits() -> None:
    dataset = mlflow.data.from_samples("digits", image_size=16)
    assert isinstance(dataset, SampleDataset)
    assert dataset.held_out is not None
    assert (len(dataset.reference), len(dataset.held_out), dataset.held_out.spec.size) == (1438, 359, (16, 16))
    assert dataset.tags() == {"split": "train", "classes": "10"}
    wide = from_samples("digits", image_size=(16, 32))
    assert wide.held_out is not None
    assert wide.reference.samples.shape[2:] == wide.held_out.samples.shape[2:] == (16, 32)
    assert from_samples("digits", held_out="none").held_out is None
    assert from_samples("digits", name="mine", digest=load_dataset("digits").digest).name == "mine"
    with pytest.raises(UserError, match=r"has the digest [0-9a-f]{32}, not 123: these are other images"):
        from_samples("digits", digest="123")


def image_folder(root: Path, **counts: int) -> str:
    """A folder with a sub-folder for each name; names with two underscores are nested."""
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        folder = root / name.replace("__", "/")
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(generator.integers(0, 256, (16, 16), np.uint8)).save(folder / f"{i}.png")
    return str(root)


def held_out_of(data: str, **options: Any) -> tuple[str, int] | None:
    """The split that is held out, and how many images it has."""
    division = load_divided(data, **options)
    held_out = load_held_out(data, division)
    assert division.held_out_split == (held_out and held_out.split)
    return held_out and (held_out.split, len(held_out))


def test_held_out_images_come_from_test_or_else_validation(tmp_path: Path) -> None:
    both = image_folder(tmp_path / "both", train=40, test=3, val=2)
    assert held_out_of(both) == ("test", 3)
    assert held_out_of(both, held_out="validation") == ("validation", 2)
    assert len(load_divided(both).dataset) == 40  # all that there are for training
    one = image_folder(tmp_path / "one", train=40, val=2)
    assert held_out_of(one) == ("validation", 2)
    alone = image_folder(tmp_path / "alone", train=40)
    assert held_out_of(alone) == ("drawn by digest", 8)
    assert held_out_of(both, split="test") is None  # train is not held out
    assert held_out_of(both, held_out="none") is None


def test_held_out_images_take_the_size_and_channels_of_the_reference(tmp_path: Path) -> None:
    data = image_folder(tmp_path, train=4, test=3)
    held_out = load_held_out(data, load_divided(data, image_size=(32, 20), channels=3))
    assert held_out is not None
    assert held_out.samples.shape == (3, 3, 32, 20)


def test_a_held_out_split_that_cannot_be_is_refused(tmp_path: Path) -> None:
    plain = image_folder(tmp_path / "plain", a=4)
    with pytest.raises(UserError, match="has no split 'test': without sub-folders named like splits, all of it"):
        load_divided(plain, held_out="test")
    with pytest.raises(UserError, match="held_out='train' holds the same images as split 'train': give a split"):
        load_divided("digits", held_out="train")
    copied = image_folder(tmp_path / "copied", train=4, test=4)
    for file in Path(copied, "train").iterdir():
        shutil.copy(file, Path(copied, "test"))
    with pytest.raises(UserError, match="held_out='test' holds the same images as split 'train': give a split"):
        load_held_out(copied, load_divided(copied))
    many = image_folder(tmp_path / "many", **{f"train__c{i:02}": 1 for i in range(12)}, test__c00=1, test__c02=1)
    with pytest.raises(UserError, match=r"the classes …, c02 \(2 in all\) and split 'train' has …, c01, .*, c10, …"):
        load_held_out(many, load_divided(many))
    other = image_folder(tmp_path / "other", train__a=2, train__b=2, test__b=2)
    with pytest.raises(UserError, match="Split 'test' has the classes b and split 'train' has a, b: give both"):
        load_held_out(other, load_divided(other))


def test_the_same_classes_in_another_order_are_refused() -> None:
    """Their labels would mean other classes."""
    digits = load_dataset("digits")
    test = load_dataset("digits", split="test")
    spec = dataclasses.replace(test.spec, class_names=test.spec.class_names[::-1])
    turned: Dataset = dataclasses.replace(test, spec=spec)
    with pytest.raises(UserError, match="give both the same"):
        check_held_out(turned, digits)


def test_where_the_images_came_from(tmp_path: Path) -> None:
    assert isinstance(dataset_source("sklearn.datasets.load_digits"), CodeDatasetSource)
    assert dataset_source(str(tmp_path)).to_dict()["uri"].endswith(str(tmp_path))
    assert dataset_source("hub:ylecun/mnist").to_dict()["path"] == "ylecun/mnist"
    hub = dataset_source("hub:owner/name:german").to_dict()
    assert (hub["path"], hub["config_name"]) == ("owner/name", "german")


def test_equal_images_have_equal_digests_in_mlflow() -> None:
    digits = load_dataset("digits")
    dataset = SampleDataset(digits)
    assert (dataset.name, dataset.digest, dataset.features.shape) == ("digits", digits.digest, (1438, 1, 28, 28))
    assert dataset.features.base is not None  # a view of the images, not a copy
    assert torch.equal(torch.from_numpy(dataset.targets), digits.labels)


def test_summary_names_every_class_and_the_tags_stay_short() -> None:
    names = [f"class_{i:04}_{'long name ' * 9}" for i in range(1000)]
    images, labels = torch.zeros(3, 1, 16, 20, dtype=torch.uint8), torch.tensor([999, 0, 999])
    dataset = SampleDataset(make_dataset(images, labels, names, name="n", source="s", split="train", notes=()))
    assert dataset.tags() == {"split": "train", "classes": "1000"}
    summary = json.loads(json.dumps(dataset.summary()))
    assert [entry["name"] for entry in summary["classes"]] == names
    assert [entry["images"] for entry in summary["classes"]] == [1, *[0] * 998, 2]
    assert (summary["image_size"], summary["channels"], summary["images"]) == ([16, 20], 1, 3)
    unlabeled = make_dataset(images, None, (), name="n", source="s", split="train", notes=())
    assert SampleDataset(unlabeled).summary()["classes"] == []
