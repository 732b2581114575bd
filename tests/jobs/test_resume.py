"""A training that is killed, interrupted or cut off from its server goes on as the same run, and nothing is lost."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

import pytest
from helpers import PATIENCE_S, QUICK, Project, options, refused, wait_for
from mlflow.entities import Run
from safetensors.torch import load_file

import gan_plugin
from gan_plugin.training.checkpoint import FILE_NAME, PREVIOUS_NAME, read_header

LONG = {"recipe": "dcgan", "image_size": 16, "batch_size": 64, "evaluation_budget": 0, "checkpoint_minutes": 0.002}


@pytest.fixture
def in_project(make_project: Callable[[], Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    """This process works in an empty project."""
    project = make_project()
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    return project


def start_training(project: Project, **parameters: object) -> subprocess.Popen[bytes]:
    words = ["gan-plugin", "train", *options(LONG | parameters)]
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which the child would inherit from nohup as ignored
    try:
        with (project.folder / "log").open("a") as log:
            return subprocess.Popen(words, cwd=project.folder, env=project.environment(), stdout=log, stderr=log)
    finally:
        signal.signal(signal.SIGHUP, before)


def newest_step(project: Project) -> int:
    """The step of the newest checkpoint, 0 before there is one."""
    return max((read_header(path)["steps"] for path in (project.folder / "outputs").glob(f"*/{FILE_NAME}")), default=0)


def the_run(project: Project) -> Run:
    (run,) = project.runs()
    return run


def test_a_training_that_is_killed_again_and_again_ends_as_one_run(
    make_project: Callable[[], Project], in_project: Project
) -> None:
    """Each time the same command goes on, and in the end the weights are as if nothing had happened."""
    project = make_project()
    for number in (signal.SIGHUP, signal.SIGKILL):
        before = newest_step(project)
        process = start_training(project, epochs=6, resume="auto")
        wait_for(lambda before=before: newest_step(project) > before, process)  # type: ignore[misc]
        wait_for(lambda: the_run(project).info.status == "RUNNING", process)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == (-number if number == signal.SIGKILL else 128 + number)
        assert the_run(project).info.status == ("RUNNING" if number == signal.SIGKILL else "KILLED")
    assert start_training(project, epochs=6, resume="auto").wait(PATIENCE_S) == 0, (project.folder / "log").read_text()
    run = the_run(project)
    assert run.info.status == "FINISHED"
    history = project.client.get_metric_history(run.info.run_id, "epoch")
    assert sorted({metric.value for metric in history}) == [1, 2, 3, 4, 5, 6]
    assert [version.version for version in project.client.search_model_versions("name = 'gan'")] == [1]
    assert "Going on with the run" in (project.folder / "log").read_text()

    gan_plugin.train(epochs=6, **LONG)
    ours, theirs = (load_file(next((of.folder / "outputs").glob(f"*/{FILE_NAME}"))) for of in (project, in_project))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []


def test_a_reader_of_the_output_that_goes_away_ends_nothing(make_project: Callable[[], Project]) -> None:
    project = make_project()
    words = " ".join(["gan-plugin", "train", *options(dict(QUICK))])
    done = project.command("bash", "-c", f"{{ {words}; echo $? > status; }} 2>&1 | head -n 1")
    assert done.returncode == 0
    assert (project.folder / "status").read_text() == "0\n"
    assert the_run(project).info.status == "FINISHED"


def test_without_a_server_all_is_on_disk_and_delivered_later(make_project: Callable[[], Project]) -> None:
    project = make_project()
    dead = "http://ann:secret@127.0.0.1:9"  # where nobody listens
    words = ["gan-plugin", "train", *options(QUICK | {"resume": "auto"})]
    for _ in range(2):  # a scheduler gives the command again, and what is done stays done
        done = project.command(*words, MLFLOW_TRACKING_URI=dead, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
        assert done.returncode == 75, done.stderr
    assert "Going on with the run" in done.stdout
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stdout + done.stderr
    (folder,) = (project.folder / "outputs").iterdir()
    assert f"gan-plugin replay {folder}" in done.stderr.splitlines()[-1]
    assert (folder / "generator.onnx").exists()
    assert len([*folder.glob("spool/files/generator-*.onnx")]) == 1
    assert project.runs() == []

    for _ in range(2):  # the second time there is nothing left to do
        done = project.command("gan-plugin", "replay", folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "models:/gan/1"
    run = the_run(project)
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe"] == "dcgan"
    assert run.data.metrics["epoch"] == 2
    assert {file.path for file in project.client.list_artifacts(run.info.run_id, "checkpoint")}
    (version,) = project.client.search_model_versions("name = 'gan'")
    assert "mlflow models serve -m models:/gan/1" in version.description


def test_what_cannot_go_on_is_refused_before_there_is_a_run(
    in_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start_training(in_project, epochs=500)
    outputs = in_project.folder / "outputs"
    wait_for(lambda: any(outputs.glob(f"*/{PREVIOUS_NAME}")), process)
    (before,) = outputs.glob(f"*/{PREVIOUS_NAME}")
    newest, run_id = before.with_name(FILE_NAME), before.parent.name
    parameters = LONG | {"epochs": 500, "resume": run_id}
    sentence = refused("train", parameters)
    assert sentence == f"The run {run_id} is still going on in another process: wait for its end, or end it."
    process.kill()
    process.wait()

    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{in_project.folder}/other.db")
        sentence = refused("train", parameters)
    assert f"The run {run_id} is in {in_project.tracking_uri}, and MLFLOW_TRACKING_URI is sqlite:" in sentence
    assert sentence.endswith("or give new_run=true to begin one here.")

    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    sentence = refused("train", parameters)
    assert "is not a checkpoint, or is damaged (its content is not what was written): give resume=" in sentence
    assert f"{before}', which is whole, from step" in sentence
    assert refused("train", LONG | {"new_run": "true"}).startswith("new_run=true says how resume goes on")
    assert the_run(in_project).info.run_id == run_id
