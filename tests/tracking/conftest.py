"""Fixtures: an empty store, a real tracking server, a proxy between the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import mlflow
import pytest
from helpers import ROOT, Project, load_script, tracking
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
    new_store(folder)
    with tracking(Project(folder)) as (_, uri):
        yield int(uri.rpartition(":")[2])
