"""GANs beside autoencoders on the same data, for equal minutes, over several seeds.

    python benchmarks/autoencoders.py run --name digits --data digits --minutes 2
    python benchmarks/autoencoders.py table digits

``run`` goes through the command line that users have, with a thread each, and keeps each result as a JSON file. What is
there already is not done again, so that it can be stopped and gone on with. ``table`` prints what there is as Markdown.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from mlflow import MlflowClient
from recipes import FOLDER, command, device, environment_of, mean_and_std

from gan_plugin import flavor
from gan_plugin.data import load_divided, load_held_out
from gan_plugin.data.stored import pixels_of
from gan_plugin.evaluation.results import regular_indices
from gan_plugin.serving.projection import project

RECIPES = "subpixel,r1,dcgan,autoencoder,vae,rae"
PROJECTED = 20  # held-out images whose z is searched
# what the table has, by its heading
COLUMNS = {
    "fid": "fid/classifier",
    "from N(0, I)": "fid_normal/classifier",
    "fid, self-supervised": "fid/self-supervised",
    "from N(0, I), self-supervised": "fid_normal/self-supervised",
    "critic": "critic_auroc",
    "recall": "recall/self-supervised",
    "sharpness": "sharpness/pixels",
    "PSNR, encoder": "reconstruction_psnr/pixels",
    "PSNR, search": "projected_psnr",
    "images/s": "throughput/images_per_second",
}


@click.group()
def main() -> None:
    """Compare GANs and autoencoders."""


@main.command()
@click.option("--name", default="digits", show_default=True, help="Of the data, for the results' file names.")
@click.option("--data", default="digits", show_default=True)
@click.option("--minutes", default=2.0, show_default=True)
@click.option("--recipes", default=RECIPES, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--workers", default=1, show_default=True, help="Runs at a time, with one thread each on a CPU.")
def run(name: str, data: str, *, minutes: float, recipes: str, seeds: int, workers: int) -> None:
    """Train and evaluate each recipe with each seed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    jobs = [
        (recipe, seed, FOLDER / f"autoencoders-{name}-{recipe}-{seed}.json")
        for seed in range(seeds)
        for recipe in recipes.split(",")
    ]
    with ThreadPoolExecutor(workers) as pool:
        missing = [job for job in jobs if not job[2].exists()]
        for _ in pool.map(lambda job: measure(*job, data=data, minutes=minutes), missing):
            pass


def measure(recipe: str, seed: int, path: Path, *, data: str, minutes: float) -> None:
    store = Path("outputs/autoencoders") / path.stem
    environment = environment_of(store)
    parameters = {"data": data, "recipe": recipe, "seed": seed, "minutes": minutes, "output_dir": store}
    if command("train", environment, log=store / "train.log", parameters=parameters):
        raise SystemExit(f"{store}: train did not end well")
    evaluated = command(
        "evaluate", environment, log=store / "evaluate.log", parameters={"model": "models:/gan/1", "data": data}
    )
    if evaluated:
        raise SystemExit(f"{store}: evaluate ended with {evaluated}")
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    training, evaluation = client.search_runs(["0"], order_by=["attributes.start_time ASC"])
    metrics = training.data.metrics | evaluation.data.metrics
    result = {"recipe": recipe, "seed": seed, "minutes": minutes, "data": data, "device": device()}
    kept = {name: value for name, value in metrics.items() if not name.startswith("system/") and "/CLASS" not in name}
    kept["projected_psnr"] = projected_psnr(next(store.glob("*/generator.onnx")), data)
    path.write_text(json.dumps(result | {"metrics": dict(sorted(kept.items()))}, indent=1))
    print(path.stem, {heading: round(kept[n], 2) for heading, n in COLUMNS.items() if n in kept}, flush=True)


def projected_psnr(onnx_file: Path, data: str) -> float:
    """Return how near a search comes to held-out images, in decibels, with an encoder's help if there is one."""
    encoder = onnx_file.with_name(flavor.ENCODER_FILE)
    generator = flavor.OnnxGenerator(onnx_file, device="cpu", encoder_file=encoder if encoder.exists() else None)
    held_out = load_held_out(data, load_divided(data))
    assert held_out is not None
    images = pixels_of(held_out.samples)[regular_indices(len(held_out), PROJECTED)]
    return float(project(generator, images).psnr.mean())


@main.command()
@click.argument("name")
def table(name: str) -> None:
    """Print means and standard deviations over seeds as Markdown."""
    rows: dict[str, list[dict[str, float]]] = {}
    results = [json.loads(path.read_text()) for path in sorted(FOLDER.glob(f"autoencoders-{name}-*.json"))]
    for result in results:
        rows.setdefault(result["recipe"], []).append(with_critic(result["metrics"]))
    first = results[0]
    print(f"{first['data'].rpartition('/')[2]}, {first['minutes']:g} minutes on one core ({first['device']}):\n")
    print(f"| recipe | seeds | {' | '.join(COLUMNS)} |")
    print(f"|---|---|{'---|' * len(COLUMNS)}")
    for recipe in RECIPES.split(","):
        if of_recipe := rows.get(recipe):
            print(f"| `{recipe}` | {len(of_recipe)} | {' | '.join(cells(of_recipe))} |")


def with_critic(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics with that of the critic of images in full size under its short name."""
    critics = {int(k.rpartition("-")[2]): v for k, v in metrics.items() if k.startswith("critic_auroc/")}
    return metrics | {"critic_auroc": critics[max(critics)]}


def cells(of_recipe: list[dict[str, float]]) -> list[str]:
    """Return the cells of a recipe: a mean and, of several seeds, the standard deviation."""
    return [mean_and_std([metrics[name] for metrics in of_recipe if name in metrics]) for name in COLUMNS.values()]


if __name__ == "__main__":
    main()
