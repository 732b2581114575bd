"""Labels from end to end: a class asked for is the class shown. And a training that fails, as its user sees it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import QUICK, Project, error_of, options, refused
from PIL import Image

from gan_plugin.data import Dataset, load_dataset
from gan_plugin.features.classifier import predict_labels
from gan_plugin.features.classifier_store import classifier_of

CPU = torch.device("cpu")
CLASSES = (0, 1, 7)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", image_size=16)


@pytest.fixture(scope="module")
def conditional(make_project: Callable[[], Project], digits: Dataset) -> Project:
    """The default recipe, on images of three of the digits until it knows them apart."""
    project = make_project()
    assert digits.labels is not None
    for i, (image, label) in enumerate(zip(digits.samples[:, 0].numpy(), digits.labels.tolist())):
        if label in CLASSES:
            folder = project.folder / "images" / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")
    parameters = {"data": "images", "held_out": "none", "epochs": 12, "evaluation_budget": 0, "samples_every": 12}
    done = project.command("gan-plugin", "train", *options(parameters))
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def test_the_default_is_r1_with_classes(conditional: Project) -> None:
    (run,) = conditional.runs()
    assert run.data.params["recipe"] == "subpixel"
    assert (run.data.params["penalty"], run.data.params["conditional"]) == ("r1", "true")


def test_images_show_the_class_that_was_asked_for(
    conditional: Project, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a classifier of all digits sees it, over 50 images of each class, asked for by name."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", conditional.tracking_uri)
    classifier, _ = classifier_of(digits, CPU)
    model = mlflow.pyfunc.load_model("models:/gan/1", model_config={"device": "cpu"})
    requested = np.repeat(CLASSES, 50)
    rows = pd.DataFrame({"seed": np.arange(150), "label": requested.astype(str)})
    answer = model.predict(rows)
    images = np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in answer["image"]])
    predicted = predict_labels(classifier, images[..., None])
    assert (predicted == torch.from_numpy(requested)).float().mean() > 0.9
    same_seed = model.predict(pd.DataFrame({"seed": [7, 7], "label": ["1", "7"]}))["image"]
    assert same_seed[0] != same_seed[1]


def test_sample_takes_a_class(conditional: Project, digits: Dataset) -> None:
    def sample(label: str) -> str:
        words = ["--model", "models:/gan/1", "--device", "cpu", "--label", label, "--seeds", "0-9", "--columns", 10]
        done = conditional.command("gan-plugin", "sample", *words, "--out", "sheet.png")
        return "" if done.returncode == 0 else error_of(done)

    assert sample("7") == ""
    sheet = np.asarray(Image.open(conditional.folder / "sheet.png"))
    cells = np.stack([sheet[2:18, 2 + 18 * i : 18 + 18 * i] for i in range(10)])
    predicted = predict_labels(classifier_of(digits, CPU)[0], cells[..., None])
    assert (predicted == 7).float().mean() >= 0.8
    assert sample("three") == "label='three' is not possible: give 0, 1, 7, or a number from 0."


def test_what_contradicts_the_data_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    for i in range(20):
        Image.new("L", (36, 36), i * 10).save(images / f"{i}.png")
    sentence = refused("train", {"data": images, "conditional": "true"})
    assert sentence.startswith("conditional=true is not possible: ")
    sentence = refused("train", {"data": images, "recipe": "r3gan"})
    assert sentence.startswith("image_size=36 is not possible with family=r3gan")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_training_that_diverges_is_failed_with_the_reason(make_project: Callable[[], Project]) -> None:
    project = make_project()
    reckless = {**QUICK, "batch_size": 64, "generator_lr": 1e30, "discriminator_lr": 1e30, "retries": 1}
    done = project.command("gan-plugin", "train", *options(reckless))
    assert done.returncode == 1
    error = error_of(done)
    assert "became" in error
    assert "and going back is used up with retries=1: training has diverged" in error
    (run,) = project.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["failed"] == error
    assert run.data.tags["guard.1"].endswith("back to the start with another seed.")
    assert run.data.metrics["guard/rollbacks"] == 1
    assert project.client.search_registered_models() == []


def test_a_training_that_fails_late_keeps_its_best_generator(make_project: Callable[[], Project]) -> None:
    """Every quick evaluation raises an alarm: the best is exported and logged, and not registered."""
    project = make_project()
    parameters = {**QUICK, "epochs": 4, "evaluation_budget": 1 - 1e-9, "retries": 0}
    code = (
        "import gan_plugin.training.guard as g; g.WORSE = 0.5; from gan_plugin.cli import main; main("
        + repr(["train", *options(parameters)])
        + ")"
    )
    done = project.command("python", "-c", code)
    assert done.returncode == 1
    assert "the distance from the data is " in error_of(done)
    (run,) = project.runs()
    assert run.info.status == "FAILED"
    best = min(project.client.get_metric_history(run.info.run_id, "fid_2k/classifier"), key=lambda m: m.value)
    assert run.data.tags["exported"].startswith(f"Exported: the averaged generator of step {best.step}")
    assert "of 0. " not in run.data.tags["exported"]  # the state goes back to the start, the best does not
    assert project.client.search_registered_models() == []
    (model,) = project.client.search_logged_models(["0"])
    assert f"{model.model_uri} is logged, and not registered." in done.stdout
