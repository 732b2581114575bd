"""The way to MLflow's stores: opened by one process at a time, and one sentence where none answers. No torch.

MLflow makes the tables of a new SQLite database without a lock, and not in one transaction: of two processes that open
it at once, one fails, and a process that ends meanwhile leaves a database that no process can open again. Here, one
process makes it under another name and renames it when it is whole, while the others wait.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import requests
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.db import upgrade
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE, ErrorCode
from mlflow.store.db.utils import create_sqlalchemy_engine
from sqlalchemy import inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from gan_plugin.errors import UserError, first_line

RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
# A server is given up after 12 to 15 s where nothing listens, and 30 s where something does and is silent
AT_FIRST = {RETRIES: "3", TIMEOUT: "4"}
# Once there is work to lose, after 1 minute, in which a server may restart, and 7; with MLflow's defaults 4 and 20
AT_WORK = {RETRIES: "5", TIMEOUT: "60"}
OPENING_SECONDS = 120.0  # to wait for others that open the same database; one of them takes a few seconds
HALF_MADE = (
    "a process ended while it made these tables, or two did so at once: move the database away, or put a backup back"
)
HINT = "start it, or set MLFLOW_TRACKING_URI to one that runs"


@contextmanager
def connected() -> Iterator[None]:
    """Run a block that works with MLflow, whose stores are open then, and whose requests all end.

    Raises:
        UserError: a store cannot be opened, or does not answer any more within the block.
    """
    open_stores()
    with limited_requests(AT_WORK):
        try:
            yield
        except (MlflowException, requests.RequestException) as error:
            if (sentence := describe_failure(error)) is None:
                raise
            raise UserError(sentence) from None


def open_stores() -> None:
    """Open the tracking store and the registry that MLflow is set to; a new SQLite database is made.

    Raises:
        UserError: one cannot be opened, or a server does not answer; names it without its password.
    """
    tracking, registry = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    _open(tracking, lambda: MlflowClient(tracking, tracking).search_experiments(max_results=1))
    if registry != tracking:
        _open(registry, lambda: MlflowClient(tracking, registry).search_registered_models(max_results=1))


def _open(uri: str, search: Callable[[], object]) -> None:
    try:
        with limited_requests(AT_FIRST), _alone(uri):
            search()
    except UserError:
        raise
    except Exception as error:  # of MLflow, SQLAlchemy, Alembic, or a driver that is not installed
        sentence = f"MLflow cannot open {without_password(uri)}: {_reason(error)}."
        if isinstance(error, OperationalError) and re.search("already exists|duplicate column", str(error)):
            sentence = sentence.removesuffix(".") + f"; {HALF_MADE}."
        raise UserError(describe_failure(error) or sentence) from None


@contextmanager
def limited_requests(limits: Mapping[str, str]) -> Iterator[None]:
    """Bound the retries and waits of MLflow's requests within a block, where the user's environment does not."""
    added = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def describe_failure(error: BaseException) -> str | None:
    """Return one sentence on a server or database that did not answer, or None where that is not what went wrong."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, requests.RequestException) and cause.request is not None:
            url = urlsplit(without_password(str(cause.request.url)))
            return f"MLflow's server {url.scheme}://{url.netloc} does not answer ({_reason(cause)}): {HINT}."
        if isinstance(cause, MlflowException) and cause.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE):
            return f"MLflow's store {without_password(mlflow.get_tracking_uri())} does not work: {_reason(cause)}."
        cause = cause.__cause__ or cause.__context__
    return None


def _reason(error: BaseException) -> str:
    """Return the innermost reason that requests and urllib3 wrap, less the objects that they print with it."""
    inner = error.args[0] if isinstance(error, requests.RequestException) and error.args else error
    inner = getattr(inner, "reason", None) or inner
    text = first_line(inner) if isinstance(inner, Exception) else str(inner)
    return without_password(re.sub(r"HTTPS?Connection(Pool)?\(.*?\): ", "", text)).rstrip(".")


def describe(error: BaseException) -> str:
    """Return the first line of what MLflow raised, without a full stop and without the password of its URI."""
    return without_password(first_line(error)) if isinstance(error, Exception) else type(error).__name__


def without_password(text: str) -> str:
    """Return a URI, or a text with URIs in it, less the user and password in them.

    >>> without_password("postgresql://anna:secret@host/mlflow")
    'postgresql://host/mlflow'
    """
    return re.sub(r"(?<=://)[^/\s]*@|(?<=[?&]password=)[^&\s]*", "", text)


# ---- databases -------------------------------------------------------------------------------------------------------


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Make a new SQLite database, or look whether another database answers; while the block opens it, others wait."""
    try:
        url = make_url(uri)
    except ArgumentError:  # a folder, or a word such as databricks
        yield
        return
    if url.get_backend_name() == "sqlite" and (database := _file_of(url.database)) is not None:
        with _locked(database, uri):
            if not database.exists():
                _make_database(database, uri)
            _look_at(uri)
            yield
        return
    if url.get_backend_name() in ("postgresql", "mysql", "mssql"):
        _look_at(uri)
    yield


def _file_of(database: str | None) -> Path | None:
    """Return the file of an SQLite database, or None for one in memory or under SQLite's own kind of URI."""
    if not database or database.startswith((":memory:", "file:")):
        return None
    return Path(database).resolve()


@contextmanager
def _locked(database: Path, uri: str) -> Iterator[None]:
    database.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(database.parent, os.W_OK):  # then no process can change the tables
        yield
        return
    lock = FileLock(database.with_name(f"{database.name}.lock"), timeout=OPENING_SECONDS, mode=0o664)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"MLflow cannot open {uri}: another process has held {lock.lock_file} for {OPENING_SECONDS:g} s; end it."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _make_database(database: Path, uri: str) -> None:
    """Make MLflow's tables in a file beside the database's, then rename it: the database is whole or not there."""
    partial = database.with_name(f"{database.name}.partial")
    for left in (partial, partial.with_name(f"{partial.name}-journal")):  # by a process that was killed
        left.unlink(missing_ok=True)
    text = make_url(uri).set(database=str(partial)).render_as_string(hide_password=False)
    upgrade.main([text], prog_name="mlflow db upgrade", standalone_mode=False)
    if not database.exists():  # one that `mlflow run` has made meanwhile stays
        os.rename(partial, database)
    partial.unlink(missing_ok=True)


def _look_at(uri: str) -> None:
    """Read a database's list of tables once: where that fails, MLflow would try again for 100 seconds."""
    engine = create_sqlalchemy_engine(uri)
    try:
        inspect(engine).get_table_names()
    finally:
        engine.dispose()
