"""Fixtures: an empty store, a real tracking server, a proxy between the two."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import mlflow
import pytest
from helpers import ROOT, Project, load_script
from mlflow import MlflowClient


@pytest.fixture
def client(tmp_path: Path, new_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(new_store(tmp_path))
    yield MlflowClient()
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def proxies() -> ModuleType:
    return load_script(ROOT / "benchmarks" / "reliability" / "proxy.py")


@pytest.fixture(scope="module")
def server_port(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], str]) -> Iterator[int]:
    """The port of a real ``mlflow server``."""
    folder = tmp_path_factory.mktemp("server")
    store = new_store(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri", store]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            words, cwd=folder, env=Project(folder).environment(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(900):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
