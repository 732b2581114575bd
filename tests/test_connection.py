"""The way to MLflow: a new database is whole whoever opens it at once, and what does not answer gets one sentence."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from filelock import FileLock
from helpers import refused
from mlflow import MlflowClient

from gan_plugin import connection
from gan_plugin.connection import AT_FIRST, AT_WORK, RETRIES, TIMEOUT, connected, limited_requests
from gan_plugin.errors import UserError

RUN = """
import mlflow
from gan_plugin.connection import connected
with connected():
    mlflow.end_run(mlflow.start_run() and "FINISHED")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and no settings of MLflow."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", RETRIES, TIMEOUT):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that takes connections and never answers, or where none listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen(50)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://anna:secret@{address}")
        yield address


def refusal() -> str:
    with pytest.raises(UserError) as caught, connected():
        raise AssertionError
    return str(caught.value)


# ---- databases -------------------------------------------------------------------------------------------------------


def test_processes_that_begin_in_a_fresh_folder_at_once_all_get_their_run(folder: Path) -> None:
    """Beside what one left that was killed while it made the database."""
    (folder / "mlflow.db.partial").write_text("the beginning of a database")
    processes = [
        subprocess.Popen([sys.executable, "-c", RUN], stderr=subprocess.PIPE, text=True, cwd=folder) for _ in range(3)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert sum("Creating initial MLflow database tables" in error for error in errors) == 1
    runs = MlflowClient().search_runs(["0"])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert runs[0].info.artifact_uri.startswith(f"{folder}/mlruns/0/")  # where MLflow's default has them
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_a_database_that_was_left_half_made_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(sqlite3.connect(folder / "half.db")) as database, database:
        database.execute("CREATE TABLE logged_models (name TEXT)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///half.db")
    assert refusal() == (
        "MLflow cannot open sqlite:///half.db: (sqlite3.OperationalError) table logged_models already exists; a "
        "process ended while it made these tables, or two did so at once: move the database away, or put a backup back."
    )


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("sqlite:///text.db", "MLflow cannot open sqlite:///text.db: (sqlite3.DatabaseError) file is not a database."),
        ("mysql+nosuch://anna:secret@host/x", "MLflow cannot open mysql+nosuch://host/x: "),
        ("nosuch://host", "MLflow cannot open nosuch://host: "),
    ],
)
def test_what_mlflow_cannot_open_is_refused_at_once(
    uri: str, sentence: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "text.db").write_text("no database, but a text " * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    begin = time.monotonic()
    assert refusal().startswith(sentence)
    assert time.monotonic() - begin < 20


def test_a_process_that_never_ends_to_open_a_database_is_not_waited_for_without_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "OPENING_SECONDS", 0.3)
    with FileLock(folder / "mlflow.db.lock"):
        assert refusal().endswith(f"another process has held {folder}/mlflow.db.lock for 0.3 s; end it.")


def test_a_database_in_a_folder_that_takes_no_files_is_read_without_a_lock(
    folder: Path, new_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(folder))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # chmod would not keep root out
    with connected():
        assert len(MlflowClient().search_experiments()) == 1
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]


# ---- servers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "reason"), [("absent", "Connection refused"), ("silent", "(read timeout=1)")], indirect=["server"]
)
def test_every_command_names_a_server_that_does_not_answer(
    server: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its password; how long it is waited for is what the user set."""
    monkeypatch.setenv(RETRIES, "0")
    monkeypatch.setenv(TIMEOUT, "1")
    for command, parameters, words in (
        ("evaluate", {"model": "models:/gan/1"}, ()),
        ("promote", {}, ()),
        ("promote", {"rollback": True}, ()),
        ("unlock", {}, ("gan",)),
        ("sample", {"model": "models:/gan/1"}, ()),
        ("explore", {}, ("models:/gan/1",)),
    ):
        sentence = refused(command, parameters, *words)
        assert sentence.startswith(f"MLflow's server http://{server} does not answer (")
        assert reason in sentence
        assert sentence.endswith("): start it, or set MLFLOW_TRACKING_URI to one that runs.")


def test_waits_end_within_half_a_minute_at_first_and_some_minutes_later() -> None:
    """The backoff of urllib3 waits 0, 4, 8, … seconds between tries, and up to one more each by chance."""

    def longest(limits: dict[str, str]) -> float:
        retries, timeout = int(limits[RETRIES]), int(limits[TIMEOUT])
        return (retries + 1) * timeout + sum(2 * 2**i for i in range(1, retries)) + retries

    assert longest(AT_FIRST) <= 32
    assert longest(AT_WORK) <= 8 * 60


def test_limits_are_for_the_block_and_give_way_to_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT, "17")
    with limited_requests(AT_WORK):
        assert (os.environ[RETRIES], os.environ[TIMEOUT]) == (AT_WORK[RETRIES], "17")
    assert (os.environ.get(RETRIES), os.environ[TIMEOUT]) == (None, "17")


@pytest.mark.parametrize("server", ["absent"], indirect=True)
def test_a_server_that_goes_away_later_is_named_too(
    server: str, folder: Path, new_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RETRIES, "0")
    gone = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(folder))
    with pytest.raises(UserError, match=rf"^MLflow's server http://{server} does not answer "), connected():
        MlflowClient(gone, gone).search_experiments()
    with pytest.raises(ValueError, match="another"), connected():
        raise ValueError("another")
    with pytest.raises(mlflow.MlflowException, match="not found"), connected():
        mlflow.get_run("0" * 32)
