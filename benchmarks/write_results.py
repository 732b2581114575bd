"""Puts the measured tables into a page: runs each command that a comment of it names.

    python benchmarks/write_results.py docs/explanation/results.md

A table stands between ``<!-- benchmarks/recipes.py table fashion-1- -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"(<!-- (benchmarks/.+?) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with every table as its command prints it now."""
    return TABLE.sub(lambda match: f"{match[1]}\n{printed(match[2])}\n", page)


def printed(command: str) -> str:
    words = [sys.executable, *shlex.split(command)]
    done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text("utf-8")), "utf-8")
