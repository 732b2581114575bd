"""The wheel, built from the sdist and installed in an empty folder: it has what it needs beside the code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from helpers import ROOT, SHORT_CAS, Project, serving

SCRIPT = """
import pathlib, gan_plugin
assert pathlib.Path(gan_plugin.__file__).parts[-3] == "installed", gan_plugin.__file__
small = {"data": "digits", "image_size": 16, "device": "cpu"}
uri = gan_plugin.train(epochs=1, batch_size=512, evaluation_budget=0, recipe="dcgan", **small)
metrics = gan_plugin.evaluate(model=uri, images=64, **small)
assert gan_plugin.promote(model_name="gan", images=64, thresholds=(), **small) == uri
from gan_plugin.explorer import write_page
write_page(next(pathlib.Path("outputs").rglob("generator.onnx")), pathlib.Path("explorer.html"))
print(uri, metrics["fid/classifier"] > 0, gan_plugin.load_model(uri, device="cpu").sample([0]).shape)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``python -m build`` makes it, from a copy, because setuptools leaves files behind."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("gan_plugin", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    sdist = [sys.executable, "-c", "from setuptools.build_meta import build_sdist; build_sdist('dist')"]
    subprocess.run(sdist, cwd=folder, capture_output=True, check=True)
    (source,) = (folder / "dist").glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist"]
    subprocess.run([*pip, source], cwd=folder, capture_output=True, check=True)
    (path,) = (folder / "dist").glob("*.whl")
    return path


def test_the_wheel_describes_itself(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        about = Parser().parsestr(file.read(metadata).decode())
    assert {"gan_plugin/py.typed", "gan_plugin/report/report.html", "gan_plugin/explorer/explorer.html"} <= names
    recipes = {f"gan_plugin/config/recipes/{path.name}" for path in ROOT.glob("gan_plugin/config/recipes/*.toml")}
    assert recipes <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs"))]
    assert (about["License-Expression"], about["Description-Content-Type"]) == ("Apache-2.0", "text/markdown")
    assert str(about.get_payload()).startswith((ROOT / "README.md").read_text("utf-8")[:40])
    assert "Typing :: Typed" in about.get_all("Classifier", [])


def test_the_wheel_trains_evaluates_promotes_and_serves_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    installed, folder = tmp_path / "installed", tmp_path / "empty"
    folder.mkdir()
    words = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(installed), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    store = f"sqlite:///{folder}/mlflow.db"
    environment = {**os.environ, "PYTHONPATH": str(installed), "MLFLOW_TRACKING_URI": store}

    def python(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    recipes = [line.split()[0] for line in python("-m", "gan_plugin", "recipes").splitlines()]
    assert recipes == sorted(path.stem for path in ROOT.glob("gan_plugin/config/recipes/*.toml"))
    assert python("-c", SHORT_CAS + SCRIPT).splitlines()[-1] == "models:/gan/1 True (1, 16, 16, 1)"
    assert (folder / "explorer.html").exists()
    with serving(Project(folder), "models:/gan@champion", PYTHONPATH=str(installed)) as server:
        assert server.records({"seed": 0}).status == 200
