"""What feature networks see: python benchmarks/features.py --data digits /usr/share/datasets/fashion-mnist

For each data set and network: seconds of training on one core, the Fréchet distance of held-out real images to the
training images, that distance relative to the one between two parts of the training images (1 means that the network
does not know its training images better), and how many times farther away held-out images are once they are damaged.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter
from validity import load_splits

from gan_plugin.data import Dataset
from gan_plugin.evaluation.reference import as_pixels, has_classes
from gan_plugin.features import FeatureNetwork, load_network
from gan_plugin.media.image import Images
from gan_plugin.metrics.frechet import fit_gaussian, frechet_distance

NETWORKS = ("classifier", "rotation", "self-supervised")
HELD_OUT = 5  # of data without a split for it, every fifth image
REPETITIONS = 5  # of the division of the training images
TILES = 4  # along a side


def blurred(images: Images, radius: float) -> Images:
    """Blur with a Gaussian of this standard deviation, in pixels."""
    smooth = [Image.fromarray(image.squeeze()).filter(ImageFilter.GaussianBlur(radius)) for image in images]
    return np.stack([np.asarray(image) for image in smooth]).reshape(images.shape)


def checkered(images: Images, levels: int) -> Images:
    """Make pixels lighter and darker in turn, by so many gray levels."""
    signs = np.indices(images.shape[1:3]).sum(0) % 2 * 2 - 1
    return (images.astype(np.int16) + levels * signs[..., None]).clip(0, 255).astype(np.uint8)


def shuffled(images: Images) -> Images:
    """Put 4×4 tiles of an image in an order of its own."""
    height, width = (side // TILES for side in images.shape[1:3])
    generator, result = np.random.default_rng(0), images.copy()
    for before, after in zip(images, result):
        for place, tile in enumerate(generator.permutation(TILES**2)):
            (down, right), (row, column) = divmod(place, TILES), divmod(int(tile), TILES)
            after[down * height : (down + 1) * height, right * width : (right + 1) * width] = before[
                row * height : (row + 1) * height, column * width : (column + 1) * width
            ]
    return result


def posterized(images: Images, levels: int) -> Images:
    """Leave so many gray levels in each channel."""
    posterized_images: Images = np.rint(np.rint(images / 255 * (levels - 1)) / (levels - 1) * 255).astype(np.uint8)
    return posterized_images


DAMAGES: dict[str, Callable[[Images], Images]] = {
    "blur 0.5": lambda images: blurred(images, 0.5),
    "blur 1": lambda images: blurred(images, 1),
    "checkerboard ±8": lambda images: checkered(images, 8),
    "checkerboard ±16": lambda images: checkered(images, 16),
    "shuffled tiles": shuffled,
    "4 gray levels": lambda images: posterized(images, 4),
    "8 gray levels": lambda images: posterized(images, 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", nargs="+", default=["digits"], help="Data sets, with classes for the network classifier."
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="Feature networks.")
    parser.add_argument("--image-size", type=int, help="Size of images that have no size of their own, in pixels.")
    parser.add_argument("--images", type=int, default=12_000, help="Training images at most; a sixth of that held out.")
    options = parser.parse_args()
    columns = ["data", "network", "training, s of a core", "held out", "overfitting", *DAMAGES, "a class missing"]
    print(row(columns), row(["---"] * len(columns)), sep="\n", flush=True)
    size = None if options.image_size is None else (options.image_size, options.image_size)
    for data in options.data:
        training, held_out = split(*load_splits(data, size), limit=options.images)
        for name in options.networks:
            with tempfile.TemporaryDirectory() as cache:  # or training would take no time
                os.environ["GAN_PLUGIN_CACHE"] = cache
                start = time.process_time()
                network = load_network(name, training, torch.device("cpu"))
                seconds = time.process_time() - start
            print(row([training.name, name, f"{seconds:.0f}", *measured(network, training, held_out)]), flush=True)


def split(dataset: Dataset, held_out: Dataset | None, *, limit: int) -> tuple[Dataset, Dataset]:
    """Return training and held-out images, no more than the limit and a sixth of it."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    if held_out is None:
        part = len(dataset) // HELD_OUT
        return dataset.take(order[part:][:limit]), dataset.take(order[:part][: limit // 6])
    return dataset.take(order[:limit]), held_out.take(torch.arange(min(len(held_out), limit // 6)))


def measured(network: FeatureNetwork, training: Dataset, held_out: Dataset) -> list[str]:
    """Return the cells of a row from the distance of held-out images on."""
    features, images = network(as_pixels(training)).features, as_pixels(held_out)
    real, of_held_out = fit_gaussian(features), network(images).features

    def distance(damaged: Images) -> float:
        return frechet_distance(fit_gaussian(network(damaged).features), real)

    baseline = frechet_distance(fit_gaussian(of_held_out), real)
    cells = [f"{baseline:.3g}", f"{overfitting(features, of_held_out):.2f}"]
    cells += [f"{distance(damage(images)) / baseline:.3g}" for damage in DAMAGES.values()]
    if not has_classes(held_out) or held_out.labels is None:
        return [*cells, ""]
    rest = held_out.labels != held_out.labels.mode().values
    return [*cells, f"{frechet_distance(fit_gaussian(of_held_out[rest]), real) / baseline:.3g}"]


def overfitting(training: torch.Tensor, held_out: torch.Tensor) -> float:
    """Return how far held-out features are from training ones, relative to how far as many training ones are."""
    of_held_out = of_training = 0.0
    for seed in range(REPETITIONS):
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))
        part, others = training[order[: len(held_out)]], fit_gaussian(training[order[len(held_out) :]])
        of_held_out += frechet_distance(fit_gaussian(held_out), others)
        of_training += frechet_distance(fit_gaussian(part), others)
    return of_held_out / of_training


def row(cells: list[str]) -> str:
    """Return a row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
