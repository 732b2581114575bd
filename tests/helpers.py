"""Share what tests of several rooms need: a project in an empty folder, a server in front of its model."""

from __future__ import annotations

import importlib.util
import json
import os

# before torch is imported: its threads spin while they wait, and two processes with several each get in their own way
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import Run

from gan_plugin.cli import main
from gan_plugin.errors import UserError

ROOT = Path(__file__).parent.parent


BIN = Path(sys.executable).parent
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")

PATIENCE_S = 600  # for what takes seconds: tests wait for an event, and give up only where it cannot be mere slowness
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # for which MLflow's server starts seven more processes
PORTS = range(20_000, 30_000)  # below those that systems give to whoever asks for any
_ports_taken: list[socket.socket] = []


QUICK = {
    "recipe": "dcgan",
    "image_size": 16,
    "epochs": 2,
    "batch_size": 512,
    "samples_every": 1,
    "checkpoint_every": 1,
    "seed": 3,
    "evaluation_budget": 0.0,
}


# what the fixture short_cas does, in a process of its own
SHORT_CAS = """
from gan_plugin.evaluation import classes, critic, measures
from gan_plugin.features import classifier_training

measures.SUBSETS = 5
critic.VERSION = 0
critic.MIN_STEPS = critic.MAX_STEPS = 10

def train_shortly(*arguments, original=classes.train_classifier, **options):
    usual = classifier_training.MIN_STEPS, classifier_training.EPOCHS
    classifier_training.MIN_STEPS, classifier_training.EPOCHS = 30, 1
    try:
        return original(*arguments, **options)
    finally:
        classifier_training.MIN_STEPS, classifier_training.EPOCHS = usual

classes.train_classifier = train_shortly
"""


@dataclass(frozen=True)
class Project:
    """A folder with the project's MLproject in it and MLflow's default store beside it."""

    folder: Path

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.tracking_uri, self.tracking_uri)

    def environment(self, **variables: str) -> dict[str, str]:
        """A shell in which this installation's commands come first, as after activating its environment."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        path = os.pathsep.join([str(self.folder / "bin"), str(BIN), os.environ["PATH"]])
        return {**kept, "PATH": path, "MLFLOW_TRACKING_URI": self.tracking_uri, **variables}

    def learn_shortly(self) -> None:
        """Let this project's ``gan-plugin`` do what the fixture short_cas does."""
        script = self.folder / "bin" / "gan-plugin"
        script.parent.mkdir()
        script.write_text(f"#!{sys.executable}\n{SHORT_CAS}\nfrom gan_plugin.cli import main\n\nmain()\n")
        script.chmod(0o755)

    def command(self, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words],
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def mlflow_run(self, entry_point: str = "main", **parameters: object) -> subprocess.CompletedProcess[str]:
        arguments = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
        return self.command("mlflow", "run", ".", "-e", entry_point, "--env-manager", "local", *arguments)

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        return list(self.client.search_runs(["0"], order_by=["attributes.start_time DESC"]))


def options(parameters: dict[str, object]) -> list[str]:
    return [word for name, value in parameters.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def refused(command: str, parameters: dict[str, object] | None = None, *words: object) -> str:
    """Return the one sentence with which the command line refuses; in this process, which has imported everything."""
    result = CliRunner().invoke(main, [command, *options(parameters or {}), *map(str, words)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1].removeprefix("Error: ")


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1].removeprefix("Error: ")


@dataclass(frozen=True)
class Trained:
    """What ``mlflow run .`` left behind."""

    project: Project
    run: Run
    runs_made: int
    _: KW_ONLY
    output: str
    model_uri: str = "models:/gan/1"


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    text: str
    _: KW_ONLY
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Server:
    port: int
    log: Path
    pid: int

    def post(self, body: object, content_type: str = "application/json") -> Answer:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}/invocations"
        request = urllib.request.Request(url, data, {"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                status, text, headers = response.status, response.read().decode(), response.headers
        except urllib.error.HTTPError as error:
            status, text, headers = error.code, error.read().decode(), error.headers
        return Answer(status, json.loads(text), text, headers=headers)

    def records(self, *rows: dict[str, object], **params: object) -> Answer:
        return self.post({"dataframe_records": list(rows), **({"params": params} if params else {})})


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[Any] | None = None, log: Path | None = None
) -> None:
    """Wait until ``condition`` holds, while ``process``, which writes into ``log``, goes on."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        output = "" if log is None else log.read_text()
        assert process is None or process.poll() is None, f"the process has ended:\n{output}"
        assert time.monotonic() < deadline, f"nothing after {PATIENCE_S} s:\n{output}"
        time.sleep(0.1)


def free_port() -> int:
    """Return a port of the loopback address that no other process of any tests takes until this one ends.

    The system would give a port that is merely free to somebody else before the server binds it. What keeps it from
    other tests is a UDP socket of the same number.
    """
    for port in PORTS:
        taken = socket.socket(type=socket.SOCK_DGRAM)
        try:
            taken.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            taken.close()
            continue
        _ports_taken.append(taken)
        return port
    raise AssertionError("no port is free")


def stop(process: subprocess.Popen[Any]) -> None:
    """End a server."""
    process.terminate()
    process.wait(PATIENCE_S)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S):
            return True
    except OSError:
        return False


@contextmanager
def serving(
    project: Project, model_uri: str, *, env_manager: str = "local", workers: int = 1, **variables: str
) -> Iterator[Server]:
    """``mlflow models serve`` on a free loopback port, until the block ends."""
    port = free_port()
    log = project.folder / f"server-{port}.log"
    words = ["mlflow", "models", "serve", "-m", model_uri, "--env-manager", env_manager, "--port", str(port)]
    words += ["--workers", str(workers)]
    # MLflow itself would end a request after a minute
    environment = project.environment(**{"MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(PATIENCE_S), **variables})
    with log.open("w") as output:
        process = subprocess.Popen(words, cwd=project.folder, env=environment, stdout=output, stderr=output)
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/ping"), process, log)
            yield Server(port, log, process.pid)
        finally:
            stop(process)


@contextmanager
def tracking(project: Project, *, workers: int = 1) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """``mlflow server`` on the project's store, in a process group of its own, and its URI, until the block ends."""
    port = free_port()
    log, uri = project.folder / "server.log", f"http://127.0.0.1:{port}"
    words = ["mlflow", "server", "--port", str(port), "--workers", str(workers)]
    words += ["--backend-store-uri", project.tracking_uri]
    words += ["--default-artifact-root", str(project.folder / "artifacts")]
    with log.open("w") as output:
        process = subprocess.Popen(
            words,
            cwd=project.folder,
            env=project.environment(**NO_JOBS),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            wait_for(lambda: answers(f"{uri}/health"), process, log)
            yield process, uri
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # also where a test has stopped it
            process.wait(PATIENCE_S)


class FakeTime:
    """Stand in for a module's ``time``: a clock that stands still but for what a test adds to ``now``."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def load_script(path: Path) -> ModuleType:
    """Import a script that lies outside of the package, under its own name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def need_program(program: str) -> None:
    """Skip the test without ``program``, which CI must have."""
    if shutil.which(program) is None:
        assert os.environ.get("CI") != "true", f"{program} is missing"
        pytest.skip(f"{program} is missing: install it to run this test")


def need_root() -> None:
    """Skip the test where this is not the superuser, who alone may mount file systems and become other users."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("this takes the superuser")
