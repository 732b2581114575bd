"""The examples in Python and C, each run as its README says: they make the images of examples/vectors.json.

The first runs in an environment with nothing but what its README installs. The second is compiled with sanitizers, so
that every run also finds memory that is misused or never freed; ONNX Runtime for C is found as its Makefile does.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from generators import as_contract_1, assert_corners, export_corners, with_metadata
from helpers import BIN, PATIENCE_S, ROOT
from PIL import Image
from torch import Tensor, nn

from gan_plugin.export import export_generator
from gan_plugin.seeds import latents
from gan_plugin.serving.description import Description
from gan_plugin.spec import MAX_SEED, image_spec

EXAMPLES = ROOT / "examples"
DIGITS = EXAMPLES / "digits.onnx"
IMAGES: list[dict[str, Any]] = json.loads((EXAMPLES / "vectors.json").read_text("utf-8"))["images"]
Z_VECTORS = ROOT / "tests" / "vectors" / "seeds.json"
CLASS_NAMES = ("tabby cat", 'a "dog" \\ wolf', "Käse", "0")  # the last is the index of the first, too
SANITIZED = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=PATIENCE_S, check=False, **options
    )


def checked(*words: object, **options: Any) -> str:
    done = run(*words, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Program:
    """One of the examples, ready to run, in a folder of its own with the small generator above it."""

    folder: Path
    command: tuple[str, ...]  # as in its README
    environment: dict[str, str]

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        return run(*self.command, *words, cwd=self.folder, env=self.environment)

    def image(self, onnx_file: Path, out: Path, **options: object) -> npt.NDArray[np.uint8]:
        option_words = [
            word
            for name, value in options.items()
            if value is not None
            for word in (f"--{name.replace('_', '-')}", value)
        ]
        done = self.run(onnx_file, *option_words, "--out", out)
        assert done.returncode == 0, done.stderr
        return np.asarray(Image.open(out))

    def refusal(self, *words: object) -> str:
        done = self.run(*words)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        (sentence,) = (line for line in done.stderr.splitlines() if line.startswith(("generate: ", "generate.py: ")))
        assert done.stderr.endswith(f"{sentence}\n")  # before it, Debian's ONNX Runtime speaks of its own affairs
        return sentence


def copy_of(name: str, folder: Path) -> Path:
    """The example in a folder laid out as examples/, for what it builds and writes."""
    shutil.copy(DIGITS, folder)
    return Path(shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("generate")))


def commands_of(readme: Path, first_word: str) -> list[str]:
    return [line for line in readme.read_text("utf-8").splitlines() if line.split(" ")[0] == first_word]


@pytest.fixture(scope="session")
def python_program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = copy_of("python", tmp_path_factory.mktemp("examples"))
    environment = folder.parent / "environment"
    checked(BIN / "uv", "venv", "--quiet", "--python", sys.executable, environment)
    (install,) = commands_of(folder / "README.md", "pip")
    install_words = install.split()[2:]
    checked(BIN / "uv", "pip", "install", "--quiet", "--python", environment / "bin" / "python", *install_words)
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = (str(environment / "bin" / "python"), "generate.py")
    return Program(folder, command, {**variables, "PATH": path})


def c_copy(folder: Path) -> Path:
    known = shutil.which("pkg-config") and run("pkg-config", "--exists", "libonnxruntime").returncode == 0
    if "ORT_HOME" not in os.environ and not known:
        assert os.environ.get("CI") != "true", "ONNX Runtime for C is missing"
        pytest.skip(
            "ONNX Runtime for C is not here: set ORT_HOME to its unpacked release, or install libonnxruntime-dev"
        )
    return copy_of("c", folder)


@pytest.fixture(scope="session")
def c_program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = c_copy(tmp_path_factory.mktemp("examples"))
    checked("make", f"CFLAGS={SANITIZED}", cwd=folder)
    return Program(folder, ("./generate",), dict(os.environ))


@pytest.fixture(params=["python", "c"])
def program(request: pytest.FixtureRequest) -> Program:
    program: Program = request.getfixturevalue(f"{request.param}_program")
    return program


class Colored(nn.Module):
    """RGB images that differ by class, where there are classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(6, 3 * 8 * 8)
        self.classes = nn.Embedding(max(1, classes), 3 * 8 * 8)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x: Tensor = self.project(z) if label is None else self.project(z) + self.classes(label)
        return x.tanh().view(-1, 3, 8, 8)


def export_colored(path: Path, class_names: tuple[str, ...]) -> Path:
    torch.manual_seed(0)
    export_generator(Colored(len(class_names)), Description(6, image_spec(8, 8, 3, class_names=class_names)), path)
    return path


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_colored(tmp_path_factory.mktemp("animals") / "g.onnx", CLASS_NAMES)


@pytest.fixture(scope="session")
def classless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_colored(tmp_path_factory.mktemp("classless") / "g.onnx", ())


def expected(onnx_file: Path, seed: int, label: int | None) -> npt.NDArray[np.uint8]:
    feeds: dict[str, npt.NDArray[Any]] = {"z": latents([seed], 6)}
    if label is not None:
        feeds["label"] = np.array([label], np.int64)
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    image: npt.NDArray[np.uint8] = session.run(["image"], feeds)[0][0]
    return image


def assert_same(image: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> None:
    """At most one gray level apart."""
    assert image.shape == other.shape
    assert np.abs(image.astype(int) - other).max() <= 1


# ---- images ----------------------------------------------------------------------------------------------------------


def request_of(vector: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in vector.items() if name != "image" and value is not None}


@pytest.mark.parametrize("vector", IMAGES, ids=[str(request_of(vector)) for vector in IMAGES])
def test_the_images_of_the_vectors(program: Program, vector: dict[str, Any], tmp_path: Path) -> None:
    image = program.image(DIGITS, tmp_path / "image", **request_of(vector))
    assert_same(image, np.frombuffer(base64.b64decode(vector["image"]), np.uint8).reshape(28, 28))


@pytest.mark.parametrize(
    ("label", "index"), [("tabby cat", 0), (CLASS_NAMES[1], 1), ("Käse", 2), ("2", 2), ("0", 3), (None, 1)]
)
def test_colored_images_of_a_class(
    program: Program, animals: Path, label: str | None, index: int, tmp_path: Path
) -> None:
    """By name, which goes before an index, by index, or by the seed alone."""
    image = program.image(animals, tmp_path / "image", seed=5, label=label)
    assert_same(image, expected(animals, 5, index))


def test_images_that_are_higher_than_wide(program: Program, tmp_path: Path) -> None:
    assert_corners(program.image(export_corners(tmp_path / "corners.onnx"), tmp_path / "image", seed=3))


@pytest.mark.parametrize("contract", [1, 3])
def test_other_versions_of_the_contract(program: Program, animals: Path, contract: int, tmp_path: Path) -> None:
    """Contract 1 lacks keys of contract 2, and a later one may have more."""
    path = tmp_path / "g.onnx"
    if contract == 1:
        as_contract_1(animals, path)
    else:
        with_metadata(animals, path, contract="3", colors="sRGB")
    assert_same(program.image(path, tmp_path / "image", seed=5, label="Käse"), expected(animals, 5, 2))


def test_a_thousand_classes_with_long_names(program: Program, tmp_path: Path) -> None:
    names = tuple(f"{i}_".ljust(200, "x") for i in range(1000))
    path = export_colored(tmp_path / "g.onnx", names)
    image = program.image(path, tmp_path / "image", seed=5, label=names[700])
    assert_same(image, expected(path, 5, 700))
    refused = program.refusal(path, "--seed", 5, "--label", "y" * 300, "--out", tmp_path / "not")
    assert refused.endswith("or its index from 0 to 999.")
    assert len(refused) < 600


def test_a_generator_without_classes(program: Program, classless: Path, tmp_path: Path) -> None:
    assert_same(program.image(classless, tmp_path / "image", seed=5), expected(classless, 5, None))
    refused = program.refusal(classless, "--seed", 5, "--label", 0, "--out", tmp_path / "not")
    assert "this generator was trained without classes: leave out" in refused


# ---- refusals --------------------------------------------------------------------------------------------------------

SEEDS = f"is not possible: give a whole number from 0 to {MAX_SEED}."
REFUSALS = [
    (["--seed", -1], f"seed -1 {SEEDS}"),
    (["--seed", 2**53], f"seed {2**53} {SEEDS}"),
    (["--seed", 10**30], f"seed {10**30} {SEEDS}"),
    (["--seed", 1, "--to-seed", 2**53, "--position", 0.5], f"seed {2**53} {SEEDS}"),
    (["--seed", 1, "--truncation", 0.05], "truncation 0.05 is not possible: give a number of at least 0.1."),
    (["--seed", 1, "--truncation", "inf"], "truncation inf is not possible: give a number of at least 0.1."),
    (["--seed", 1, "--to-seed", 2, "--position", "nan"], "position nan is not possible: give a number from 0 ("),
    (["--seed", 1, "--to-seed", 2, "--position", 1.5], "position 1.5 is not possible: give a number from 0 ("),
    (["--seed", 1, "--to-seed", 2], "position go together: an image between two seeds needs both."),
    (["--seed", 1, "--position", 1], "position go together: an image between two seeds needs both."),
    (["--seed", 1, "--label", "cow"], "there is no class cow: give one of "),
    (["--seed", 1, "--label", 10], "there is no class 10: give one of "),
    (["--seed", 1, "--label", -1], "there is no class -1: give one of "),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSALS, ids=[" ".join(map(str, words)) for words, _ in REFUSALS])
def test_a_request_that_is_not_possible(program: Program, words: list[object], sentence: str, tmp_path: Path) -> None:
    assert sentence in program.refusal(DIGITS, *words, "--out", tmp_path / "image")
    assert not (tmp_path / "image").exists()


def test_files_that_are_no_generators_and_places_that_cannot_be_written(
    program: Program, classless: Path, tmp_path: Path
) -> None:
    request = ("--seed", 1, "--out", tmp_path / "image")
    (tmp_path / "text.onnx").write_text("no model")
    for name in ("missing.onnx", "text.onnx"):
        assert name in program.refusal(tmp_path / name, *request)
    stranger = with_metadata(classless, tmp_path / "stranger.onnx", contract=None)
    assert "is not a generator: its metadata have no gan.contract." in program.refusal(stranger, *request)
    sound = with_metadata(classless, tmp_path / "sound.onnx", contract="3", kind="sound")
    sentence = "makes samples of the kind sound, and this program can write images only."
    assert sentence in program.refusal(sound, *request)
    assert "No such file or directory" in program.refusal(DIGITS, "--seed", 1, "--out", tmp_path / "missing" / "image")


@pytest.mark.parametrize("words", [[], ["--seed", "1"], ["--sede", "1"], ["--seed"], ["--seed", "x", "--out", "p"]])
def test_a_command_line_that_is_not_possible(program: Program, words: list[str]) -> None:
    done = program.run(DIGITS, *words)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("generate")
    assert "Traceback" not in done.stderr


# ---- each by itself --------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
from pathlib import Path
from generate import Generator, latent

vectors = json.loads(Path(sys.argv[1]).read_text())
z = [latent(vector["seed"], vector["latent_size"], vector["truncation"]).tolist() for vector in vectors]
image = Generator(sys.argv[2]).image(5, label=0)
print(json.dumps({"z": z, "image": image.tolist()}))
"""


def test_python_functions_in_another_program(python_program: Program, animals: Path) -> None:
    """The z of the vectors; and a label that is a number is an index, whatever the classes are called."""
    command = (python_program.command[0], "-c", SCRIPT, Z_VECTORS, animals)
    answer = json.loads(checked(*command, cwd=python_program.folder, env=python_program.environment))
    for z, vector in zip(answer["z"], json.loads(Z_VECTORS.read_text()), strict=True):
        np.testing.assert_allclose(z, vector["z"], rtol=0, atol=1e-6)
    assert_same(np.array(answer["image"], np.uint8), expected(animals, 5, 0))


def test_python_needs_nothing_else(python_program: Program) -> None:
    missing = (
        "import importlib.util as u; print([n for n in ('PIL', 'torch', 'mlflow', 'gan_plugin') if u.find_spec(n)])"
    )
    assert checked(python_program.command[0], "-I", "-c", missing) == "[]\n"


def test_the_lines_of_the_python_readme(python_program: Program) -> None:
    lines = commands_of(python_program.folder / "README.md", "python")
    assert len(lines) == 2
    for line in lines:
        checked("bash", "-c", line, cwd=python_program.folder, env=python_program.environment)
        with Image.open(python_program.folder / line.split()[-1]) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (28, 28))


def test_the_lines_of_the_c_readme(tmp_path: Path) -> None:
    """Compiled by make alone, with the warnings that only optimized code gets."""
    folder = c_copy(tmp_path)
    checked("make", cwd=folder)
    lines = commands_of(folder / "README.md", "./generate")
    assert len(lines) == 2
    for line in lines:
        checked("bash", "-c", line, cwd=folder)
        with Image.open(folder / line.split()[-1]) as image:
            assert (image.format, image.mode, image.size) == ("PPM", "L", (28, 28))
