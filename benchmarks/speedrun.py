"""What a generator reaches in minutes: training against the clock, from the start of the process to the exported file.

    python benchmarks/speedrun.py run fashion --recipes r1,r3gan --seeds 3 --change "the recipes that ship"
    python benchmarks/speedrun.py table fashion
    python benchmarks/speedrun.py curve fashion

``run`` gives the command that users have, with ``minutes``, one training at a time on all cores and with an empty
cache, as the first one on new data, and evaluates afterwards, off the clock. Each result is a JSON file beside a sheet
of samples; what is there already is not done again. ``table`` prints the log of what has been measured, as Markdown,
and ``curve`` how far the newest trainings had come after so many minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import click
from mlflow import MlflowClient
from mlflow.entities import Run
from recipes import FOLDER, command, device, mean_and_std


class Course(NamedTuple):
    """Data and time of a speedrun.

    Attributes:
        data: as ``--data`` takes it; None is asked for with ``--data``.
        minutes: from the start of the process to the exported file, registered.
        options: further ones of the training.
    """

    data: str | None
    minutes: float
    options: dict[str, Any]


COURSES = {
    "fashion": Course("/usr/share/datasets/fashion-mnist", 10, {}),
    "emoji": Course(None, 30, {"image_size": 64}),
    "emoji-10": Course(None, 10, {"image_size": 64}),
}
COLUMNS = ("fid_ratio/classifier", "fid_ratio/self-supervised", "recall/classifier", "precision/classifier")
CRITIC = "critic_auroc/"
DURING = "fid_2k/classifier"  # what a training measures of itself
POINTS = 6  # of a curve


@click.group()
def main() -> None:
    """Race against the clock."""


@main.command()
@click.argument("course", type=click.Choice(sorted(COURSES)))
@click.option("--recipes", default="r1", show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--data", help="Where the course names none.")
@click.option("--change", required=True, help="What is new since the last record, in a few words.")
def run(course: str, *, recipes: str, seeds: int, data: str | None, change: str) -> None:
    """Train each recipe with each seed in the course's minutes, and evaluate it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    at = checked_out_commit()
    for seed in range(seeds):
        for recipe in recipes.split(","):
            path = FOLDER / f"speedrun-{course}-{at}-{Path(recipe).stem}-{seed}.json"
            if not path.exists():
                about = {"commit": at, "change": change}
                with tempfile.TemporaryDirectory() as cache:
                    measure(COURSES[course], recipe, seed, path=path, data=data, about=about, cache=cache)


def checked_out_commit() -> str:
    """Return the commit that is checked out."""
    done = subprocess.run(["git", "rev-parse", "--short=9", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def measure(
    course: Course, recipe: str, seed: int, *, path: Path, data: str | None, about: dict[str, Any], cache: str
) -> None:
    """Train with feature networks and what else is kept from ``cache``, and evaluate with those of the user's own."""
    store = Path("outputs/speedrun").resolve() / path.stem
    shutil.rmtree(store, ignore_errors=True)  # of an attempt cut short, whose model would be version 1
    store.mkdir(parents=True)
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    source = {"data": data or course.data, **course.options}
    parameters = {"recipe": recipe, "seed": seed, "minutes": course.minutes, "output_dir": store, **source}
    start = time.perf_counter()
    trained = command(
        "train", environment | {"GAN_PLUGIN_CACHE": cache}, log=store / "train.log", parameters=parameters
    )
    seconds = time.perf_counter() - start
    if trained != 0:
        raise SystemExit(f"{store}: train ended with {trained}")
    model = {"model": "models:/gan/1"}
    evaluated = command("evaluate", environment, log=store / "evaluate.log", parameters=model | source)
    sheet = {"seeds": "0-63", "out": path.with_suffix(".png")}
    sampled = command("sample", environment, log=store / "sample.log", parameters=model | sheet)
    if evaluated or sampled:
        raise SystemExit(f"{store}: evaluate ended with {evaluated}, sample with {sampled}")
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    evaluation, training = client.search_runs(["0"])  # the newest first
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        **about,
        "recipe": Path(recipe).stem,
        "seed": seed,
        "minutes": course.minutes,
        "seconds": seconds,
        "device": device(),
        **outcome(training, evaluation),
        "curve": distances(client, training),
    }
    path.write_text(json.dumps(result, indent=1))
    print(path.stem, {name: round(evaluation.data.metrics.get(name, float("nan")), 3) for name in COLUMNS}, flush=True)


@main.command()
@click.argument("course", type=click.Choice(sorted(COURSES)))
def table(course: str) -> None:
    """Print the log of records, the newest first."""
    heads = ["date", "commit", "change", "recipe", "seeds", "seconds", "images", *COLUMNS, "critic"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for (commit, recipe), results in sorted(records(course).items(), key=lambda item: newest(item[1]), reverse=True):
        seconds = mean_and_std([result["seconds"] for result in results])
        images = f"{mean(result['images'] for result in results):,.0f}"
        cells = [mean_and_std([result["metrics"][name] for result in results]) for name in COLUMNS]
        critic = mean_and_std([max(critics(result["metrics"])) for result in results])
        about = [newest(results)[:10], commit, results[0]["change"], f"`{recipe}`", str(len(results))]
        row = [*about, seconds, images, *cells, critic]
        print(f"| {' | '.join(row)} |")


@main.command()
@click.argument("course", type=click.Choice(sorted(COURSES)))
def curve(course: str) -> None:
    """Print the distance from the data that each recipe's newest trainings had reached after so many minutes."""
    minutes = [COURSES[course].minutes * point / POINTS for point in range(1, POINTS + 1)]
    heads = ["recipe", "seeds", *(f"{minute:.3g} min" for minute in minutes)]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    of_recipe: dict[str, list[dict[str, Any]]] = {}
    for (_commit, recipe), results in sorted(records(course).items(), key=lambda item: newest(item[1])):
        if all("curve" in result for result in results):
            of_recipe[recipe] = results
    for recipe, results in of_recipe.items():
        cells = [mean_and_std(best_until(minute, results)) for minute in minutes]
        print(f"| {' | '.join([f'`{recipe}`', str(len(results)), *cells])} |")


def records(course: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return what has been measured, by commit and recipe: a result for each seed."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(FOLDER.glob(f"speedrun-{course}-*.json")):
        result = json.loads(path.read_text())
        if f"speedrun-{course}-{result['commit']}" in path.stem:  # and not another course whose name begins so
            grouped.setdefault((result["commit"], result["recipe"]), []).append(result)
    return grouped


def distances(client: MlflowClient, training: Run) -> list[tuple[float, float]]:
    """Return after how many minutes of its run a training was how far from its data."""
    history = client.get_metric_history(training.info.run_id, DURING)
    return [((point.timestamp - training.info.start_time) / 60_000, point.value) for point in history]


def best_until(minutes: float, results: list[dict[str, Any]]) -> list[float]:
    """Return the least distance until then of each training that had measured one: what would have been exported."""
    until = [[value for minute, value in result["curve"] if minute <= minutes] for result in results]
    return [min(values) for values in until if values]


def newest(results: list[dict[str, Any]]) -> str:
    """Return day and time of the newest result; in records of before times were kept, that of their commit."""
    return max(str(result["date"]) for result in results)


def outcome(training: Run, evaluation: Run) -> dict[str, Any]:
    """Return how much a training saw, how fast, and all that its evaluation measured."""
    return {
        "images": training.data.metrics["images"],
        "images_per_second": training.data.metrics["throughput/images_per_second"],
        "metrics": {k: v for k, v in evaluation.data.metrics.items() if not k.startswith("system/")},
    }


def critics(metrics: dict[str, float]) -> list[float]:
    """Return the AUROC of the critics at all scales."""
    return [value for name, value in metrics.items() if name.startswith(CRITIC)]


if __name__ == "__main__":
    main()
