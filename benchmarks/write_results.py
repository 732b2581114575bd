"""Put the measured tables into a page: run each command that a comment of it names.

    python benchmarks/write_results.py docs/explanation/results.md

A table stands between ``<!-- benchmarks/recipes.py table fashion-1- -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"(<!-- (benchmarks/.+?) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """Return the page with every table as its command prints it now."""
    return TABLE.sub(lambda match: f"{match[1]}\n{printed(match[2])}\n", page)


def printed(command: str) -> str:
    """Return what a command of a script of this folder prints, run in this process."""
    script, *words = shlex.split(command)
    benchmark = importlib.import_module(Path(script).stem)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        benchmark.main(words, standalone_mode=False)
    return output.getvalue()


if __name__ == "__main__":
    pages = [Path(word).resolve() for word in sys.argv[1:]]
    os.chdir(ROOT)  # where the benchmarks look for their results
    for path in pages:
        path.write_text(filled(path.read_text("utf-8")), "utf-8")
