"""Runs in MLflow: their names, the status that they earned, and those whose process is gone."""

from __future__ import annotations

import dataclasses
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import mlflow
import pytest
from helpers import Project, refusal
from mlflow import MlflowClient

from gan_plugin.data import load_dataset
from gan_plugin.jobs import replay
from gan_plugin.jobs.resume import has_ended
from gan_plugin.signals import StopSignals
from gan_plugin.tracking.run import log_dataset, project_run
from gan_plugin.tracking.spool import RunRecord, read_record
from gan_plugin.tracking.training_run import begin, training_run


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_outside_of_training_ends_the_run_as_killed(
    number: signal.Signals, client: MlflowClient, tmp_path: Path
) -> None:
    code = (
        "import signal\nfrom gan_plugin.tracking.run import project_run as run\n"
        f"signal.signal({number:d}, signal.SIG_DFL)  # whatever started the tests may have it ignored\n"
        f"with run('x'): signal.raise_signal({number:d})"
    )
    done = Project(tmp_path).command("python", "-c", code)
    assert done.returncode == 128 + number
    assert [run.info.status for run in Project(tmp_path).runs()] == ["KILLED"]


def test_the_next_run_closes_those_whose_process_is_gone(
    client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "import os, signal\nfrom gan_plugin.tracking.run import project_run as run\nwith run('x'): os.abort()"
    assert Project(tmp_path).command("python", "-c", code).returncode == -signal.SIGABRT
    (dead,) = client.search_runs(["0"])
    assert dead.info.status == "RUNNING"
    with project_run("y") as alive:
        assert client.get_run(dead.info.run_id).info.status == "KILLED"
        assert client.get_run(alive.info.run_id).info.status == "RUNNING"
        with ThreadPoolExecutor(1) as pool:  # as another process would
            pool.submit(lambda: project_run("z").__enter__()).result()
        assert client.get_run(alive.info.run_id).info.status == "RUNNING"


def test_a_run_that_goes_on_is_no_longer_done(client: MlflowClient) -> None:
    """Or resume=auto would begin another where this one is killed again, or ends without its server."""
    run_id = client.create_run("0").info.run_id
    client.set_terminated(run_id)
    done = RunRecord(
        id=run_id,
        run_id=run_id,
        tracking_uri=mlflow.get_tracking_uri(),
        experiment="Default",
        name="r1-digits",
        tags={},
        started_ms=1,
        process="",
        status="FINISHED",
        delivered=True,
    )
    record, _ = begin("r1-digits", done)
    assert (record.run_id, record.status, record.delivered) == (run_id, "RUNNING", False)
    assert client.get_run(run_id).info.status == "RUNNING"


def test_a_run_whose_model_mlflow_does_not_have_has_not_ended(client: MlflowClient, tmp_path: Path) -> None:
    """Or resume=auto would train it anew, where only the model is left to be logged."""
    with training_run("x", tmp_path, identity={}) as run:
        run.spool.add("model", file="gone.onnx", digest="d", step=1, params={}, model_name="gan")
    assert run.delivered
    assert len(run.refused) == 1
    record = read_record(run.folder)
    assert record.status == "FINISHED"
    assert not has_ended(record)


def test_a_run_is_closed_by_hand_unless_its_process_lives(client: MlflowClient) -> None:
    with project_run("y") as alive:
        assert "is alive: end it, which closes its run." in refusal(lambda: replay.close(alive.info.run_id))
    assert refusal(lambda: replay.close(alive.info.run_id)).endswith("has ended already: it is FINISHED.")
    unknown = client.create_run("0").info.run_id
    replay.close(unknown)
    assert client.get_run(unknown).info.status == "KILLED"
    assert refusal(lambda: replay.close("nothing")).startswith("There is no run 'nothing' at sqlite:")


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
