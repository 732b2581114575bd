"""The map in CONTRIBUTING.md against the code, and the guide's program as it is written there."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from gan_plugin.export import export_generator
from gan_plugin.networks.dcgan import Generator
from gan_plugin.serving.description import Description
from gan_plugin.spec import image_spec

PACKAGE = ROOT / "gan_plugin"
GUIDE = ROOT / "docs" / "how-to" / "other-programs.md"

MAX_FUNCTION, MAX_MODULE = 60, 350  # lines
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_POSITIONAL = 3
FREE_OF_TORCH = [
    "gan_plugin",
    "gan_plugin.connection",
    "gan_plugin.cores",
    "gan_plugin.errors",
    "gan_plugin.launch",
    "gan_plugin.output",
    "gan_plugin.process",
    "gan_plugin.project_backend",
    "gan_plugin.seeds",
    "gan_plugin.signals",
    "gan_plugin.spec",
    "gan_plugin.waiting",
    "gan_plugin.threads",
    "gan_plugin.config.settings",
    "gan_plugin.media.image",
    "gan_plugin.metrics.catalog",
    "gan_plugin.serving.pyfunc",
    "gan_plugin.flavor",
    "gan_plugin.sampling",
    "gan_plugin.projection",
    "gan_plugin.explorer",
    "gan_plugin.datasets",
    "gan_plugin.evaluator",
    "gan_plugin.tracking.tracker",
]
# Words that the project once had for things that the field calls otherwise. Each is a pattern over identifiers in
# lower case; the words' ordinary meanings (a function returns, a fraction is rounded down) are not among them.
PRIVATE_WORDS = (
    r"judg\w*|\w*_judg\w*|game|new_game|play|player|players|teach_\w+|said|heard|told|shown|asked|pictured?|pictures|showable"
    r"|\w*_floor|softness|guessed|code_classes|code_values|crown|rival|remark|undecided_loss|outright|most_\w+|least_(?!squares)\w+|fewest_\w+"
    r"|largest_(?!difference)\w+|smallest_\w+|feed|some|few|each|made|given|found|wanted|whole|pixels_type"
)


def room_of(module: str) -> str:
    return module.split(".")[1]


def rooms_from_top_to_bottom() -> list[str]:
    return re.findall(
        r"^\| `gan_plugin/(\w+)(?:\.py|/)` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE
    )


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    modules: set[str] = set()
    known = {module_name(file) for file in FILES}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= (members & known) or {node.module}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return {module for module in modules if module in known} - {"gan_plugin"}


def test_a_room_imports_only_from_rooms_above_it() -> None:
    rooms = rooms_from_top_to_bottom()
    owners = {path: room_of(module_name(path)) for path in FILES if path.parent != PACKAGE or path.stem[0] != "_"}
    assert set(owners.values()) == set(rooms)  # every room is on the map
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path, room in owners.items()
        for module in imported_modules(path)
        if rooms.index(room_of(module)) > rooms.index(room)
    }
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module_name(path): imported_modules(path) - {module_name(path)} for path in FILES}
    while leaves := [module for module, below in graph.items() if not below & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph


def test_training_and_evaluation_stand_side_by_side() -> None:
    for path in (PACKAGE / "evaluation").glob("*.py"):
        assert "training" not in {room_of(module) for module in imported_modules(path)}


def test_functions_and_modules_are_short() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {path.name: lines for path, lines in lengths.items() if lines > MAX_MODULE} == {}
    functions = {
        f"{path.name}:{node.name}": node.end_lineno - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None
    }
    assert {name: lines for name, lines in functions.items() if lines > MAX_FUNCTION} == {}


def functions_outside_of_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from functions_outside_of_functions(node.body)


CALLED_BY_PYTORCH = ("forward", "backward", "__torch_dispatch__")


def test_further_arguments_are_passed_by_name() -> None:
    many = {}
    for path in [*FILES, *(ROOT / "benchmarks").glob("*.py")]:
        for node in functions_outside_of_functions(ast.parse(path.read_text("utf-8")).body):
            positional = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
            if node.name not in CALLED_BY_PYTORCH and len(positional) > MAX_POSITIONAL:
                many[f"{path.name}:{node.name}"] = positional
    assert many == {}


def test_public_functions_say_what_they_do() -> None:
    """All but those that PyTorch calls, which the docstring of their class describes."""
    silent = [
        f"{path.name}:{node.name}"
        for path in FILES
        for node in functions_outside_of_functions(ast.parse(path.read_text("utf-8")).body)
        if not node.name.startswith("_") and node.name not in CALLED_BY_PYTORCH and not ast.get_docstring(node)
    ]
    assert silent == []


def test_identifiers_are_in_the_fields_words() -> None:
    """Names of functions, classes, arguments, variables and attributes."""
    pattern = re.compile(PRIVATE_WORDS)
    private = set()
    others = (path for folder in ("tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py"))
    for path in [*FILES, *others]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = {
                value
                for value in (getattr(node, "id", None), getattr(node, "arg", None), getattr(node, "name", None))
                if isinstance(value, str)
            }
            private |= {f"{path.relative_to(ROOT)}: {name}" for name in names if pattern.fullmatch(name.lower())}
    assert private == set()


def test_rooms_marked_so_import_no_torch() -> None:
    code = f"import sys, {', '.join(FREE_OF_TORCH)}; print([m for m in ('torch', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    marked = set(re.findall(r"^\| `gan_plugin/(\w+)[^|]*\|[^|]*\*\*No torch\*\*", text, re.MULTILINE))
    assert marked <= {room_of(f"{module}.") for module in FREE_OF_TORCH}


@pytest.mark.parametrize(("name", "tables"), [("results.md", 6), ("validity.md", 1), ("speedrun.md", 8)])
def test_the_tables_of_results_are_those_that_their_commands_print(name: str, tables: int, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "explanation" / name).read_text("utf-8")
    assert page.count("<!-- benchmarks/") == page.count("<!-- end -->") >= tables
    copy = tmp_path / name
    copy.write_text(page, "utf-8")
    subprocess.run([sys.executable, ROOT / "benchmarks" / "write_results.py", copy], check=True)
    assert copy.read_text("utf-8") == page


@pytest.mark.parametrize("class_names", [(), ("cat", "dog")])
def test_the_guides_program_for_the_file_alone(class_names: tuple[str, ...], tmp_path: Path) -> None:
    """As printed: onnxruntime and numpy make images in a process that imports nothing else."""
    torch.manual_seed(0)
    generator = Generator(8, image_spec(16, 16, 1, class_names=class_names))
    export_generator(
        generator, Description(8, image_spec(16, 16, 1, class_names=class_names)), tmp_path / "generator.onnx"
    )
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    (program,) = [block for block in blocks if "InferenceSession" in block]
    program += (
        "\nimport json, sys\nloaded = [m for m in ('torch', 'mlflow', 'gan_plugin') if m in sys.modules]"
        "\nprint(json.dumps([images.shape, str(images.dtype), loaded]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[16, 16, 16, 1], "uint8", []]
