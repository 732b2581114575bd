"""Kill trainings with SIGKILL at random moments, let the same command go on, and look whether anything was lost.

    python benchmarks/reliability/kills.py --rounds 200

Each training is killed a few times, at moments drawn evenly from the time that an undisturbed one takes: in its start,
its steps, a checkpoint, an evaluation, an upload, the export, the logging and the registration of the model. After each
kill every file of the run must load. In the end there must be one run, FINISHED, with the curves and the weights of an
undisturbed one, to the bit, and one version of the model.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import onnx
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from torch import Tensor

from gan_plugin.process import ProcessIdentity
from gan_plugin.storage import DamagedFileError, load_tensors
from gan_plugin.tracking.spool import read_events, read_record

RESULTS = Path(__file__).parents[1] / "results" / "reliability-kills.json"
COMMAND = [Path(sys.executable).parent / "gan-plugin", "train", "--data=digits", "--recipe=dcgan", "--image-size=16"]
COMMAND += ["--family=r3gan", "--width=16", "--blocks=1", "--batch-size=64", "--epochs=4", "--resume=auto"]
COMMAND += ["--checkpoint-minutes=0.01", "--checkpoint-every=2"]
COMMAND += ["--threads=1"]  # a change of it would change the last bits
COMMAND += ["--evaluation-budget=0.99"]  # after each epoch, or the best generator would depend on the machine's speed
MAX_KILLS = 8  # of one training


class Training:
    """A folder with a store of its own, in which the command is given again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, f"sqlite:///{folder}/mlflow.db"
        folder.mkdir(parents=True)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command."""
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.store, "PYTHONUNBUFFERED": "1"}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(COMMAND, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def phase(self) -> str:
        """Return what the run was doing, by what it has written."""
        (folder, *_) = [*self.folder.glob("outputs/*"), None]
        if folder is None or not (folder / "spool" / "events.jsonl").exists():
            return "start"
        if [*folder.glob("*.partial"), *folder.glob("*.new"), *folder.glob("*.link")]:
            return "while a file was written"
        events = [event for event, _ in read_events(folder, 0, 10**6)]
        values = [event.get("values", {}) for event in events]
        since = max(number for number, event in enumerate(events) if event.get("status") == "RUNNING")
        if "status" in (event["kind"] for event in events[since + 1 :]):
            record = read_record(folder)
            return "end" if record.status == "FINISHED" and record.delivered else "logging and registration"
        if any("evaluation/share" in entry for entry in values[since:]):
            return "export"
        return "training" if any("epoch" in entry for entry in values) else "getting ready"

    def untrue(self) -> list[str]:
        """Return the runs that are RUNNING though their process is gone."""
        client = MlflowClient(self.store)
        running = client.search_runs(["0"], "attributes.status = 'RUNNING'")
        processes = {
            run.info.run_id: ProcessIdentity.from_json(run.data.tags.get("gan.process", "")) for run in running
        }
        return [run_id for run_id, process in processes.items() if process is None or process.is_dead()]

    def outcome(self) -> dict[str, object]:
        """Return what must be the same as for an undisturbed training, weights apart."""
        client = MlflowClient(self.store)
        runs = client.search_runs(["0"], "attributes.status = 'FINISHED'")
        epochs = sorted(
            {metric.value for run in runs for metric in client.get_metric_history(run.info.run_id, "epoch")}
        )
        versions = client.search_model_versions("name = 'gan'")
        return {"finished": len(runs), "epochs": epochs, "versions": len(versions)}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the run that ended."""
        (folder,) = [path for path in self.folder.glob("outputs/*") if read_record(path).status == "FINISHED"]
        return load_file(folder / "checkpoint.safetensors")


@click.command()
@click.option("--rounds", default=200, show_default=True, help="Kills in all, at least.")
@click.option("--seed", default=0, show_default=True)
@click.option("--jobs", default=2, show_default=True, help="Trainings at a time.")
def main(rounds: int, seed: int, jobs: int) -> None:
    """Kill trainings at random moments and look whether anything was lost."""
    problems: list[str] = []
    phases: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        undisturbed = Training(Path(name) / "undisturbed")
        start = time.monotonic()
        if undisturbed.start().wait() != 0:
            raise click.ClickException((undisturbed.folder / "log").read_text())
        duration, expected, weights = time.monotonic() - start, undisturbed.outcome(), undisturbed.weights()
        numbers = itertools.count(1)

        def work() -> None:
            while phases.total() < rounds:
                number = next(numbers)
                training = Training(Path(name) / str(number))
                killed, wrong = kill_some(training, random.Random(f"{seed}-{number}"), duration=duration)
                if training.outcome() != expected:
                    wrong.append(f"it ended with {training.outcome()}, not {expected}")
                elif different := different_weights(weights, training.weights()):
                    wrong.append(f"it has other weights: {', '.join(different[:3])}")
                phases.update(killed)
                problems.extend(f"training {number}, killed in {', '.join(killed)}: {problem}" for problem in wrong)
                click.echo(f"{phases.total()} kills, {number} trainings, {len(problems)} problems")
                if wrong:
                    click.echo("\n".join(wrong) + "\n" + (training.folder / "log").read_text())
                else:
                    shutil.rmtree(training.folder)

        with ThreadPoolExecutor(jobs) as pool:
            for future in [pool.submit(work) for _ in range(jobs)]:
                future.result()
        trainings = next(numbers) - 1
    result = {"kills": phases.total(), "trainings": trainings, "phases": dict(phases), "problems": problems}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(json.dumps(result, indent=1))
    sys.exit(bool(problems))


def kill_some(training: Training, generator: random.Random, *, duration: float) -> tuple[list[str], list[str]]:
    """Kill a training a few times, then let it end; return in which phases, and what was wrong."""
    phases, problems = list[str](), list[str]()
    for _ in range(generator.randint(1, MAX_KILLS)):
        process = training.start()
        try:
            status = process.wait(generator.uniform(0, duration))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            phases.append(training.phase())
            problems += damaged_files(training.folder)
            if phases[-1] == "end":  # the same command would begin another training
                break
        else:
            break  # it was faster
    else:
        status = training.start().wait()
    if phases[-1:] != ["end"] and status != 0:
        problems.append(f"the last command failed with status {status}")
    problems += [f"{run_id} is RUNNING, and its process is gone" for run_id in training.untrue()]
    return phases, problems


def damaged_files(folder: Path) -> list[str]:
    """Return the files of the runs in a folder that do not load."""
    bad = []
    for path in folder.glob("outputs/*/*"):
        try:
            if path.suffix == ".safetensors":
                load_tensors(path)
            elif path.suffix == ".json":
                read_record(path.parent)
            elif path.suffix == ".onnx":
                onnx.load(path)
        except (DamagedFileError, ValueError, OSError) as error:
            bad.append(f"{path.name}: {error}")
    return bad


def different_weights(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> list[str]:
    """Return the names of what differs between two checkpoints."""
    return sorted(name for name in expected | actual if not same(expected.get(name), actual.get(name)))


def same(one: Tensor | None, other: Tensor | None) -> bool:
    """Return whether two tensors are there and equal to the bit."""
    return one is not None and other is not None and one.dtype == other.dtype and bool(torch.equal(one, other))


if __name__ == "__main__":
    main()
