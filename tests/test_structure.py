"""The map in CONTRIBUTING.md against the code, and the README's program as it is written there."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from gan_plugin.export import export_generator
from gan_plugin.networks.dcgan import Generator
from gan_plugin.serving.generator import Description
from gan_plugin.spec import image_spec

PACKAGE = ROOT / "gan_plugin"


def room_of(module: str) -> str:
    return module.split(".")[1]


def rooms_from_top_to_bottom() -> list[str]:
    return re.findall(
        r"^\| `gan_plugin/(\w+)(?:\.py|/)` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE
    )


def imports(path: Path) -> set[str]:
    """Rooms that a file imports from, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module == "gan_plugin":
            modules = [f"gan_plugin.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        found |= {room_of(module) for module in modules if module.startswith("gan_plugin.")}
    return found - {"__version__"}


def test_a_room_imports_only_from_rooms_above_it() -> None:
    rooms = rooms_from_top_to_bottom()
    files = [
        path
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py") or path.parent != PACKAGE
    ]
    owners = {path: path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in files}
    assert set(owners.values()) == set(rooms)  # every room is on the map
    wrong = {
        f"{path.relative_to(PACKAGE)} imports from {other}"
        for path, room in owners.items()
        for other in imports(path)
        if rooms.index(other) > rooms.index(room)
    }
    assert not wrong


def test_rooms_marked_so_import_no_torch() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    marked = re.findall(r"^\| `gan_plugin/(\w+)[^|]*\|[^|]*\*\*No torch\*\*", text, re.MULTILINE)
    assert set(marked) == {"serving", "flavor", "sampling", "explorer", "datasets", "evaluator"}
    modules = [
        "gan_plugin.serving.requests",
        "gan_plugin.serving.pyfunc",
        "gan_plugin.flavor",
        "gan_plugin.sampling",
        "gan_plugin.explorer",
        "gan_plugin.datasets",
        "gan_plugin.evaluator",
    ]
    code = f"import sys, {', '.join(modules)}; print([m for m in ('torch', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_tables_of_results_are_those_that_their_commands_print(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    assert page.count("<!-- benchmarks/") == page.count("<!-- end -->") >= 5
    copy = tmp_path / "results.md"
    copy.write_text(page, "utf-8")
    subprocess.run([sys.executable, ROOT / "benchmarks" / "write_results.py", copy], check=True)
    assert copy.read_text("utf-8") == page


@pytest.mark.parametrize("class_names", [(), ("cat", "dog")])
def test_the_readmes_program_for_the_file_alone(class_names: tuple[str, ...], tmp_path: Path) -> None:
    """As printed: onnxruntime and numpy make images in a process that imports nothing else."""
    torch.manual_seed(0)
    generator = Generator(8, image_spec(16, 16, 1, class_names))
    export_generator(generator, Description(8, image_spec(16, 16, 1, class_names)), tmp_path / "generator.onnx")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (program,) = [block for block in blocks if "InferenceSession" in block]
    program += (
        "\nimport json, sys\nloaded = [m for m in ('torch', 'mlflow', 'gan_plugin') if m in sys.modules]"
        "\nprint(json.dumps([images.shape, str(images.dtype), loaded]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[16, 16, 16, 1], "uint8", []]
