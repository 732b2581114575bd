"""Delivery: everything arrives once and in order, whatever the server does, and training waits for nothing."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import mlflow
import numpy as np
import pytest
import torch
from helpers import PATIENCE_S, wait_for
from mlflow import MlflowClient

from gan_plugin.export import export_generator
from gan_plugin.networks.dcgan import Generator
from gan_plugin.serving.description import Description
from gan_plugin.spec import image_spec
from gan_plugin.tracking import delivery
from gan_plugin.tracking import training_run as module
from gan_plugin.tracking.delivery import DeliveryThread
from gan_plugin.tracking.replay import Delivery, log_parameters
from gan_plugin.tracking.spool import RunRecord, Spool
from gan_plugin.tracking.training_run import training_run

BEGUN: Future[RunRecord] = Future()  # an attempt to make a run that has ended
BEGUN.set_exception(ConnectionError())


def new_run(folder: Path, run_id: str | None, **known: str) -> Spool:
    record = RunRecord(
        id="local",
        run_id=run_id,
        tracking_uri=mlflow.get_tracking_uri(),
        experiment="Default",
        name="r1-digits",
        tags={"own": "tag"},
        started_ms=1_000,
        process="",
    )
    replace(record, **known).save(folder)
    return Spool(folder)


def log_some(spool: Spool, steps: int) -> None:
    for step in range(steps):
        spool.metrics({"a": step / 2}, step)
    spool.image("grid", np.zeros((4, 4, 1), np.uint8), 7)
    (spool.folder / "file").write_text("content")
    spool.file(spool.folder / "file", "folder")
    spool.note("gan.note", "text")
    spool.add("status", status="FINISHED")


def deliver(folder: Path) -> Delivery:
    all_of_it = Delivery(folder)
    while all_of_it.deliver_some():
        pass
    assert all_of_it.is_complete()
    return all_of_it


def check_delivered(client: MlflowClient, run_id: str, steps: int) -> None:
    history = client.get_metric_history(run_id, "a")
    assert sorted((metric.step, metric.value) for metric in history) == [(step, step / 2) for step in range(steps)]
    assert [file.path for file in client.list_artifacts(run_id, "folder")] == ["folder/file"]
    images = [file.path for file in client.list_artifacts(run_id, "images")]
    assert sorted(path.rpartition("+")[2].rpartition(".")[2] for path in images) == ["png", "webp"]
    assert all("grid+step+7+timestamp+" in path for path in images)
    run = client.get_run(run_id)
    assert (run.data.tags["gan.note"], run.data.tags["mlflow.loggedImages"]) == ("text", "True")
    assert run.info.status == "FINISHED"


def test_every_value_arrives_once_however_often_it_is_delivered(client: MlflowClient, tmp_path: Path) -> None:
    run_id = client.create_run("0").info.run_id
    log_some(new_run(tmp_path / "run", run_id), steps=2500)  # more than one call of MLflow takes
    deliver(tmp_path / "run")
    check_delivered(client, run_id, 2500)
    (tmp_path / "run" / "spool" / "delivered.json").write_text("")  # as a power cut may leave it
    deliver(tmp_path / "run")
    check_delivered(client, run_id, 2500)


def test_a_run_that_no_server_made_is_made_once(client: MlflowClient, tmp_path: Path) -> None:
    log_some(new_run(tmp_path / "run", None), steps=2)
    first = deliver(tmp_path / "run").progress.run_id
    (tmp_path / "run" / "spool" / "delivered.json").unlink()
    assert deliver(tmp_path / "run").progress.run_id == first
    (run,) = client.search_runs(["0"])
    assert (run.info.run_name, run.info.start_time, run.data.tags["own"]) == ("r1-digits", 1_000, "tag")
    check_delivered(client, run.info.run_id, 2)


def test_metrics_arrive_while_training_goes_on(client: MlflowClient, tmp_path: Path) -> None:
    run_id = client.create_run("0").info.run_id
    spool = new_run(tmp_path / "run", run_id)
    thread = DeliveryThread(tmp_path / "run", BEGUN)
    spool.metrics({"a": 1}, 1)
    wait_for(lambda: client.get_metric_history(run_id, "a"))
    assert thread.finish()


def test_no_run_is_made_while_an_attempt_to_make_it_waits(client: MlflowClient, tmp_path: Path) -> None:
    begun: Future[RunRecord] = Future()
    new_run(tmp_path / "run", None).metrics({"a": 1}, 1)
    thread = DeliveryThread(tmp_path / "run", begun)
    thread.thread.join(2.0)  # time enough to make one
    assert client.search_runs(["0"]) == []
    begun.set_exception(ConnectionError())
    assert thread.finish()
    assert len(client.search_runs(["0"])) == 1


def test_a_model_is_logged_and_registered_once(client: MlflowClient, tmp_path: Path) -> None:
    torch.manual_seed(0)
    run_id = client.create_run("0").info.run_id
    spool = new_run(tmp_path / "run", run_id)
    spec = image_spec(16, 16, 1)
    onnx_file = tmp_path / "run" / "generator.onnx"
    export_generator(Generator(8, spec), Description(8, spec), onnx_file)
    uri = "models:/toy/VERSION"
    model: dict[str, Any] = {"file": spool.keep(onnx_file, "g.onnx"), "digest": "d", "step": 3, "model_name": "toy"}
    for _ in range(2):  # a run that went on exports the same again
        spool.add("model", **model, params={"recipe": "r1"}, uri=uri, description=f"Serve it: {uri}.")
    onnx_file.unlink()  # the one that waits is another
    assert deliver(tmp_path / "run").progress.model_uri == "models:/toy/1"
    (tmp_path / "run" / "spool" / "delivered.json").unlink()
    assert deliver(tmp_path / "run").progress.model_uri == "models:/toy/1"
    (version,) = client.search_model_versions("name = 'toy'")
    assert version.description == "Serve it: models:/toy/1."
    (logged,) = client.search_logged_models(["0"])
    assert (logged.source_run_id, logged.params["recipe"]) == (run_id, "r1")
    (output,) = client.get_run(run_id).outputs.model_outputs
    assert (output.model_id, output.step) == (logged.model_id, 3)


def test_a_run_goes_to_the_experiment_of_which_only_the_id_was_known(client: MlflowClient, tmp_path: Path) -> None:
    experiment_id = client.create_experiment("mine")
    new_run(tmp_path / "run", None, experiment_id=experiment_id).metrics({"a": 1}, 1)
    for _ in range(2):
        run_id = str(deliver(tmp_path / "run").progress.run_id)
        assert client.get_run(run_id).info.experiment_id == experiment_id
        (tmp_path / "run" / "spool" / "delivered.json").unlink()
    assert len(client.search_runs([experiment_id])) == 1
    # the id of another store says nothing here
    new_run(tmp_path / "other", None, experiment_id=experiment_id, tracking_uri="http://other").metrics({"a": 1}, 1)
    assert client.get_run(str(deliver(tmp_path / "other").progress.run_id)).info.experiment_id == "0"


CALLS = ("create_logged_model", "log_outputs", "log_batch", "log_model_artifacts", "finalize_logged_model")


@pytest.mark.parametrize("lost", [*CALLS, "_create_model_version"])
def test_a_model_is_logged_once_though_an_answer_was_lost(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Each call was done, and its process killed before it knew."""
    torch.manual_seed(0)
    run_id = client.create_run("0").info.run_id
    spool = new_run(tmp_path / "run", run_id)
    spec = image_spec(16, 16, 1)
    export_generator(Generator(8, spec), Description(8, spec), tmp_path / "run" / "generator.onnx")
    spool.metrics({"fid": 4.0}, 3)
    assert deliver(tmp_path / "run").progress.refused == []
    words = {"params": {}, "model_name": "toy", "uri": "models:/toy/VERSION", "description": "A toy."}
    spool.add("model", file="generator.onnx", digest="d", step=3, **words)
    original = getattr(MlflowClient, lost)

    def cut_off(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        raise ConnectionError(lost)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, lost, cut_off)
        with pytest.raises(ConnectionError, match=lost):
            deliver(tmp_path / "run")
    progress = deliver(tmp_path / "run").progress
    assert (progress.model_uri, progress.refused) == ("models:/toy/1", [])
    assert len(client.search_model_versions("name = 'toy'")) == 1
    (logged,) = client.search_logged_models(["0"])
    assert [(metric.key, metric.value, metric.step) for metric in logged.metrics] == [("fid", 4.0, 3)]
    (output,) = client.get_run(run_id).outputs.model_outputs
    assert (output.model_id, output.step) == (logged.model_id, 3)
    assert [metric.value for metric in client.get_metric_history(run_id, "fid")] == [4.0]


def test_what_mlflow_refuses_is_left_out_and_the_rest_arrives(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "POLL_S", 0.01)
    monkeypatch.setattr(delivery, "MAX_DELAY_S", 0.02)
    run_id = client.create_run("0").info.run_id
    spool = new_run(tmp_path / "run", run_id)
    for step, name in enumerate(["a", "no|name", "a"]):
        spool.metrics({name: 1}, step)
    thread = DeliveryThread(tmp_path / "run", BEGUN)
    assert thread.finish()
    assert [metric.step for metric in client.get_metric_history(run_id, "a")] == [0, 2]
    (sentence,) = thread.delivery.progress.refused
    assert "no|name" in sentence
    assert caplog.text.count("MLflow refuses something that this run logged") == 1


# ---- servers on bad days ---------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(server_port: int, proxies: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A proxy in front of a real server, to which this process logs with little of MLflow's own patience."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    monkeypatch.setattr(delivery, "MAX_DELAY_S", 0.2)
    proxy = proxies.Proxy(server_port)
    mlflow.set_tracking_uri(proxy.uri)
    yield proxy
    mlflow.set_tracking_uri(None)
    proxy.close()


def test_nothing_is_lost_where_every_other_request_fails(proxy: Any, server_port: int, tmp_path: Path) -> None:
    client = MlflowClient(f"http://127.0.0.1:{server_port}")
    run_id = client.create_run("0").info.run_id
    proxy.set_mode("500")
    spool = new_run(tmp_path / "run", run_id)
    thread = DeliveryThread(tmp_path / "run", BEGUN)
    log_some(spool, steps=30)
    assert thread.finish()
    check_delivered(client, run_id, 30)


@pytest.mark.parametrize("mode", ["freeze", "refuse"])
def test_a_server_that_is_away_costs_no_time_and_what_it_missed_arrives_later(
    mode: str,
    proxy: Any,
    server_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    client = MlflowClient(f"http://127.0.0.1:{server_port}")
    run_id = client.create_run("0").info.run_id
    spool = new_run(tmp_path / "run", run_id)
    monkeypatch.setattr(delivery, "FIRST_PATIENCE_S", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy.set_mode(mode)
    thread = DeliveryThread(tmp_path / "run", BEGUN)
    time.sleep(0.5)  # in which it finds nothing to deliver
    log_some(spool, steps=30)
    assert not thread.finish()
    assert not thread.has_answered  # or it would have waited as long as for a server that is there
    thread.thread.join(PATIENCE_S)  # it leaves the rest to whoever replays it
    assert not thread.thread.is_alive()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    assert client.get_metric_history(run_id, "a") == []
    proxy.set_mode("pass")
    deliver(tmp_path / "run")
    check_delivered(client, run_id, 30)


def test_a_run_whose_server_answers_late_is_the_only_one(
    proxy: Any, server_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(f"http://127.0.0.1:{server_port}")
    experiment_id = client.create_experiment("late")
    monkeypatch.setattr(module, "START_S", 0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment_id)
    proxy.set_mode("freeze")
    with training_run("late", tmp_path, identity={}) as run:
        run.spool.metrics({"a": 1}, 1)
        assert client.search_runs([experiment_id]) == []
        proxy.set_mode("pass")  # and what was sent meanwhile arrives
    assert run.delivered
    (only,) = client.search_runs([experiment_id])
    assert (only.info.status, only.data.metrics["a"]) == ("FINISHED", 1)
    assert only.info.run_name.startswith("late-")


def run_that_fails_and_is_ended(folder: Path, proxy: Any, *, returns_after: float | None) -> NoReturn:
    """At its end the server is away, and a signal comes."""
    with training_run("lost", folder, identity={}):
        proxy.set_mode("freeze")
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        if returns_after is not None:
            threading.Timer(returns_after, proxy.set_mode, ("pass",)).start()
        raise ZeroDivisionError


@pytest.mark.parametrize(("returns_after", "status"), [(1.5, "FAILED"), (None, "RUNNING")])
def test_a_signal_at_the_end_leaves_some_time_to_deliver(
    returns_after: float | None,
    status: str,
    proxy: Any,
    server_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torchrun sends one as soon as another process has ended, while this one says why it failed."""
    if returns_after is None:
        monkeypatch.setattr(delivery, "GRACE_S", 0.5)
    with pytest.raises(ZeroDivisionError):
        run_that_fails_and_is_ended(tmp_path, proxy, returns_after=returns_after)
    proxy.set_mode("pass")
    (folder,) = tmp_path.iterdir()
    assert MlflowClient(f"http://127.0.0.1:{server_port}").get_run(folder.name).info.status == status


def run_that_was_stopped(folder: Path, proxy: Any) -> NoReturn:
    """At its end the server is away."""
    with training_run("stopped", folder, identity={}):
        proxy.set_mode("freeze")
        raise SystemExit(128 + signal.SIGTERM)


def test_a_run_that_a_signal_has_ended_does_not_wait_long_for_a_server_that_hangs(
    proxy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What sent the signal would kill it meanwhile, and nobody would know how the rest is delivered."""
    monkeypatch.setattr(module, "GRACE_S", 0.5)
    monkeypatch.setattr(delivery, "FIRST_PATIENCE_S", delivery.PATIENCE_S)
    start = time.monotonic()
    with pytest.raises(SystemExit):
        run_that_was_stopped(tmp_path, proxy)
    assert time.monotonic() - start < delivery.PATIENCE_S / 2
    assert "gan-plugin replay" in caplog.text


def test_parameters_never_clash_with_what_mlflow_run_has_logged(client: MlflowClient) -> None:
    run_id = client.create_run("0").info.run_id
    client.log_param(run_id, "generator_lr", "2e-4")
    client.log_param(run_id, "precision", "auto")
    used = {"generator_lr": "2e-4", "precision": "bf16", "guard": "true", "batch_size": "64"}
    log_parameters(client, run_id, used)
    run = client.get_run(run_id)
    assert run.data.params == used | {"precision": "auto"}
    assert {name: text for name, text in run.data.tags.items() if "used" in name} == {"used.precision": "bf16"}
