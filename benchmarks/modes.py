"""Three digits as red, green and blue make 1,000 modes: how many of them does a generator find?

    python benchmarks/modes.py run --epochs 2 --seeds 3
    python benchmarks/modes.py table stacked-2-

After Metz et al. 2017 and Lin et al. 2018, with scikit-learn's digits instead of MNIST: 20,000 stacks of three training
digits drawn at random, no labels given. A classifier of single digits looks at each channel of 26,000 generated stacks.
``real`` is the same for stacks of held-out digits. Results are kept as JSON; what is there is not done again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import datasets
import numpy as np
import torch
from PIL import Image
from recipes import FOLDER, by_recipe, command, device, environment_of, mean_and_std
from torch import Tensor

from gan_plugin.data import Dataset, load_dataset
from gan_plugin.features.classifier import predict_labels
from gan_plugin.features.classifier_store import classifier_of
from gan_plugin.metrics.labels import label_kl, mode_count
from gan_plugin.serving.generator import OnnxGenerator

SIZE, STACKS, GENERATED, MODES = 28, 20_000, 26_000, 1_000
BATCH = 1_000


@click.group()
def main() -> None:
    """Count modes of stacked digits."""


def stacks(dataset: Dataset, count: int, seed: int) -> Tensor:
    """Return three images as the channels of one, drawn at random: uint8 [count, 3, H, W]."""
    rows = torch.randint(len(dataset), (count, 3), generator=torch.Generator().manual_seed(seed))
    return dataset.samples[rows, 0]


def write_data(folder: Path) -> Path:
    """Write the training stacks as a parquet file."""
    file = folder / "train.parquet"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        images = stacks(load_dataset("digits", image_size=SIZE), STACKS, 0).permute(0, 2, 3, 1).numpy()
        rows = {"image": [Image.fromarray(image) for image in images]}
        features = datasets.Features({"image": datasets.Image()})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    return folder.resolve()


def modes_of(images: Tensor) -> Tensor:
    """Return which of the 1,000 modes each stack shows, by the classifier of single digits."""
    classifier, _ = classifier_of(load_dataset("digits", image_size=SIZE), torch.device("cpu"))
    channels = [
        torch.cat([predict_labels(classifier, p[:, c, :, :, None].numpy()) for p in images.split(BATCH)])
        for c in range(3)
    ]
    return channels[0] * 100 + channels[1] * 10 + channels[2]


def mode_metrics(modes: Tensor) -> dict[str, float]:
    uniform = torch.arange(MODES)
    return {"modes": mode_count(modes, MODES), "reverse_kl": label_kl(modes, uniform, MODES)}


@main.command()
@click.option("--recipes", default="dcgan,pacgan,r3gan", show_default=True)
@click.option("--epochs", default=2, show_default=True, help="Of 20,000 images each.")
@click.option("--seeds", default=1, show_default=True)
def run(recipes: str, epochs: int, seeds: int) -> None:
    """Train and count."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    data = write_data(Path("outputs/stacked-digits"))
    held_out = FOLDER / "stacked-real.json"
    if not held_out.exists():
        real = stacks(load_dataset("digits", split="test", image_size=SIZE), GENERATED, 1)
        held_out.write_text(json.dumps(mode_metrics(modes_of(real)), indent=1))
    for seed in range(seeds):
        for recipe in recipes.split(","):
            path = FOLDER / f"stacked-{epochs}-{recipe}-{seed}.json"
            if not path.exists():
                measure(recipe, seed, epochs=epochs, data=data, path=path)


def measure(recipe: str, seed: int, *, epochs: int, data: Path, path: Path) -> None:
    store = Path("outputs/recipes") / path.stem
    environment = environment_of(store)
    parameters: dict[str, Any] = {"data": data, "recipe": recipe, "epochs": epochs, "seed": seed, "output_dir": store}
    if command("train", environment, log=store / "train.log", parameters=parameters | {"evaluation_budget": 0}):
        raise SystemExit((store / "train.log").read_text())
    onnx_file = max(store.rglob("generator.onnx"), key=lambda path: path.stat().st_mtime)  # of this try
    result = mode_metrics(modes_of(generated(onnx_file)))
    path.write_text(json.dumps({"recipe": recipe, "epochs": epochs, "device": device(), **result}, indent=1))
    print(path.stem, result, flush=True)


def generated(onnx_file: Path) -> Tensor:
    """Generate the images of seeds 0 to 25,999: uint8 [26000, 3, H, W]."""
    generator = OnnxGenerator(onnx_file)
    images = np.concatenate([generator.sample(range(i, i + BATCH)) for i in range(0, GENERATED, BATCH)])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@main.command()
@click.argument("prefix")
def table(prefix: str) -> None:
    """Print the results whose file names begin with PREFIX."""
    print("| recipe | seeds | modes of 1,000 | reverse KL |\n|---|---|---|---|")
    for recipe, results in by_recipe(prefix).items():
        cells = [mean_and_std([r[metric] for r in results]) for metric in ("modes", "reverse_kl")]
        print(f"| `{recipe}` | {len(results)} | {' | '.join(cells)} |")
    real = json.loads((FOLDER / "stacked-real.json").read_text())
    print(f"| stacks of held-out digits | | {real['modes']} | {real['reverse_kl']:.2g} |")


if __name__ == "__main__":
    main()
