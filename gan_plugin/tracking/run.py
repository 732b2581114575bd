"""Runs in MLflow: what they are named, how they end, and those whose process is gone."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from gan_plugin.config.kinds import text_of
from gan_plugin.connection import describe
from gan_plugin.data import Dataset
from gan_plugin.datasets import SampleDataset
from gan_plugin.errors import UserError
from gan_plugin.process import ProcessIdentity, this_process
from gan_plugin.signals import exit_on_signals, signals_ignored
from gan_plugin.tracking import replay

RUN_NOTE = MLFLOW_RUN_NOTE  # the tag that the UI shows as the description of a run
PROCESS = "gan.process"  # the tag by which others see whether a run's process still lives
GENERATED_NAME = re.compile(r"|[a-z]+-[a-z]+-\d+")  # as MLflow names a run that nobody named

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


@contextmanager
def project_run(name: str) -> Iterator[mlflow.ActiveRun]:
    """Run a block in the run that ``mlflow run`` made for this process, or in a new one; its name begins with ``name``.

    It ends with the status that it earned: FINISHED, FAILED after an exception, or KILLED after Ctrl-C, SIGTERM,
    SIGHUP or ``sys.exit``. A name that a person gave the run stays.

    Raises:
        UserError: a run is active already.
    """
    check_no_active_run()
    run = mlflow.start_run(log_system_metrics=True, tags={PROCESS: this_process().to_json()})
    status = "FAILED"
    try:
        if (run_name := name_of(run, name)) != run.info.run_name:
            mlflow.set_tag(MLFLOW_RUN_NAME, run_name)
        with exit_on_signals():
            try:
                close_dead_runs(MlflowClient(), run.info.experiment_id)
            except Exception as error:  # of other runs, which are no reason to end this one
                logger.warning("Runs that were left as RUNNING cannot be closed: %s", describe(error))
            yield run
            status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        with signals_ignored():
            mlflow.end_run(status)


def name_of(run: Run, name: str) -> str:
    """Return the name of a run, which begins with ``name`` unless a person gave it another."""
    own = str(run.info.run_name or "")
    return f"{name}-{run.info.run_id[:6]}" if GENERATED_NAME.fullmatch(own) else own


def check_no_active_run() -> None:
    """Refuse to begin a run inside of another.

    Raises:
        UserError: a run is active in this thread.
    """
    if (active := mlflow.active_run()) is not None:
        raise UserError(f"The run {active.info.run_id} is active: end it first, since this makes a run of its own.")


def close_dead_runs(client: MlflowClient, experiment_id: str) -> None:
    """End the runs of an experiment whose process on this machine is gone, and say so: a killed one cannot itself."""
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=1000):
        process = ProcessIdentity.from_json(run.data.tags.get(PROCESS, ""))
        if process is None or not process.is_dead():
            continue
        again = client.get_run(run.info.run_id)  # it may have gone on meanwhile, in another process
        if again.info.status == "RUNNING" and again.data.tags.get(PROCESS) == run.data.tags.get(PROCESS):
            close_run(client, run.info.run_id)
            logger.warning(
                "The run %s (%s) was left as RUNNING by a process that is gone, and is KILLED now.",
                run.info.run_id,
                run.info.run_name,
            )


def close_run(client: MlflowClient, run_id: str) -> None:
    """Give a run that nobody works at any more the status KILLED."""
    client.set_tag(run_id, replay.CLOSED, "Its process ended without a word: it was killed, or the machine went down.")
    client.set_terminated(run_id, "KILLED")


def log_parameters(run_id: str, used: Mapping[str, object]) -> None:
    """Log parameters as they are used, each once and under its own name."""
    replay.log_parameters(MlflowClient(), run_id, {name: text_of(value) for name, value in used.items()})


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
