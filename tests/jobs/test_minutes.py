"""A training that ends in time: the command keeps to its minutes, also over an interruption, or says why it cannot."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import PATIENCE_S, Project, options, refused, wait_for

import gan_plugin
from gan_plugin.config.fitting import limit_batch
from gan_plugin.config.recipe import Recipe
from gan_plugin.training import plan
from gan_plugin.training.checkpoint import FILE_NAME, read_header

TINY = {"recipe": "dcgan", "image_size": 16, "evaluation_budget": 0, "device": "cpu"}
EARLY, LATE = 0.8, 1.4  # of the minutes: what other programs of the machine may do to a run
PLAN = re.compile(
    r"^Of [\d.]+ minutes (\d+) s are spent, and (\d+) s are kept for the last evaluation, the export and the "
    r"registration: (\d+) s of training, about [\d,]+ images in batches of (\d+)\.$",
    re.MULTILINE,
)


@pytest.fixture
def import_s() -> float:
    """How long this machine, beside what else it does just now, takes to import what a run needs."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import gan_plugin.jobs.train"], check=True)
    return time.monotonic() - start


def minutes_for(import_s: float) -> float:
    """Half a minute, and more where two processes would need most of it to get ready and to end."""
    return max(0.5, math.ceil(11 * import_s) / 60)


def start_training(project: Project, parameters: dict[str, object]) -> subprocess.Popen[bytes]:
    with (project.folder / "log").open("a") as log:
        return subprocess.Popen(
            ["gan-plugin", "train", *options(parameters)],
            cwd=project.folder,
            env=project.environment(),
            stdout=log,
            stderr=log,
        )


def newest(project: Project) -> Path | None:
    return next((project.folder / "outputs").glob(f"*/{FILE_NAME}"), None)


def test_a_training_ends_in_its_minutes_also_when_it_is_interrupted(
    make_project: Callable[[], Project], import_s: float
) -> None:
    project, minutes = make_project(), minutes_for(import_s)
    parameters = TINY | {"minutes": f"{minutes:g}", "resume": "auto", "checkpoint_minutes": 0.002}
    process = start_training(project, parameters)
    wait_for(lambda: newest(project), process, project.folder / "log")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    checkpoint = newest(project)
    assert checkpoint is not None
    before = read_header(checkpoint)
    assert 0 < before["progress"] < 1
    assert 0 < before["seconds"] < 60 * minutes

    start = time.monotonic()
    assert start_training(project, parameters).wait(PATIENCE_S) == 0, (project.folder / "log").read_text()
    seconds = before["seconds"] + time.monotonic() - start
    log = (project.folder / "log").read_text()
    assert EARLY < seconds / (60 * minutes) < LATE, log
    assert "Going on with the run" in log
    lines = list(PLAN.finditer(log))
    assert [sum(map(int, line.groups()[:3])) for line in lines] == pytest.approx(2 * [60 * minutes], abs=2)
    after = read_header(checkpoint)
    assert (after["progress"], after["steps"] >= before["steps"]) == (1, True)
    (run,) = project.runs()
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert (params["minutes"], params["batch_size"], "epochs" in params) == (f"{minutes:g}", lines[0][4], False)
    assert "models:/gan/1 is registered" in log
    assert (checkpoint.parent / "generator.onnx").exists()
    assert not (checkpoint.parent / "rehearsal.onnx").exists()

    again = project.command("gan-plugin", "train", *options(parameters | {"resume": run.info.run_id}))
    assert again.returncode == 0, again.stderr
    assert f"the averaged generator of step {after['steps']:,} of {after['steps']:,}." in again.stdout
    assert read_header(checkpoint)["steps"] == after["steps"]


@pytest.fixture
def in_project(make_project: Callable[[], Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    """This process works in an empty project."""
    project = make_project()
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    return project


def test_what_does_not_say_how_long_to_train_is_refused(in_project: Project) -> None:
    assert refused("train", TINY | {"minutes": 10, "epochs": 50}) == (
        "epochs=50 and minutes=10 both say how long to train: give one of them."
    )
    assert in_project.runs() == []
    sentence = refused("train", TINY | {"minutes": 0.001})
    pattern = (
        r"minutes=0\.001 leaves no time to train: getting ready took \d+ s, and evaluation, export and registration "
        r"take \d+ s: give at least (\d+\.\d)\."
    )
    match = re.fullmatch(pattern, sentence)
    assert match is not None, sentence
    assert float(match[1]) > 4 / 60
    (run,) = in_project.runs()
    assert run.info.status == "FAILED"
    assert refused("train", TINY | {"minutes": 0}) == "minutes='0' is not possible: give a number above 0, or none."


def test_a_resumed_training_keeps_the_batch_that_was_fitted_before(
    in_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another number of epochs, or another speed of the machine, would have fitted another."""

    def fit_to(batch_size: int) -> None:
        def fit(recipe: Recipe, data: int, seen: int) -> Recipe:
            return limit_batch(recipe, batch_size, data)

        monkeypatch.setattr(plan, "fit_batch", fit)

    fit_to(64)
    gan_plugin.train(epochs=1, **TINY)
    (run,) = in_project.runs()
    fit_to(32)
    gan_plugin.train(epochs=2, resume=run.info.run_id, **TINY)
    (resumed,) = in_project.runs()
    assert resumed.data.params["batch_size"] == "64"
    checkpoint = newest(in_project)
    assert checkpoint is not None
    assert read_header(checkpoint)["steps"] == 2 * (1438 // 64)
