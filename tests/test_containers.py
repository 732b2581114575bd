"""docker/ without an engine: its install line, its commands and its settings, run as they are written there.

docker/README.md lists what only an engine or a GPU can show.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from helpers import BIN, NO_JOBS, PATIENCE_S, ROOT, Server, free_port, wait_for
from PIL import Image
from torch.distributed.run import get_args_parser

from gan_plugin import cli, flavor
from gan_plugin.config.parsing import parse_training
from gan_plugin.export import export_generator
from gan_plugin.networks.dcgan import Generator
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.spec import image_spec

DOCKER = ROOT / "docker"
GUIDE = ROOT / "docs" / "how-to" / "containers.md"
SERVICES: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))["services"]
STOPPED_WITHIN_S = 5  # docker stop kills after 10; on a machine where a server takes longer to start, within that time

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or sys.platform != "linux", reason="the image is Linux with Python 3.11"
)


# ---- reading docker/ -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One image of the Dockerfile, without those that it builds on: words after each instruction, in their order."""

    instructions: list[tuple[str, str]]

    def all(self, instruction: str) -> list[str]:
        return [words for name, words in self.instructions if name == instruction]

    def only(self, instruction: str) -> str:
        (words,) = self.all(instruction)
        return words

    def environment(self, **build_arguments: str) -> dict[str, str]:
        defaults = dict(words.split("=", 1) for words in self.all("ARG"))
        words = " ".join(self.all("ENV"))
        replaced = string.Template(words).substitute({**defaults, **build_arguments})
        return dict(word.split("=", 1) for word in shlex.split(replaced))


def stages() -> dict[str, Stage]:
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    by_name: dict[str, Stage] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip():
            continue
        instruction, words = line.split(maxsplit=1)
        if instruction == "FROM":
            name = words.split(" AS ")[1]
            by_name[name] = Stage([])
        by_name[name].instructions.append((instruction, words))
    return by_name


def install_words(stage: Stage, device: str) -> list[str]:
    """The arguments that the image's shell passes to pip."""
    (line,) = [words for words in stage.all("RUN") if "pip install" in words]
    command = f"pip() {{ printf '%s\\n' \"$@\"; }}; {line}"
    done = subprocess.run(
        ["sh", "-c", command], env={"DEVICE": device}, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def published(service: str) -> list[str]:
    return [str(port) for port in SERVICES[service]["ports"]]


def commands_of(image: str) -> list[str]:
    """The guide's commands that run an image whose name begins so; those that train publish no port."""
    commands = re.findall(r"^docker run .*", GUIDE.read_text("utf-8"), re.MULTILINE)
    assert all(" -p " not in line for line in commands if " gan-serve" not in line)
    return [line for line in commands if f" {image}" in line]


# ---- the files as written --------------------------------------------------------------------------------------------


def test_ports_are_published_on_the_loopback_address_only() -> None:
    assert published("mlflow") == ["127.0.0.1:5000:5000"]
    container_port = stages()["serve"].environment()["UVICORN_PORT"]
    for name in ("serve", "serve-cpu"):
        assert published(name) == [f"127.0.0.1:8080:{container_port}"]
    assert len(commands_of("gan-serve")) >= 3
    for line in commands_of("gan-serve"):
        assert re.findall(r"-p (\S+)", line) == [f"127.0.0.1:8080:{container_port}"], line


def test_a_gpu_is_reserved_for_the_service_that_needs_one_and_for_no_other() -> None:
    (device,) = SERVICES["serve"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert not SERVICES["serve-cpu"]["deploy"]
    assert "deploy" not in SERVICES["mlflow"]
    assert SERVICES["serve-cpu"]["profiles"]  # or a plain "up" would start both on one port


def test_no_image_runs_as_root() -> None:
    images = stages()
    (line,) = [words for words in images["base"].all("RUN") if "useradd" in words]
    for name in ("serve", "tracking", "train"):
        assert images[name].only("USER") in line.split(), name
        assert images[name].only("USER") != "0"


def test_the_build_context_has_every_file_that_is_copied_and_no_other() -> None:
    copied = {word for stage in stages().values() for words in stage.all("COPY") for word in words.split()[:-1]}
    lines = (DOCKER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith(("#", "!"))] == ["*", "**/__pycache__"]
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_installs_what_a_model_requires() -> None:
    required = {re.split(r"[=;]", line)[0].strip() for line in flavor.get_default_pip_requirements()} - {"onnxruntime"}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()}
    for device, extras in (("cuda", "[cuda,cudnn]"), ("cpu", "")):
        pip, *words = install_words(stages()["serve"], device)
        names = [word for word in words if not word.endswith(".txt") and word != "--constraint"]
        assert pip == "install"
        assert {name.split("[")[0] for name in names} == required
        assert f"onnxruntime-gpu{extras}" in names
        assert words.count("constraints.txt") == 1
    assert required <= pinned


def test_another_device_ends_the_build() -> None:
    with pytest.raises(AssertionError, match=r"DEVICE=gpu is unknown: give one of cuda, cpu\."):
        install_words(stages()["serve"], "gpu")


def resolve(packages: list[str], folder: Path) -> list[str]:
    """What pip would install for ``packages`` with both files of constraints, as NAME==VERSION."""
    (folder / "in.txt").write_text("\n".join(packages))
    constraints = [path for name in ("constraints.txt", "docker/constraints-cuda.txt") for path in ("-c", ROOT / name)]
    done = subprocess.run(
        [BIN / "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", *constraints, "in.txt"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_wheel_of_nvidia_is_pinned_and_what_onnx_runtime_loads_is_among_them(tmp_path: Path) -> None:
    words = install_words(stages()["serve"], "cuda")
    resolved = {
        line for line in resolve([word for word in words if "onnxruntime" in word], tmp_path) if line[:7] == "nvidia-"
    }
    lines = (DOCKER / "constraints-cuda.txt").read_text("utf-8").splitlines()
    assert resolved == {line for line in lines if not line.startswith("#")}
    names = {line.split("==")[0] for line in resolved}
    assert names >= {f"nvidia-{name}" for name in ("cublas", "cuda-runtime", "cuda-nvrtc", "cufft", "curand")}
    assert "nvidia-cudnn-cu13" in names


# ---- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A Job of Kubernetes, and what stands beside it in its file, by kind."""

    documents: dict[str, Any]

    @property
    def spec(self) -> Any:
        return self.documents["Job"]["spec"]

    @property
    def pod(self) -> Any:
        return self.spec["template"]["spec"]

    @property
    def container(self) -> Any:
        (container,) = self.pod["containers"]
        return container

    @property
    def gpus(self) -> int:
        return int(self.container["resources"]["limits"]["nvidia.com/gpu"])


JOBS = {
    name: Job({part["kind"]: part for part in yaml.safe_load_all((DOCKER / f"{name}.yaml").read_text("utf-8"))})
    for name in ("train-job", "train-job-machines")
}


def torchrun_options(words: list[str]) -> Namespace:
    """Read a command as torchrun does, and what it starts as ``python -m gan_plugin train`` does."""
    assert words[0] == "torchrun"
    options = get_args_parser().parse_args(words[1:])
    assert (options.module, options.training_script) == (True, "gan_plugin")
    return check_training(options)


def check_training(options: Namespace) -> Namespace:
    """Let the command line parse the training that torchrun starts, up to where it would begin."""
    command, *words = options.training_script_args
    assert command == "train"
    with cli.train.make_context("train", words) as context:
        options.settings, options.overrides = parse_training(cli.without_none(context.params))
    return options


def test_the_training_image_installs_the_package_with_torch_for_cuda(tmp_path: Path) -> None:
    lines = [words.split() for words in stages()["train"].all("RUN") if "pip install" in words]
    for words in lines:
        assert [words[i + 1] for i, word in enumerate(words) if word == "--constraint"] == [
            "constraints.txt",
            "constraints-cuda.txt",
        ]
    assert [words[-1].strip("'") for words in lines] == ["torch", ".[hub]"]
    resolved = resolve(["torch"], tmp_path)
    versions = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line
    )
    assert f"torch=={versions['torch']}" in resolved
    if any(line.startswith("nvidia-") for line in resolved):  # not where the package index has a CPU build
        pinned = (DOCKER / "constraints-cuda.txt").read_text("utf-8").splitlines()
        assert {line for line in pinned if not line.startswith("#")} <= set(resolved)  # torch asks for the very same


def test_the_package_builds_from_what_the_training_image_copies(tmp_path: Path) -> None:
    for words in stages()["train"].all("COPY"):
        for name in words.split()[:-1]:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, tmp_path)
    words = [BIN / "uv", "build", "--quiet", "--wheel", "--out-dir", tmp_path / "dist"]
    subprocess.run(words, cwd=tmp_path, check=True, timeout=PATIENCE_S)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    built = set(zipfile.ZipFile(wheel).namelist())
    package = [path for path in (ROOT / "gan_plugin").rglob("*") if path.suffix in (".py", ".toml", ".html")]
    assert {path.relative_to(ROOT).as_posix() for path in package} <= built


@pytest.mark.parametrize("name", JOBS)
def test_a_job_trains_on_the_gpus_that_it_asks_for_and_goes_on_where_it_was(name: str) -> None:
    job = JOBS[name]
    options = torchrun_options(job.container["command"] + job.container["args"])
    assert int(options.nproc_per_node) == job.gpus
    assert (options.settings.device, options.settings.resume, options.settings.new_run) == ("cuda", "auto", False)
    # a pod that ended is followed by another one, which finds what the first has left on the volume
    assert job.pod["restartPolicy"] == "Never"  # which podFailurePolicy demands
    assert job.spec["backoffLimit"] > 0
    mounts = {mount["name"]: mount["mountPath"] for mount in job.container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in job.pod["volumes"]}
    claim = job.documents["PersistentVolumeClaim"]
    assert volumes["work"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    folder = stages()["train"].only("WORKDIR")
    assert mounts == {"work": folder, "shm": "/dev/shm"}
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    environment = dict(words.split("=", 1) for line in stages()["train"].all("ENV") for words in line.split())
    kept = (options.settings.output_dir, options.settings.data, environment["GAN_PLUGIN_CACHE"], environment["HF_HOME"])
    assert all(path.startswith(f"{folder}/") for path in kept)
    assert [variable["name"] for variable in job.container["env"]] == ["MLFLOW_TRACKING_URI"]
    # torchrun kills those that have not ended by then, and has to do so before the pod is killed
    assert 60 <= options.shutdown_timeout < job.pod["terminationGracePeriodSeconds"]
    assert job.pod["securityContext"] == {"runAsNonRoot": True, "fsGroup": int(stages()["train"].only("USER"))}


def test_one_machine_needs_no_other_to_meet() -> None:
    options = torchrun_options(JOBS["train-job"].container["command"])
    assert options.standalone
    assert JOBS["train-job"].spec.get("parallelism", 1) == 1


def test_several_machines_meet_at_the_first_pod() -> None:
    job = JOBS["train-job-machines"]
    options = torchrun_options(job.container["command"])
    assert job.spec["completionMode"] == "Indexed"
    assert int(options.nnodes) == job.spec["completions"] == job.spec["parallelism"] > 1
    service, name = job.documents["Service"], job.documents["Job"]["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]  # the pods look for each other before any of them is ready
    assert service["spec"]["selector"] == {"job-name": name}  # a label that each pod of a Job has
    assert job.pod["subdomain"] == service["metadata"]["name"]
    host, _, port = options.rdzv_endpoint.partition(":")
    assert host == f"{name}-0.{service['metadata']['name']}"  # the name that an Indexed Job gives its first pod
    assert port.isdecimal()
    assert options.rdzv_backend == "c10d"
    assert job.documents["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    (apart,) = job.pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["labelSelector"]["matchLabels"] == {"job-name": name}


def test_the_guides_commands_that_train() -> None:
    entry_point = json.loads(stages()["train"].only("ENTRYPOINT"))
    assert entry_point == ["gan-plugin"]
    commands = commands_of("gan-train")
    assert len(commands) == 2
    for line in commands:
        before, words = line.split(" gan-train ", 1)
        own = shlex.split(before)
        program = own[own.index("--entrypoint") + 1 :][:1] if "--entrypoint" in own else entry_point
        if program == ["torchrun"]:
            options = torchrun_options(program + shlex.split(words))
            assert options.shutdown_timeout < int(own[own.index("--stop-timeout") + 1])
        else:
            options = check_training(Namespace(training_script_args=shlex.split(words)))
        assert (options.settings.device, options.settings.resume) == ("cuda", "auto")


# ---- the images' commands --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with what the CPU image's install line installs, and the files beside it."""
    folder = tmp_path_factory.mktemp("image")
    uv = [BIN / "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, folder / "venv"], check=True, timeout=PATIENCE_S)
    for words in stages()["base"].all("COPY") + stages()["serve"].all("COPY"):
        for name in words.split()[:-1]:
            (folder / Path(name).name).write_bytes((ROOT / name).read_bytes())
    words = install_words(stages()["serve"], "cpu")
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [*uv, "pip", *words[:1], "--python", python, *words[1:]], cwd=folder, check=True, timeout=PATIENCE_S
    )  # uv, since it keeps what it fetched
    return folder


@contextmanager
def running(
    words: list[str], *, healthy: list[str], folder: Path, variables: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path, float]]:
    """A command in an environment that has nothing but ``variables``, once it is ``healthy``; gives it, its log and
    the seconds within which it has to stop.

    As an engine stops it: SIGTERM, and little time.
    """
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(words, cwd=folder, env=variables, stdout=output, stderr=output)
        try:
            begun = time.monotonic()
            wait_for(lambda: is_healthy(healthy, variables), process, log)
            within = max(STOPPED_WITHIN_S, time.monotonic() - begun)
            yield process, log, within
            process.terminate()
            process.wait(within)
        finally:
            process.kill()
            process.wait(PATIENCE_S)


def is_healthy(check: list[str], variables: dict[str, str]) -> bool:
    done = subprocess.run(check, env=variables, capture_output=True, check=False, timeout=PATIENCE_S)
    return done.returncode == 0


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def tracking(volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tracking server by compose.yaml's own command: another port and folder, and the loopback address."""
    folder, port = tmp_path_factory.mktemp("tracking"), free_port()
    service = SERVICES["mlflow"]
    replaced = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}"}
    command = [replaced.get(word, word).replace("/mlflow/", f"{volume}/") for word in service["command"]]
    assert all(word in service["command"] for word in replaced)
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    assert service["volumes"] == ["mlflow:/mlflow"]
    kind, *check = service["healthcheck"]["test"]
    assert kind == "CMD"
    healthy = [word.replace("127.0.0.1:5000", f"127.0.0.1:{port}") for word in check]
    with running(
        command,
        healthy=healthy,
        folder=folder,
        variables={"PATH": path, "HOME": str(folder), **service["environment"], **NO_JOBS},
    ):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def champion(tracking: str, volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generator, registered on that server under the name that compose.yaml serves; its ONNX file."""
    path = tmp_path_factory.mktemp("generator") / "generator.onnx"
    torch.manual_seed(0)
    export_generator(Generator(8, image_spec(16, 16, 1)), Description(8, image_spec(16, 16, 1)), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking)
        with mlflow.start_run():
            info = flavor.log_model(path, registered_model_name="gan")
        client = mlflow.MlflowClient()
        client.set_registered_model_alias("gan", "champion", str(info.registered_model_version))
    assert (volume / "mlflow.db").is_file()  # what has to outlive the container lies on its volume
    assert list(volume.glob("artifacts/**/generator.onnx"))
    return path


@pytest.fixture
def container(image: Path, tracking: str) -> Callable[..., dict[str, str]]:
    """The variables of a container of the service ``serve``, on the loopback address and another port."""

    def variables(port: int, **changed: str) -> dict[str, str]:
        path = f"{image / 'venv' / 'bin'}:/usr/bin:/bin"
        environment = stages()["base"].environment() | stages()["serve"].environment(DEVICE="cpu")
        assert environment["UVICORN_HOST"] == "0.0.0.0"
        ((name, default),) = re.findall(r"\$\{(\w+):-(.*)\}", SERVICES["serve"]["environment"]["MODEL_URI"])
        here = {"UVICORN_HOST": "127.0.0.1", "UVICORN_PORT": str(port), "MLFLOW_TRACKING_URI": tracking}
        return {**environment, name: default, **here, "PATH": path, "HOME": str(image), **changed}

    return variables


def run_command(image: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        serve_command(image), cwd=image, env=variables, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def serve_command(image: Path) -> list[str]:
    program, *words = json.loads(stages()["serve"].only("CMD"))
    return [str(image / "venv" / "bin" / program), *words]


def test_the_hosts_that_the_tracking_server_answers(tracking: str) -> None:
    def status(host: str) -> int:
        url = f"{tracking}/api/2.0/mlflow/experiments/get?experiment_id=0"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers={"Host": host}), timeout=PATIENCE_S
            ) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code

    within = SERVICES["serve"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    assert within.split(":")[0] in SERVICES
    assert [status(host) for host in (within, "127.0.0.1:5000", "localhost:5000")] == [200, 200, 200]
    assert status("images.example:5000") == 403


def test_the_champion_is_served_and_sigterm_ends_the_server_after_its_last_answer(
    image: Path, champion: Path, container: Callable[..., dict[str, str]]
) -> None:
    port = free_port()
    variables = container(port)
    expected = OnnxGenerator(champion, device="cpu").sample([5])[0, :, :, 0]
    check = json.loads(stages()["serve"].only("HEALTHCHECK").split("CMD ")[1])
    with running(serve_command(image), healthy=check, folder=image, variables=variables) as (process, log, within):
        reply = Server(port, log, process.pid).records({"seed": 5})
        assert reply.status == 200, reply.text
        answered = np.asarray(Image.open(io.BytesIO(base64.b64decode(reply.body["predictions"][0]["image"]))))
        np.testing.assert_array_equal(answered, expected)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
            body = json.dumps({"dataframe_records": [{"seed": 5}]}).encode()
            lines = ["POST /invocations HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json"]
            lines += [f"Content-Length: {len(body)}", "Expect: 100-continue", "", ""]
            client.sendall("\r\n".join(lines).encode())
            assert client.recv(100).startswith(b"HTTP/1.1 100 ")  # it waits for the rest
            process.terminate()
            wait_for(lambda: "Waiting for connections to close" in log.read_text(), process, log)
            client.sendall(body)
            last = b"".join(iter(lambda: client.recv(10_000), b""))
        assert last.startswith(b"HTTP/1.1 200 ")
        assert json.loads(last.split(b"\r\n\r\n")[1]) == reply.body
        process.wait(within)
    assert "Finished server process" in log.read_text()  # uvicorn's own end, not a kill
    assert process.returncode == -signal.SIGTERM
    assert not is_healthy(check, variables)


def test_the_image_for_a_gpu_refuses_to_run_without_one(
    image: Path, champion: Path, container: Callable[..., dict[str, str]]
) -> None:
    by_default = stages()["serve"].environment()["SERVING_MODEL_CONFIG"]
    done = run_command(image, container(free_port(), SERVING_MODEL_CONFIG=by_default, CUDA_VISIBLE_DEVICES=""))
    assert done.returncode != 0
    assert "device=cuda was demanded but CUDA cannot be used: " in done.stderr.splitlines()[-1]


def test_without_a_model_the_error_names_the_variable(image: Path, container: Callable[..., dict[str, str]]) -> None:
    done = run_command(image, container(free_port(), MODEL_URI=""))
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("No model is named: give MODEL_URI=")
