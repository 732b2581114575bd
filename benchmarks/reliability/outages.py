"""Train behind a tracking server on bad days: what it costs, and what is lost.

    python benchmarks/reliability/outages.py --epochs 20
    python benchmarks/reliability/outages.py --only "frozen for good" --only "flapping every 5 s"

A proxy stands between the training and a real ``mlflow server``, and behaves as the scenario says. After the training
what was not delivered is replayed, when the proxy does nothing. Then every value, image and file must be there
exactly once, with one version of the model. Beside each training, an undisturbed one runs at the same time, with a
thread and a server of its own, so that the machine's other work slows down both.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from mlflow import MlflowClient
from proxy import Mode, Proxy

from gan_plugin.tracking.spool import Event, read_events

RESULTS = Path(__file__).parents[1] / "results" / "reliability-outages.json"
BIN = Path(sys.executable).parent
BEGINNING_S = 20.0  # in which the training starts

# what the proxy does, by the seconds since the training began
SCENARIOS: dict[str, Callable[[float], Mode]] = {
    "dead from the start": lambda second: "refuse",
    "frozen for good": lambda second: "pass" if second < BEGINNING_S else "freeze",
    "gone for good": lambda second: "pass" if second < BEGINNING_S else "refuse",
    "away for a minute": lambda second: "refuse" if BEGINNING_S < second < BEGINNING_S + 60 else "pass",
    "flapping every 5 s": lambda second: "refuse" if second > BEGINNING_S and second % 10 < 5 else "pass",
    "every other request fails": lambda second: "500",
}


@contextmanager
def tracking_server(folder: Path) -> Iterator[int]:
    """Run a real server with a store of its own; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    words = [BIN / "mlflow", "server", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/artifacts"]
    variables = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven more processes
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(words, cwd=folder, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def measure(scenario: str, epochs: int, folder: Path) -> dict[str, Any]:
    """Train in a scenario, and undisturbed at the same time; return what happened, and how their epochs compare."""
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(train, lambda second: "pass", epochs, folder / "undisturbed")
        disturbed, undisturbed = train(SCENARIOS[scenario], epochs, folder / "disturbed"), beside.result()
    ratios = [mine / other for mine, other in zip(disturbed["epochs s"], undisturbed["epochs s"])]
    lost = disturbed["lost or twice"] + undisturbed["lost or twice"]
    return {"scenario": scenario, **disturbed, "time of an epoch": statistics.median(ratios), "lost or twice": lost}


def train(mode_at: Callable[[float], Mode], epochs: int, folder: Path) -> dict[str, Any]:
    """Train behind a proxy, replay what is left, and compare what arrived with what was logged."""
    folder.mkdir(parents=True)
    with tracking_server(folder) as port:
        proxy = Proxy(port)
        proxy.follow(mode_at)
        words = [BIN / "gan-plugin", "train", "--data=digits", "--recipe=dcgan", "--image-size=16"]
        words += [f"--epochs={epochs}", "--threads=1", "--evaluation-budget=0"]  # evaluations are given by the clock
        start = time.monotonic()
        with (folder / "log").open("w") as log:
            status = subprocess.run(
                words, cwd=folder, env=environment(proxy.uri), stdout=log, stderr=log, check=False
            ).returncode
        took = time.monotonic() - start
        proxy.follow(lambda second: "pass")
        (run_folder,) = (folder / "outputs").iterdir()
        replayed = subprocess.run(
            [BIN / "gan-plugin", "replay", run_folder],
            cwd=folder,
            env=environment(proxy.uri),
            capture_output=True,
            text=True,
            check=False,
        )
        events = [event for event, _ in read_events(run_folder, 0, 10**7)]
        times = times_of(events)
        proxy.close()
        server = MlflowClient(f"http://127.0.0.1:{port}")
        lost = missing(server, events) if replayed.returncode == 0 else [replayed.stderr]
    return {"status": status, "seconds": took, **times, "lost or twice": lost}


def environment(uri: str) -> dict[str, str]:
    """Return the variables of a process that logs to a server."""
    return {**os.environ, "MLFLOW_TRACKING_URI": uri}


def times_of(events: list[Event]) -> dict[str, Any]:
    """Return the seconds of each epoch but the first, and those from the last to the exported file."""
    ends = [event["time"] / 1000 for event in events if "epoch" in event.get("values", {})]
    exported = next(event["time"] / 1000 for event in events if event["kind"] == "model")
    return {
        "epochs s": [round(after - before, 3) for before, after in itertools.pairwise(ends)],
        "export after s": round(exported - ends[-1], 1),
    }


def missing(client: MlflowClient, events: list[Event]) -> list[str]:
    """Return what was logged and is not with the server exactly once."""
    runs = [run for experiment in client.search_experiments() for run in client.search_runs([experiment.experiment_id])]
    if len(runs) != 1:
        return [f"{len(runs)} runs"]
    run_id, problems = runs[0].info.run_id, []
    logged: dict[str, list[tuple[int, int, float]]] = {}
    for event in events:
        if event["kind"] == "metrics":
            for name, value in event["values"].items():
                logged.setdefault(name, []).append((event["step"], event["time"], value))
    for name, values in logged.items():
        arrived = [(metric.step, metric.timestamp, metric.value) for metric in client.get_metric_history(run_id, name)]
        if sorted(arrived) != sorted(values):
            problems.append(f"{name}: {len(arrived)} values of {len(values)}")
    images = [event for event in events if event["kind"] == "image"]
    if len(client.list_artifacts(run_id, "images")) != 2 * len(images):  # each with a thumbnail
        problems.append("images")
    files = {event["folder"] for event in events if event["kind"] == "file"}
    problems += [folder for folder in files if len(client.list_artifacts(run_id, folder)) != 1]
    if len(client.search_model_versions("name = 'gan'")) != 1:
        problems.append("versions")
    if runs[0].info.status != "FINISHED":
        problems.append(runs[0].info.status)
    return problems


@click.command()
@click.option("--epochs", default=20, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(SCENARIOS)), help="Scenarios; all without it.")
def main(epochs: int, only: tuple[str, ...]) -> None:
    """Train behind a tracking server on bad days."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        for number, scenario in enumerate(only or SCENARIOS):
            result = measure(scenario, epochs, Path(name) / str(number))
            results.append(result)
            click.echo(json.dumps({name: value for name, value in result.items() if name != "epochs s"}))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(any(result["lost or twice"] for result in results))


if __name__ == "__main__":
    main()
