"""Fixtures for all tests: one cache, a project in an empty folder, a run of it, a server in front of its model."""

from __future__ import annotations

import os

# before torch is imported: its threads spin while they wait, and two processes with several each get in their own way
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import QUICK, ROOT, Project, Server, Trained, serving


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for all tests and their processes, empty at first: the digits' classifier is trained once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_PLUGIN_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def make_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Project]:
    def make() -> Project:
        folder = tmp_path_factory.mktemp("project")
        for name in ("MLproject", "conda.yaml"):
            shutil.copy(ROOT / name, folder)
        return Project(folder)

    return make


@pytest.fixture(scope="session")
def trained(make_project: Callable[[], Project]) -> Trained:
    """The main job, run as a user runs it, on the built-in digits."""
    project = make_project()
    done = project.mlflow_run(**QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = project.runs()
    return Trained(project, runs[0], len(runs), output=done.stdout + done.stderr)


@pytest.fixture
def store(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """This process looks at the trained project's store."""
    monkeypatch.chdir(trained.project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.project.tracking_uri)
    return trained


@pytest.fixture(scope="session")
def server(trained: Trained) -> Iterator[Server]:
    with serving(trained.project, trained.model_uri, env_manager="local", wait_s=120) as running:
        yield running
