"""The site's reference pages against the package that they describe. ``.ci/run`` builds the site itself."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

DOCS = ROOT / "docs"
PAGES = sorted((DOCS / "reference").glob("*.md"))
BLOCK = re.compile(r"<!-- generated: (.+?) -->")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_generated_tables_are_the_packages_own(page: Path, tmp_path: Path) -> None:
    text = page.read_text("utf-8")
    assert len(BLOCK.findall(text)) == text.count("<!-- end -->") >= 1
    copy = tmp_path / page.name
    copy.write_text(text, "utf-8")
    subprocess.run([sys.executable, DOCS / "generate.py", copy], check=True)
    assert copy.read_text("utf-8") == text, "run: python docs/generate.py"


def test_every_table_is_on_one_page() -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    found = [name for page in PAGES for name in BLOCK.findall(page.read_text("utf-8"))]
    assert sorted(found) == sorted(generate.BLOCKS)
