"""Which metric sees which damage: real images that were damaged on purpose are measured as if they were generated.

    python benchmarks/validity.py run --data digits --name digits
    python benchmarks/validity.py run --data FOLDER --name emoji --image-size 64 --generator blobs=generator.onnx
    python benchmarks/validity.py table

One half of the held-out images is compared with, the other half is damaged. Untouched, that half shows what a perfect
generator would score. Data without a split for it has a third of its images held out. ``run`` writes JSON to
benchmarks/results/, ``table`` prints what there is as Markdown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F

from gan_plugin.data import Dataset, load_dataset, load_divided, load_held_out
from gan_plugin.evaluation.critic import critic_measurements
from gan_plugin.evaluation.reference import Reference, as_pixels, gaussian_of, has_classes
from gan_plugin.evaluation.results import Measurement
from gan_plugin.evaluation.spectra import spectrum_measurements
from gan_plugin.evaluation.verdict import verdict
from gan_plugin.features import FeatureNetwork, choose_features, load_network
from gan_plugin.media.image import CHANNELS_FIRST, CHANNELS_LAST, Images
from gan_plugin.metrics.frechet import fit_gaussian, frechet_distance
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.spec import Size

FOLDER = Path("benchmarks/results")
CPU = torch.device("cpu")
UNTOUCHED = "untouched"
SEEN_FACTOR, SEEN_AUROC, SEEN_DB = 2.0, 0.75, 3.0  # beyond the untouched half: what the table prints in bold
HELD_OUT_SHARE = 3  # one image in three, where the data has no split for it


# ---- damages: images uint8 [N, H, W, C] → as many of the same shape --------------------------------------------------


def blurred(images: Images) -> Images:
    """Smooth by the binomial filter 1 2 1, a blur of 0.7 pixels."""
    tensor = torch.from_numpy(np.array(images)).permute(CHANNELS_FIRST).float()
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(line, line).expand(tensor.shape[1], 1, 3, 3)
    smooth = F.conv2d(F.pad(tensor, (1, 1, 1, 1), mode="replicate"), kernel, groups=tensor.shape[1])
    return as_images(smooth)


def checkered(images: Images) -> Images:
    """Make every second pixel 6 gray levels brighter and the others darker, as a transposed convolution may."""
    height, width = images.shape[1:3]
    board = np.indices((height, width)).sum(0) % 2 * 12 - 6
    return np.clip(images.astype(np.int64) + board[:, :, None], 0, 255).astype(np.uint8)


def noisy(images: Images) -> Images:
    """Add noise of 10 gray levels."""
    values = images + np.random.default_rng(0).normal(0, 10, images.shape)
    return np.clip(values, 0, 255).round().astype(np.uint8)


def posterized(images: Images) -> Images:
    """Keep four gray levels of each channel."""
    return (images // 64 * 85).astype(np.uint8)


def shuffled(images: Images) -> Images:
    """Shuffle the 16 patches of each image."""
    count, height, width, channels = images.shape
    rows, columns = height // 4, width // 4
    patches = images[:, : 4 * rows, : 4 * columns].reshape(count, 4, rows, 4, columns, channels).swapaxes(2, 3)
    patches = patches.reshape(count, 16, rows, columns, channels)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(16), (count, 1)), axis=1)
    patches = np.take_along_axis(patches, order[:, :, None, None, None], axis=1)
    out = images.copy()
    grid = patches.reshape(count, 4, 4, rows, columns, channels).swapaxes(2, 3)
    out[:, : 4 * rows, : 4 * columns] = grid.reshape(count, 4 * rows, 4 * columns, channels)
    return out


def upside_down(images: Images) -> Images:
    """Turn the images upside down."""
    return images[:, ::-1].copy()


def collapsed(images: Images) -> Images:
    """Repeat four of the images."""
    return images[np.random.default_rng(0).integers(0, 4, len(images))]


def blobs(images: Images) -> Images:
    """Keep what is left at 4×4 pixels, smoothly enlarged, under a checkerboard."""
    tensor = torch.from_numpy(np.array(images)).permute(CHANNELS_FIRST).float()
    coarse = F.adaptive_avg_pool2d(tensor, 4)
    return checkered(as_images(F.interpolate(coarse, size=tensor.shape[2:], mode="bicubic")))


def as_images(tensor: torch.Tensor) -> Images:
    return tensor.clamp(0, 255).round().to(torch.uint8).permute(CHANNELS_LAST).numpy()


DAMAGES: dict[str, Callable[[Images], Images]] = {
    "blurred by 0.7 pixels": blurred,
    "checkerboard of ± 6": checkered,
    "noise of 10": noisy,
    "four gray levels": posterized,
    "patches shuffled": shuffled,
    "upside down": upside_down,
    "four images repeated": collapsed,
    "blobs with a checkerboard": blobs,
}


# ---- measuring -------------------------------------------------------------------------------------------------------


@click.group()
def main() -> None:
    """Measure damaged real images."""


@main.command()
@click.option("--data", default="digits", show_default=True)
@click.option("--name", default="digits", show_default=True, help="Of the data, for the result's file name.")
@click.option("--images", default=2000, show_default=True, help="At most so many in either half.")
@click.option("--image-size", type=int, help="Resize to this side.")
@click.option("--features", multiple=True, help="Feature network; may be repeated. [default: as evaluate's]")
@click.option("--generator", "generators", multiple=True, help="NAME=FILE.onnx: a further row of its images.")
def run(
    data: str, name: str, *, images: int, image_size: int | None, features: tuple[str, ...], generators: tuple[str, ...]
) -> None:
    """Measure each damage of the held-out images."""
    dataset, held_out = load_splits(data, None if image_size is None else (image_size, image_size))
    reference_images, *halves = split(dataset, held_out)
    compared, damaged = (half.take(torch.arange(min(images, len(half)))) for half in halves)
    chosen = features or (choose_features(None, has_classes(dataset)),)
    networks = {feature: load_network(feature, reference_images, CPU) for feature in chosen}
    reference = Reference(reference_images, held_out=compared, network=next(iter(networks.values())), classifier=None)
    untouched = np.ascontiguousarray(as_pixels(damaged))
    rows = {UNTOUCHED: untouched}
    for generator in generators:
        row, _, path = generator.partition("=")
        rows[row] = OnnxGenerator(Path(path), device="cpu").sample(np.arange(len(untouched)))
    rows |= {row: damage(untouched) for row, damage in DAMAGES.items()}
    content: dict[str, Any] = {
        "data": name,
        "shape": list(untouched.shape[1:]),
        "images": {"trained on": len(reference_images), "compared": len(compared), "damaged": len(damaged)},
        "rows": {},
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    for row, row_images in rows.items():
        start = time.perf_counter()
        content["rows"][row] = scores(row_images, reference, networks)
        print(f"{row}, {time.perf_counter() - start:.0f} s:", json.dumps(content["rows"][row]), flush=True)
        text = json.dumps(content, indent=1, ensure_ascii=False)  # after each row: what is measured stays
        (FOLDER / f"validity-{name}.json").write_text(f"{text}\n", "utf-8")


def load_splits(data: str, size: Size | None) -> tuple[Dataset, Dataset | None]:
    """Load the images to train on and those of the data's own held-out split; all and None where it has none."""
    division = load_divided(data, image_size=size)
    if division.drawn is None:
        return division.dataset, load_held_out(data, division)
    return load_dataset(data, image_size=size), None


def split(dataset: Dataset, held_out: Dataset | None) -> tuple[Dataset, Dataset, Dataset]:
    """Return the images trained on, and two halves of the held-out ones in random order."""
    random = torch.Generator().manual_seed(0)
    if held_out is None:
        order = torch.randperm(len(dataset), generator=random)
        count = len(dataset) // HELD_OUT_SHARE
        held_out, dataset = dataset.take(order[:count]), dataset.take(order[count:])
    order = torch.randperm(len(held_out), generator=random)
    return dataset, held_out.take(order[::2]), held_out.take(order[1::2])


def scores(images: Images, reference: Reference, networks: dict[str, FeatureNetwork]) -> dict[str, float | str]:
    """Return the metrics of images under their logged names, and the verdict on them."""
    measurements = [
        *critic_measurements(images, reference, CPU),
        *spectrum_measurements(images, reference, CPU),
        *(distance(images, reference, network) for network in networks.values()),
    ]
    values: dict[str, float | str] = {f"{m.name}/{m.network}": round(m.value, 4) for m in measurements}
    return values | {"verdict": verdict(measurements)}


def distance(images: Images, reference: Reference, network: FeatureNetwork) -> Measurement:
    """Measure fid in the features of a network."""
    real = gaussian_of(network, reference.dataset, CPU)
    return Measurement("fid", frechet_distance(fit_gaussian(network(images).features), real), network=network.name)


# ---- the table -------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("name", required=False, default="")
def table(name: str) -> None:
    """Print the results of data whose NAME begins so as Markdown; what a metric sees is bold."""
    for path in sorted(FOLDER.glob(f"validity-{name}*.json")):
        content = json.loads(path.read_text("utf-8"))
        rows = content["rows"]
        columns = [column for column in rows[UNTOUCHED] if column != "verdict"]
        height, width, channels = content["shape"]
        counts = content["images"]
        print(
            f"\n**{content['data']}**, {height}×{width}×{channels}: {counts['damaged']:,} images, compared with "
            f"{counts['compared']:,} held-out and {counts['trained on']:,} training images.\n"
        )
        print(f"| images | {' | '.join(f'`{column}`' for column in columns)} |")
        print("|---|" + "---:|" * len(columns))
        for row, values in rows.items():
            cells = [cell(column, values[column], rows[UNTOUCHED][column]) for column in columns]
            print(f"| {row} | {' | '.join(cells)} |")
    print()


def cell(column: str, value: float, untouched: float) -> str:
    text = f"{value:.2f}" if column.startswith("critic") or abs(value) < 9.95 else f"{value:,.0f}"
    text = text.replace("-", "−")
    return f"**{text}**" if is_seen(column, value, untouched) else text


def is_seen(column: str, value: float, untouched: float) -> bool:
    """Return whether a metric is clearly worse than of untouched real images."""
    if column.startswith("critic"):
        return value >= SEEN_AUROC
    if column.startswith("fid"):
        return value >= SEEN_FACTOR * untouched
    difference = value - untouched
    return (abs(difference) if column.startswith("high_frequencies") else difference) >= SEEN_DB


if __name__ == "__main__":
    main()
