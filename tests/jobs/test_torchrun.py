"""A training by several processes as users start it, and what becomes of it when one of them ends or is asked to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from helpers import PATIENCE_S, Project, options, wait_for
from mlflow.entities import Run

from gan_plugin.training.checkpoint import FILE_NAME, read_header

PROCESSES = 2
# Twelve steps an epoch, a checkpoint at the end of each
TRAINING = {
    "data": "digits",
    "recipe": "subpixel",
    "image_size": 16,
    "width": 16,
    "batch_size": 112,
    "augment": "none",
    "checkpoint_every": 1,
    "evaluation_budget": 0,
    "held_out": "none",
}
LONG, SHORT = 1000, 2  # epochs


def command(processes: int, **parameters: object) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *launcher, "-m", "gan_plugin", "train", *options({**TRAINING, **parameters})]


@contextmanager
def training(project: Project, processes: int = PROCESSES) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start one that would take long; gives torchrun, and the log, once there is a checkpoint."""
    log = project.folder / "train.log"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            command(processes, epochs=LONG),
            cwd=project.folder,
            env=project.environment(),
            stdout=stream,
            stderr=stream,
            text=True,
        )
    try:
        wait_for(lambda: list(project.folder.glob(f"outputs/*/{FILE_NAME}")), process, log)
        yield process, log
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The training's processes, by their ranks."""
    children = [child for child in psutil.Process(process.pid).children() if "RANK" in child.environ()]
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))


def finished(project: Project, processes: int) -> Run:
    """Go on with the training, to the end of the epoch that it was in and one more."""
    (checkpoint,) = project.folder.glob(f"outputs/*/{FILE_NAME}")
    header = read_header(checkpoint)
    epochs = -(-header["steps"] // 12) + 1
    done = project.command(*command(processes, epochs=epochs, resume="auto"))
    assert done.returncode == 0, done.stderr
    (run,) = project.runs()  # the same one
    assert run.info.status == "FINISHED"
    assert run.data.metrics["epoch"] == epochs
    return run


def test_mlflow_run_starts_them_and_makes_one_run_and_one_model(make_project: Callable[[], Project]) -> None:
    project = make_project()
    parameters = [word for name, value in {**TRAINING, "epochs": SHORT}.items() for word in ("-P", f"{name}={value}")]
    backend = ["-b", "torchrun", "--backend-config", json.dumps({"nproc_per_node": PROCESSES})]
    done = project.command("mlflow", "run", ".", "--env-manager", "local", *backend, *parameters)
    assert done.returncode == 0, done.stderr
    (run,) = project.runs()
    assert run.info.status == "FINISHED"
    assert run.data.params["world_size"] == str(PROCESSES)
    assert run.data.tags["mlflow.project.backend"] == "torchrun"
    (version,) = project.client.search_model_versions("name='gan'")
    assert version.run_id == run.info.run_id
    history = project.client.get_metric_history(run.info.run_id, "epoch")
    assert [point.value for point in history] == list(range(1, SHORT + 1))
    assert done.stdout.count("is registered") == 1


def test_a_signal_to_one_process_stops_all_and_they_go_on_as_if_nothing_had_happened(
    make_project: Callable[[], Project],
) -> None:
    """With one process more or fewer, too."""
    project = make_project()
    with training(project) as (process, log):
        ranks_of(process)[1].send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) != 0
        assert "[rank" not in log.read_text()  # as PyTorch marks the traces of its processes
    (run,) = project.runs()
    assert run.info.status == "KILLED"
    finished(project, processes=1)


@pytest.mark.parametrize("rank", [0, 1])
def test_where_a_process_is_killed_the_others_end_and_a_run_goes_on_from_the_checkpoint(
    rank: int, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    with training(project) as (process, log):
        ranks = ranks_of(process)
        ranks[rank].kill()
        assert process.wait(PATIENCE_S) != 0
        assert not any(other.is_running() and other.status() != psutil.STATUS_ZOMBIE for other in ranks)
    if rank:
        (run,) = project.runs()
        assert run.info.status in ("FAILED", "KILLED")  # of a connection that is gone, or of torchrun's signal
        assert "Another process of this training has ended" in log.read_text()
    finished(project, processes=PROCESSES)
