"""The run in MLflow: attached to, described, fed in the background, and ended with the status that it earned."""

from __future__ import annotations

import functools
import json
import logging
import queue
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_GREATER_IS_BETTER,
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
)

from gan_plugin.config.kinds import AUTO, text_of
from gan_plugin.data import Dataset
from gan_plugin.datasets import SampleDataset
from gan_plugin.errors import UserError
from gan_plugin.media.image import Image
from gan_plugin.signals import signals_handled_by

RUN_NOTE = MLFLOW_RUN_NOTE  # the tag that the UI shows as the description of a run
FAILED_METRICS = "undelivered-metrics.jsonl"
FLUSH_SECONDS = 1.0
MAX_BATCH = 1000  # MLflow's limit for one call
GENERATED_NAME = re.compile(r"|[a-z]+-[a-z]+-\d+")  # as MLflow names a run that nobody named

logger = logging.getLogger(__name__)


@contextmanager
def project_run(name: str) -> Iterator[mlflow.ActiveRun]:
    """Run a block in the run that ``mlflow run`` made for this process, or in a new one; its name begins with ``name``.

    It ends with the status that it earned: FINISHED, FAILED after an exception, or KILLED after Ctrl-C, SIGTERM or
    ``sys.exit``. A name that a person gave the run stays.

    Raises:
        UserError: a run is active already.
    """
    if (active := mlflow.active_run()) is not None:
        raise UserError(f"The run {active.info.run_id} is active: end it first, since this makes a run of its own.")
    run = mlflow.start_run(log_system_metrics=True)
    status = "FAILED"
    try:
        if GENERATED_NAME.fullmatch(run.info.run_name or ""):
            mlflow.set_tag(MLFLOW_RUN_NAME, f"{name}-{run.info.run_id[:6]}")
        with exit_on_sigterm():
            yield run
            status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        with signals_handled_by(signal.SIG_IGN, signal.SIGTERM):
            mlflow.end_run(status)


def exit_on_sigterm() -> AbstractContextManager[None]:
    """Raise SystemExit on SIGTERM within a block: by itself the signal would leave the run as RUNNING forever."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)  # what a shell reports for a process that the signal ended

    return signals_handled_by(handle, signal.SIGTERM)


def log_parameters(run_id: str, used: Mapping[str, object]) -> None:
    """Log parameters as they are used, each once and under its own name.

    ``mlflow run`` has logged what was typed with ``-P`` already, and MLflow refuses to change a parameter: that stays,
    and where it reads ``auto`` the tag ``used.NAME`` has the value.
    """
    client = MlflowClient()
    present = client.get_run(run_id).data.params
    texts = {name: text_of(value) for name, value in used.items()}
    client.log_batch(
        run_id,
        params=[Param(name, text) for name, text in texts.items() if name not in present],
        tags=[RunTag(f"used.{name}", text) for name, text in texts.items() if present.get(name) == AUTO],
    )


def set_primary_metric(name: str) -> None:
    """Have MLflow's UI sort the runs of the active run's experiment by this metric, lower being better."""
    run = mlflow.active_run()
    assert run is not None
    client, experiment = MlflowClient(), run.info.experiment_id
    client.set_experiment_tag(experiment, MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME, name)
    client.set_experiment_tag(experiment, MLFLOW_EXPERIMENT_PRIMARY_METRIC_GREATER_IS_BETTER, "false")


def log_dataset(dataset: Dataset, context: str) -> None:
    """Log the data set as an input of the active run, with the digest over all its images, and its classes as a file.

    The class names go into ``data/CONTEXT.json``: what MLflow keeps beside an input has no room for any number of them.
    MLflow adds a data set that an experiment does not have yet, and fails where another run does so at that moment;
    once more, and the data set is there.
    """
    logged = SampleDataset(dataset)
    try:
        mlflow.log_input(logged, context=context, tags=logged.tags())
    except MlflowException:
        time.sleep(random.uniform(0.5, 1.5))
        mlflow.log_input(logged, context=context, tags=logged.tags())
    mlflow.log_dict(logged.summary(), f"data/{context}.json")


class MlflowTracker:
    """Hands metrics, images and files to MLflow from a thread of its own, so that training never waits for a server.

    Metrics go in batches. Those that MLflow does not take are kept and tried again with the next batch and at the end;
    what is still undelivered then is written to ``folder``/undelivered-metrics.jsonl. An image or file that MLflow
    does not take is counted and left; checkpoints lie in the run's own folder anyway.
    """

    def __init__(self, run_id: str, folder: Path) -> None:
        self.run_id, self.folder = run_id, folder
        self.client = MlflowClient()
        self.pending: list[Metric] = []
        self.dropped = 0  # images and files
        self.failed = False  # the last call
        self.closing = False
        self.jobs: queue.SimpleQueue[Metric | Callable[[], object] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="mlflow-tracker", daemon=True)
        self.thread.start()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log values at a step, in the background."""
        now = int(time.time() * 1000)
        for name, value in values.items():
            self.jobs.put(Metric(name, float(value), now, step))

    def image(self, key: str, image: Image, step: int) -> None:
        """Log an image of a step under ``key``, in the background."""
        self.jobs.put(functools.partial(self.client.log_image, self.run_id, image, key=key, step=step))

    def file(self, path: Path, folder: str) -> None:
        """Log a file into an artifact folder of the run, in the background."""
        self.jobs.put(functools.partial(self.client.log_artifact, self.run_id, str(path), folder))

    def note(self, key: str, text: str) -> None:
        """Set a sentence about the run as a tag."""
        self.jobs.put(functools.partial(self.client.set_tag, self.run_id, key, text))

    def close(self) -> None:
        """Deliver what is left; returns when everything is with MLflow or on disk."""
        self.closing = True
        self.jobs.put(None)
        self.thread.join()
        if self.dropped:
            logger.error("MLflow did not take %d images and files; checkpoints are in %s.", self.dropped, self.folder)
        if self.pending:
            path = self.folder / FAILED_METRICS
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(dict(metric)) + "\n" for metric in self.pending))
            logger.error("MLflow did not take %d metric values; they are in %s.", len(self.pending), path)

    def __enter__(self) -> MlflowTracker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> None:
        flushed = time.monotonic()
        while True:
            try:
                job = self.jobs.get(timeout=FLUSH_SECONDS)
            except queue.Empty:
                self._flush()
                continue
            if isinstance(job, Metric):
                self.pending.append(job)
            elif job is not None:
                self._upload(job)
            if job is None or time.monotonic() - flushed > FLUSH_SECONDS:
                self._flush()
                flushed = time.monotonic()
            if job is None:
                return

    def _upload(self, job: Callable[[], object]) -> None:
        """Upload an image or a file; at the end not one by one to a server that took nothing last time."""
        if (self.closing and self.failed) or not self._attempt(job):
            self.dropped += 1

    def _flush(self) -> None:
        while self.pending:
            if not self._attempt(self._send_batch):
                return
            del self.pending[:MAX_BATCH]

    def _send_batch(self) -> None:
        self.client.log_batch(self.run_id, metrics=self.pending[:MAX_BATCH])

    def _attempt(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except Exception as error:  # whatever goes wrong there, training goes on
            if not self.failed:
                logger.warning("MLflow does not take what is logged, training goes on: %s", error)
            self.failed = True
            return False
        self.failed = False
        return True
