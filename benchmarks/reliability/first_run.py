"""Processes that begin at once in a fresh folder, where MLflow's database is yet to be made, and ones killed there.

    python benchmarks/reliability/first_run.py [--rounds 5] [--processes 8] [--kills 10] [--out FILE]

Each process opens MLflow's default store and makes a run: once as plain MLflow does, once by ``connected()``, as every
job of gan-plugin does. After each round, and after each process that was killed at a random moment of its first
seconds, one more process tries the same: where it fails, the database is broken for good.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results" / "reliability-first_run.json"
CODE = {
    "plain MLflow": "import mlflow; print(flush=True); mlflow.MlflowClient().create_run('0')",
    "gan-plugin": (
        "import mlflow, gan_plugin.connection as c; print(flush=True)\n"
        "with c.connected(): mlflow.MlflowClient().create_run('0')"
    ),
}
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}


def start(way: str, folder: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE[way]],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def succeeds(process: subprocess.Popen[str]) -> bool:
    process.communicate(timeout=600)
    return process.returncode == 0


def start_at_once(way: str, processes: int) -> tuple[int, bool]:
    """Return how many of the processes failed, and whether the database is broken after that."""
    with tempfile.TemporaryDirectory() as folder:
        running = [start(way, folder) for _ in range(processes)]
        failed = [succeeds(process) for process in running].count(False)
        return failed, not succeeds(start(way, folder))


def kill_one(way: str, seconds: float) -> bool:
    """Kill a process so long after its imports; return whether the database is broken after that."""
    with tempfile.TemporaryDirectory() as folder:
        process = start(way, folder)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        process.communicate()
        return not succeeds(start(way, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = {}
    for way in CODE:
        chance = random.Random(arguments.seed)
        rounds = [start_at_once(way, arguments.processes) for _ in range(arguments.rounds)]
        print(f"{way}: failed, and broken after that, by round: {rounds}", flush=True)
        broken_by_kills = [kill_one(way, chance.uniform(0.5, 4)) for _ in range(arguments.kills)]
        results[way] = {
            "processes": arguments.rounds * arguments.processes,
            "failed": sum(failed for failed, _ in rounds),
            "rounds": arguments.rounds,
            "broken for good": sum(broken for _, broken in rounds),
            "killed": arguments.kills,
            "broken for good by the kill": sum(broken_by_kills),
        }
        print(way, *(f"  {key}: {value}" for key, value in results[way].items()), sep="\n", flush=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
