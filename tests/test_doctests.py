"""The examples in docstrings, of the package and of the script that writes the reference pages."""

from __future__ import annotations

import doctest
import importlib

import pytest
from helpers import ROOT, load_script

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "gan_plugin").rglob("*.py")
    if ">>> " in path.read_text("utf-8") and path.stem != "__init__"
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_show_what_happens(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


def test_examples_of_the_pages_script() -> None:
    results = doctest.testmod(load_script(ROOT / "docs" / "generate.py"))
    assert (results.failed, results.attempted > 0) == (0, True)
