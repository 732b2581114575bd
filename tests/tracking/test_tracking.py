"""Tracking: nothing is lost, nothing waits, and a dead server does not stop training."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import mlflow
import numpy as np
import pytest
from helpers import BIN, Project, refusal, tracking, wait_for
from mlflow import MlflowClient

from gan_plugin.data import load_dataset
from gan_plugin.signals import StopSignals
from gan_plugin.tracking.run import MlflowTracker, log_dataset, log_parameters, project_run


@pytest.fixture
def client(tmp_path: Path, new_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(new_store(tmp_path))
    yield MlflowClient()
    mlflow.set_tracking_uri(None)


def test_every_value_arrives_with_its_step(client: MlflowClient, tmp_path: Path) -> None:
    run_id = client.create_run("0").info.run_id
    with MlflowTracker(run_id, tmp_path) as tracker:
        for step in range(2500):  # more than one call of MLflow takes
            tracker.metrics({"a": step / 2}, step)
        tracker.image("grid", np.zeros((4, 4, 1), np.uint8), 7)
        (tmp_path / "file").write_text("content")
        tracker.file(tmp_path / "file", "folder")
    history = client.get_metric_history(run_id, "a")
    assert sorted((metric.step, metric.value) for metric in history) == [(step, step / 2) for step in range(2500)]
    assert [file.path for file in client.list_artifacts(run_id, "folder")] == ["folder/file"]
    assert any("grid+step+7" in file.path for file in client.list_artifacts(run_id, "images"))
    assert not (tmp_path / "undelivered-metrics.jsonl").exists()


def test_metrics_arrive_while_training_goes_on(client: MlflowClient, tmp_path: Path) -> None:
    run_id = client.create_run("0").info.run_id
    with MlflowTracker(run_id, tmp_path) as tracker:
        tracker.metrics({"a": 1}, 1)
        wait_for(lambda: client.get_metric_history(run_id, "a"))  # before the end


@pytest.fixture
def server(make_project: Callable[[], Project], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, MlflowClient]]:
    """The process group of a real ``mlflow server``, which a test may stop and kill, and a client of it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracking(make_project()) as (process, uri):
        mlflow.set_tracking_uri(uri)
        yield process.pid, MlflowClient(uri)
        mlflow.set_tracking_uri(None)


def test_a_server_that_dies_costs_no_training_and_no_numbers(
    server: tuple[int, MlflowClient], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    group, client = server
    run_id = client.create_run("0").info.run_id
    tracker = MlflowTracker(run_id, tmp_path / "out")
    tracker.metrics({"a": 1}, 1)
    wait_for(lambda: client.get_metric_history(run_id, "a"))
    attempts = count_calls(tracker, "_send_batch")
    os.killpg(group, signal.SIGSTOP)  # nothing is answered, and nothing refused
    for step in range(2, 12):
        tracker.metrics({"a": step}, step)
        tracker.image("grid", np.zeros((4, 4, 1), np.uint8), step)
    assert (tracker.dropped, tracker.failed) == (0, False)  # so the loop has waited for nobody
    os.killpg(group, signal.SIGKILL)
    wait_for(tracker.jobs.empty)
    idle = len(attempts)
    wait_for(lambda: len(attempts) > idle + 2)  # with a server that stays away
    tracker.close()
    kept = [json.loads(line) for line in (tmp_path / "out" / "undelivered-metrics.jsonl").read_text().splitlines()]
    assert [(entry["key"], entry["value"], entry["step"]) for entry in kept] == [
        ("a", step, step) for step in range(2, 12)
    ]
    assert "MLflow did not take 10 metric values; they are in" in caplog.text
    assert "MLflow did not take 10 images and files; checkpoints are in" in caplog.text
    assert caplog.text.count("MLflow does not take what is logged, training goes on") == 1  # said once


def test_a_server_that_hangs_holds_up_the_end_of_a_run_only_once(
    server: tuple[int, MlflowClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one image that is not taken, and not by each of 30."""
    group, client = server
    tracker = MlflowTracker(client.create_run("0").info.run_id, tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    attempts = count_calls(tracker.client, "log_image")
    os.killpg(group, signal.SIGSTOP)
    for step in range(30):
        tracker.image("grid", np.zeros((4, 4, 1), np.uint8), step)
    before = len(attempts)
    tracker.close()
    assert len(attempts) <= before + 2  # one may have begun before the end did
    assert tracker.dropped == 30


def count_calls(owner: object, name: str) -> list[None]:
    """Return a list that grows with each call of a method from here on."""
    calls: list[None] = []
    original = getattr(owner, name)

    def counted(*arguments: object, **options: object) -> object:
        calls.append(None)
        return original(*arguments, **options)

    setattr(owner, name, counted)
    return calls


def test_parameters_never_clash_with_what_mlflow_run_has_logged(client: MlflowClient) -> None:
    run_id = client.create_run("0").info.run_id
    client.log_param(run_id, "generator_lr", "2e-4")
    client.log_param(run_id, "precision", "auto")
    log_parameters(run_id, {"generator_lr": 0.0002, "precision": "bf16", "guard": True, "batch_size": 64})
    run = client.get_run(run_id)
    assert run.data.params == {"generator_lr": "2e-4", "precision": "auto", "guard": "true", "batch_size": "64"}
    assert {name: text for name, text in run.data.tags.items() if "used" in name} == {"used.precision": "bf16"}


def test_the_run_ends_with_the_status_it_earned(client: MlflowClient) -> None:
    with project_run("r1-digits") as good:
        pass
    ended = [good.info.run_id]
    for error in (ZeroDivisionError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            run_that_raises(error)
        ended.append(mlflow.last_active_run().info.run_id)
    runs = [client.get_run(run_id) for run_id in ended]
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED", "KILLED", "KILLED"]
    assert [run.info.run_name for run in runs] == [f"r1-digits-{run_id[:6]}" for run_id in ended]


def run_that_raises(error: type[BaseException]) -> NoReturn:
    with project_run("r1-digits"):
        raise error


def test_a_run_in_another_thread_ends_like_any(client: MlflowClient) -> None:
    """Only the main thread may handle signals."""

    def run() -> str:
        with project_run("threaded") as active, StopSignals().installed():
            return str(active.info.run_id)

    with ThreadPoolExecutor(1) as pool:
        run_id = pool.submit(run).result()
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_run_that_is_active_is_left_alone(client: MlflowClient) -> None:
    with mlflow.start_run() as active:
        sentence = refusal(lambda: project_run("own").__enter__())
    assert sentence == f"The run {active.info.run_id} is active: end it first, since this makes a run of its own."
    assert [run.info.status for run in client.search_runs(["0"])] == ["FINISHED"]


def test_a_name_that_a_person_gave_stays(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """``mlflow run --run-name`` makes the run before this process begins."""
    names = {}
    for name in (None, "my best"):
        run_id = client.create_run("0", run_name=name).info.run_id
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        with project_run("r1-digits"):
            pass
        names[name] = client.get_run(run_id).info.run_name.replace(run_id[:6], "ID")
    assert names == {None: "r1-digits-ID", "my best": "my best"}


def test_sigterm_outside_of_training_is_killed_too(client: MlflowClient, tmp_path: Path) -> None:
    code = (
        "import signal\nfrom gan_plugin.tracking.run import project_run as run\nwith run('x'): signal.raise_signal(15)"
    )
    done = Project(tmp_path).command("python", "-c", code)
    assert done.returncode == 128 + signal.SIGTERM
    assert [run.info.status for run in Project(tmp_path).runs()] == ["KILLED"]


def test_the_same_signal_again_ends_the_process_at_once() -> None:
    code = """
import signal
from gan_plugin.signals import StopSignals
stop = StopSignals()
with stop.installed():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)  # mlflow run sends it after a Ctrl-C
    print(stop.requested(), stop.exit_status(), flush=True)
    signal.raise_signal(signal.SIGINT)
    print("still there")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=BIN, check=False)
    assert done.stdout == "True 130\n"
    assert done.returncode == -signal.SIGINT


def test_runs_that_log_the_same_new_data_at_once_all_have_it(client: MlflowClient) -> None:
    """MLflow adds a data set that the experiment lacks, and of several runs that do so all but one fail at first."""
    digits = load_dataset("digits")
    small = dataclasses.replace(digits, samples=digits.samples[:8], labels=None, spec=digits.spec.unlabeled())
    runs = [client.create_run("0").info.run_id for _ in range(4)]
    barrier = threading.Barrier(len(runs))

    def log(run_id: str) -> None:
        with mlflow.start_run(run_id=run_id):
            barrier.wait()
            log_dataset(small, context="training")

    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(log, runs))
    assert [len(client.get_run(run_id).inputs.dataset_inputs) for run_id in runs] == [1] * 4


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals().installed():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
