"""The run of a training: it logs into its own folder, and a thread delivers that to MLflow.

So training starts, goes on and ends whatever the server does.
"""

from __future__ import annotations

import logging
import math
import shlex
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.environment_variables import MLFLOW_EXPERIMENT_ID, MLFLOW_EXPERIMENT_NAME, MLFLOW_RUN_ID
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, ErrorCode
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from gan_plugin.config.kinds import text_of
from gan_plugin.connection import RETRIES, TIMEOUT, describe, limited_requests, open_stores, without_password
from gan_plugin.data import Dataset
from gan_plugin.datasets import SampleDataset
from gan_plugin.errors import UserError
from gan_plugin.process import this_process
from gan_plugin.signals import StopSignals, exit_on_signals
from gan_plugin.tracking.delivery import GRACE_S, DeliveryThread
from gan_plugin.tracking.replay import LOCAL_RUN
from gan_plugin.tracking.run import PROCESS, RUN_NOTE, check_no_active_run, close_dead_runs, name_of
from gan_plugin.tracking.spool import RunRecord, Spool, milliseconds, update_record
from gan_plugin.tracking.system_metrics import system_metrics

LOCK = "run.lock"  # in a run's folder, held by the process that trains or delivers
START_S = 15.0  # that a server has to answer before training goes on without it
LIMITS = {RETRIES: "3", TIMEOUT: "30"}  # of one request; what is not delivered is tried again anyway
UNWELL = tuple(map(ErrorCode.Name, (INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE)))  # a server, not a request

logger = logging.getLogger(__name__)


@dataclass
class TrainingRun:
    """The run of a training: what it logs goes to ``spool``.

    Attributes:
        id: its folder's name, MLflow's run id where there is one.
        folder: for all that it writes.
        spool: takes in what it logs.
        diverged: whether training failed, so that going on would fail again.
        delivered: whether everything is with MLflow; known at the end.
        refused: what MLflow did not take for what it is.
        model_uri: of the model, once it is with MLflow.
    """

    id: str
    folder: Path
    spool: Spool
    diverged: bool = False
    delivered: bool = False
    refused: list[str] = field(default_factory=list)
    model_uri: str | None = None

    def parameters(self, used: Mapping[str, object]) -> None:
        """Log parameters as they are used."""
        self.spool.add("parameters", values={name: text_of(value) for name, value in used.items()})

    def dataset(self, dataset: Dataset, context: str) -> None:
        """Log the data set as an input, with the digest over all its images, and its classes as a file."""
        logged = SampleDataset(dataset)
        tags = {"mlflow.data.context": context, **logged.tags()}
        self.spool.add("dataset", dataset=dict(logged._to_mlflow_entity()), tags=tags)
        self.spool.json(f"data/{context}.json", logged.summary())


@contextmanager
def training_run(
    name: str, output_dir: Path, *, identity: dict[str, Any], continued: RunRecord | None = None
) -> Iterator[TrainingRun]:
    """Run a block in the run that ``mlflow run`` made for this process, in a new one, or in one that goes on.

    A server that does not answer in time is left alone: training goes on, and what it logs waits in its folder. At the
    end that waits for the delivery, as long as there is progress. The run ends with the status that it earned:
    FINISHED, FAILED after an exception, or KILLED after a signal or ``sys.exit``.

    Args:
        name: the beginning of the run's name, unless a person gave it one.
        output_dir: in which the run's folder is made.
        identity: what a resumed run must agree on.
        continued: the run that goes on; None begins one.

    Raises:
        UserError: a run is active already; MLflow refuses the run; its folder cannot be written, or is in use.
    """
    check_no_active_run()
    with ExitStack() as stack:
        stack.enter_context(limited_requests(LIMITS))
        record, begun = begin(name, continued)
        record = replace(record, identity=identity)
        folder = make_folder(output_dir / record.id, str(output_dir))
        stack.enter_context(locked(folder))
        record.save(folder)
        run = TrainingRun(record.id, folder, Spool(folder))
        run.spool.add("status", status="RUNNING")
        run.spool.add("tags", values={PROCESS: record.process, MLFLOW_RUN_NAME: record.name})
        delivery = DeliveryThread(folder, begun)
        metrics, status = ExitStack(), "FAILED"
        try:
            with exit_on_signals():
                metrics.enter_context(system_metrics(run.spool))
                yield run
                status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            finish(run, delivery, status, metrics=metrics)


def finish(run: TrainingRun, delivery: DeliveryThread, status: str, *, metrics: ExitStack) -> None:
    """End the run, and deliver what is left; a signal shortens the wait, and everything stays on disk.

    It does not end the wait: where one process of several ends, torchrun sends the others a signal in this very moment.

    Args:
        metrics: ends those of the system, which may take a while.
    """
    with StopSignals(f"delivering for at most {GRACE_S:g} s what MLflow does not have yet").installed() as stop:
        metrics.close()
        run.spool.add("status", status=status)
        try:
            run.spool.flush()
            update_record(run.folder, status="DIVERGED" if run.diverged else status)
        except OSError as error:
            logger.error("%s cannot be written (%s): what was logged last is lost.", run.folder, error.strerror)
        patience_s = GRACE_S if status == "KILLED" else math.inf
        run.delivered = delivery.finish(stop.requested, patience_s) and not run.spool.unwritten
    run.model_uri, run.refused = delivery.delivery.progress.model_uri, delivery.delivery.progress.refused
    if run.delivered and run.model_uri is not None:  # a model that was refused can be offered again
        with suppress(OSError):  # of a full disk: then resume=auto delivers it again, which changes nothing
            update_record(run.folder, delivered=True)
    if run.model_uri is not None and status == "FAILED":
        print(f"{run.model_uri} is logged, and not registered.", flush=True)
    if not run.delivered and status != "FINISHED":
        logger.error("%s", undelivered(run.folder))


def undelivered(folder: Path) -> str:
    """Return a sentence on what MLflow does not have, and the command that delivers it."""
    store = without_password(mlflow.get_tracking_uri())
    return (
        f"All of it is in {folder}, but MLflow at {store} has not taken everything: the rest, registration included, "
        f"is delivered by: gan-plugin replay {shlex.quote(str(folder))}"
    )


# ---- the beginning ---------------------------------------------------------------------------------------------------


def begin(name: str, continued: RunRecord | None) -> tuple[RunRecord, Future[RunRecord]]:
    """Make the run in MLflow, or go on with one; where the server does not answer, describe the one to be made.

    Returns:
        What is known of the run, and the attempt to make it, which may still be waiting for the server.

    Raises:
        UserError: MLflow answers, and refuses.
    """
    store = mlflow.get_tracking_uri()
    by_project = MLFLOW_RUN_ID.get()  # of the run that mlflow run made for this process
    MLFLOW_RUN_ID.unset()
    if continued is None:
        identifier = by_project or uuid.uuid4().hex
        planned = RunRecord(
            id=identifier,
            run_id=by_project,
            tracking_uri=without_password(store),
            experiment=MLFLOW_EXPERIMENT_NAME.get() or "Default",
            experiment_id=None if MLFLOW_EXPERIMENT_NAME.get() else MLFLOW_EXPERIMENT_ID.get(),
            name=f"{name}-{identifier[:6]}",
            tags=resolve_tags(),
            started_ms=milliseconds(),
            process=this_process().to_json(),
        )
    else:
        planned = replace(
            continued,
            run_id=continued.run_id or by_project,
            process=this_process().to_json(),
            status="RUNNING",
            delivered=False,
        )
    begun = in_thread(start, planned, name)
    try:
        record = begun.result(None if is_local(store) else START_S)
    except UserError:
        raise
    except Exception as error:  # of a server that was too slow, too
        reason = describe(error) if begun.done() else f"no answer within {START_S:g} s"
        if is_local(store) or (isinstance(error, MlflowException) and error.error_code not in UNWELL):
            raise UserError(f"No run can be made at {without_password(store)}: {reason}.") from error
        logger.warning(
            "MLflow at %s does not answer (%s): training begins without it. What it logs waits in its folder.",
            without_password(store),
            reason,
        )
        return planned, begun
    if by_project is not None and by_project != record.run_id:
        in_background(point_to, by_project, record)
    return record, begun


def start(planned: RunRecord, name: str) -> RunRecord:
    """Make the run, or go on with it, and return what is known of it then."""
    if is_local(mlflow.get_tracking_uri()):
        open_stores()
    # If the answer is late or lost, the delivery finds the run by the second tag, and makes no other.
    tags = {PROCESS: planned.process} | ({LOCAL_RUN: planned.id} if planned.run_id is None else {})
    run = mlflow.start_run(run_id=planned.run_id, log_system_metrics=False, tags=tags)
    client, experiment_id = MlflowClient(), run.info.experiment_id
    in_background(close_dead_runs, client, experiment_id)
    return replace(
        planned,
        id=run.info.run_id if planned.run_id is None else planned.id,
        run_id=run.info.run_id,
        experiment=client.get_experiment(experiment_id).name,
        name=name_of(run, name),
        tags={tag: text for tag, text in run.data.tags.items() if tag != MLFLOW_RUN_NAME},
    )


def point_to(run_id: str, record: RunRecord) -> None:
    """Let the run that ``mlflow run`` made for a command say that another one goes on in its place."""
    sentence = f"This command went on with the run {record.name}, `{record.run_id}`."
    tags = {
        PROCESS: record.process,
        "gan.continues": str(record.run_id),
        MLFLOW_RUN_NAME: f"resume-{record.name}",
        RUN_NOTE: sentence,
    }
    MlflowClient().log_batch(run_id, tags=[RunTag(name, text) for name, text in tags.items()])


def in_thread(call: Callable[..., RunRecord], *arguments: object) -> Future[RunRecord]:
    """Call something that may wait for a server for very long, so that nobody else has to."""
    future: Future[RunRecord] = Future()

    def work() -> None:
        try:
            future.set_result(call(*arguments))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, name="mlflow-start", daemon=True).start()
    return future


def in_background(call: Callable[..., None], *arguments: object) -> None:
    """Call something that training does not need, and whose failure is only worth a line."""

    def work() -> None:
        try:
            call(*arguments)
        except Exception as error:
            logger.warning("MLflow did not answer: %s", describe(error))

    threading.Thread(target=work, name="mlflow-background", daemon=True).start()


def is_local(store: str) -> bool:
    """Return whether a tracking URI names a file of this machine, which always answers in the end."""
    is_word = store.split(":", maxsplit=1)[0] in ("databricks", "databricks-uc", "uc")
    return store.startswith(("sqlite:", "file:")) or ("://" not in store and not is_word)


def make_folder(folder: Path, output_dir: str) -> Path:
    """Make a run's own folder before training, because its first file is written long after.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir={output_dir!r} cannot be written to: {error.strerror}.") from None
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which one process at a time can.

    Raises:
        UserError: another one does.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"The run in {folder} is in use by another process: wait for its end.") from None
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{folder / LOCK} cannot be locked: {describe(error)}.") from None
    try:
        yield
    finally:
        lock.release()


def is_free(folder: Path) -> bool:
    """Return whether no process trains or delivers the run in this folder."""
    try:
        with locked(folder):
            return True
    except UserError:
        return False
