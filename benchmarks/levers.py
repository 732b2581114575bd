"""What each hyperparameter brings, one at a time, at an equal number of images: the speedrun's recipe and its variants.

    python benchmarks/levers.py run fashion width=48 objective=relativistic penalty=r1+r2,penalty_every=1 --epochs 3
    python benchmarks/levers.py table fashion
    python benchmarks/levers.py speed width=48 objective=relativistic
    python benchmarks/levers.py primitives
    python benchmarks/levers.py noise

``run`` trains the recipe as it is, and once for each word, in which commas separate what is changed together;
``method=NAME`` puts a method of :mod:`methods` in place of the library's own. Each
training has one thread and ends with its last generator; it is evaluated as in the speedrun. What is there already is
not done again. ``table`` prints what there is as Markdown. ``speed`` times steps, which take turns, and ``primitives``
says what they are spent on. ``noise`` compares the gradients of R1 with those of its estimate by finite differences.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import methods
import torch
from mlflow import MlflowClient
from recipes import FOLDER, PROGRAM, command, device, environment_of, in_turns, mean_and_std, timed_steps
from speedrun import COLUMNS, COURSES, checked_out_commit, critics, outcome
from torch import Tensor

from gan_plugin.config.recipe import Recipe, load_recipe, override, parse_hyperparameters
from gan_plugin.data import load_dataset
from gan_plugin.data.loader import BatchLoader
from gan_plugin.device import choose_device
from gan_plugin.errors import UserError
from gan_plugin.training.gan import GanStep
from gan_plugin.training.plan import spec_of
from gan_plugin.training.state import new_state

SPEED_BATCH = 64  # images
AS_IT_IS = "–"  # what the table shows for the recipe itself


@click.group()
def main() -> None:
    """Change one thing at a time."""


@main.command()
@click.argument("course", type=click.Choice(sorted(COURSES)))
@click.argument("levers", nargs=-1)
@click.option("--recipe", default="subpixel", show_default=True)
@click.option("--epochs", default=3, show_default=True)
@click.option("--seeds", default=1, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Trainings at a time.")
@click.option("--data", help="Where the course names none.")
def run(course: str, *, levers: tuple[str, ...], recipe: str, epochs: int, seeds: int, workers: int, data: str) -> None:
    """Train the recipe, and once for each of LEVERS, as FIELD=VALUE,FIELD=VALUE, with each seed."""
    for lever in levers:
        method_and_changes(lever)  # refuses what is malformed before anything is trained
    FOLDER.mkdir(parents=True, exist_ok=True)
    parameters = {"data": data or COURSES[course].data, "recipe": recipe, "epochs": epochs, **COURSES[course].options}
    jobs = list(itertools.product(range(seeds), ("", *levers)))
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda job: measure(course, job[1], parameters | {"seed": job[0]}), jobs):
            pass


def measure(course: str, lever: str, parameters: dict[str, Any]) -> None:
    stem = f"levers-{course}-{parameters['epochs']}-{lever or 'none'}-{parameters['seed']}".replace("/", "_")
    path = FOLDER / f"{stem}.json"
    if path.exists():
        return
    store = Path("outputs/levers") / stem
    shutil.rmtree(store, ignore_errors=True)  # of an attempt cut short, whose model would be version 1
    environment = environment_of(store)
    method, changed = method_and_changes(lever)
    program = PROGRAM if method is None else (sys.executable, methods.__file__, method)
    training = parameters | {"output_dir": store, "evaluation_budget": 0} | changed
    if command("train", environment, log=store / "train.log", parameters=training, program=program):
        print(f"{stem} failed: {store / 'train.log'}", flush=True)
        return
    evaluated = {name: parameters[name] for name in ("data", *COURSES[course].options)} | {"model": "models:/gan/1"}
    if command("evaluate", environment, log=store / "evaluate.log", parameters=evaluated):
        raise SystemExit(f"{store}: evaluate failed")
    evaluation, training = MlflowClient(environment["MLFLOW_TRACKING_URI"]).search_runs(["0"])  # the newest first
    result = {
        "commit": checked_out_commit(),
        "lever": lever,
        "recipe": parameters["recipe"],
        "seed": parameters["seed"],
        "epochs": parameters["epochs"],
        "device": device(),
        **outcome(training, evaluation),
    }
    path.write_text(json.dumps(result, indent=1))
    print(stem, {name: round(result["metrics"].get(name, float("nan")), 3) for name in COLUMNS}, flush=True)


def method_and_changes(lever: str) -> tuple[str | None, dict[str, str]]:
    """Return the name of a method, or None for that of the library, and the hyperparameters that a lever changes."""
    words = lever.split(",") if lever else []
    if not all("=" in word for word in words):
        raise click.UsageError(f"{lever} is not possible: give FIELD=VALUE, with commas between what changes together.")
    changes = dict(word.split("=", 1) for word in words)
    method = changes.pop("method", None)
    if method is not None and method not in methods.METHODS:
        raise click.UsageError(f"method={method} is unknown: give one of {', '.join(methods.METHODS)}.")
    return method, changes


@main.command()
@click.argument("levers", nargs=-1)
@click.option("--recipe", default="subpixel", show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--steps", default=16, show_default=True, help="Of each in a round: a multiple of penalty_every is fair.")
def speed(levers: tuple[str, ...], *, recipe: str, rounds: int, steps: int) -> None:
    """Print how many digits of 28 pixels the recipe learns from in a second, and with each of LEVERS, in turns.

    In batches of 64 and without augmentation, as on Fashion-MNIST, unless a lever says otherwise.
    """
    base = speed_recipe(recipe)
    recipes: dict[str, Recipe] = {}
    timed: dict[str, Callable[[], float]] = {}
    for lever in ("", *levers):
        method, changed = method_and_changes(lever)
        try:
            recipes[lever] = override(base, **parse_hyperparameters(changed))
        except UserError as error:
            raise click.UsageError(f"{lever}: {error}") from None
        with methods.in_place(method) if method else nullcontext():
            kind = methods.METHODS[method].step if method else GanStep
            timed[lever] = timed_steps(recipes[lever], steps=steps, kind=kind)
    taken = in_turns(timed, rounds)
    print(f"| `{recipe}` with | images/s | ratio |\n|---|---|---|")
    for lever, changed in recipes.items():
        rates = [steps * changed.batch_size / seconds[lever] for seconds in taken]
        ratio = median(rate * seconds[""] / (steps * base.batch_size) for rate, seconds in zip(rates, taken))
        print(f"| {f'`{lever}`' if lever else AS_IT_IS} | {median(rates):.0f} | {ratio:.2f} |", flush=True)


def speed_recipe(recipe: str) -> Recipe:
    return override(load_recipe(recipe), batch_size=SPEED_BATCH, augment="none")


@main.command()
@click.option("--recipe", default="subpixel", show_default=True)
@click.option("--steps", default=64, show_default=True)
def primitives(recipe: str, *, steps: int) -> None:
    """Print which share of the recipe's steps on a CPU each of oneDNN's primitives has, by its own log of their times.

    With digits of 28 pixels, in batches of 64 and without augmentation.
    """
    if choose_device("auto").type != "cpu":
        raise click.UsageError("oneDNN computes on a CPU only: hide the GPU, for example by CUDA_VISIBLE_DEVICES=''.")
    run_steps = timed_steps(speed_recipe(recipe), steps=steps)
    run_steps()  # to warm up
    seconds, log = logged(run_steps)
    times: dict[str, list[float]] = {}  # milliseconds
    for line in log.splitlines():
        if ",primitive,exec," in line:
            _onednn, _version, _primitive, _exec, _device, kind, *_about, taken = line.split(",")
            times.setdefault(kind, []).append(float(taken))
    shares = {kind: sum(taken) / 1000 / seconds for kind, taken in times.items()}
    print("| primitive | calls a step | share of the time |\n|---|---|---|")
    for kind, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {len(times[kind]) / steps:.0f} | {share:.1%} |")
    print(f"| all else | – | {1 - sum(shares.values()):.1%} |")


def logged(run_steps: Callable[[], float]) -> tuple[float, str]:
    """Return the seconds of steps, and what oneDNN, which writes past ``sys.stdout``, logs meanwhile."""
    sys.stdout.flush()
    stdout = os.dup(1)
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                seconds = run_steps()
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
        file.seek(0)
        return seconds, file.read()


@main.command()
@click.option("--recipe", default="subpixel", show_default=True)
@click.option("--steps", default=300, show_default=True, type=click.IntRange(1), help="Of training before.")
@click.option("--images", default=16, show_default=True, type=click.IntRange(1, SPEED_BATCH), help="Of a gradient.")
@click.option("--draws", default=50, show_default=True, type=click.IntRange(2), help="Of the estimate.")
def noise(recipe: str, *, steps: int, images: int, draws: int) -> None:
    """Print R1 and its gradient beside estimates by finite differences, after some training on digits."""
    torch.manual_seed(0)
    settings, digits, where = speed_recipe(recipe), load_dataset("digits", image_size=28), torch.device("cpu")
    state = new_state(settings, spec_of(digits, settings), where)
    step = GanStep(state, settings, torch.float32)
    loader = BatchLoader(digits, settings.batch_size, where, seed=0, labeled=settings.conditional, paired=False)
    for index in range(steps):
        epoch, place = divmod(index, loader.steps_per_epoch)
        batches = loader.batches(loader.orders(epoch), place)
        step(*batches)
    labels = None if batches[0].labels is None else batches[0].labels[:images]
    x = step.real_samples(batches[0])[:images].requires_grad_()
    weights = [w for name, w in state.discriminator.named_parameters() if not name.endswith("logit.bias")]

    def gradient(penalty: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(penalty, weights)])

    (at_x,) = torch.autograd.grad(state.discriminator(x, labels).sum(), x, create_graph=True)
    r1 = 0.5 * at_x.square().sum((1, 2, 3)).mean()
    exact, estimates = gradient(r1), [methods.finite_difference(state, x.detach(), labels) for _ in range(draws)]
    values = torch.stack([estimate.detach() for estimate in estimates])
    errors = torch.stack([gradient(estimate) - exact for estimate in estimates])
    print(f"R1 {r1:.3f}, its estimates {values.mean():.3f} ± {values.std():.3f} ({draws} draws).")
    print(f"Length of its gradient {exact.norm():.3f}, of the errors of theirs {errors.norm(dim=1).mean():.3f}.")


@main.command()
@click.argument("course", type=click.Choice(sorted(COURSES)))
def table(course: str) -> None:
    """Print what each lever brought, the best first by the features that no training has seen."""
    levers: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for path in sorted(FOLDER.glob(f"levers-{course}-*.json")):
        result = json.loads(path.read_text())
        if path.stem.startswith(f"levers-{course}-{result['epochs']}-"):
            levers.setdefault((result["recipe"], result["epochs"], result["lever"]), []).append(result)
    heads = ["recipe", "changed", "commit", "images", "seeds", *COLUMNS, "critic"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for (recipe, _epochs, lever), results in sorted(levers.items(), key=lambda item: distance(item[1])):
        cells = [mean_and_std([result["metrics"][name] for result in results]) for name in COLUMNS]
        critic = mean_and_std([max(critics(result["metrics"])) for result in results])
        commits = ", ".join(dict.fromkeys(result["commit"] for result in results))
        images = f"{mean(result['images'] for result in results):,.0f}"
        lead = [f"`{recipe}`", f"`{lever}`" if lever else AS_IT_IS, commits, images, str(len(results))]
        print(f"| {' | '.join([*lead, *cells, critic])} |")


def distance(results: list[dict[str, Any]]) -> float:
    return mean(result["metrics"]["fid_ratio/self-supervised"] for result in results)


if __name__ == "__main__":
    main()
