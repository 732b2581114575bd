"""Images/s of the training step on cores that other programs use, too: torch's own threads beside the tuned ones.

    python benchmarks/reliability/sharing.py [--rounds 5] [--seconds 4] [--recipe dcgan] [--situations alone "1 busy"]

In each situation two fresh processes train in turns, one with torch's threads and one with those that gan_plugin
chooses, so that a noisy machine disturbs both alike. The load is processes that do nothing but compute. For the quota
they join a control group of their own, which only root can make. Written: benchmarks/results/reliability-sharing.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from busy import busy

from gan_plugin.cores import VARIABLES, control_groups, cores

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "reliability-sharing.json"
KINDS = ("torch", "gan_plugin")
PERIOD_US = 100_000


class Situation(NamedTuple):
    """A load.

    Attributes:
        busy: processes that compute beside the training.
        batch_size: of the training.
        quota: of its control group, in cores; None for no group.
        arrives: whether the load comes when training is under way.
    """

    busy: int
    batch_size: int = 64
    quota: float | None = None
    arrives: bool = False


SITUATIONS = {
    "alone": Situation(0),
    "1 busy": Situation(1),
    "1 busy, arriving": Situation(1, arrives=True),
    "2 busy": Situation(2),
    "18 busy": Situation(18, batch_size=16),
    "quota of 1 core": Situation(0, quota=1.0),
}


class Worker:
    """A training process: a line with seconds goes in, images/s come out."""

    def __init__(self, kind: str, recipe: str, *, batch_size: int, group: Path | None) -> None:
        words = [sys.executable, HERE / "sharing_worker.py", kind, recipe, batch_size]
        command = f"exec {shlex.join(map(str, words))}"
        if group is not None:  # before torch counts the cores
            command = f"echo $$ > {shlex.quote(str(group / 'cgroup.procs'))} && {command}"
        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        self.process = subprocess.Popen(
            ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )
        self.rates, self.threads = list[float](), list[int]()
        self.version = self.answer()

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with status {self.process.wait()}")
        return line.strip()

    def run(self, seconds: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        rate, threads = self.answer().split()
        self.rates.append(float(rate))
        self.threads.append(int(threads))


@contextlib.contextmanager
def control_group(quota: float | None) -> Iterator[Path | None]:
    """Make a control group with a quota below this process's own; None without a quota.

    Raises:
        OSError: that is not possible here.
    """
    if quota is None:
        yield None
        return
    parent = next(control_groups(), None)
    if parent is None:
        raise OSError("there are no control groups")
    group = parent / f"sharing-{os.getpid()}"
    group.mkdir()
    try:
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(int(quota * PERIOD_US)))
        else:
            (group / "cpu.max").write_text(f"{int(quota * PERIOD_US)} {PERIOD_US}")
        yield group
    finally:
        group.rmdir()


def measure(situation: Situation, options: argparse.Namespace) -> dict[str, Worker]:
    """Train in one situation, in turns; returns the workers with what they measured."""
    with control_group(situation.quota) as group:
        workers = {kind: Worker(kind, options.recipe, batch_size=situation.batch_size, group=group) for kind in KINDS}
        try:
            if situation.arrives:
                for worker in workers.values():
                    worker.run(options.seconds)
                    worker.rates.clear()
                    worker.threads.clear()
            with busy(situation.busy):
                for _ in range(options.rounds):
                    for worker in workers.values():
                        worker.run(options.seconds)
        finally:
            for worker in workers.values():
                assert worker.process.stdin is not None
                worker.process.stdin.close()
                worker.process.wait()
    return workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn; a turn has at least one cycle of steps")
    parser.add_argument("--recipe", default="dcgan")
    parser.add_argument("--situations", nargs="+", default=list(SITUATIONS), choices=SITUATIONS)
    options = parser.parse_args()

    print(f"{platform.machine()}, {cores()} cores, recipe {options.recipe}, ", end="")
    print(f"median images/s of {options.rounds} turns of {options.seconds:g} s", flush=True)
    print(f"{'':20}{'batch':>6}{'torch':>10}{'gan_plugin':>12}{'ratio':>8}  threads of gan_plugin", flush=True)
    results = {}
    for name in options.situations:
        situation = SITUATIONS[name]
        try:
            workers = measure(situation, options)
        except OSError as error:
            print(f"{name:20}left out: {error}", flush=True)
            continue
        before, after = (workers[kind] for kind in KINDS)
        ratio = statistics.median(ours / torchs for ours, torchs in zip(after.rates, before.rates))
        medians = [statistics.median(worker.rates) for worker in (before, after)]
        print(f"{name:20}{situation.batch_size:6}{medians[0]:10.4g}{medians[1]:12.4g}{ratio:8.2f}  ", end="")
        print(" ".join(map(str, after.threads)), flush=True)
        results[name] = {"batch_size": situation.batch_size, "ratio": ratio, "version": after.version} | {
            kind: {"images_per_s": worker.rates, "threads": worker.threads} for kind, worker in workers.items()
        }
    RESULTS.write_text(json.dumps({"cores": cores(), "recipe": options.recipe, "situations": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
