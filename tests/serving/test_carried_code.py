"""A model brings all code that serving it needs, and no more."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from helpers import PATIENCE_S, ROOT

from gan_plugin import flavor
from gan_plugin.serving.generator import OnnxGenerator

DIGITS = ROOT / "examples" / "digits.onnx"
HIDDEN = ("gan_plugin", "__editable__", "torch", "onnx-")  # how names in site-packages begin

SERVE = """
import json, sys
from pathlib import Path

import mlflow.pyfunc

model = mlflow.pyfunc.load_model(sys.argv[1], model_config={"device": "cpu"})
table = model.predict({"seed": [4, 5], "label": ["7", "7"]}, params={"format": "array"})
try:
    model.predict({"sede": [4]})
    refused = ""
except mlflow.exceptions.MlflowException as error:
    refused = str(error)
files = [m.__file__ for name, m in sys.modules.items() if name.partition(".")[0] == "gan_plugin"]
code = Path(sys.argv[1]) / "code"
print(json.dumps({
    "images": table["image"].tolist(),
    "refused": refused,
    "imported": sorted(Path(file).relative_to(code).as_posix() for file in files),
}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("carried") / "model"
    flavor.save_model(DIGITS, path)
    return path


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed packages without this one, and without torch and onnx, which serving does not require."""
    folder = tmp_path_factory.mktemp("packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name != "onnx" and not entry.name.startswith(HIDDEN):
            (folder / entry.name).symlink_to(entry)
    return folder


def serve_fresh(model: Path, packages: Path) -> dict[str, Any]:
    """Answer a request in a process that has the standard library, ``packages`` and the model."""
    words = [sys.executable, "-S", "-c", SERVE, str(model)]  # -S: no site-packages, and none of their .pth files
    environment = {"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(model.parent)}
    done = subprocess.run(
        words, cwd=model.parent, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_serving_imports_every_file_that_a_model_carries_and_no_other(model: Path, packages: Path) -> None:
    answer = serve_fresh(model, packages)
    expected = OnnxGenerator(DIGITS, device="cpu").sample([4, 5], np.array([7, 7]))
    np.testing.assert_array_equal(np.array(answer["images"]), expected)
    assert answer["refused"].startswith("Unknown column sede: a row may have seed")
    carried = sorted(path.relative_to(model / "code").as_posix() for path in (model / "code").rglob("*.py"))
    assert answer["imported"] == carried == sorted(f"gan_plugin/{name}" for name in flavor.SERVING_CODE)


def test_a_model_carries_nothing_but_code_and_its_description(model: Path) -> None:
    files = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("code/")} == {
        "MLmodel", "conda.yaml", "generator.onnx", "input_example.json", "python_env.yaml", "requirements.txt",
        "serving_input_example.json",
    }  # fmt: skip
    assert len(files) == 7 + len(flavor.SERVING_CODE)


def test_no_import_within_a_function_escapes_the_list() -> None:
    """What is imported only when something goes wrong must be carried, too."""
    package = ROOT / "gan_plugin"
    for name in flavor.SERVING_CODE:
        if name == "__init__.py":
            continue
        for node in ast.walk(ast.parse((package / name).read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gan_plugin."):
                module = (node.module or "").removeprefix("gan_plugin.").replace(".", "/")
                assert {f"{module}.py", f"{module}/__init__.py"} & set(flavor.SERVING_CODE), f"{name}: {module}"


def test_a_model_of_the_time_before_this_module_existed_is_loaded_where_gan_plugin_is_installed(model: Path) -> None:
    """MLflow's plugins have imported the installed package by then, so that the model's own code is not looked at."""
    old = mlflow.models.Model.load(str(model))
    old.flavors["python_function"]["loader_module"] = "gan_plugin.flavor"
    code = """
import sys, mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1], model_config={"device": "cpu"})
print(len(model.predict({"seed": [1]})), sys.modules["gan_plugin"].__file__)
"""
    before = (model / "MLmodel").read_text()
    old.save(str(model / "MLmodel"))
    try:
        done = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True)
    finally:
        (model / "MLmodel").write_text(before)
    assert done.stdout.split() == ["1", str(ROOT / "gan_plugin" / "__init__.py")]
