"""A served generator for the scripts of this folder: ``mlflow models serve`` on the loopback address."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gan_plugin import flavor

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "examples" / "digits.onnx"
RESULTS = ROOT / "benchmarks" / "results"
HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def memory_mib(self) -> float:
        """Return the resident memory of the server's processes, without the command that started them."""
        processes = psutil.Process(self.process.pid).children(recursive=True) or [psutil.Process(self.process.pid)]
        return sum(process.memory_info().rss for process in processes) / 2**20

    def answers(self, timeout: float = 60) -> bool:
        body = json.dumps({"dataframe_records": [{"seed": 0}]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/invocations", body, HEADERS)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def served(onnx_file: Path = DIGITS, wait_s: float = 120, **variables: str) -> Iterator[Served]:
    """Serve a generator on the CPU until the block ends."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flavor.save_model(onnx_file, folder / "model")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder / "model")]
        words += ["--env-manager", "local", "--port", str(port)]
        environment = {**os.environ, "SERVING_MODEL_CONFIG": '{"device": "cpu"}', **variables}
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(words, cwd=folder, env=environment, stdout=output, stderr=output)
        server = Served(port, process, log)
        try:
            until = time.monotonic() + wait_s
            while not server.answers():
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(log.read_text())
                time.sleep(0.2)
            yield server
        finally:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.terminate()
            process.wait()


def write_result(name: str, result: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write ``reliability-NAME.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"reliability-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
