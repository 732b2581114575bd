"""Which checkpoint a training goes on from, and in which run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gan_plugin.config.settings import TrainSettings
from gan_plugin.connection import without_password
from gan_plugin.errors import UserError
from gan_plugin.tracking.replay import read_progress
from gan_plugin.tracking.run import PROCESS
from gan_plugin.tracking.spool import RECORD, RunRecord, read_record
from gan_plugin.tracking.training_run import is_free
from gan_plugin.training.checkpoint import (
    FILE_NAME,
    GOOD_NAME,
    PREVIOUS_NAME,
    check_identity,
    differences,
    read_header,
)

AUTO = "auto"
NAMES = (FILE_NAME, PREVIOUS_NAME, GOOD_NAME)  # of checkpoints, in the order in which one would go on from them

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resumed:
    """Where a training goes on.

    Attributes:
        checkpoint: the file.
        run: the run that goes on; None for a run of its own.
    """

    checkpoint: Path
    run: RunRecord | None


def find_resumed(settings: TrainSettings) -> Resumed | None:
    """Find what ``resume`` names; None where it names nothing, or is ``auto``, which needs to know the data first.

    Raises:
        UserError: there is no such checkpoint or run, the run is in another store, or a process is still at it.
    """
    if settings.resume is None and settings.new_run:
        raise UserError("new_run=true says how resume goes on: give resume, or leave new_run out.")
    if settings.resume is None or settings.resume == AUTO:
        return None
    checkpoint = find_checkpoint(settings.resume, Path(settings.output_dir).resolve())
    return Resumed(checkpoint, None if settings.new_run else run_of(checkpoint.parent))


def find_unfinished(output_dir: Path, identity: dict[str, Any], fitted: Collection[str]) -> Resumed | None:
    """Find the newest run of these settings that did not end, and that nobody is at; None where there is none.

    A damaged checkpoint is passed over for the one before it, with a line that says so.

    Args:
        output_dir: where runs have their folders.
        identity: what the run must agree on.
        fitted: the names in it that may differ, since nobody asked for them.
    """
    for folder, record in unfinished_runs(output_dir, identity, fitted):
        for name in NAMES:
            try:
                check_identity(read_header(folder / name), adopted(identity, record, fitted))
            except UserError as error:
                if (folder / name).exists():
                    logger.warning("%s", error)
                continue
            print(f"Going on with the run {record.id}, which did not end, from {folder / name}.", flush=True)
            return Resumed(folder / name, run_of(folder))
    return None


def unfinished_runs(
    output_dir: Path, identity: dict[str, Any], fitted: Collection[str]
) -> Iterator[tuple[Path, RunRecord]]:
    """Yield the folders and records of the runs of these settings that did not end, the newest first.

    Args are those of :func:`find_unfinished`.
    """
    store = without_password(mlflow.get_tracking_uri())
    records = [(path.parent, record) for path in output_dir.glob(f"*/{RECORD}") if (record := readable(path.parent))]
    for folder, record in sorted(records, key=lambda entry: -entry[1].started_ms):
        same = not differences(record.identity, adopted(identity, record, fitted)) and record.tracking_uri == store
        if same and not has_ended(record) and is_free(folder):
            yield folder, record


def adopted(identity: dict[str, Any], record: RunRecord, fitted: Collection[str]) -> dict[str, Any]:
    """Return the identity with a run's own values for what nobody asked for."""
    return identity | {name: record.identity[name] for name in fitted if name in record.identity}


def has_ended(record: RunRecord) -> bool:
    """Return whether going on with a run would change nothing, or fail again."""
    return record.status == "DIVERGED" or (record.status == "FINISHED" and record.delivered)


def readable(folder: Path) -> RunRecord | None:
    """Return what a folder says of its run, or None, with a warning, where that cannot be read."""
    try:
        return read_record(folder)
    except UserError as error:
        logger.warning("%s It is passed over.", error)
        return None


def find_checkpoint(resume: str, output_dir: Path) -> Path:
    """Find a checkpoint by its file, its folder, or its run, here or in MLflow.

    Raises:
        UserError: there is none.
    """
    for path in (Path(resume), output_dir / resume):
        if path.is_file():
            return path.resolve()
        for name in NAMES:
            if (path / name).is_file():
                return (path / name).resolve()
    return download_checkpoint(resume, output_dir / resume)


def download_checkpoint(run_id: str, folder: Path) -> Path:
    """Download the checkpoint that a run logged, on this machine or another, into its folder here.

    Raises:
        UserError: there is no such run, or it logged none.
    """
    try:
        client = MlflowClient()
        run = client.get_run(run_id)
        downloaded = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=f"checkpoint/{FILE_NAME}")
        experiment = client.get_experiment(run.info.experiment_id).name
    except (MlflowException, OSError):
        raise UserError(
            f"resume={run_id!r} is neither a checkpoint file, a folder with one, nor a run that logged one."
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(downloaded, folder / FILE_NAME)
    RunRecord(
        id=run_id,
        run_id=run_id,
        tracking_uri=without_password(mlflow.get_tracking_uri()),
        experiment=experiment,
        name=str(run.info.run_name),
        tags={},
        started_ms=run.info.start_time,
        process=run.data.tags.get(PROCESS, ""),
        status=run.info.status,
        delivered=True,
    ).save(folder)
    return folder / FILE_NAME


def run_of(folder: Path) -> RunRecord | None:
    """Return the run whose folder this is; None for a folder of no run.

    Raises:
        UserError: the run is in another store than the current one, or a process is still at it.
    """
    if not (folder / RECORD).exists():
        return None
    record = read_record(folder)
    store = without_password(mlflow.get_tracking_uri())
    if record.tracking_uri != store:
        raise UserError(
            f"The run {record.id} is in {record.tracking_uri}, and MLFLOW_TRACKING_URI is {store}: set it to the first "
            "to go on with that run, or give new_run=true to begin one here."
        )
    if not is_free(folder):
        raise UserError(f"The run {record.id} is still going on in another process: wait for its end, or end it.")
    delivered = read_progress(folder).get(store)
    return record if record.run_id is not None or delivered is None else replace(record, run_id=delivered.run_id)
