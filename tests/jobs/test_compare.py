"""Comparisons against a real store: what is compared, how, and what cannot be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.request import url2pathname

import mlflow
import pytest
import torch
from encoders import export_autoencoder
from generators import export_bank
from helpers import Project, refusal, refused
from mlflow import MlflowClient

import gan_plugin
from gan_plugin import flavor
from gan_plugin.data import load_divided

pytestmark = pytest.mark.usefixtures("short_cas")
EASY = {"data": "digits", "images": 100, "image_size": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path | None]]:
    """A generator of known quality, an autoencoder, and a generator of other images; each with its encoder, or None."""
    folder = tmp_path_factory.mktemp("compared")
    digits = load_divided("digits", image_size=16).dataset
    others = digits.take(torch.arange(100))
    autoencoder = export_autoencoder(digits, folder / "autoencoder")
    return {
        "bank": (export_bank(digits, folder / "bank.onnx", noise=0.1), None),
        "autoencoder": (autoencoder.generator, autoencoder.encoder),
        "others": (export_bank(others, folder / "others.onnx", noise=0.1), None),
    }


@pytest.fixture
def client(
    tmp_path: Path,
    new_store: Callable[[Path], str],
    files: dict[str, tuple[Path, Path | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> MlflowClient:
    """A store with version 1 of each of the models."""
    monkeypatch.chdir(tmp_path)
    uri = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name, (generator, encoder) in files.items():
        with mlflow.start_run():
            flavor.log_model(generator, registered_model_name=name, encoder_file=encoder)
    return MlflowClient(uri, uri)


def page_of(uri: str) -> str:
    return Path(url2pathname(uri.removeprefix("file://"))).read_text("utf-8")


def test_models_are_evaluated_alike_and_shown_side_by_side(client: MlflowClient) -> None:
    names = ["models:/bank/1", "models:/autoencoder/1"]
    page = page_of(gan_plugin.compare(models=names, **EASY))
    parent, *children = sorted(
        client.search_runs(["0"], "tags.`gan.process` LIKE '%'"), key=lambda run: run.info.start_time
    )
    assert [run.data.tags["gan.model"] for run in children] == names
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert parent.data.params["models"] == ",".join(names)
    for run in children:  # to three digits, as the page has it
        value = run.data.metrics["fid/classifier"]
        assert f"{value:.3g}".rstrip("0").rstrip(".") in page or f"{value:,.0f}" in page
    assert re.search(r"<th scope=\"row\">models:/autoencoder/1<br>by its encoder, \d+\.\d dB</th>", page)
    assert "models:/bank/1<br>by its encoder" not in page
    assert page.count("held-out images of digits") == 1
    assert "100 images of the seeds 0 to 99" in page


def test_a_run_that_evaluated_a_model_need_not_do_it_again(client: MlflowClient) -> None:
    names = ["models:/bank/1", "models:/autoencoder/1"]
    for name in names:
        gan_plugin.evaluate(model=name, **EASY)
    runs = {
        run.data.params["model"]: run.info.run_id for run in client.search_runs(["0"], "params.model LIKE 'models:/%'")
    }
    before = len(client.search_runs(["0"]))
    page = page_of(gan_plugin.compare(models=[runs[name] for name in names], **EASY))
    assert len(client.search_runs(["0"])) == before + 1
    assert all(run_id in page for run_id in runs.values())

    gan_plugin.evaluate(model=names[1], **{**EASY, "features": "self-supervised"})
    (newest,) = client.search_runs(["0"], "params.features = 'self-supervised'")
    sentence = refusal(lambda: gan_plugin.compare(models=[runs[names[0]], newest.info.run_id], **EASY))
    assert sentence.startswith(
        f"{runs[names[0]]} and {newest.info.run_id} cannot be compared, because they were evaluated differently: "
        "features is classifier, "
    )
    sentence = refusal(lambda: gan_plugin.compare(models=list(runs.values()), **{**EASY, "held_out": "none"}))
    assert " was evaluated on other images: held out is digits, split test, " in sentence
    sentence = refusal(lambda: gan_plugin.compare(models=list(runs.values()), **{**EASY, "images": 200}))
    assert " was evaluated by 100 images of the seeds 0 to 99, and others would be by 200 images " in sentence


def test_the_run_of_a_training_stands_for_its_model(client: MlflowClient) -> None:
    version = client.get_model_version("bank", "1")
    page = page_of(gan_plugin.compare(models=[version.run_id, "models:/autoencoder/1"], **EASY))
    assert f"<h3>{version.run_id}</h3>" in page


def test_what_cannot_be_compared_is_refused_before_any_evaluation(client: MlflowClient) -> None:
    def compare(*names: str, **changes: object) -> str:
        return refusal(lambda: gan_plugin.compare(models=names, **{**EASY, **changes}))

    assert re.match(
        r"models:/others/1 learned from other images, digits with digest \w{32}, than digits, split train, [\d,]+ "
        r"images, digest \w{32}: compare generators that learned from the same\.",
        compare("models:/bank/1", "models:/others/1"),
    )
    assert compare("models:/bank/1", "models:/bank/1") == (
        "models='models:/bank/1,models:/bank/1' is not possible: give two or more, each once, with commas between."
    )
    assert compare("models:/bank/1") == (
        "models='models:/bank/1' is not possible: give two or more, each once, with commas between."
    )
    assert compare("models:/bank/1", "models:/bank/9").startswith("model='models:/bank/9' cannot be loaded: ")
    unknown = "0" * 32
    assert compare("models:/bank/1", unknown) == (
        f"There is no run {unknown}: give the id of a run, or a model's URI such as models:/gan/1."
    )
    with mlflow.start_run() as empty:
        pass
    assert compare("models:/bank/1", empty.info.run_id) == (
        f"The run {empty.info.run_id} has logged no generator and evaluated none: give another."
    )
    assert compare("models:/bank/1", "models:/autoencoder/1", image_size=28).startswith(
        "models:/bank/1 cannot be compared on this data. The model makes images of 16×16×1 and the data has 28×28×1"
    )
    evaluations = client.search_runs(["0"], "tags.`gan.model` LIKE '%'")
    assert evaluations == []


def test_the_command_takes_models_with_and_without_a_name() -> None:
    assert refused("compare", {"data": "digits"}, "models:/a/1") == (
        "models='models:/a/1' is not possible: give two or more, each once, with commas between."
    )
    assert refused("compare", {"data": "digits"}) == (
        "models is missing: give two or more, each once, with commas between."
    )
    named = {"models": "models:/a/1,models:/a/1"}
    assert refused("compare", named).startswith("models='models:/a/1,models:/a/1' is not possible")
    assert refused("compare", {"models": "models:/a/1"}, "models:/b/1", "models:/b/1").startswith(
        "models='models:/b/1,models:/b/1,models:/a/1' is not possible"
    )


def test_the_entry_point_is_in_the_project(make_project: Callable[[], Project]) -> None:
    done = make_project().mlflow_run("compare", models="models:/a/1,models:/b/1")
    assert "model='models:/a/1' cannot be loaded" in done.stdout + done.stderr
