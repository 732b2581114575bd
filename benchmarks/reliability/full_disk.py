"""Train on disks that fill up, make room, and look whether the rest of the work can be done.

    python benchmarks/reliability/full_disk.py

The disks are file systems in memory of different sizes, so that each fills up at another moment: when the run is made,
at a checkpoint, in the log, at the export. MLflow's database lies elsewhere. Whatever happens, no stack trace may be
printed, and every file of the run must load. With room again, ``gan-plugin replay`` or the same command must end with
the model registered. Only root can make such disks. Written: benchmarks/results/reliability-full_disk.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from kills import COMMAND, damaged_files
from mlflow import MlflowClient

RESULTS = Path(__file__).parents[1] / "results" / "reliability-full_disk.json"
SIZES = (64, 256, 700, 1100, 1300, 1800, 2100, 2500, 3000, 4000)  # KiB; a training leaves some 2 MiB
ROOM = "64m"
UNDELIVERED = 75  # the exit status of a training that is done, and not all with MLflow


@contextmanager
def disk(folder: Path, kibibytes: int) -> Iterator[None]:
    """Mount a file system of this size; only root can."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def run(words: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command; return its exit status and all that it printed."""
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def measure(folder: Path, kibibytes: int) -> dict[str, Any]:
    """Train on a disk of this size, make room, and do the rest; returns what happened."""
    store = f"sqlite:///{folder}/mlflow.db"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
    full = folder / "disk"
    train = [*map(str, COMMAND), f"--output-dir={full}/outputs"]
    with disk(full, kibibytes):
        status, text = run(train, environment)
        problems = damaged_files(full)
        subprocess.run(["mount", "-o", f"remount,size={ROOM}", full], check=True)
        after, rest = 0, ""
        if status == UNDELIVERED:
            (run_folder,) = (full / "outputs").iterdir()
            after, rest = run([train[0], "replay", str(run_folder)], environment)
        elif status != 0:
            after, rest = run(train, environment)
        problems += damaged_files(full)
    problems += ["a stack trace"] if "Traceback" in text + rest else []
    problems += [f"the second command ended with {after}: {rest[-300:]}"] if after else []
    versions = len(MlflowClient(store).search_model_versions("name = 'gan'"))
    problems += [f"{versions} versions"] if versions != 1 else []
    message = text.strip().splitlines()[-1].replace(str(full), "DISK")
    return {"KiB": kibibytes, "status": status, "message": message, "problems": problems}


@click.command()
@click.option("--size", "sizes", multiple=True, type=int, help="KiB of a disk; several without it.")
def main(sizes: tuple[int, ...]) -> None:
    """Train on disks that fill up, make room, and do the rest."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        for kibibytes in sizes or SIZES:
            folder = Path(name) / str(kibibytes)
            folder.mkdir()
            results.append(measure(folder, kibibytes))
            click.echo(json.dumps(results[-1]))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(any(result["problems"] for result in results))


if __name__ == "__main__":
    main()
