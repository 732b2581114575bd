"""Kill trainings with SIGKILL at random moments, let the same command go on, and look whether anything was lost.

    python benchmarks/reliability/kills.py --rounds 200

Each training is killed a few times, at moments drawn evenly from the time that an undisturbed one takes: in its start,
its steps, a checkpoint, an evaluation, an upload, the export, the logging and the registration of the model. After each
kill every file of the run must load. In the end there must be one run, FINISHED, with the curves and the weights of an
undisturbed one, to the bit, and one version of the model.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import onnx
from mlflow import MlflowClient
from safetensors.torch import load_file

from gan_plugin.process import ProcessIdentity
from gan_plugin.storage import DamagedFileError, load_tensors
from gan_plugin.tracking.spool import read_events, read_record

RESULTS = Path(__file__).parents[1] / "results" / "reliability-kills.json"
COMMAND = [Path(sys.executable).parent / "gan-plugin", "train", "--data=digits", "--recipe=dcgan", "--image-size=16"]
COMMAND += ["--batch-size=64", "--epochs=8", "--resume=auto", "--checkpoint-minutes=0.01", "--checkpoint-every=2"]
COMMAND += ["--threads=1"]  # a change of it would change the last bits
MAX_KILLS = 4  # of one training, so that most end


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
        """Return what the run was doing, by what it logged last."""
        (folder, *_) = [*self.folder.glob("outputs/*"), None]
        if folder is None or not (folder / "spool" / "events.jsonl").exists():
            return "start"
        events = [event for event, _ in read_events(folder, 0, 10**6)]
        kinds = [event["kind"] for event in events]
        if "status" in kinds:
            return "end"
        if "model" in kinds:
            return "logging and registration"
        return "export" if events and events[-1].get("values", {}).get("evaluation/share") is not None else "training"

    def damaged(self) -> list[str]:
        """Return the files of the run that do not load."""
        bad = []
        for path in self.folder.glob("outputs/*/*"):
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

    def weights(self) -> dict[str, object]:
        """Return the weights of the run that ended."""
        (folder,) = [path for path in self.folder.glob("outputs/*") if read_record(path).status == "FINISHED"]
        return load_file(folder / "checkpoint.safetensors")


@click.command()
@click.option("--rounds", default=200, show_default=True, help="Kills in all.")
@click.option("--seed", default=0, show_default=True)
def main(rounds: int, seed: int) -> None:
    """Kill trainings at random moments and look whether anything was lost."""
    generator = random.Random(seed)
    problems: list[str] = []
    phases: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        undisturbed = Training(Path(name) / "undisturbed")
        start = time.monotonic()
        if undisturbed.start().wait() != 0:
            raise click.ClickException((undisturbed.folder / "log").read_text())
        duration, expected, weights = time.monotonic() - start, undisturbed.outcome(), undisturbed.weights()
        trainings = 0
        while sum(phases.values()) < rounds:
            trainings += 1
            training = Training(Path(name) / str(trainings))
            problems += kill_some(training, generator, phases, duration=duration)
            if training.outcome() != expected:
                problems.append(f"training {trainings} ended with {training.outcome()}, not {expected}")
                continue
            mine = training.weights()
            if different := [key for key in weights if not weights[key].equal(mine[key])]:  # type: ignore[attr-defined]
                problems.append(f"training {trainings} has other weights: {', '.join(different[:3])}")
            click.echo(f"{sum(phases.values())} kills, {trainings} trainings, {len(problems)} problems")
    result = {"kills": sum(phases.values()), "trainings": trainings, "phases": dict(phases), "problems": problems}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(json.dumps(result, indent=1))
    sys.exit(bool(problems))


def kill_some(
    training: Training, generator: random.Random, phases: collections.Counter[str], *, duration: float
) -> list[str]:
    """Kill a training a few times, then let it end; return what was wrong."""
    problems = []
    for _ in range(generator.randint(1, MAX_KILLS)):
        process = training.start()
        try:
            process.wait(generator.uniform(0, duration))
            break  # it was faster
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        phases[training.phase()] += 1
        problems += training.damaged()
    process = training.start()
    if process.wait() != 0:
        problems.append("the last command failed: " + (training.folder / "log").read_text()[-500:])
    problems += [f"{run_id} is RUNNING, and its process is gone" for run_id in training.untrue()]
    return problems


if __name__ == "__main__":
    main()
