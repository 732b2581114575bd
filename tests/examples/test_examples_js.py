"""The examples in JavaScript, each run as its README says, and the explorer's page with a generator in it."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import onnx
import pytest
from helpers import ROOT, refusal

from gan_plugin.explorer import write_page

DIGITS = ROOT / "examples" / "digits.onnx"
PAGE = ROOT / "gan_plugin" / "explorer" / "explorer.html"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


def need(program: str) -> None:
    """Skip without ``program``; where CI runs, everything is to be there."""
    if shutil.which(program) is None:
        assert os.environ.get("CI") != "true", f"{program} is missing"
        pytest.skip(f"{program} is missing: install it to test the examples in JavaScript")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the examples use of this project, as a fresh clone has it."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(ROOT / "tests" / "vectors", tmp_path / "tests" / "vectors")
    shutil.copytree(PAGE.parent, tmp_path / "gan_plugin" / "explorer")
    return tmp_path


@pytest.mark.parametrize(("example", "programs"), [("node", ["npm"]), ("web", ["npm", CHROMIUM])])
def test_an_example_passes_its_own_tests(example: str, programs: list[str], checkout: Path) -> None:
    """Those of the page include that the built page is what its sources make."""
    for program in programs:
        need(program)
    for words in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "test"]):
        done = subprocess.run(
            words, cwd=checkout / "examples" / example, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_with_a_generator_in_it(tmp_path: Path) -> None:
    """It differs from the page without one by the file's bytes, at the place where the page looks for them."""
    write_page(DIGITS, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    before, after = page.split('id="model">')
    model, after = after.split("<", 1)
    assert base64.b64decode(model) == DIGITS.read_bytes()
    assert f'{before}id="model"><{after}' == PAGE.read_text("utf-8")


def test_no_page_is_made_of_what_is_no_generator(tmp_path: Path) -> None:
    text, foreign, out = tmp_path / "text.onnx", tmp_path / "foreign.onnx", tmp_path / "page.html"
    text.write_text("no model", "utf-8")
    model = onnx.load(DIGITS)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    assert refusal(lambda: write_page(text, out)).startswith(f"onnx='{text}' cannot be opened: ")
    assert refusal(lambda: write_page(foreign, out)).startswith("This ONNX file is not a generator of gan_plugin: ")
    assert not out.exists()
    within = tmp_path / "nowhere" / "page.html"
    assert (
        refusal(lambda: write_page(DIGITS, within)) == f"out='{within}' cannot be written: No such file or directory."
    )


def test_no_file_of_the_examples_names_a_registry() -> None:
    """A lock file that names the registry of whoever wrote it would send everybody there."""
    for example in ("node", "web"):
        assert '"resolved"' not in (ROOT / "examples" / example / "package-lock.json").read_text("utf-8")
