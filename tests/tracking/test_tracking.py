"""Tracking: nothing is lost, nothing waits, and a dead server does not stop training."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import mlflow
import numpy as np
import pytest
from helpers import BIN, Project, refusal
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
        for _ in range(100):
            if client.get_metric_history(run_id, "a"):
                return
            time.sleep(0.1)
    raise AssertionError("nothing arrived before the end")


@pytest.fixture
def tracking_server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A real ``mlflow server``, which a test may kill."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        "mlflow",
        "server",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/s.db",
    ]
    with (tmp_path / "server.log").open("w") as log:
        environment = Project(tmp_path).environment()
        process = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield process, uri
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_server_that_dies_costs_no_training_and_no_numbers(
    tracking_server: tuple[subprocess.Popen[bytes], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    process, uri = tracking_server
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(uri)
    try:
        client = MlflowClient(uri)
        run_id = client.create_run("0").info.run_id
        tracker = MlflowTracker(run_id, tmp_path / "out")
        tracker.metrics({"a": 1}, 1)
        for _ in range(100):
            if client.get_metric_history(run_id, "a"):
                break
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        started = time.monotonic()
        for step in range(2, 12):
            tracker.metrics({"a": step}, step)
            tracker.image("grid", np.zeros((4, 4, 1), np.uint8), step)
        assert time.monotonic() - started < 0.5  # the loop waits for nobody
        time.sleep(3)  # idle, with a server that stays away
        tracker.close()
    finally:
        mlflow.set_tracking_uri(None)
    kept = [json.loads(line) for line in (tmp_path / "out" / "undelivered-metrics.jsonl").read_text().splitlines()]
    assert [(entry["key"], entry["value"], entry["step"]) for entry in kept] == [
        ("a", step, step) for step in range(2, 12)
    ]
    assert "MLflow did not take 10 metric values; they are in" in caplog.text
    assert "MLflow did not take 10 images and files; checkpoints are in" in caplog.text
    assert caplog.text.count("MLflow does not take what is logged, training goes on") == 1  # said once


def test_a_server_that_hangs_holds_up_the_end_of_a_run_only_once(
    tracking_server: tuple[subprocess.Popen[bytes], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, uri = tracking_server
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    mlflow.set_tracking_uri(uri)
    try:
        tracker = MlflowTracker(MlflowClient(uri).create_run("0").info.run_id, tmp_path)
        os.killpg(process.pid, signal.SIGSTOP)
        for step in range(30):
            tracker.image("grid", np.zeros((4, 4, 1), np.uint8), step)
        started = time.monotonic()
        tracker.close()
        assert time.monotonic() - started < 20  # 2 s for one image, not for each of 30
    finally:
        mlflow.set_tracking_uri(None)
    assert tracker.dropped == 30


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
import signal, time
from gan_plugin.signals import StopSignals
stop = StopSignals()
with stop.installed():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)  # mlflow run sends it after a Ctrl-C
    print(stop.requested(), stop.exit_status(), flush=True)
    signal.raise_signal(signal.SIGINT)
    time.sleep(30)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=25, cwd=BIN, check=False
    )
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
