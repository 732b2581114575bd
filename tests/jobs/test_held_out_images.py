"""Images without a split of their own to be held out, from training to evaluation and promotion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Project, refusal
from mlflow.entities import Run
from PIL import Image

import gan_plugin
from gan_plugin.data import load_dataset, load_divided

COUNT, HELD_OUT = 300, 60
SMALL = {"recipe": "dcgan", "epochs": 1, "batch_size": 64, "image_size": 16, "evaluation_budget": 0, "device": "cpu"}
DATA = {"image_size": 16, "images": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digits of three classes as files, without splits."""
    digits, root = load_dataset("digits", image_size=16), tmp_path_factory.mktemp("digits")
    assert digits.labels is not None
    chosen = digits.take((digits.labels < 3).nonzero().flatten()[:COUNT])
    assert chosen.labels is not None
    for i, (image, label) in enumerate(zip(chosen.samples[:, 0].numpy(), chosen.labels.tolist())):
        (root / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image).save(root / str(label) / f"{i}.png")
    return str(root)


@pytest.fixture(scope="module")
def trained(make_project: Callable[[], Project], folder: str) -> Project:
    """Version 1 of the model was trained with held_out=auto, version 2 with held_out=none."""
    project = make_project()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        patch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
        gan_plugin.train(data=folder, **SMALL)
        gan_plugin.train(data=folder, held_out="none", **SMALL)
    return project


@pytest.fixture
def project(trained: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """This process works in the project's folder, on the project's store."""
    monkeypatch.chdir(trained.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.tracking_uri)
    return trained


def inputs_of(run: Run) -> dict[str, str]:
    """The digest of each data set of a run, by the context in which it was used."""
    return {
        tag.value: entry.dataset.digest
        for entry in run.inputs.dataset_inputs
        for tag in entry.tags
        if tag.key == "mlflow.data.context"
    }


def test_training_leaves_them_out_and_says_so(project: Project, folder: str) -> None:
    without, divided = project.runs()
    division, everything = load_divided(folder, image_size=16), load_dataset(folder, image_size=16)
    assert division.drawn is not None
    assert inputs_of(divided) == {"training": division.dataset.digest, "held-out": division.drawn.digest}
    assert inputs_of(without) == {"training": everything.digest}
    assert (divided.data.params["held_out"], without.data.params["held_out"]) == ("drawn by digest", "none")
    assert f"Data: {COUNT - HELD_OUT} images of 16×16×1" in divided.data.tags["mlflow.note.content"]
    assert f"Data: {COUNT} images of 16×16×1" in without.data.tags["mlflow.note.content"]


@pytest.mark.usefixtures("short_cas")
def test_evaluation_compares_with_the_same_ones(
    project: Project, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    training = project.client.get_run(project.client.get_model_version("gan", "1").run_id)
    metrics = gan_plugin.evaluate(model="models:/gan/1", data=folder, **DATA)
    real = {name for name in metrics if "_real/" in name}
    assert {"fid_real/classifier", "precision_real/classifier", "authenticity_real/classifier"} <= real
    run = project.runs()[0]
    digests = inputs_of(run)
    assert {"evaluation": digests["evaluation"], "held-out": digests["held-out"]} == {
        "evaluation": inputs_of(training)["training"],
        "held-out": inputs_of(training)["held-out"],
    }
    assert run.data.params["held_out"] == "drawn by digest"
    assert "trained on" not in capsys.readouterr().out


@pytest.mark.usefixtures("short_cas")
def test_an_evaluation_by_another_division_says_so(
    project: Project, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = gan_plugin.evaluate(model="models:/gan/2", data=folder, **DATA)
    assert "The model was trained on the held-out images as well, as with held_out=none: " in capsys.readouterr().out
    assert "fid_real/classifier" in metrics
    metrics = gan_plugin.evaluate(model="models:/gan/1", data=folder, held_out="none", **DATA)
    output = capsys.readouterr().out
    assert "A model that was trained with another held_out is to be evaluated with that one." in output
    assert " is held out here, so there is no real-data baseline: give held_out=auto and a training split" in output
    assert "fid_real/classifier" not in metrics


@pytest.mark.usefixtures("short_cas")
def test_a_metric_that_needs_them_decides_a_promotion(project: Project, folder: str) -> None:
    values = {"data": folder, "version": 1, "thresholds": ["fid_ratio<=1000000"], **DATA}
    message = refusal(lambda: gan_plugin.promote(held_out="none", **values))
    assert message.startswith(f"fid_ratio needs held-out images, and nothing of data={folder!r} is held out here: ")
    assert gan_plugin.promote(**values) == "models:/gan/1"


def test_a_split_that_does_not_exist_is_refused_before_there_is_a_run(project: Project, folder: str) -> None:
    before = len(project.runs())
    sentence = f"{folder} has no split 'test': without sub-folders named like splits, all of it is 'train'."
    assert refusal(lambda: gan_plugin.train(data=folder, held_out="test", **SMALL)) == sentence
    assert refusal(lambda: gan_plugin.evaluate(model="models:/gan/1", data=folder, held_out="test")) == sentence
    assert refusal(lambda: gan_plugin.promote(data=folder, held_out="test")) == sentence
    assert len(project.runs()) == before


def test_a_training_goes_on_with_the_same_images_only(project: Project, folder: str) -> None:
    run_id = project.client.get_model_version("gan", "1").run_id
    longer = {**SMALL, "data": folder, "epochs": 2, "resume": run_id}
    message = refusal(lambda: gan_plugin.train(**longer, held_out="none"))
    assert message.startswith("resume is not possible with other settings than the run began with: data was '")
    assert message.endswith(" (digests of the images to train on, which held_out decides, too).")
    gan_plugin.train(**longer)
    assert project.client.get_run(run_id).data.metrics["epoch"] == 2


def test_a_split_that_is_there_is_held_out_and_not_read(project: Project, folder: str, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(folder)
    (tmp_path / "test" / "0").mkdir(parents=True)
    (tmp_path / "test" / "0" / "broken.png").write_bytes(b"no image")
    gan_plugin.train(data=tmp_path, **SMALL, model_name="split")
    run = project.runs()[0]
    assert run.data.params["held_out"] == "test"
    assert inputs_of(run) == {"training": load_dataset(folder, image_size=16).digest}
