"""The main job as users run it: ``mlflow run`` in a process of its own, and what it leaves in MLflow."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pytest
from helpers import PATIENCE_S, QUICK, Project, Trained, error_of, options, refused, wait_for
from PIL import Image

from gan_plugin import flavor
from gan_plugin.config.recipe import load_recipe
from gan_plugin.config.settings import TrainSettings
from gan_plugin.data import load_dataset
from gan_plugin.distributed import ALONE
from gan_plugin.evaluation import quick
from gan_plugin.jobs.train import make_evaluator
from gan_plugin.training.checkpoint import FILE_NAME, read_header
from gan_plugin.training.plan import make_plan

STEPS = 4  # 2 epochs of 1,438 // 512 steps


# ---- the run ---------------------------------------------------------------------------------------------------------


def test_the_run_ends_finished_with_a_registered_model(trained: Trained) -> None:
    assert trained.runs_made == 1  # mlflow run's and the training's are the same
    assert trained.run.info.status == "FINISHED"
    version = trained.project.client.get_model_version("gan", "1")
    assert version.run_id == trained.run.info.run_id
    assert "models:/gan/1 is registered" in trained.output
    serve = (
        f"MLFLOW_TRACKING_URI={trained.project.tracking_uri} mlflow models serve -m models:/gan/1 --env-manager local"
    )
    assert serve in trained.output


def test_parameters_are_as_they_were_used(trained: Trained) -> None:
    params = trained.run.data.params
    assert {name: params[name] for name in QUICK} == {name: str(value) for name, value in QUICK.items()}
    assert (params["data"], params["latent_size"], params["image_size"]) == ("digits", "100", "16")
    assert (params["objective"], params["generator_lr"]) == ("non-saturating", "0.0002")
    assert params["device"] in ("cpu", "cuda")
    assert "auto" not in params.values()


def test_run_and_version_describe_themselves(trained: Trained) -> None:
    run, client = trained.run, trained.project.client
    assert run.info.run_name == f"dcgan-digits-{run.info.run_id[:6]}"
    data = "- Data: 1,438 images of 16×16×1 from digits, split train, digest `"
    assert data in run.data.tags["mlflow.note.content"]
    description = client.get_model_version("gan", "1").description
    assert data in description
    (request,) = re.findall(r"-d '(.*)'", description)
    assert json.loads(request) == {"dataframe_records": [{"seed": 0}]}
    assert "mlflow run . -e evaluate --env-manager local -P model=models:/gan/1" in description


def test_metrics_have_a_history(trained: Trained) -> None:
    client = trained.project.client
    for name in ("loss/discriminator", "loss/generator", "guard/discriminator_loss", "throughput/images_per_second"):
        history = client.get_metric_history(trained.run.info.run_id, name)
        assert [metric.step for metric in history] == [STEPS // 2, STEPS]
        assert all(np.isfinite(metric.value) and metric.value > 0 for metric in history)
    assert trained.run.data.metrics["epoch"] == 2
    assert trained.run.data.metrics["export/largest_difference"] <= 1


def test_samples_are_a_slider_of_grids(store: Trained) -> None:
    """The files that the UI makes a slider of; the last grid shows the registered model's own images."""
    files = store.project.client.list_artifacts(store.run.info.run_id, "images")
    names = sorted(file.path for file in files if file.path.endswith(".png"))
    steps = [int(Path(name).name.split("+")[2]) for name in names]
    assert (steps, Path(names[0]).name.split("+")[0]) == ([STEPS // 2, STEPS], "samples")
    last = mlflow.artifacts.download_artifacts(run_id=store.run.info.run_id, artifact_path=names[-1])
    grid = np.asarray(Image.open(last))
    images = flavor.load_model(store.model_uri).sample(range(64))[:, :, :, 0].astype(int)
    cells = np.stack([grid[2 + 18 * r : 18 + 18 * r, 2 + 18 * c : 18 + 18 * c] for r in range(8) for c in range(8)])
    assert np.abs(cells - images).max() <= 1


def test_the_data_set_is_an_input_with_a_digest_over_all_images(trained: Trained) -> None:
    (entry,) = trained.run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("digits", load_dataset("digits", image_size=16).digest)
    tags = {tag.key: tag.value for tag in entry.tags}
    assert (tags["mlflow.data.context"], tags["split"]) == ("training", "train")
    assert tags["classes"] == "10"


def test_a_checkpoint_is_kept_and_training_goes_on_from_it(store: Trained) -> None:
    run_id = store.run.info.run_id
    longer = {**QUICK, "epochs": 3}
    done = store.project.mlflow_run("train", **longer, resume=run_id, new_run="true", model_name="resumed")
    assert done.returncode == 0, done.stderr
    run = store.project.runs()[0]
    assert run.info.run_id != run_id
    assert run.data.tags["resumed_from"].endswith(f"{run_id}/{FILE_NAME}")
    history = store.project.client.get_metric_history(run.info.run_id, "loss/generator")
    assert [metric.step for metric in history] == [6]  # the third epoch only
    sentence = refused("train", {**longer, "seed": 4, "resume": run_id})
    assert sentence == "resume is not possible with other settings than the run began with: seed was 3 and is 4."


def test_the_generator_is_evaluated_during_training_and_the_choice_is_explained(trained: Trained) -> None:
    parameters = {**QUICK, "evaluation_budget": 0.9, "model_name": "evaluated"}
    done = trained.project.command("gan-plugin", "train", *options(parameters))
    assert done.returncode == 0, done.stdout + done.stderr
    run = trained.project.runs()[0]
    history = trained.project.client.get_metric_history(run.info.run_id, "fid_2k/classifier")
    lowest = min(metric.value for metric in history)
    best = [metric for metric in history if metric.value <= 1.05 * lowest][-1]
    assert history[-1].step == STEPS
    sentence = run.data.tags["exported"]
    assert sentence.startswith(f"Exported: the averaged generator of step {best.step} of {STEPS}. It")
    assert f"fid_2k/classifier {best.value:.4g}" in sentence or f"fid_2k/classifier of {best.value:.4g}" in sentence
    assert sentence in done.stdout
    (file,) = trained.project.client.list_artifacts(run.info.run_id, "quick_evaluation")  # the classifier
    assert file.path.endswith(".safetensors")
    assert run.data.tags["quick_evaluation"].startswith("classifier, digest ")
    assert trained.run.data.tags["exported"].endswith("It is the last one: none was evaluated during training.")
    experiment = trained.project.client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experiment.primaryMetric.name"] == "fid_2k/classifier"
    assert experiment.tags["mlflow.experiment.primaryMetric.greaterIsBetter"] == "false"


def test_unlabeled_images_are_trained_on_and_evaluated_offline(
    make_project: Callable[[], Project], tmp_path: Path
) -> None:
    """Training chooses by one network, the evaluation reports another; the classifier is refused."""
    for i, image in enumerate(load_dataset("digits").samples[:64, 0].numpy()):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    project = make_project()
    project.learn_shortly()
    data: dict[str, object] = {"data": tmp_path, "image_size": 16}
    small = {**data, "recipe": "dcgan", "epochs": 2, "batch_size": 32, "evaluation_budget": 0.999}
    done = project.command("gan-plugin", "train", *options(small))
    assert done.returncode == 0, done.stderr
    assert "fid_2k/rotation is measured during training" in done.stdout
    (file,) = project.folder.rglob("outputs/**/generator.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    (digest,) = json.loads(metadata["gan.seen_features"])
    assert project.runs()[0].data.tags["quick_evaluation"] == f"rotation, digest {digest}"
    evaluated = project.command("gan-plugin", "evaluate", *options({**data, "model": "models:/gan/1", "images": 64}))
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = project.runs()[0].data.metrics
    assert {name.partition("/")[2] for name in metrics} >= {"self-supervised", "pixels"}
    assert not [name for name in metrics if name.endswith(("/rotation", "/classifier", "/inception"))]
    refused = project.command("gan-plugin", "train", *options({**small, "features": "classifier"}))
    assert (refused.returncode, len(project.client.search_model_versions("name = 'gan'"))) == (2, 1)
    assert error_of(refused).startswith("features=classifier is trained to tell classes apart")


def test_a_network_that_is_too_slow_does_not_end_a_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With auto training goes on without evaluations and says so."""
    monkeypatch.setattr(quick, "PATIENCE", 0.0)
    settings, dataset = TrainSettings(recipe="dcgan"), load_dataset("digits", image_size=16)
    plan = make_plan(load_recipe("dcgan"), settings, overrides={}, dataset=dataset)
    run: Any = None  # nothing is logged
    assert make_evaluator(run, settings, dataset, plan=plan, ranks=ALONE) is None
    sentence = "No evaluation during training, and the last generator is exported: classifier would take 0 minutes for"
    assert sentence in capsys.readouterr().err


# ---- the model -------------------------------------------------------------------------------------------------------


def test_three_flavors_of_one_file(store: Trained) -> None:
    info = mlflow.models.get_model_info(store.model_uri)
    assert set(info.flavors) == {"python_function", "onnx", "gan"}
    assert info.flavors["python_function"]["loader_module"] == "gan_plugin.serving.pyfunc"
    graph = mlflow.onnx.load_model(store.model_uri)
    assert isinstance(graph, onnx.ModelProto)
    about = {entry.key: entry.value for entry in graph.metadata_props}
    assert (about["gan.run_id"], about["gan.recipe"]) == (store.run.info.run_id, "dcgan")
    columns = ["seed", "to_seed", "position", "z", "label", "truncation", "image", "edit"]
    assert [column.name for column in info.signature.inputs] == columns
    assert [param.name for param in info.signature.params] == ["format", "grid"]


def test_a_logged_model_carries_the_code_of_serving_and_no_other(store: Trained) -> None:
    code = Path(mlflow.artifacts.download_artifacts(store.model_uri)) / "code" / "gan_plugin"
    files = {path.relative_to(code).as_posix() for path in code.rglob("*.py")}
    assert files == set(flavor.SERVING_CODE)


def test_no_pickle_anywhere_in_the_model(store: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(store.model_uri))
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    model = mlflow.pyfunc.load_model(store.model_uri)
    assert len(model.predict(model.input_example if model.input_example is not None else {"seed": [0, 1]})) == 2


def test_the_input_example_is_a_request_that_works(store: Trained) -> None:
    model = mlflow.models.Model.load(store.model_uri)
    folder = mlflow.artifacts.download_artifacts(store.model_uri)
    example = model.load_input_example(folder)
    assert example["seed"].tolist() == [0, 1]
    assert len(mlflow.pyfunc.load_model(store.model_uri).predict(example)) == 2


# ---- explore ---------------------------------------------------------------------------------------------------------


def test_explore_opens_a_page_with_the_registered_generator(store: Trained, tmp_path: Path) -> None:
    browser, page = tmp_path / "browser", tmp_path / "page.html"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    store.project.client.set_registered_model_alias("gan", "explored", "1")
    words = ["gan-plugin", "explore", "models:/gan@explored", "--out", page]
    done = store.project.command(*words, BROWSER=f"{browser} %s")
    assert (done.returncode, done.stdout.strip()) == (0, str(page)), done.stderr
    assert (tmp_path / "opened").read_text().strip() == page.as_uri()
    model = page.read_text("utf-8").split('id="model">')[1].split("<")[0]
    onnx_file = Path(mlflow.artifacts.download_artifacts(store.model_uri)) / flavor.ONNX_FILE
    assert base64.b64decode(model) == onnx_file.read_bytes()


def test_explore_refuses(store: Trained) -> None:
    for words, sentence in (
        ((), "Give either a model's URI such as models:/gan/1, or --onnx with a file."),
        (("models:/nobody/1",), "model='models:/nobody/1' cannot be loaded: "),
        (("--onnx", "MLproject"), "onnx='MLproject' cannot be opened: "),
    ):
        assert refused("explore", None, "--no-browser", *words).startswith(sentence)


# ---- sample ----------------------------------------------------------------------------------------------------------


def test_sample_writes_the_images_of_the_seeds(store: Trained) -> None:
    done = store.project.command("gan-plugin", "sample", "--model", store.model_uri, "--seeds", "4-6,9", "--columns", 2)
    assert done.returncode == 0, done.stderr
    sheet = np.asarray(Image.open(io.BytesIO((store.project.folder / "samples.png").read_bytes())))
    expected = flavor.load_model(store.model_uri).sample([4, 5, 6, 9])[:, :, :, 0]
    np.testing.assert_array_equal(sheet[2:18, 2:18], expected[0])
    np.testing.assert_array_equal(sheet[20:36, 20:36], expected[3])
    assert sheet.shape == (38, 38)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "Give either a model's URI such as models:/gan/1, or --onnx with a file."),
        (("--onnx", "nothing.onnx"), "onnx='nothing.onnx' does not exist."),
        (("--onnx", "MLproject"), "onnx='MLproject' cannot be opened: "),
        (
            ("--onnx", "x.onnx", "--seeds", "3-1"),
            "seeds='3-1' is not possible: give at most 10,000 whole numbers from 0, as in",
        ),
        (("--onnx", "x.onnx", "--truncation", "0"), "truncation=0.0 is not possible: give a number of at least 0.1."),
    ],
)
def test_sample_refuses(store: Trained, words: tuple[str, ...], sentence: str) -> None:
    assert refused("sample", None, *words).startswith(sentence)


# ---- refusals and endings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"epochs": "x"}, "epochs='x' is not possible: give a whole number of at least 1, or auto."),
        ({"recipe": "biggan"}, "recipe='biggan' is unknown: give one of autoencoder, dcgan, dcgan-minimax, "),
        ({"data": "nowhere"}, "data='nowhere' is neither 'digits', a folder or parquet file that exists"),
        ({"split": "dev"}, "data='digits' has no split 'dev': its splits are 'train' and 'test'."),
        ({"held_out": "dev"}, "data='digits' has no split 'dev': its splits are 'train' and 'test'."),
        ({"held_out": "train"}, "held_out='train' holds the same images as split 'train': give a split that nothing"),
        ({"batch_size": 2000}, "batch_size=2000 is more than the 1438 images of the data: give a smaller one."),
        ({"output_dir": "MLproject"}, "output_dir='MLproject' cannot be written to: "),
        (
            {"recipe": "dcgan", "penalty_weight": 1},
            "penalty_weight changes nothing without a penalty: give that, too, ",
        ),
        ({"resume": "nothing"}, "resume='nothing' is neither a checkpoint file, a folder with one, nor a run"),
    ],
)
def test_train_refuses_before_anything_is_trained(
    make_project: Callable[[], Project],
    parameters: dict[str, object],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = make_project()
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    assert refused("train", parameters).startswith(sentence)
    assert project.runs() == []
    assert not list(project.folder.rglob("*.safetensors"))


def test_mlflow_run_shows_the_refusal_and_fails_the_run(make_project: Callable[[], Project]) -> None:
    """An unknown -P arrives as an unknown option, a wrong value as it is."""
    project = make_project()
    wrong = project.mlflow_run(device="gpu")
    assert wrong.returncode != 0
    assert "device='gpu' is not possible: give one of auto, cuda, cpu." in wrong.stderr
    assert project.runs()[0].info.status == "FAILED"
    unknown = project.mlflow_run(epoch=3)
    assert "Error: Unknown parameter epoch: similar ones are epochs." in unknown.stderr


def test_sigterm_leaves_a_checkpoint_and_a_killed_run(make_project: Callable[[], Project]) -> None:
    project = make_project()
    words = ["gan-plugin", "train", *options({"recipe": "dcgan", "image_size": 16, "batch_size": 64, "epochs": 500})]
    with (project.folder / "log").open("w") as log:
        process = subprocess.Popen(words, cwd=project.folder, env=project.environment(), stdout=log, stderr=log)
        wait_for(lambda: "epoch 1/500" in (project.folder / "log").read_text(), process, project.folder / "log")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    (run,) = project.runs()
    assert run.info.status == "KILLED"
    (checkpoint,) = (project.folder / "outputs").rglob("checkpoint.safetensors")
    steps = read_header(checkpoint)["steps"]
    assert steps >= 22
    assert f"go on with resume={checkpoint}" in (project.folder / "log").read_text()
    logged = {file.path for file in project.client.list_artifacts(run.info.run_id, "checkpoint")}
    assert logged == {"checkpoint/checkpoint.safetensors"}


def test_ctrl_c_on_mlflow_run_leaves_a_checkpoint(make_project: Callable[[], Project]) -> None:
    """A terminal sends SIGINT to every process of the job, and MLflow then SIGTERM to its child."""
    project = make_project()
    parameters = [word for text in ("recipe=dcgan", "image_size=16", "epochs=500") for word in ("-P", text)]
    words = ["mlflow", "run", ".", "--env-manager", "local", *parameters]
    log = project.folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            words,
            cwd=project.folder,
            env=project.environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        wait_for(lambda: "epoch 1/500" in log.read_text(), process, log)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(PATIENCE_S)
    (run,) = project.runs()
    assert run.info.status in ("FAILED", "KILLED")  # MLflow's parent overwrites the child's KILLED
    checkpoint = project.folder / "outputs" / run.info.run_id / "checkpoint.safetensors"
    wait_for(checkpoint.exists)  # the parent does not wait for its child
    assert read_header(checkpoint)["steps"] >= 22


def test_a_failed_parity_gate_registers_nothing(make_project: Callable[[], Project]) -> None:
    """The gate is closed from outside by allowing no difference at all, not even none."""
    project = make_project()
    code = (
        "import gan_plugin.export as e; e.TOLERANCES[e.torch.float32] = e.Tolerance(-1, 0); "
        "from gan_plugin.cli import main; main(" + repr(["train", *options(dict(QUICK))]) + ")"
    )
    done = project.command("python", "-c", code)
    assert done.returncode == 1
    assert error_of(done).startswith("The ONNX file and the PyTorch generator differ by up to ")
    (run,) = project.runs()
    assert run.info.status == "FAILED"
    assert "export/largest_difference" in run.data.metrics
    assert project.client.search_registered_models() == []
    assert project.client.list_artifacts(run.info.run_id, "checkpoint")  # the training is not lost
