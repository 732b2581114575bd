"""The parts of benchmarks/gpu.py that run what users run: a training, an evaluation, several processes, serving."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import evaluation as evaluation_benchmark
import numpy as np
import torch
from gpu import ERROR_CHARACTERS, Case, LeftOut, Setup, Values
from gpu_parts import FASHION, gpu_checks
from gpu_timing import wait_for
from torch import distributed

from gan_plugin.config.recipe import Recipe, load_recipe, override
from gan_plugin.config.settings import TrainSettings
from gan_plugin.data import load_dataset
from gan_plugin.data.loader import Batch, BatchLoader
from gan_plugin.distributed import ALONE, Ranks, joined, ranks_of_environment
from gan_plugin.export import export_generator
from gan_plugin.networks import new_generator
from gan_plugin.serving.cuda import why_cuda_cannot_load
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.spec import image_spec
from gan_plugin.tracking.tracker import Silent
from gan_plugin.training.capture import WARM_UP_CALLS, as_it_is, make_capture
from gan_plugin.training.gan import GanStep
from gan_plugin.training.loop import Trainer, train
from gan_plugin.training.plan import make_plan
from gan_plugin.training.progress import ProgressLogger
from gan_plugin.training.state import first_state

HERE = Path(__file__).parent
IMAGES, TEST_IMAGES = 60_000, 10_000  # of Fashion-MNIST
QUICK_IMAGES, QUICK_TEST_IMAGES = 300, 150


@contextlib.contextmanager
def fashion_folder(setup: Setup) -> Iterator[tuple[Path, str]]:
    """Give the folder of Fashion-MNIST's files, or one with noise in files like these, and say which."""
    if setup.data is not None:
        yield setup.data, setup.data.name
        return
    counts = (QUICK_IMAGES, QUICK_TEST_IMAGES) if setup.quick else (IMAGES, TEST_IMAGES)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        for prefix, count in zip(("train", "t10k"), counts):
            for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
                values = random.integers(0, 256 if len(shape) == 3 else 10, shape, np.uint8)
                header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
                (Path(name) / f"{prefix}-{kind}-ubyte").write_bytes(header + values.tobytes())
        yield Path(name), "noise of its shape"


# ---- a whole training ------------------------------------------------------------------------------------------------


def training(setup: Setup) -> Iterator[Case]:
    """Train as users do, with the guard and its checkpoints, and say what the time went into."""
    recipe = gpu_checks.small("r3gan", width=16, full_stages=1) if setup.quick else load_recipe("dcgan")
    for batch, every in ((64, 1),) if setup.quick else ((64, 1), (256, 1), (64, None)):
        how = "no samples" if every is None else "samples at each epoch"
        measured = partial(whole_training, setup, override(recipe, batch_size=batch), samples_every=every)
        yield f"{recipe.name}, batch {batch}, {how}", measured


def whole_training(setup: Setup, recipe: Recipe, *, samples_every: int | None) -> Values:
    epochs = 1 if setup.quick else setup.epochs
    settings = TrainSettings(
        device=setup.device,
        epochs=epochs,
        samples_every=samples_every or epochs,
        evaluation_budget=0.0,
        precision="bf16",
    )
    with fashion_folder(setup) as (path, data), tempfile.TemporaryDirectory() as folder, timed_parts() as parts:
        dataset = load_dataset(str(path))
        plan = make_plan(recipe, settings, overrides={"batch_size": recipe.batch_size}, dataset=dataset)
        torch.backends.cudnn.benchmark = True
        start = time.perf_counter()
        state = train(dataset, plan, Silent(), folder=Path(folder))
        wait_for(setup.device)
        seconds = time.perf_counter() - start
    return {
        "data": data,
        "epochs": epochs,
        "steps": state.steps,
        "training_s": seconds,
        "images_s": state.steps * recipe.batch_size / seconds,
        "parts_s": parts,
        "parts": "seconds on the host: what the device still computes is waited for where metrics are read",
    }


PARTS_OF_TRAINING: dict[str, tuple[type, str]] = {
    "steps": (GanStep, "__call__"),
    "batches": (BatchLoader, "batches"),
    "reading metrics": (ProgressLogger, "_read"),
    "ends of epochs": (Trainer, "end_epoch"),
    "samples and guard, within these": (Trainer, "look_at_generator"),
}


@contextlib.contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """Add up the seconds of the parts of trainings within it."""
    seconds = dict.fromkeys(PARTS_OF_TRAINING, 0.0)
    originals = {part: getattr(owner, method) for part, (owner, method) in PARTS_OF_TRAINING.items()}

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds[part] += time.perf_counter() - start

        return run

    try:
        for part, (owner, method) in PARTS_OF_TRAINING.items():
            setattr(owner, method, timed(part, originals[part]))
        yield seconds
    finally:
        for part, (owner, method) in PARTS_OF_TRAINING.items():
            setattr(owner, method, originals[part])


# ---- an evaluation ---------------------------------------------------------------------------------------------------


def evaluation(setup: Setup) -> Iterator[Case]:
    """Evaluate 50,000 images with an empty cache, in the data's own classifier: benchmarks/evaluation.py."""
    yield "classifier, empty cache", partial(whole_evaluation, setup)


def whole_evaluation(setup: Setup) -> Values:
    # auto: images are generated on a CPU where ONNX Runtime has no CUDA, and the line says so
    device = "cpu" if setup.device == "cpu" else "auto"
    before = os.environ.get("GAN_PLUGIN_CACHE")
    with fashion_folder(setup) as (path, data), tempfile.TemporaryDirectory() as folder, io.StringIO() as printed:
        os.environ["GAN_PLUGIN_CACHE"] = f"{folder}/cache"
        options = {"data": str(path), "images": 50_000, "features": "classifier", "device": device}
        try:
            with contextlib.redirect_stdout(printed):
                evaluation_benchmark.work(argparse.Namespace(**options, quick=setup.quick, worker=Path(folder)))
        finally:
            os.environ.pop("GAN_PLUGIN_CACHE")
            if before is not None:
                os.environ["GAN_PLUGIN_CACHE"] = before
        results: Values = json.loads(printed.getvalue().splitlines()[-1])
    stages = results.pop("seconds")
    return {"data": data, "together_s": sum(stages.values()), "stages_s": stages, **results}


# ---- several processes -----------------------------------------------------------------------------------------------


def processes(setup: Setup) -> Iterator[Case]:
    """Train in two processes that torchrun starts, with a GPU each or on one, and compare with this one alone."""
    for name in ("dcgan",) if setup.quick else ("dcgan", "r3gan"):
        yield name, partial(two_processes, setup, name)


def two_processes(setup: Setup, name: str) -> Values:
    count = 2
    if setup.device == "cuda" and torch.cuda.device_count() > 1:
        count = torch.cuda.device_count()
    alone = rate_of(setup, name, ALONE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    with tempfile.TemporaryDirectory() as folder:
        words = [__file__, setup.device, json.dumps(setup.quick), name, folder]
        done = subprocess.run([*torchrun, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"torchrun ended with {done.returncode}: {done.stderr[:ERROR_CHARACTERS]}")
        results = [json.loads((Path(folder) / str(rank)).read_text()) for rank in range(count)]
    assert len({result["weights"] for result in results}) == 1, "the ranks' weights are not equal to the bit"
    together = results[0]["images_s"]
    return {
        "processes": count,
        "backend": results[0]["backend"],
        "images_s_alone": alone,
        "images_s_together": together,
        "ratio": together / alone,
        "equal_to_the_bit": True,
    }


def rate_of(setup: Setup, name: str, ranks: Ranks) -> float:
    """Return the images/s of all processes together, each with a batch of its own as large as one alone has."""
    return images_and_weights(setup, name, ranks)[0]


def images_and_weights(setup: Setup, name: str, ranks: Ranks) -> tuple[float, str]:
    """Return the images/s of all processes together, and a digest of this one's weights."""
    device = torch.device(setup.device)
    torch.backends.cudnn.benchmark = True
    recipe = override(gpu_checks.small(name) if setup.quick else load_recipe(name), batch_size=4 if setup.quick else 64)
    spec = FASHION if recipe.conditional else FASHION.unlabeled()
    state = first_state(recipe, spec, device, seed=0, ranks=ranks)
    capture = as_it_is if setup.quick else make_capture(device)
    step = GanStep(state, recipe, torch.bfloat16, capture=capture, ranks=ranks)
    shape = (recipe.batch_size, 1, 28, 28)
    labels = torch.randint(0, spec.classes, shape[:1], device=device) if spec.classes else None
    batch = Batch(torch.randint(0, 256, shape, dtype=torch.uint8, device=device), labels)
    calls = 2 if setup.quick else 100
    for _ in range(WARM_UP_CALLS + 2):
        step(batch, batch)
    wait_for(setup.device)
    ranks.gather(None)  # they begin together
    start = time.perf_counter()
    for _ in range(calls):
        step(batch, batch)
    wait_for(setup.device)
    slowest = max(ranks.gather(time.perf_counter() - start))
    weights = gpu_checks.weights_of(state).cpu().numpy().tobytes()
    return ranks.world_size * recipe.batch_size * calls / slowest, hashlib.sha256(weights).hexdigest()


@contextlib.contextmanager
def connected(ranks: Ranks, device: str) -> Iterator[tuple[Ranks, str]]:
    """Connect the processes, by gloo where they share a GPU, for which NCCL has no use; gives the backend's name."""
    if device == "cuda" and torch.cuda.device_count() < ranks.world_size:
        distributed.init_process_group("gloo")
        try:
            yield ranks, "gloo, one GPU"
        finally:
            distributed.destroy_process_group()
        return
    with joined(ranks, torch.device(device)) as joint:
        yield joint, "nccl" if device == "cuda" else "gloo"


def one_rank(device: str, quick: str, *words: str) -> None:
    """Train as one of the processes that torchrun has started, and write what came of it."""
    name, folder = words
    setup = Setup(device, json.loads(quick), None, 1)
    with connected(ranks_of_environment(), device) as (ranks, backend):
        rate, weights = images_and_weights(setup, name, ranks)
    result = {"images_s": rate, "weights": weights, "backend": backend}
    (Path(folder) / str(ranks.rank)).write_text(json.dumps(result))


# ---- serving ---------------------------------------------------------------------------------------------------------


def serving(setup: Setup) -> Iterator[Case]:
    """Time ONNX Runtime alone, with the options of serving and with its own, and the generator that serves on it."""
    if setup.device == "cuda" and (why := why_cuda_cannot_load()) is not None:
        raise LeftOut(f"ONNX Runtime cannot use CUDA here: {why}")
    with tempfile.TemporaryDirectory() as folder:
        files = {"digits.onnx": HERE.parent / "examples" / "digits.onnx", "r1, 64×64×3": Path(folder) / "r1.onnx"}
        for name, file in list(files.items())[: 1 if setup.quick else None]:
            if not file.exists():
                export_untrained(file)
            for whose in ("serving", "defaults") if setup.device == "cuda" else ("serving",):
                yield f"{name}, alone, {whose}", partial(alone, setup, file, whose=whose)
            yield f"{name}, served", partial(served, setup, file)


def export_untrained(path: Path) -> None:
    """Export a generator of r1's size, which is as fast as a trained one."""
    recipe, spec = load_recipe("r1"), image_spec(64, 64, 3)
    export_generator(new_generator(recipe, spec).eval(), Description(recipe.latent_size, spec), path)


def alone(setup: Setup, file: Path, *, whose: str) -> Values:
    """Time ONNX Runtime in a process of its own: benchmarks/onnxruntime_worker.py."""
    batches = (1, 4) if setup.quick else (1, 64, 256, 1024)
    tasks = [{"batch": batch, "seconds": 0.01 if setup.quick else 2} for batch in batches]
    words = [sys.executable, HERE / "onnxruntime_worker.py", file, setup.device, whose]
    lines = "".join(json.dumps(task) + "\n" for task in tasks)
    # where it lies elsewhere than torch, it would not find the libraries of CUDA that came with that
    libraries = [str(folder) for folder in (Path(torch.__file__).parents[1] / "nvidia").glob("*/lib")]
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")])}
    done = subprocess.run(words, input=lines, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-ERROR_CHARACTERS:])
    rates = [json.loads(line)["images_s"] for line in done.stdout.splitlines()]
    return {"images_s": dict(zip(batches, rates, strict=True))}


def served(setup: Setup, file: Path) -> Values:
    """Time the generator in this process: whole batches, and threads that each ask for one image after the other."""
    generator = OnnxGenerator(file, device=setup.device)
    generator.warm_up()
    seconds = 0.01 if setup.quick else 2.0
    rates: dict[str, float] = {}
    for batch in (4,) if setup.quick else (64, 256, 1024):
        seeds = range(batch)
        generator.sample(seeds)
        runs, start = 0, time.perf_counter()
        while (now := time.perf_counter()) < start + seconds:
            generator.sample(seeds)
            runs += 1
        rates[f"a batch of {batch}"] = runs * batch / (now - start)
    for threads in (1, 2) if setup.quick else (1, 16, 64):
        end = time.perf_counter() + seconds

        def ask(first: int, end: float = end) -> int:
            count = 0
            while time.perf_counter() < end:
                generator.sample([first + count])
                count += 1
            return count

        with ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            images = sum(pool.map(ask, range(threads)))
            rates[f"{threads} threads"] = images / (time.perf_counter() - start)
    return {"provider": generator.provider, "images_s": rates}


if __name__ == "__main__":
    one_rank(*sys.argv[1:])
