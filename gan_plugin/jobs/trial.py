"""One training of a search, in a process of its own: the command that users type.

So each training begins with fresh memory, threads and device, its ``minutes`` count from the start of its process, and
one that the system kills for its memory takes nothing else with it. MLflow's active run is this process's own as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.environment_variables import (
    MLFLOW_EXPERIMENT_ID,
    MLFLOW_EXPERIMENT_NAME,
    MLFLOW_RUN_CONTEXT,
    MLFLOW_RUN_ID,
    MLFLOW_TRACKING_URI,
)
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from gan_plugin.connection import without_password
from gan_plugin.metrics.catalog import METRICS
from gan_plugin.tracking.replay import read_progress
from gan_plugin.tracking.spool import RECORD, RunRecord, read_events, read_record

LOG = "trial.log"  # in a trial's folder
POLL_S = 0.2
METRIC = METRICS["fid_2k"].name
REFUSED = 2  # click's exit status of a UserError


class TrialFailed(RuntimeError):
    """A training failed for a reason that another point of the space would meet as well."""


class Stopped(RuntimeError):
    """The search was asked to end, and so was the training that went on."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a training ended.

    Attributes:
        value: the lowest quick evaluation; None where there is none.
        reason: why there is none, in a sentence; "" where there is one.
        refused: whether it was refused before it began.
        run_id: of its run in MLflow; None where it has none.
        seconds: that its process took.
    """

    value: float | None
    reason: str
    refused: bool
    run_id: str | None
    seconds: float


def run_trial(
    texts: Mapping[str, str], folder: Path, *, environment: Mapping[str, str], stop_requested: Callable[[], bool]
) -> Outcome:
    """Train in a process of its own, and wait for its end.

    Args:
        texts: the parameters of ``train``, less ``output_dir``.
        folder: for all that the training writes, its output in ``trial.log`` among that.
        environment: of the process.
        stop_requested: asked again and again; where it returns true, the training is ended as by SIGTERM.

    Raises:
        TrialFailed: it neither finished nor diverged, nor was it refused; has the last line of its output.
        Stopped: ``stop_requested`` returned true.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with (folder / LOG).open("w", encoding="utf-8") as log:
        status = wait_for_end(
            subprocess.Popen(
                command({**texts, "output_dir": str(folder)}),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal ends it once, through this process
            ),
            stop_requested,
        )
    if stop_requested():
        raise Stopped
    seconds, last_line = time.monotonic() - start, end_of(folder / LOG)
    run_folder = next((path.parent for path in folder.glob(f"*/{RECORD}")), None)
    record = None if run_folder is None else read_record(run_folder)
    run_id = None if record is None else record.run_id
    if run_folder is not None and has_finished(record) and (value := lowest_value(run_folder)) is not None:
        if status:  # it is trained and on disk, and MLflow lacks a part of it
            print(last_line, file=sys.stderr, flush=True)
        return Outcome(value=value, reason="", refused=False, run_id=run_id, seconds=seconds)
    has_diverged = record is not None and record.status == "DIVERGED"
    if not has_diverged and status != REFUSED:
        raise TrialFailed(f"The training in {folder} ended with status {status}: {last_line}")
    return Outcome(value=None, reason=last_line, refused=not has_diverged, run_id=run_id, seconds=seconds)


def command(texts: Mapping[str, str]) -> list[str]:
    """Return the command line of a training."""
    options = [f"--{name.replace('_', '-')}={text}" for name, text in texts.items()]
    return [sys.executable, "-m", "gan_plugin", "train", *options]


def wait_for_end(process: subprocess.Popen[bytes], stop_requested: Callable[[], bool]) -> int:
    """Wait for a process, which is terminated once a stop is requested, and return its exit status."""
    is_ending = False
    try:
        while process.poll() is None:
            if stop_requested() and not is_ending:
                process.terminate()
                is_ending = True
            time.sleep(POLL_S)
    finally:
        if process.poll() is None:
            process.terminate()
    return process.returncode


def nested_environment(folder: Path) -> dict[str, str]:
    """Return this process's environment for trainings whose runs MLflow's UI shows below the run in this folder.

    Where MLflow has no such run yet, because no server answers, they are on their own.
    """
    record, store = read_record(folder), mlflow.get_tracking_uri()
    delivered = read_progress(folder).get(without_password(store))
    run_id = record.run_id or (None if delivered is None else delivered.run_id)
    environment = {name: text for name, text in os.environ.items() if name != MLFLOW_RUN_ID.name}
    environment[MLFLOW_TRACKING_URI.name] = store
    if run_id is not None:
        context = json.loads(MLFLOW_RUN_CONTEXT.get() or "{}")
        environment |= {
            MLFLOW_EXPERIMENT_NAME.name: record.experiment,
            MLFLOW_RUN_CONTEXT.name: json.dumps(context | {MLFLOW_PARENT_RUN_ID: run_id}),
        }
        environment.pop(MLFLOW_EXPERIMENT_ID.name, None)
    return environment


def has_finished(record: RunRecord | None) -> bool:
    """Return whether a training came to its end, exported generator included."""
    return record is not None and record.status == "FINISHED"


def lowest_value(folder: Path) -> float | None:
    """Return the lowest quick evaluation of a run; None where there is none."""
    values = [
        value
        for event, _ in read_events(folder, 0, sys.maxsize)
        if event["kind"] == "metrics"
        for name, value in event["values"].items()
        if name.startswith(f"{METRIC}/")
    ]
    return min(values, default=None)


def end_of(log: Path) -> str:
    """Return the last line that a training wrote, less the word with which the command line begins it."""
    lines = log.read_text("utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "no word").removeprefix("Error: ")
