"""Evaluation as people who know MLflow use it: ``mlflow.models.evaluate`` and ``mlflow run . -e evaluate``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import mlflow.data
import numpy as np
import pytest
import torch
from generators import export_bank
from helpers import Project, Trained, refused
from mlflow import MlflowClient
from mlflow.entities import Run

from gan_plugin import flavor
from gan_plugin.data import load_dataset
from gan_plugin.data.dataset import make_dataset
from gan_plugin.datasets import SampleDataset
from gan_plugin.errors import UserError
from gan_plugin.evaluator import check_fit
from gan_plugin.serving.description import Description
from gan_plugin.spec import image_spec

QUICK = {"images": 100}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], str]) -> Iterator[str]:
    """The tracking URI of a store whose model "bank", version 1, has the alias champion."""
    folder = tmp_path_factory.mktemp("store")
    uri = new_store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        onnx_file = export_bank(load_dataset("digits", image_size=16), folder / "generator.onnx", noise=0.1)
        with mlflow.start_run():
            flavor.log_model(onnx_file, registered_model_name="bank")
        MlflowClient().set_registered_model_alias("bank", "champion", "1")
        yield uri


@pytest.fixture(scope="module")
def dataset() -> SampleDataset:
    digits: SampleDataset = mlflow.data.from_samples("digits", image_size=16)
    return digits


def evaluate(model: object, dataset: SampleDataset, **config: object) -> mlflow.models.EvaluationResult:
    return mlflow.models.evaluate(
        model=model, data=dataset, model_type="gan", evaluators="gan", evaluator_config={**QUICK, **config}
    )


def recorded_in_the_run(run_id: str) -> list[str]:
    """Return the names of a run's metrics, as often as they are recorded."""
    client = MlflowClient()
    names = [name for name in client.get_run(run_id).data.metrics if not name.startswith("system/")]
    return sorted(metric.key for name in names for metric in client.get_metric_history(run_id, name))


@pytest.mark.usefixtures("short_cas")
@pytest.mark.parametrize("address", ["version", "alias", "model id", "loaded"])
def test_results_are_linked_and_recorded_once(registered: str, dataset: SampleDataset, address: str) -> None:
    """However the model is named: to the run, to the data set, and to the LoggedModel."""
    model_id = MlflowClient().get_model_version("bank", "1").source.removeprefix("models:/")
    uri = {"version": "models:/bank/1", "alias": "models:/bank@champion"}.get(address, f"models:/{model_id}")
    with mlflow.start_run() as active:
        result = evaluate(mlflow.pyfunc.load_model(uri) if address == "loaded" else uri, dataset)
    assert recorded_in_the_run(active.info.run_id) == sorted(result.metrics)
    run = MlflowClient().get_run(active.info.run_id)
    (entry,) = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("digits", dataset.digest)
    assert [entry.model_id for entry in run.inputs.model_inputs] == [model_id]
    linked = [metric for metric in mlflow.get_logged_model(model_id).metrics if metric.run_id == active.info.run_id]
    assert sorted((metric.key, metric.value) for metric in linked) == sorted(result.metrics.items())
    assert {metric.dataset_digest for metric in linked} == {dataset.digest}


@pytest.mark.usefixtures("short_cas")
def test_the_result_holds_metrics_images_and_the_report(registered: str, dataset: SampleDataset) -> None:
    with mlflow.start_run() as active:
        result = evaluate("models:/bank/1", dataset, seed=5)
    assert {"fid/classifier", "fid_real/classifier", "precision/classifier", "cas/classifier"} <= set(result.metrics)
    assert result.artifacts["metrics"].content["protocol"]["generated"] == "100 images of the seeds 5 to 104"
    assert result.artifacts["samples"].content.size[0] > 100
    paths = {file.path for file in MlflowClient().list_artifacts(active.info.run_id, "evaluation")}
    names = ("report.html", "samples.png", "neighbors.png", "precision_recall.png", "per_class.png", "metrics.json")
    assert {f"evaluation/{name}" for name in names} <= paths
    assert [name for name in paths if name.endswith(".safetensors")]  # the classifier
    path = mlflow.artifacts.download_artifacts(run_id=active.info.run_id, artifact_path="evaluation/metrics.json")
    assert json.loads(Path(path).read_text()) == result.artifacts["metrics"].content


@pytest.mark.usefixtures("short_cas")
def test_a_model_that_is_no_logged_model_is_evaluated_too(
    registered: str, dataset: SampleDataset, tmp_path: Path
) -> None:
    flavor.save_model(export_bank(load_dataset("digits", image_size=16), tmp_path / "g.onnx"), tmp_path / "model")
    with mlflow.start_run() as active:
        result = evaluate(str(tmp_path / "model"), dataset)
    assert result.metrics["authenticity/classifier"] == 0.0  # the bank returns training images
    assert recorded_in_the_run(active.info.run_id) == sorted(result.metrics)
    (entry,) = MlflowClient().get_run(active.info.run_id).inputs.dataset_inputs
    assert entry.dataset.digest == dataset.digest


def test_what_cannot_be_evaluated_is_refused_in_one_sentence(registered: str, dataset: SampleDataset) -> None:
    with pytest.raises(UserError, match=r"^Unknown parameter image: similar ones are images\.$"):
        evaluate("models:/bank/1", dataset, image=3)
    with pytest.raises(UserError, match=r"^images='1' is not possible: give a whole number from 50 to 1000000\.$"):
        evaluate("models:/bank/1", dataset, images=1)
    with pytest.raises(UserError, match=r"^The model is not a generator: give one that gan_plugin logged"):
        evaluate(lambda rows: rows, dataset)
    with pytest.raises(UserError, match=r"^The data is not a set of images: give data=mlflow\.data\.from_samples"):
        evaluate("models:/bank/1", mlflow.data.from_numpy(np.zeros((10, 2))))  # type: ignore[arg-type]  # wrong on purpose
    wrong: SampleDataset = mlflow.data.from_samples("digits", image_size=32)
    with pytest.raises(UserError, match=r"^The model makes images of 16×16×1 and the data has 32×32×1: give"):
        evaluate("models:/bank/1", wrong)


def test_a_refusal_of_other_classes_is_short_however_many_there_are() -> None:
    names = [f"class_{i:04} {'of a long name' * 20}" for i in range(1000)]
    images = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    dataset = make_dataset(images, torch.tensor([0, 1]), names[:-1], name="", source="", split="", notes=[])
    with pytest.raises(UserError) as refusal:
        check_fit(Description(16, image_spec(16, 16, 1, class_names=names)), dataset)
    assert "class_0999" in str(refusal.value)  # the one that is missing
    assert "(1,000 in all) and the data has none after class_0998" in str(refusal.value)
    assert len(str(refusal.value)) < 1000
    with pytest.raises(UserError, match=r"^The model knows the classes cat, dog and the data has dog: give the data"):
        check_fit(
            Description(16, image_spec(16, 16, 1, class_names=["cat", "dog"])),
            make_dataset(images, torch.tensor([0, 0]), ["dog"], name="", source="", split="", notes=[]),
        )


def test_other_evaluators_are_left_alone(registered: str) -> None:
    """MLflow's own evaluation of a classifier, with this plugin installed and all evaluators enabled."""
    data = mlflow.data.from_pandas(
        mlflow.data.from_pandas.__globals__["pd"].DataFrame({"x": [0, 1, 2, 3], "y": [0, 1, 0, 1]}), targets="y"
    )
    result = mlflow.models.evaluate(lambda rows: rows["x"].to_numpy() % 2, data, model_type="classifier")
    assert result.metrics["accuracy_score"] == 1.0
    assert not [name for name in result.metrics if name.startswith("fid")]


# ---- the entry point -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(trained: Trained) -> tuple[Run, str]:
    """``mlflow run . -e evaluate`` of the main job's model: its run and its output."""
    done = trained.project.mlflow_run("evaluate", model=trained.model_uri, image_size=16, images=200)
    assert done.returncode == 0, done.stdout + done.stderr
    run_id = trained.project.runs()[0].info.run_id
    return trained.project.client.get_run(run_id), done.stdout


def test_the_entry_point_evaluates_in_one_run(trained: Trained, evaluated: tuple[Run, str]) -> None:
    run, output = evaluated
    assert run.info.status == "FINISHED"
    assert (run.data.params["images"], run.data.params["image_size"]) == ("200", "16")
    real = load_dataset("digits", image_size=16).samples.double()
    assert run.data.metrics["brightness_reference/pixels"] == pytest.approx(real.mean().item())
    assert "fid/classifier " in output
    contexts = {tag.value for entry in run.inputs.dataset_inputs for tag in entry.tags}
    assert {"evaluation", "held-out", "train", "test"} <= contexts
    assert len(run.inputs.dataset_inputs) == 2
    version = trained.project.client.get_model_version("gan", "1")
    model_id = version.source.removeprefix("models:/")
    assert (
        f"| fid/classifier | {run.data.metrics['fid/classifier']:.4g} | {run.data.metrics['fid_real/classifier']:.4g} |"
        in (version.description)
    )
    assert "**Ask for an image**" in version.description
    assert [entry.model_id for entry in run.inputs.model_inputs] == [model_id]


def test_the_entry_point_logs_the_same_as_a_notebook(
    store: Trained, evaluated: tuple[Run, str], dataset: SampleDataset
) -> None:
    with mlflow.start_run():
        result = evaluate(store.model_uri, dataset, images=200)
    logged = evaluated[0].data.metrics
    assert {name: logged[name] for name in result.metrics} == pytest.approx(result.metrics)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"image_size": 32}, "The model makes images of 16×16×1 and the data has 32×32×1: give the data"),
        ({"channels": 3}, "The model makes images of 16×16×1 and the data has 16×16×3: give the data"),
        ({"model": "models:/gan/99"}, "model='models:/gan/99' cannot be loaded: "),
        ({"model": "models:/gan@nobody"}, "model='models:/gan@nobody' cannot be loaded: "),
        ({"images": 1}, "images='1' is not possible: give a whole number from 50 to 1000000."),
        ({"data": "nowhere"}, "data='nowhere' is neither 'digits', a folder or parquet file that exists"),
        ({"held_out": "validation"}, "data='digits' has no split 'validation': its splits are 'train' and 'test'."),
        ({"held_out": "train"}, "held_out='train' holds the same images as split 'train': give a split"),
        (
            {"features": "vgg"},
            "features='vgg' is unknown: give one of classifier, self-supervised, rotation, inception, onnx:PATH.",
        ),
        ({"features": "onnx:nowhere.onnx"}, "features=onnx:nowhere.onnx does not exist: "),
        ({"device": "cuda"}, "device=cuda is not possible, "),
    ],
)
def test_evaluate_refuses(store: Trained, parameters: dict[str, object], sentence: str) -> None:
    assert refused("evaluate", {"model": store.model_uri, "image_size": 16, **parameters}).startswith(sentence)


@pytest.mark.parametrize("words", [["evaluate", "--model", "models:/gan/1"], ["promote"]])
def test_mlflows_evaluators_are_imported_before_a_thread_can_import_beside_them(
    make_project: Callable[[], Project], words: list[str]
) -> None:
    """MLflow's monitor of the machine and its import of evaluators would now and then wait for each other for ever."""
    project = make_project()
    project.client.create_registered_model("gan")
    project.client.create_model_version("gan", "file:///nowhere")
    code = (
        "import sys, mlflow\n"
        "known = lambda **_: sys.exit(str('mlflow.models.evaluation.evaluators.classifier' in sys.modules))\n"
        "mlflow.start_run = known\n"
        f"from gan_plugin.cli import main; main({words!r})"
    )
    assert project.command("python", "-c", code).stderr.splitlines()[-1] == "True"
