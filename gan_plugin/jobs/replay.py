"""Replay: deliver what a training logged into its folder to MLflow."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from gan_plugin.connection import connected, describe, without_password
from gan_plugin.errors import UserError
from gan_plugin.process import ProcessIdentity
from gan_plugin.tracking.replay import TRIES, Delivery
from gan_plugin.tracking.run import PROCESS, close_run
from gan_plugin.tracking.spool import read_record, update_record
from gan_plugin.tracking.training_run import locked

PAUSE_S = 2.0  # between two tries
LINE_S = 10.0  # between two lines on how far it is


def replay_run(folder: Path) -> str | None:
    """Deliver what is left of a run to the current tracking URI; returns the model's URI, None where there is no model.

    A run that is already there goes on; in another store one is made. Whatever was delivered before stays as it is.

    Raises:
        UserError: the folder is no run's, a process still trains in it, or MLflow does not answer.
    """
    record = read_record(folder)
    with connected(), locked(folder):
        delivery, failures, last_line = Delivery(folder), 0, time.monotonic()
        while True:
            try:
                if not delivery.deliver_some():
                    break
                failures = 0
            except Exception as error:  # whatever MLflow's client raises
                failures += 1
                if failures > TRIES:
                    raise UserError(
                        f"MLflow at {delivery.store} does not take the rest of {folder} ({describe(error)}): give "
                        "the same command again when it does; what was delivered stays."
                    ) from None
                time.sleep(PAUSE_S)
            if time.monotonic() - last_line > LINE_S:
                last_line = time.monotonic()
                print(f"{delivery.share():.0%} of {folder} is delivered.", file=sys.stderr, flush=True)
        update_record(folder, delivered=delivery.progress.model_uri is not None)
        if record.status == "RUNNING":  # its process is dead, or it would hold the folder
            close_run(MlflowClient(), str(delivery.progress.run_id))
    print(f"All of {folder} is with MLflow at {delivery.store}, in the run {delivery.progress.run_id}.")
    for refused in delivery.progress.refused:
        print(f"Left out: {refused}", file=sys.stderr)
    return delivery.progress.model_uri


def close(run_id: str) -> None:
    """Give a run the status KILLED that a process left as RUNNING.

    Raises:
        UserError: there is no such run, it is not RUNNING, or its process lives.
    """
    with connected():
        close_left_run(MlflowClient(), run_id)


def close_left_run(client: MlflowClient, run_id: str) -> None:
    """Close a run; raises as :func:`close`."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        raise UserError(
            f"There is no run {run_id!r} at {without_password(mlflow.get_tracking_uri())}: {describe(error)}."
        ) from None
    if run.info.status != "RUNNING":
        raise UserError(f"The run {run_id} has ended already: it is {run.info.status}.")
    process = ProcessIdentity.from_json(run.data.tags.get(PROCESS, ""))
    if process is not None and process.is_alive():
        raise UserError(f"The process {process.pid} of the run {run_id} is alive: end it, which closes its run.")
    close_run(client, run_id)
