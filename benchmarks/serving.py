"""``mlflow models serve`` with a generator, beside ONNX Runtime alone and beside a model that does nothing, in one run.

    python benchmarks/serving.py [--onnx examples/digits.onnx] [--device auto] [--seconds 3] [--rounds 5]

Real servers on the loopback address, each with one worker, take turns, and so does ONNX Runtime in a process of its
own, so that a noisy machine disturbs all alike. Printed are medians over the rounds, and ratios within them:

- images/s with 64 images a request, against ONNX Runtime alone with batches of 64 and its default threads; on CUDA with
  the options with which generators are served, and beside it with ONNX Runtime's own, and with larger batches;
- requests/s with one image, against the rate at which each request takes ONNX Runtime's own time and that of the model
  that does nothing, which has the same signature and returns the same answer, ready-made;
- latency, bytes an image, memory, and the time from ``mlflow models serve`` to the first image.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import onnxruntime
import pandas as pd
import psutil

from gan_plugin import flavor
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.options import ServingOptions
from gan_plugin.serving.pyfunc import PyfuncGenerator

HERE = Path(__file__).parent
ROWS = 64
CLIENTS = (1, 16, 64)
BATCHES = {"cpu": (1, ROWS), "cuda": (1, ROWS, 256, 1024)}  # of ONNX Runtime alone
OPTIONS = {"cpu": {"alone": "serving"}, "cuda": {"alone": "serving", "alone, its defaults": "defaults"}}


class Process:
    """A worker that answers each line of JSON with another one."""

    def __init__(self, *words: str | Path) -> None:
        command = [sys.executable, *(str(word) for word in words)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, task: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with status {self.process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


class Server:
    """``mlflow models serve`` of a model's folder, ready."""

    def __init__(self, model: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        words = [
            "-m",
            "mlflow",
            "models",
            "serve",
            "-m",
            str(model),
            "--env-manager",
            "local",
            "--port",
            str(self.port),
        ]
        start = time.monotonic()
        with log.open("w") as output:
            self.process = subprocess.Popen([sys.executable, *words], cwd=model.parent, stdout=output, stderr=output)
        while not self.answers():
            if self.process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.05)
        self.seconds_to_first_image = time.monotonic() - start

    def answers(self) -> bool:
        body = json.dumps({"dataframe_records": [{"seed": 0}]}).encode()
        url = f"http://127.0.0.1:{self.port}/invocations"
        try:
            urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=60)
        except OSError:
            return False
        return True

    def memory_mib(self) -> float:
        """Return the proportional set size of the server that MLflow's command has started, without that command."""
        servers = psutil.Process(self.process.pid).children(recursive=True)
        return sum(server.memory_full_info().pss for server in servers) / 2**20

    def end(self) -> None:
        for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
            process.terminate()
        self.process.wait()


class Idle(mlflow.pyfunc.PythonModel):
    """Answer every request with the same stored answer."""

    def load_context(self, context: Any) -> None:
        self.answer = json.loads(Path(context.artifacts["answer"]).read_text())

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow would read hints
        return self.answer


def save_idle(folder: Path, generator: OnnxGenerator) -> Path:
    answer = PyfuncGenerator(generator, 1).predict(pd.DataFrame({"seed": [0]}))
    (folder / "answer.json").write_text(json.dumps(answer.to_dict("records")))
    path = folder / "idle"
    mlflow.pyfunc.save_model(
        path,
        python_model=Idle(),
        artifacts={"answer": str(folder / "answer.json")},
        signature=flavor.signature(),
        pip_requirements=[],
    )
    return path


def save_generator(folder: Path, name: str, *, onnx_file: Path, options: ServingOptions) -> Path:
    flavor.save_model(onnx_file, folder / name, options=options)
    return folder / name


def percentile(latencies: list[float], share: float) -> float:
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Measurements:
    """Measured values by name, one per round."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def ratio(self, name: str, reference: Callable[[dict[str, float]], float]) -> float:
        """Return the median over the rounds of a value divided by ``reference`` of the values of the same round."""
        rounds = [dict(zip(self.values, row)) for row in zip(*self.values.values())]
        return statistics.median(row[name] / reference(row) for row in rounds)


def one_round(
    measurements: Measurements,
    *,
    client: Process,
    alone: dict[str, Process],
    servers: dict[str, Server],
    seconds: float,
    batches: tuple[int, ...],
) -> None:
    for batch in batches:
        for name, worker in alone.items():
            measurements.add(f"{name}, batch {batch}", worker.ask({"batch": batch, "seconds": seconds})["images_s"])
    for name, server in servers.items():
        for clients in CLIENTS:
            task = {"port": server.port, "clients": clients, "seconds": seconds, "rows": [{"seed": 7}], "params": {}}
            answer = client.ask(task)
            measurements.add(f"{name}, {clients} clients", len(answer["latencies"]) / answer["seconds"])
            for share in (0.5, 0.99):
                measurements.add(
                    f"{name}, {clients} clients, p{share * 100:.0f}", 1e3 * percentile(answer["latencies"], share)
                )
        if name == "idle":
            continue
        rows = [{"seed": seed} for seed in range(ROWS)]
        answer = client.ask({"port": server.port, "clients": 2, "seconds": seconds, "rows": rows, "params": {}})
        measurements.add(f"{name}, {ROWS} a request", ROWS * len(answer["latencies"]) / answer["seconds"])


def bytes_per_image(client: Process, port: int) -> dict[str, float]:
    rows = [{"seed": seed} for seed in range(ROWS)]
    task = {"port": port, "clients": 1, "seconds": 0.2, "rows": rows}
    return {kind: client.ask({**task, "params": {"format": kind}})["bytes"] / ROWS for kind in ("png", "webp", "array")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, default=HERE.parent / "examples" / "digits.onnx")
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    generator = OnnxGenerator(options.onnx, device=options.device)
    device = "cuda" if generator.provider.startswith("CUDA") else "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {
            "idle": save_idle(folder, generator),
            "one by one": save_generator(
                folder, "plain", onnx_file=options.onnx, options=ServingOptions(device, batching="off")
            ),
            "batched": save_generator(
                folder, "batched", onnx_file=options.onnx, options=ServingOptions(device, batching="on")
            ),
        }
        servers = {name: Server(model, folder / f"{model.name}.log") for name, model in models.items()}
        client = Process(HERE / "load_client.py")
        worker = HERE / "onnxruntime_worker.py"
        alone = {name: Process(worker, options.onnx, device, whose) for name, whose in OPTIONS[device].items()}
        measured = functools.partial(one_round, client=client, alone=alone, servers=servers, batches=BATCHES[device])
        try:
            measurements = Measurements()
            measured(Measurements(), seconds=min(1, options.seconds))  # to warm up
            for _ in range(options.rounds):
                measured(measurements, seconds=options.seconds)
            sizes = bytes_per_image(client, servers["one by one"].port)
            print_tables(measurements, generator=generator, options=options, servers=servers, sizes=sizes)
        finally:
            for process in (client, *alone.values(), *servers.values()):
                process.end()


def print_tables(
    measurements: Measurements,
    *,
    generator: OnnxGenerator,
    options: argparse.Namespace,
    servers: dict[str, Server],
    sizes: dict[str, float],
) -> None:
    description = generator.description
    print(f"{options.onnx.name}: {description.recipe}, {description.spec}, ", end="")
    print(f"{options.onnx.stat().st_size / 2**20:.1f} MiB; {generator.provider}, {os.cpu_count()} cores, ", end="")
    print(f"{platform.machine()}; onnxruntime {onnxruntime.__version__}, mlflow {mlflow.__version__}; ", end="")
    print(f"medians of {options.rounds} rounds of {options.seconds:g} s")
    print(f"\n{'images/s':34}{'':>10}{'ratio to ONNX Runtime alone':>30}")
    reference = f"alone, batch {ROWS}"
    by_itself = [name for name in measurements.values if name.startswith("alone") and name != "alone, batch 1"]
    for name in (*by_itself, f"one by one, {ROWS} a request", f"batched, {ROWS} a request"):
        print(
            f"{name:34}{measurements.median(name):10,.0f}{measurements.ratio(name, lambda row: row[reference]):30.2f}"
        )
    print(f"\n{'requests/s, one image':34}{'':>10}{'p50, ms':>10}{'p99, ms':>10}{'ratio to what is left':>24}")
    for name in servers:
        for clients in CLIENTS:
            key = f"{name}, {clients} clients"
            line = f"{key:34}{measurements.median(key):10,.0f}"
            line += f"{measurements.median(key + ', p50'):10.1f}{measurements.median(key + ', p99'):10.1f}"
            if name != "idle":
                line += f"{measurements.ratio(key, expected_rate(clients)):24.2f}"
            print(line)
    print()
    for name, server in servers.items():
        print(f"{name}: {server.seconds_to_first_image:.1f} s to the first answer, {server.memory_mib():,.0f} MiB")
    print("bytes an image in the answer: " + ", ".join(f"{kind} {size:,.0f}" for kind, size in sizes.items()))


def expected_rate(clients: int) -> Callable[[dict[str, float]], float]:
    """Return requests/s if each took the time of the model that does nothing and that of ONNX Runtime for its image."""
    return lambda row: 1 / (1 / row[f"idle, {clients} clients"] + 1 / row["alone, batch 1"])


if __name__ == "__main__":
    main()
