"""A training by several processes as users start it, and what becomes of it when one of them ends or is asked to."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import psutil
import pytest
import torch
from data_helpers import noise, save
from helpers import PATIENCE_S, ROOT, Project, options, wait_for
from mlflow.entities import Run
from onnx import TensorProto, helper

from gan_plugin.config.recipe import load_recipe, override
from gan_plugin.data import load_dataset
from gan_plugin.evaluation.quick import make_quick_fid
from gan_plugin.training.checkpoint import FILE_NAME, read_checkpoint, read_header
from gan_plugin.training.plan import spec_of
from gan_plugin.training.state import new_state

PROCESSES = 2
STEPS = 12  # an epoch, at the end of which there is a checkpoint
TRAINING = {
    "data": "digits",
    "recipe": "subpixel",
    "image_size": 16,
    "width": 16,
    "batch_size": 112,
    "augment": "none",
    "checkpoint_every": 1,
    "evaluation_budget": 0,
    "held_out": "none",
}
LONG, SHORT = 1000, 2  # epochs
EVALUATED: dict[str, object] = {"epochs": SHORT, "evaluation_budget": 0.999}
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def command(processes: int, restarts: int = 0, **parameters: object) -> list[str]:
    words = ["-m", "gan_plugin", "train", *options({**TRAINING, **parameters})]
    return [*LAUNCHER, f"--nproc-per-node={processes}", f"--max-restarts={restarts}", *words]


@contextmanager
def training(project: Project, restarts: int = 0) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start one that would take long, or go on with it; gives torchrun and the log, once there is a new checkpoint."""
    log, before = project.folder / "train.log", steps_of(project)
    with open(log, "w") as stream:
        process = subprocess.Popen(
            command(PROCESSES, restarts, epochs=LONG, resume="auto"),
            cwd=project.folder,
            env=project.environment(),
            stdout=stream,
            stderr=stream,
            text=True,
        )
    try:
        wait_for(lambda: steps_of(project) > before, process, log)
        yield process, log
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)


def steps_of(project: Project) -> int:
    """How far the newest checkpoint of the one training is; 0 where there is none."""
    checkpoints = list(project.folder.glob(f"outputs/*/{FILE_NAME}"))
    assert len(checkpoints) <= 1
    return read_header(checkpoints[0])["steps"] if checkpoints else 0


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The training's processes, by their ranks."""
    children = [child for child in psutil.Process(process.pid).children() if "RANK" in child.environ()]
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def finished(project: Project, processes: int, resume: str = "auto") -> Run:
    """Go on with the training, to the end of the epoch that it was in and one more."""
    epochs = -(-steps_of(project) // STEPS) + 1
    done = project.command(*command(processes, epochs=epochs, resume=resume))
    assert done.returncode == 0, done.stderr
    (run,) = project.runs()  # the same one
    assert run.info.status == "FINISHED"
    assert run.data.metrics["epoch"] == epochs
    return run


def test_a_signal_or_the_end_of_one_process_ends_all_and_the_run_goes_on(make_project: Callable[[], Project]) -> None:
    """Again and again, each time from the newest checkpoint, and in the end with one process fewer and one more."""
    project = make_project()
    with training(project) as (process, log):
        ranks_of(process)[1].send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) != 0
        assert "[rank" not in log.read_text()  # as PyTorch marks the traces of its processes
    (run,) = project.runs()
    assert run.info.status == "KILLED"
    with training(project) as (process, log):
        ranks = ranks_of(process)
        ranks[1].kill()
        assert process.wait(PATIENCE_S) != 0
        assert not any(is_alive(rank) for rank in ranks)
    (run,) = project.runs()
    assert run.info.status in ("FAILED", "KILLED")  # of a connection that is gone, or of torchrun's signal
    assert "Another process of this training has ended" in log.read_text()
    with training(project, restarts=1) as (process, log):
        ranks, before = ranks_of(process), steps_of(project)
        ranks[0].kill()  # torchrun starts both again
        wait_for(lambda: not any(map(is_alive, ranks)) and steps_of(project) > before, process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) != 0
    (run,) = project.runs()
    assert run.info.status == "KILLED"
    run = finished(project, processes=1)
    finished(project, PROCESSES, resume=run.info.run_id)


@pytest.mark.parametrize(
    ("copies", "sentence"),
    [
        (2, "Error: Process 1 has read other images than process 0"),
        (1, "Error: Process 1, on [^ ]+: data='images' is neither 'digits', a folder"),
    ],
)
def test_processes_without_the_same_images_are_refused_before_there_is_a_run(
    copies: int, sentence: str, make_project: Callable[[], Project]
) -> None:
    """As on machines of which each has its own copy of the data, or none."""
    project = make_project()
    (project.folder / "1").mkdir()
    for rank in range(copies):
        for seed in range(10):
            save(noise(rank + seed), project.folder / str(rank) / "images" / f"{seed}.png")
    program = "import os; os.chdir(os.environ['RANK']); from gan_plugin.cli import main; main()"
    words = options({"data": "images", "image_size": 16, "batch_size": 4, "epochs": 1})
    start = [*LAUNCHER, f"--nproc-per-node={PROCESSES}", "--no-python", sys.executable, "-c", program]
    done = project.command(*start, "train", *words)
    assert done.returncode != 0
    assert re.match(sentence, done.stderr), done.stderr  # torchrun's trace follows
    assert project.runs() == []


def pixels_network(path: Path) -> Path:
    """A feature network in an ONNX file, whose features are the pixels."""
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["x"], ["features"]),
    ]
    entry = helper.make_tensor_value_info("images", TensorProto.UINT8, ("n", 1, 16, 16))
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ("n", 256))
    graph = helper.make_graph(nodes, "pixels", [entry], [features])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def best_of(project: Project, features: str | None) -> tuple[float, float]:
    """The FID of the best generator as its training has it, and as one process finds it."""
    (checkpoint,) = project.folder.glob(f"outputs/*/{FILE_NAME}")
    tensors, header = read_checkpoint(checkpoint)
    assert header["best"]["evaluations"] == SHORT
    dataset, cpu = load_dataset("digits", image_size=16), torch.device("cpu")
    recipe = override(load_recipe("subpixel"), width=16)
    state = new_state(recipe, spec_of(dataset, recipe), cpu)
    best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
    state.ema.load_state_dict(best)
    alone = make_quick_fid(dataset, features, latent_size=recipe.latent_size, classes=state.spec.classes, device=cpu)
    assert alone.digest == header["best"]["digest"]
    return header["best"]["value"], alone(state.ema)


def test_mlflow_run_starts_them_and_makes_one_run_and_one_model(make_project: Callable[[], Project]) -> None:
    """Each does its share of the evaluations, in the features of a network that rank 0 has trained."""
    project = make_project()
    parameters = {**TRAINING, **EVALUATED}
    words = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
    backend = ["-b", "torchrun", "--backend-config", json.dumps({"nproc_per_node": PROCESSES})]
    done = project.command("mlflow", "run", ".", "--env-manager", "local", *backend, *words)
    assert done.returncode == 0, done.stderr
    (run,) = project.runs()
    assert run.info.status == "FINISHED"
    assert run.data.params["world_size"] == str(PROCESSES)
    assert run.data.tags["mlflow.project.backend"] == "torchrun"
    (version,) = project.client.search_model_versions("name='gan'")
    assert version.run_id == run.info.run_id
    history = project.client.get_metric_history(run.info.run_id, "epoch")
    assert [point.value for point in history] == list(range(1, SHORT + 1))
    assert done.stdout.count("is registered") == 1
    value, alone = best_of(project, None)
    assert value == pytest.approx(alone, rel=1e-6)


def test_an_evaluation_by_several_processes_has_the_value_of_one_alone(
    make_project: Callable[[], Project], tmp_path: Path
) -> None:
    """In the features of a network that each process loads."""
    project, features = make_project(), f"onnx:{pixels_network(tmp_path / 'pixels.onnx')}"
    done = project.command(*command(PROCESSES, **EVALUATED, features=features))
    assert done.returncode == 0, done.stderr
    assert "The evaluation failed" not in done.stderr
    value, alone = best_of(project, features)
    assert value == pytest.approx(alone, rel=1e-6)


def test_a_process_that_cannot_do_its_share_ends_the_evaluations_and_not_the_training(
    make_project: Callable[[], Project],
) -> None:
    project = make_project()
    words = ["train", *options({**TRAINING, **EVALUATED})]
    worker = ROOT / "tests" / "broken_worker.py"
    done = project.command(*LAUNCHER, f"--nproc-per-node={PROCESSES}", worker, 1, "share", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("The evaluation failed; training goes on without any from here on.") == 1
    assert "MemoryError: no memory is left for this" in done.stderr
    assert "Process 1 could not do its share" in done.stderr
    (run,) = project.runs()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["epoch"] == SHORT
    assert not [name for name in run.data.metrics if name.startswith("fid_2k")]


def test_an_alarm_in_one_process_takes_all_of_them_back(make_project: Callable[[], Project]) -> None:
    """Of rank 1, which alone has lost its weights at the end of the second epoch."""
    project = make_project()
    words = ["train", *options({**TRAINING, "epochs": 3})]
    worker = ROOT / "tests" / "broken_worker.py"
    done = project.command(*LAUNCHER, f"--nproc-per-node={PROCESSES}", worker, 1, "weights", *words)
    assert done.returncode == 0, done.stderr
    (run,) = project.runs()
    assert run.info.status == "FINISHED"
    assert (run.data.metrics["epoch"], run.data.metrics["guard/rollbacks"]) == (3, 1)
    assert f"In step {2 * STEPS}" in run.data.tags["guard.1"]
    assert f"back to step {STEPS} with another seed" in run.data.tags["guard.1"]


def test_an_error_in_one_process_ends_all(make_project: Callable[[], Project]) -> None:
    """Of rank 0, for which the others wait in the middle of a step."""
    project = make_project()
    words = ["train", *options({**TRAINING, "epochs": LONG})]
    worker = ROOT / "tests" / "broken_worker.py"
    done = project.command(*LAUNCHER, f"--nproc-per-node={PROCESSES}", worker, 0, "step", *words)
    assert done.returncode != 0
    assert "MemoryError: no memory is left for this" in done.stderr
    (run,) = project.runs()
    assert run.info.status == "FAILED"


def test_an_evaluation_of_a_model_is_refused_to_several(make_project: Callable[[], Project]) -> None:
    """Each would do all of it."""
    words = ["-m", "gan_plugin", "evaluate", "--data", "digits", "--model", "models:/gan/1"]
    done = make_project().command(*LAUNCHER, f"--nproc-per-node={PROCESSES}", *words)
    assert done.returncode != 0
    assert "evaluate is done by one process, and torchrun has started several: leave out torchrun." in done.stderr
