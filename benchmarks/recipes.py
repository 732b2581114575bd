"""Every recipe at an equal budget of images, over several seeds: trains, evaluates, and writes the table.

    python benchmarks/recipes.py run --data /usr/share/datasets/fashion-mnist --epochs 1 --seeds 3 --workers 2
    python benchmarks/recipes.py table fashion-1-
    python benchmarks/recipes.py stability digits-10-
    python benchmarks/recipes.py speed

``run`` goes through the command line that users have, in processes of their own, and keeps each result as a JSON file
beside a sheet of samples. What is there already is not done again, so that it can be stopped and gone on with.
``table`` and ``stability`` print what there is as Markdown, ``speed`` times the steps of training.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import click
import torch
from mlflow import MlflowClient

from gan_plugin.config.recipe import Recipe, load_recipe, override, recipe_names
from gan_plugin.data import load_dataset
from gan_plugin.data.loader import Batch
from gan_plugin.device import choose_device, choose_precision
from gan_plugin.training.gan import GanStep
from gan_plugin.training.plan import spec_of
from gan_plugin.training.state import new_state

BIN = Path(sys.executable).parent
PROGRAM: Sequence[str | Path] = (BIN / "gan-plugin",)
FOLDER = Path("benchmarks/results")
FOR_A_GPU = ("r3gan-cifar10", "r3gan-ffhq64")
COMPARED = ",".join(name for name in recipe_names() if name not in FOR_A_GPU)
METRICS = ("fid", "fid_ratio", "precision", "recall", "coverage", "cas")
RECORDED = (*METRICS, "modes", "modes_real")
SECOND = "fid_ratio/self-supervised"  # of the network beside the classifier, in which all is measured as well
MIN_RECALL = 0.05  # promote's default


@click.group()
def main() -> None:
    """Compare recipes side by side."""


@main.command()
@click.option("--data", default="digits", show_default=True)
@click.option("--name", default="digits", show_default=True, help="Of the data, for the results' file names.")
@click.option("--recipes", default=COMPARED, show_default=True)
@click.option("--epochs", default=1, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--workers", default=1, show_default=True, help="Runs at a time, with one thread each on a CPU.")
@click.option("--option", "options", multiple=True, help="NAME=VALUE for every training run.")
def run(data: str, name: str, *, recipes: str, epochs: int, seeds: int, workers: int, options: tuple[str, ...]) -> None:
    """Train and evaluate each recipe with each seed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    jobs = [
        (recipe, seed, FOLDER / f"{name}-{epochs}-{recipe}-{seed}.json")
        for seed in range(seeds)
        for recipe in recipes.split(",")
    ]
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(
            lambda job: measure(*job, data=data, epochs=epochs, options=options), [j for j in jobs if not j[2].exists()]
        ):
            pass


def measure(recipe: str, seed: int, path: Path, *, data: str, epochs: int, options: tuple[str, ...]) -> None:
    store = Path("outputs/recipes") / path.stem
    environment = environment_of(store)
    parameters = {"data": data, "recipe": recipe, "seed": seed, "epochs": epochs, "output_dir": store}
    parameters |= dict(option.split("=", 1) for option in options)
    start = time.perf_counter()
    trained = command("train", environment, log=store / "train.log", parameters=parameters)
    seconds = time.perf_counter() - start
    result: dict[str, Any] = {"recipe": recipe, "seed": seed, "epochs": epochs, "data": data, "seconds": seconds}
    result |= {"device": device(), "trained": trained == 0}
    if trained == 0:
        model, sheet = {"model": "models:/gan/1"}, path.with_suffix(".png")
        evaluated = command("evaluate", environment, log=store / "evaluate.log", parameters=model | {"data": data})
        sampled = command(
            "sample", environment, log=store / "sample.log", parameters=model | {"seeds": "0-31", "out": sheet}
        )
        if evaluated or sampled:
            raise SystemExit(f"{store}: evaluate ended with {evaluated}, sample with {sampled}")
    result |= recorded(environment["MLFLOW_TRACKING_URI"])
    if trained != 0 and result["failed"] is None:  # not ended by the guard, but killed or refused
        raise SystemExit(f"{store}: train ended with {trained}")
    path.write_text(json.dumps(result, indent=1))
    print(path.stem, {k: round(v, 3) for k, v in result["metrics"].items()}, f"{seconds:.0f} s", flush=True)


def environment_of(store: Path) -> dict[str, str]:
    """Return the environment of a run with a tracking store of its own, and one thread."""
    store.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{store.resolve()}/mlflow.db"
    return os.environ | {"MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def command(
    name: str,
    environment: dict[str, str],
    *,
    log: Path,
    parameters: dict[str, Any],
    program: Sequence[str | Path] = PROGRAM,
) -> int:
    words = [word for key, value in parameters.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    with log.open("w") as file:
        done = subprocess.run([*program, name, *words], env=environment, stdout=file, stderr=file, check=False)
    return done.returncode


def recorded(uri: str) -> dict[str, Any]:
    """Return what the runs logged: the evaluation's metrics, the guard's signals at the end, the speed."""
    client = MlflowClient(uri)
    runs = client.search_runs(["0"], order_by=["attributes.start_time ASC"])
    if not runs:  # refused before there was one
        return {"metrics": {}, "signals": {}, "failed": None}
    metrics = by_short_name(runs[-1].data.metrics)
    train = runs[0].data.metrics
    signals = {k: v for k, v in train.items() if k.startswith(("guard/", "throughput/", "fid_2k"))}
    return {"metrics": metrics, "signals": signals, "failed": runs[0].data.tags.get("failed")}


def by_short_name(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics of RECORDED without their network's name; of a second network, SECOND as it is."""
    two_networks = any(name.endswith("/classifier") for name in metrics)
    second = {name: value for name, value in metrics.items() if two_networks and name.endswith("/self-supervised")}
    first = {name.split("/")[0]: value for name, value in metrics.items() if name not in second}
    kept = {name: first[name] for name in RECORDED if name in first}
    return kept | {name: value for name, value in second.items() if name == SECOND}


def device() -> str:
    """Return the GPU, or how many cores of which processor."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    about = Path("/proc/cpuinfo")  # of Linux only
    model = re.search(r"^model name\s*: (.+)$", about.read_text(), re.MULTILINE) if about.exists() else None
    return f"{os.cpu_count()} CPU cores ({platform.machine() if model is None else model[1]})"


@main.command()
@click.argument("prefixes", nargs=-1, required=True)
def table(prefixes: tuple[str, ...]) -> None:
    """Print the results whose file names begin with one of PREFIXES, the best recipe first."""
    rows = [item for prefix in prefixes for item in by_recipe(prefix).items()]
    measured = {name for _, results in rows for result in results for name in result["metrics"]}
    columns = [name for name in (*METRICS, SECOND) if name in measured]
    print("| recipe | epochs | minutes | seeds | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 4) + "|")
    for recipe, results in sorted(rows, key=lambda item: cell_mean(item[1], "fid")):
        cells = [mean_and_std([r["metrics"][f] for r in results if f in r["metrics"]]) for f in columns]
        minutes = mean(r["seconds"] for r in results) / 60
        lead = f"`{recipe}` | {results[0]['epochs']} | {minutes:.1f} | {len(results)}"
        print(f"| {lead} | {' | '.join(cells)} |")


@main.command()
@click.argument("prefix")
def stability(prefix: str) -> None:
    """Print how many seeds of each recipe ended healthy, and how far they are apart."""
    print("| recipe | seeds | healthy | went back | failed | fid: least | median | most |")
    print("|---" * 8 + "|")
    for recipe, results in by_recipe(prefix).items():
        well = sum(map(healthy, results))
        back = sum("guard/rollbacks" in r["signals"] for r in results)
        failed = sum(not r["trained"] for r in results)
        fids = [r["metrics"]["fid"] for r in results if "fid" in r["metrics"]]
        cells = " | ".join(f"{f(fids):.2f}" for f in (min, median, max)) if fids else "– | – | –"
        print(f"| `{recipe}` | {len(results)} | {well} | {back} | {failed} | {cells} |")


def healthy(result: dict[str, Any]) -> bool:
    """Return whether it trained to the end without an alarm, with all classes and a recall that promotion accepts."""
    metrics = result["metrics"]
    return (
        result["trained"]
        and "guard/rollbacks" not in result["signals"]
        and metrics["modes"] >= metrics["modes_real"]
        and metrics["recall"] >= MIN_RECALL
    )


def by_recipe(prefix: str) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(FOLDER.glob(f"{prefix}*.json")):
        result = json.loads(path.read_text())
        results.setdefault(result["recipe"], []).append(result)
    return results


@main.command()
@click.option("--recipes", default=COMPARED, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--steps", default=20, show_default=True, help="Of each in a round: a multiple of 4 and of 5 is fair.")
def speed(recipes: str, rounds: int, steps: int) -> None:
    """Print how long each recipe's step takes, beside dcgan's, on digits of 28 pixels in batches of 64.

    The recipes take turns, so that a noisy machine disturbs all alike; printed is the median over the rounds.
    """
    names = ["dcgan", *(name for name in recipes.split(",") if name != "dcgan")]
    contenders = {name: timed_steps(override(load_recipe(name), batch_size=64), steps=steps) for name in names}
    taken = in_turns(contenders, rounds)
    print("| recipe | images/s | time of a step, dcgan = 1 |\n|---|---|---|")
    for name in names:
        rate = median(64 * steps / seconds[name] for seconds in taken)
        ratio = median(seconds[name] / seconds["dcgan"] for seconds in taken)
        print(f"| `{name}` | {rate:.0f} | {ratio:.2f} |", flush=True)


def in_turns(contenders: dict[str, Callable[[], float]], rounds: int) -> list[dict[str, float]]:
    """Return the seconds of each contender in each round, after one to warm up."""
    for contend in contenders.values():
        contend()
    return [{name: contend() for name, contend in contenders.items()} for _ in range(rounds)]


def timed_steps(recipe: Recipe, *, steps: int, kind: type[GanStep] = GanStep) -> Callable[[], float]:
    """Return a function that takes a number of steps on digits of 28 pixels and returns their seconds."""
    where, dataset = choose_device("auto"), load_dataset("digits", image_size=28)
    step = kind(new_state(recipe, spec_of(dataset, recipe), where), recipe, choose_precision("auto", where))
    assert dataset.labels is not None
    if recipe.batch_size > len(dataset):
        raise click.UsageError(f"batch_size={recipe.batch_size} is above the {len(dataset):,} digits.")
    labels = dataset.labels[: recipe.batch_size].to(where) if recipe.conditional else None
    batch = Batch(dataset.samples[: recipe.batch_size].to(where), labels)

    def run_steps() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step(batch, batch)
        if where.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return run_steps


def cell_mean(results: list[dict[str, Any]], metric: str) -> float:
    values = [r["metrics"][metric] for r in results if metric in r["metrics"]]
    return mean(values) if values else float("inf")


def mean_and_std(values: list[float]) -> str:
    if not values:
        return "–"
    average = mean(values)
    digits = f"{average:.3g}" if average < 999.5 else f"{average:.0f}"  # which would else be 1e+03
    return digits + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
