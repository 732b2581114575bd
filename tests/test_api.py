"""The functions of the package, and the parameters that a run carries, whichever door they came through."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from helpers import Project, refusal, refused
from mlflow.entities import Run

import gan_plugin
from gan_plugin.config.recipe import HYPERPARAMETERS

SMALL = {"epochs": 1, "batch_size": 512, "image_size": 16, "evaluation_budget": 0, "device": "cpu"}
RECIPE = 'summary = "DCGAN with a least-squares loss"\nobjective = "least-squares"\ndropout = 0.25\n'


@pytest.fixture
def project(make_project: Callable[[], Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    """This process works in the project's folder, on the project's store."""
    project = make_project()
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    (project.folder / "my recipe.toml").write_text(RECIPE)
    return project


def used(run: Run) -> dict[str, str]:
    """The parameters of a run, none of which is left open or there twice."""
    params = run.data.params
    assert [name for name, text in params.items() if text == "auto" or "resolved" in name] == []
    return params


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, gan_plugin, gan_plugin.cli, gan_plugin.config.settings\n"
        "print([name for name in ('torch', 'mlflow', 'numpy', 'onnx', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_function_is_documented_and_typed() -> None:
    for name in gan_plugin.__all__:
        function = getattr(gan_plugin, name)
        assert "Args:" in (function.__doc__ or "")
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_python_refuses_like_the_command_line() -> None:
    assert refusal(lambda: gan_plugin.train(epochs=0)) == (
        "epochs='0' is not possible: give a whole number of at least 1, or auto."
    )
    assert refusal(lambda: gan_plugin.train(learning_rate=1)).startswith("Unknown parameter learning_rate: ")
    assert refusal(lambda: gan_plugin.evaluate(model="models:/gan/1", image=100)) == (
        "Unknown parameter image: similar ones are images, image_size."
    )
    assert refusal(lambda: gan_plugin.promote(thresholds=["fid>=3"])).startswith("thresholds='fid>=3' is not possible")


@pytest.mark.usefixtures("short_cas")
def test_train_evaluate_promote_load_and_save(project: Project) -> None:
    values = {**SMALL, "generator_lr": (4e-4, 1e-4), "anneal": 0.5, "guard": False}
    uri = gan_plugin.train(recipe=Path("my recipe.toml"), model_name="mine", **values)
    assert uri == "models:/mine/1"
    params = used(project.runs()[0])
    assert {name: params[name] for name in ("recipe", "objective", "dropout", "generator_lr", "guard")} == {
        "recipe": "my recipe.toml",
        "objective": "least-squares",
        "dropout": "0.25",
        "generator_lr": "0.0004..0.0001",
        "guard": "false",
    }
    assert set(HYPERPARAMETERS) <= set(params)

    metrics = gan_plugin.evaluate(model=uri, images=64, image_size=(16, 16), device="cpu")
    assert metrics["fid/classifier"] > 0
    params = used(project.runs()[0])
    assert (params["features"], params["held_out"], params["images"]) == ("classifier", "test", "64")

    data = {"image_size": 16, "images": 64, "device": "cpu"}
    assert gan_plugin.promote(model_name="mine", thresholds=(), **data) == uri
    (promotion,) = [run for run in project.runs() if "gan.outcome" in run.data.tags]
    assert (used(promotion)["version"], used(promotion)["thresholds"]) == ("1", "none")

    generator = gan_plugin.load_model("models:/mine@champion", device="cpu")
    images = generator.sample([0, 1])
    onnx_file = Path(mlflow.artifacts.download_artifacts(uri)) / "generator.onnx"
    gan_plugin.save_model(onnx_file, "saved", pip_requirements=["numpy"])
    np.testing.assert_array_equal(gan_plugin.load_model("saved", device="cpu").sample([0, 1]), images)


def test_parameters_through_mlflow_run(project: Project) -> None:
    """Undeclared ones arrive with any spelling and any quoting; each is on the run once, as it was used."""
    typed = {
        **SMALL,
        "recipe": "my recipe.toml",
        "batch-size": 256,
        "generator_lr": "4e-4..1e-4",
        "anneal": 0.5,
        "precision": "auto",
        "output_dir": "it's $HOME; here",
    }
    del typed["batch_size"]
    done = project.mlflow_run(**typed)
    assert done.returncode == 0, done.stderr
    (run,) = project.runs()
    params = run.data.params
    assert [name for name in params if name.startswith("resolved")] == []
    assert (params["batch_size"], params["discriminator_lr"], params["channels"]) == ("256", "0.0002", "1")
    assert (params["data"], params["objective"]) == ("digits", "least-squares")
    # MLflow logs what is typed before this process starts, and lets nobody change it
    assert [name for name, text in params.items() if text == "auto"] == ["precision"]
    assert run.data.tags["used.precision"] in ("bf16", "float32")
    assert params["generator_lr"] == "4e-4..1e-4"
    assert list((project.folder / "it's $HOME; here" / run.info.run_id).glob("*.onnx"))


def test_mlflow_run_refuses_an_unknown_parameter(project: Project) -> None:
    done = project.mlflow_run("train", **{"batch-sise": 3})
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert line == "Error: Unknown parameter batch_sise: similar ones are batch_size."
    assert [run.info.status for run in project.runs()] == ["FAILED"]


def test_the_command_line_takes_a_recipe_of_the_users_own(project: Project) -> None:
    (project.folder / "bad.toml").write_text(RECIPE + "batch = 3\n")
    sentence = "In recipe='bad.toml': Unknown parameter batch: similar ones are batch_size."
    assert refused("train", {"recipe": "bad.toml"}) == sentence
    assert project.runs() == []
