"""Deliver what a run logged into its folder to MLflow: in order, each thing once, while it trains or days later."""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import PIL.Image
from mlflow import MlflowClient
from mlflow.entities import Dataset as LoggedDataset
from mlflow.entities import DatasetInput, Experiment, LoggedModelStatus, Metric, Param, RunTag
from mlflow.entities.input_tag import InputTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    INVALID_STATE,
    PERMISSION_DENIED,
    ErrorCode,
)
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

from gan_plugin.connection import describe, without_password
from gan_plugin.registry import set_description
from gan_plugin.tracking.logged_model import complete, find_or_create
from gan_plugin.tracking.spool import EVENTS, FOLDER, Event, RunRecord, read_events, read_record

DELIVERED = "delivered.json"  # in the spool's folder
CLOSED = "gan.closed"  # the tag of a run that another process had to end
LOCAL_RUN = "gan.local_run"  # the tag by which a second delivery finds the run that the first one made
MAX_BATCH = 1000  # metrics of one call, MLflow's limit
TRIES = 3  # of what MLflow refuses for what it is, before it is left out
THUMBNAIL = 256  # pixels of the longer side of the copies that MLflow's UI shows first
REFUSALS = tuple(map(ErrorCode.Name, (INVALID_PARAMETER_VALUE, BAD_REQUEST, INVALID_STATE)))
MODEL_REFUSALS = (ErrorCode.Name(PERMISSION_DENIED),)  # a registered model may be somebody else's

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run has been delivered to one store.

    Attributes:
        run_id: of the run there; None before there is one.
        offset: bytes of the events that have been delivered.
        model_uri: of the model that was delivered last.
        refused: what MLflow did not take for what it is, and why.
    """

    run_id: str | None = None
    offset: int = 0
    model_uri: str | None = None
    refused: list[str] = field(default_factory=list)


class Delivery:
    """Deliver the events of a run's folder to the store at MLflow's current tracking URI."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, without_password(mlflow.get_tracking_uri())
        self.progress = read_progress(folder).get(self.store, Progress())
        self.sent_files: dict[str, tuple[int, int]] = {}  # modified, size
        self.tries = 0
        self.stopped = threading.Event()

    @functools.cached_property
    def client(self) -> MlflowClient:
        """MLflow's client, made where it is used: for a database that does not answer, that alone takes minutes."""
        return MlflowClient()

    def deliver_some(self) -> bool:
        """Deliver the next event, or the next metrics together; False where nothing is left.

        Raises:
            Exception: MLflow did not take it, for now: whatever its client raises.
        """
        run_id = self.progress.run_id or self._find_run()
        limit = MAX_BATCH if self.tries == 0 else 1  # so that one event alone is left out, if it must be
        events = list(read_events(self.folder, self.progress.offset, limit))
        if not events:
            return False
        batch = self._first_of(events)
        try:
            for kind in {event["kind"] for event, _ in batch}:
                self._send(kind, [event for event, _ in batch], run_id)
        except MlflowException as error:
            refusals = REFUSALS + (MODEL_REFUSALS if batch[0][0]["kind"] == "model" else ())
            if error.error_code not in refusals:
                raise
            self.tries += 1
            if self.tries <= TRIES or len(batch) > 1:
                raise
            self.progress.refused.append(f"{batch[0][0]['kind']}: {describe(error)}")
            logger.error("MLflow refuses something that this run logged, and it is left out: %s", describe(error))
        self.tries = 0
        self.progress.offset = batch[-1][1]
        self._save()
        return True

    def share(self) -> float:
        """Return how much of what was logged has been delivered, 0…1."""
        return self.progress.offset / max(1, (self.folder / FOLDER / EVENTS).stat().st_size)

    def is_complete(self) -> bool:
        """Return whether every event has been delivered, or refused."""
        return next(read_events(self.folder, self.progress.offset, 1), None) is None

    @staticmethod
    def _first_of(events: list[tuple[Event, int]]) -> list[tuple[Event, int]]:
        """Return the events that go together: metrics up to MAX_BATCH values, or one of another kind."""
        batch, values = events[:1], len(events[0][0].get("values", ()))
        for event, end in events[1:]:
            values += len(event.get("values", ()))
            if {event["kind"], batch[0][0]["kind"]} != {"metrics"} or values > MAX_BATCH:
                break
            batch.append((event, end))
        return batch

    def _find_run(self) -> str:
        """Return the run to deliver to: the one that training knew, else one that is made for it."""
        record = read_record(self.folder)
        if record.run_id is not None and record.tracking_uri == self.store:
            run_id = record.run_id
        else:
            experiment = self._find_experiment(record)
            run_id = find_delivered(self.client, record, experiment) or make_run(self.client, record, experiment)
        self.progress.run_id = run_id
        self._save()
        return run_id

    def _find_experiment(self, record: RunRecord) -> Experiment | None:
        if record.tracking_uri == self.store and record.experiment_id is not None:
            return self.client.get_experiment(record.experiment_id)
        return self.client.get_experiment_by_name(record.experiment)

    def _save(self) -> None:
        everything = read_progress(self.folder) | {self.store: self.progress}
        text = json.dumps({store: asdict(progress) for store, progress in everything.items()}, indent=1)
        partial = self.folder / FOLDER / f"{DELIVERED}.partial"
        try:
            partial.write_text(text, "utf-8")
            os.replace(partial, partial.with_suffix(""))
        except OSError as error:  # what was delivered will be delivered again, which changes nothing
            logger.warning("%s cannot be written: %s.", partial.with_suffix(""), error.strerror)

    # ---- one method for each kind of event -------------------------------------------------------------------------

    def _send(self, kind: str, events: list[Event], run_id: str) -> None:
        first = events[0]
        if kind == "metrics":
            self._send_metrics(run_id, events)
        elif kind == "image":
            self._send_image(run_id, self.folder / first["file"])
        elif kind == "file":
            self._send_file(run_id, first["file"], first["folder"])
        elif kind == "parameters":
            log_parameters(self.client, run_id, first["values"])
        elif kind == "tags":
            self.client.log_batch(run_id, tags=[RunTag(name, text) for name, text in first["values"].items()])
        elif kind == "experiment_tags":
            experiment = self.client.get_run(run_id).info.experiment_id
            for name, text in first["values"].items():
                self.client.set_experiment_tag(experiment, name, text)
        elif kind == "dataset":
            tags = [InputTag(name, text) for name, text in first["tags"].items()]
            self.client.log_inputs(run_id, datasets=[DatasetInput(LoggedDataset(**first["dataset"]), tags)])
        elif kind == "model":
            self._send_model(run_id, first)
        elif kind == "status":
            self._send_status(run_id, first)

    def _send_status(self, run_id: str, event: Event) -> None:
        if event["status"] != "RUNNING":
            self.client.set_terminated(run_id, event["status"], event["time"])
            return
        self.client.update_run(run_id, status="RUNNING")
        if CLOSED in self.client.get_run(run_id).data.tags:  # the run goes on
            self.client.delete_tag(run_id, CLOSED)

    def _send_metrics(self, run_id: str, events: list[Event]) -> None:
        metrics = [
            Metric(name, value, event["time"], event["step"])
            for event in events
            for name, value in event["values"].items()
        ]
        for start in range(0, len(metrics), MAX_BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + MAX_BATCH])

    def _send_image(self, run_id: str, path: Path) -> None:
        """Upload an image and its thumbnail as ``MlflowClient.log_image`` does, but under the same names each time."""
        if not self._exists(path):
            return
        thumbnail = path.with_name(f"{path.stem}+compressed.webp")
        with PIL.Image.open(path) as image:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            image.save(thumbnail)
        try:
            for file in (path, thumbnail):
                self.client.log_artifact(run_id, str(file), "images")
        finally:
            thumbnail.unlink()
        self.client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, True)

    def _send_file(self, run_id: str, name: str, folder: str) -> None:
        """Upload a file as it is now, unless an earlier event has: a checkpoint is replaced again and again."""
        path = self.folder / name
        if not self._exists(path):
            return
        status = path.stat()
        version = (status.st_mtime_ns, status.st_size)
        if self.sent_files.get(name) != version:
            self.client.log_artifact(run_id, str(path), folder)
            self.sent_files[name] = version

    def _exists(self, path: Path) -> bool:
        if path.exists():
            return True
        self.progress.refused.append(f"{path} is no longer there")
        logger.error("%s is no longer there, and cannot be delivered.", path)
        return False

    def _send_model(self, run_id: str, event: Event) -> None:
        """Log and register a model, unless an earlier try did, or a run that went on exported the same file again."""
        self.progress.model_uri = None
        onnx_file = self.folder / event["file"]
        encoder_file = self.folder / event["encoder"] if "encoder" in event else None
        if not all(map(self._exists, filter(None, [onnx_file, encoder_file]))):
            return
        key = f"{self.folder.name}:{event['step']}:{event['digest']}"
        model = find_or_create(self.client, run_id, key=key, params=event["params"])
        if model.status != LoggedModelStatus.READY:
            self._check_stopped()
            complete(
                self.client,
                model,
                run_id=run_id,
                step=event["step"],
                onnx_file=onnx_file,
                encoder_file=encoder_file,
            )
        name, uri = event["model_name"], f"models:/{model.model_id}"
        if name is not None:
            version = self._registered(name, run_id=run_id, source=uri)
            if version is None:
                self._check_stopped()
                version = str(mlflow.register_model(uri, name).version)
            uri = f"models:/{name}/{version}"
            set_description(self.client, name, version, text=event["description"].replace(event["uri"], uri))
        self.progress.model_uri = uri

    def _check_stopped(self) -> None:
        """Refuse to begin what takes long, and a second delivery would do again."""
        if self.stopped.is_set():
            raise RuntimeError("the delivery was given up")

    def _registered(self, name: str, *, run_id: str, source: str) -> str | None:
        versions = self.client.search_model_versions(f"run_id = '{run_id}'")
        return next((str(v.version) for v in versions if v.name == name and v.source == source), None)


def log_parameters(client: MlflowClient, run_id: str, texts: Mapping[str, str]) -> None:
    """Log parameters as they are used, each once and under its own name.

    ``mlflow run`` has logged what was typed with ``-P`` already, a run that goes on has those from before, and MLflow
    refuses to change a parameter: that stays, and the tag ``used.NAME`` has the value that is in effect.
    """
    present = client.get_run(run_id).data.params
    client.log_batch(
        run_id,
        params=[Param(name, text) for name, text in texts.items() if name not in present],
        tags=[RunTag(f"used.{name}", text) for name, text in texts.items() if present.get(name, text) != text],
    )


def find_delivered(client: MlflowClient, record: RunRecord, experiment: Experiment | None) -> str | None:
    """Return the run that an earlier delivery made in this experiment, or None."""
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id], f"tags.`{LOCAL_RUN}` = '{record.id}'", max_results=1)
    return runs[0].info.run_id if runs else None


def make_run(client: MlflowClient, record: RunRecord, experiment: Experiment | None) -> str:
    """Make the run that a record describes, in an experiment, which is made where it is missing."""
    experiment_id = client.create_experiment(record.experiment) if experiment is None else experiment.experiment_id
    run = client.create_run(
        experiment_id, start_time=record.started_ms, tags=record.tags | {LOCAL_RUN: record.id}, run_name=record.name
    )
    run_id: str = run.info.run_id
    return run_id


def read_progress(folder: Path) -> dict[str, Progress]:
    """Return how far a run has been delivered, by store."""
    try:
        content: dict[str, Any] = json.loads((folder / FOLDER / DELIVERED).read_text("utf-8"))
        return {store: Progress(**values) for store, values in content.items()}
    except (OSError, TypeError, ValueError):  # a power cut may leave an empty file: then all is delivered again
        return {}
