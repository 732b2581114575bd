"""The default recipe on data that nothing was tuned on, beside a search of ten times the time on each.

    python benchmarks/untuned.py run walls freedoom/walls --image-size 64 --minutes 2
    python benchmarks/untuned.py compare walls freedoom/walls --image-size 64 --epochs 10
    python benchmarks/untuned.py table
    python benchmarks/untuned.py equal
    python benchmarks/untuned.py sheet docs/images/untuned.png

``run`` searches for ten times so many minutes, and then trains the default recipe and what the search has found with
the same seeds in the same minutes, side by side, all by the commands that users have, on a core each.
Everything is evaluated off the clock. What is there already is not done again. ``compare`` trains both for equal
numbers of images and takes the last generator: how many a few minutes are depends on what else the machine does.
``table`` prints Markdown of ``run``, and ``equal`` of ``compare``; ``sheet`` saves what the default recipe generates.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import click
import levers
from PIL import Image
from recipes import FOLDER, command, mean_and_std
from speedrun import COURSES, Course, checked_out_commit, critics, measure

from gan_plugin.config.recipe import load_recipe, resolved
from gan_plugin.config.settings import TrainSettings
from gan_plugin.storage import cache_folder

DEFAULT = TrainSettings().recipe
SEARCH = 10  # times as long as a training
RATIOS = ("fid_ratio/classifier", "fid_ratio/self-supervised")
SAMPLED_ROWS = 8  # of the samples of a training
ROWS = 2  # of them that the sheet has
WIDTH = 640  # of the sheet, pixels
COMPARED = "untuned-"  # courses of compare
SEARCHED = ("generator_lr", "discriminator_lr", "penalty_weight", "ema_half_life")


@click.group()
def main() -> None:
    """See what the default recipe is worth elsewhere."""


@main.command()
@click.argument("name")
@click.argument("data")
@click.option("--image-size", help="As train takes it; the data's own where it is left out.")
@click.option("--minutes", default=2.0, show_default=True, help="Of each training.")
@click.option("--seeds", default=1, show_default=True, help="Of the trainings that are compared.")
def run(name: str, data: str, *, image_size: str | None, minutes: float, seeds: int) -> None:
    """Train on DATA, which the results call NAME, with the default recipe, and with one that a search has found."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    options = {} if image_size is None else {"image_size": image_size}
    store = Path("outputs/untuned").resolve() / name
    store.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # of every process from here on: two trainings share the machine
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    tuned = store / "tuned.toml"
    if not tuned.exists():  # the search comes first, so that the feature networks are there for both alike
        search = {"minutes": SEARCH * minutes, "trial_minutes": minutes, "seeds": 1, "out": tuned, "output_dir": store}
        status = command("tune", environment, log=store / "tune.log", parameters={"data": data, **options, **search})
        if status != 0:
            raise SystemExit(f"{store}: tune ended with {status}")
    course = Course(data, minutes, options)
    for seed in range(seeds):
        records = {
            FOLDER / f"untuned-{name}-{Path(recipe).stem}-{seed}.json": recipe for recipe in (DEFAULT, str(tuned))
        }
        if not all(path.exists() for path in records):
            with ThreadPoolExecutor() as pool:  # what slows the machine slows both
                list(pool.map(partial(train_once, name, course, seed=seed), records.items()))


def train_once(name: str, course: Course, record: tuple[Path, str], *, seed: int) -> None:
    """Train and evaluate a recipe for its record."""
    path, recipe = record
    values = resolved(load_recipe(recipe))
    about = {"name": name, "commit": checked_out_commit(), "values": {field: values[field] for field in SEARCHED}}
    measure(course, recipe, seed, path=path, data=None, about=about, cache=str(cache_folder()))


@main.command()
@click.argument("name")
@click.argument("data")
@click.option("--image-size", required=True, help="As train takes it.")
@click.option("--epochs", required=True, help="Of each training.")
@click.option("--seeds", default=1, show_default=True)
def compare(name: str, data: str, *, image_size: str, epochs: str, seeds: int) -> None:
    """Train on DATA with the default recipe, and with what a search has found for NAME, for equal numbers of images."""
    record = FOLDER / f"untuned-{name}-tuned-0.json"
    if not record.exists():
        raise click.UsageError(f"Nothing was searched for {name}: give run first.")
    tuned = json.loads(record.read_text())["values"]
    lever = ",".join(f"{field}={value}" for field, value in changed_values(tuned).items())
    course = f"{COMPARED}{name}"
    COURSES[course] = Course(data, 0, {"image_size": image_size})
    for seed in range(seeds):
        for word in ("", lever):
            parameters = {"data": data, "recipe": DEFAULT, "epochs": epochs, "image_size": image_size, "seed": seed}
            levers.measure(course, word, parameters)


@main.command()
def equal() -> None:
    """Print the default recipe beside the one that was searched for, at equal numbers of images."""
    heads = ["data", "images", "recipe", "fid_ratio", "recall", "coverage", "critic"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(FOLDER.glob(f"levers-{COMPARED}*.json")):
        result = json.loads(path.read_text())
        name, _ = path.stem.removeprefix(f"levers-{COMPARED}").split(f"-{result['epochs']}-", 1)
        runs.setdefault((name, result["lever"]), []).append(result)
    for (name, lever), results in sorted(runs.items()):
        cells = [cell(results, f"{metric}/self-supervised") for metric in ("fid_ratio", "recall", "coverage")]
        critic = mean_and_std([max(critics(result["metrics"])) for result in results])
        recipe = "what was found" if lever else f"`{DEFAULT}`"
        images = f"{results[0]['images']:,.0f}"
        print(f"| {' | '.join([name, images, recipe, *cells, critic])} |")


@main.command()
def table() -> None:
    """Print the default recipe beside the one that was searched for, for all data."""
    runs: dict[str, dict[bool, list[dict[str, Any]]]] = {}
    for path in sorted(FOLDER.glob("untuned-*.json")):
        result = json.loads(path.read_text())
        runs.setdefault(result["name"], {}).setdefault(result["recipe"] == DEFAULT, []).append(result)
    heads = ["data", "minutes", "images", "recipe", *RATIOS, "critic"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name, of_recipe in sorted(runs.items()):
        for is_default, results in sorted(of_recipe.items(), reverse=True):
            images = mean(result["images"] for result in results)
            cells = [cell(results, ratio) for ratio in RATIOS]
            critic = mean_and_std([max(critics(result["metrics"])) for result in results])
            recipe = f"`{DEFAULT}`" if is_default else changes(results[0]["values"])
            row = [name, f"{results[0]['minutes']:g}", f"{images:,.0f}", recipe, *cells, critic]
            print(f"| {' | '.join(row)} |")


def changed_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return which of the searched values are others than those of the default recipe."""
    own = resolved(load_recipe(DEFAULT))
    return {field: value for field, value in values.items() if str(value) != str(own[field])}


def changes(values: dict[str, Any]) -> str:
    """Return them as a cell of the table."""
    changed = changed_values(values)
    return f"`{', '.join(f'{k}={v}' for k, v in changed.items())}`" if changed else "the same was found"


@main.command()
@click.argument("out")
def sheet(out: str) -> None:
    """Save to OUT two rows of samples of the default recipe for each data set, in the order of the table."""
    strips = []
    for path in sorted(FOLDER.glob(f"untuned-*-{DEFAULT}-0.png")):
        samples = Image.open(path)
        samples = samples.crop((0, 0, samples.width, samples.height * ROWS // SAMPLED_ROWS)).convert("RGB")
        strips.append(samples.resize((WIDTH, round(WIDTH * samples.height / samples.width))))
    canvas = Image.new("RGB", (WIDTH, sum(strip.height for strip in strips)))
    top = 0
    for strip in strips:
        canvas.paste(strip, (0, top))
        top += strip.height
    canvas.save(out)


def cell(results: list[dict[str, Any]], metric: str) -> str:
    """Return mean and spread of a metric; data without classes has none in a classifier's features."""
    values = [result["metrics"][metric] for result in results if metric in result["metrics"]]
    return mean_and_std(values) if values else "–"


if __name__ == "__main__":
    main()
