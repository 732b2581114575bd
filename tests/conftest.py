"""Fixtures for all tests: one cache, a project in an empty folder, a run of it, a server in front of its model."""

from __future__ import annotations

import os

# before torch is imported: its threads spin while they wait, and two processes with several each get in their own way
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The suite holds what is promised of a CPU, to the bit and for many processes at once: it sees no GPU, nor does any
# command that it runs. tests/test_gpu.py alone needs one, in a process of its own that tests/test_gpu_apart.py starts.
os.environ.setdefault("GPUS_BEFORE_TESTS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK, ROOT, Project, Server, Trained, serving
from mlflow import MlflowClient

from gan_plugin.evaluation import classes, critic, measures
from gan_plugin.features import classifier_training
from gan_plugin.features.classifier import Classifier
from gan_plugin.features.classifier_training import train_classifier


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests run whole commands: begun last, they would keep one process busy alone."""
    items.sort(key=lambda item: not item.path.is_relative_to(ROOT / "tests" / "jobs"))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Whatever is drawn without a seed is the same each time, whichever tests this process has run before."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for all tests and their processes, empty at first: the digits' classifier is trained once."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # whose folder lies in that of all
        folder = folder.parent
    folder = folder / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_PLUGIN_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Make an empty store in a folder and return its URI: a copy of one that MLflow made, which takes it seconds."""
    template = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{template}").search_experiments()

    def copy(folder: Path) -> str:
        path = Path(shutil.copy(template, folder))
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/mlruns/0",))
        return f"sqlite:///{path}"

    return copy


@pytest.fixture(scope="session")
def make_project(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], str]) -> Callable[[], Project]:
    def make() -> Project:
        folder = tmp_path_factory.mktemp("project")
        for name in ("MLproject", "conda.yaml"):
            shutil.copy(ROOT / name, folder)
        new_store(folder)
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
def short_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Critics learn for a tenth of their steps, and kid is from a few subsets, in this process."""
    for name in ("MIN_STEPS", "MAX_STEPS"):
        monkeypatch.setattr(critic, name, 10)
    monkeypatch.setattr(critic, "VERSION", 0)  # whose baselines are not those of other tests
    monkeypatch.setattr(measures, "SUBSETS", 5)


@pytest.fixture
def short_cas(short_metrics: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that learns from generated images learns for a tenth of its steps, in this process."""

    def train_shortly(*arguments: Any, **options: Any) -> Classifier:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(classifier_training, "MIN_STEPS", 30)
            patch.setattr(classifier_training, "EPOCHS", 1)
            return train_classifier(*arguments, **options)

    monkeypatch.setattr(classes, "train_classifier", train_shortly)


@pytest.fixture
def store(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """This process looks at the trained project's store."""
    monkeypatch.chdir(trained.project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.project.tracking_uri)
    return trained


@pytest.fixture(scope="session")
def server(trained: Trained) -> Iterator[Server]:
    with serving(trained.project, trained.model_uri) as running:
        yield running
