"""Puts the measured tables into a page: runs each command that a comment of it names, from the project's folder.

    python benchmarks/write_results.py docs/results.md

A table stands between ``<!-- benchmarks/recipes.py table fashion-1- -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

TABLE = re.compile(r"(<!-- (benchmarks/.+?) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with every table as its command prints it now."""
    return TABLE.sub(lambda found: f"{found[1]}\n{printed(found[2])}\n", page)


def printed(command: str) -> str:
    done = subprocess.run([sys.executable, *shlex.split(command)], check=True, capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text("utf-8")), "utf-8")
