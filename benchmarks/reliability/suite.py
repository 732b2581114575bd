"""Run the whole suite several times beside processes that keep the machine busy, and print what failed.

A test that depends on the machine's speed passes on an idle one and fails on somebody else's. Run it in an environment
with the extra ``test``; options after ``--`` go to pytest:

    python benchmarks/reliability/suite.py --runs 5 --busy 1
    python benchmarks/reliability/suite.py --busy 8 -- tests/serving
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from busy import busy

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "reliability-suite.json"
OUTCOMES = ("failure", "error", "skipped")


def run_suite(words: list[str]) -> dict[str, object]:
    """Run pytest once; returns its seconds, how many tests there were, and the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *words], cwd=ROOT, check=False
        )
        seconds = time.monotonic() - start
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    names: dict[str, list[str]] = {outcome: [] for outcome in OUTCOMES}
    for case in cases:
        for outcome in OUTCOMES:
            if case.find(outcome) is not None:
                names[outcome].append(f"{case.get('classname')}::{case.get('name')}")
    return {
        "exit_status": done.returncode,
        "seconds": round(seconds),
        "tests": len(cases),
        "skipped": len(names["skipped"]),
        "failed": sorted(names["failure"] + names["error"]),
    }


def main() -> int:
    """Run the command line; the exit status is 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="how often the suite runs (default: 5)")
    parser.add_argument("--busy", type=int, default=1, help="processes that spin beside it (default: 1)")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file for the results")
    parser.add_argument("pytest", nargs="*", help="options and files for pytest, after --")
    arguments = parser.parse_args()
    runs = []
    for _ in range(arguments.runs):
        with busy(arguments.busy):
            runs.append(run_suite(arguments.pytest))
    print("| run | seconds | tests | skipped | failed |\n|---|---|---|---|---|")
    for i, run in enumerate(runs, 1):
        failed = "; ".join(run["failed"]) or (
            "none" if run["exit_status"] == 0 else f"exit status {run['exit_status']}"
        )
        print(f"| {i} | {run['seconds']} | {run['tests']} | {run['skipped']} | {failed} |")
    about = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    arguments.out.write_text(
        json.dumps({**about, "busy": arguments.busy, "pytest": arguments.pytest, "runs": runs}, indent=1) + "\n",
        "utf-8",
    )
    return int(any(run["exit_status"] != 0 for run in runs))


if __name__ == "__main__":
    sys.exit(main())
