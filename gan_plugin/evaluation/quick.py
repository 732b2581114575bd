"""A quick look at a generator while it is trained: one Fréchet distance from few images."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gan_plugin.data import Dataset
from gan_plugin.data.dataset import make_dataset
from gan_plugin.errors import UserError
from gan_plugin.evaluation.reference import as_pixels, gaussian_of, has_classes
from gan_plugin.evaluation.results import evenly
from gan_plugin.export import Quantized
from gan_plugin.features import FeatureNetwork, choose_features, load_network
from gan_plugin.metrics.frechet import Gaussian, fit_gaussian, frechet_distance
from gan_plugin.training.ema import inputs_of

IMAGES = 2048  # generated
SEEDS = np.arange(IMAGES) + 2**51  # far from those of evaluations, or the choice of the best would flatter these
REFERENCE = 10_000  # real ones at most
BATCH = 128
TRIED = 32
PATIENCE = 300.0  # seconds


class QuickFid:
    """Fréchet distance between 2,048 images of fixed seeds and the training images, at most 10,000 of them.

    Always the same seeds, so that two generators differ by what they learned and not by what they were asked. The
    figure is comparable within a run and not with ``fid``, which is from more images: hence its own name.

    Attributes:
        metric: ``fid_2k/`` and the network's name.
        digest: the network's.
        seconds: spent so far, on loading or training the network and on the reference's features, too.
    """

    def __init__(
        self, network: FeatureNetwork, reference: Gaussian, latent_size: int, classes: int, seconds: float
    ) -> None:
        self.metric, self.digest = f"fid_2k/{network.name}", network.digest
        self.seconds = seconds
        self.network, self.reference = network, reference
        self.inputs = inputs_of(SEEDS, latent_size, classes, torch.device("cpu"))

    @torch.no_grad()
    def __call__(self, generator: nn.Module) -> float:
        """The distance for a generator in eval mode, which makes −1…1 images [B, C, H, W] from z [B, latent_size]
        and, where it takes labels, from those, of all classes alike."""
        began = time.perf_counter()
        show = Quantized(generator)
        device = next(generator.parameters()).device
        features: list[Tensor] = []
        for batch in zip(*(x.split(BATCH) for x in self.inputs)):
            features.append(self.network(show(*(x.to(device) for x in batch)).cpu().numpy()).features)
        distance = frechet_distance(fit_gaussian(torch.cat(features)), self.reference)
        self.seconds += time.perf_counter() - began
        return distance


def make_quick_fid(
    dataset: Dataset,
    features: str | None,
    latent_size: int,
    classes: int,
    device: torch.device,
    weights: Path | None = None,
) -> QuickFid:
    """Load or train the network, and fit the Gaussian of the training images, unless the cache holds them.

    Raises:
        UserError: the network cannot be had for these images, or nobody asked for it by name and it is so slow here
            that getting ready would take longer than PATIENCE.
    """
    began = time.perf_counter()
    chosen = choose_features(features, has_classes(dataset))
    network = load_network(chosen, dataset, device, inception_weights=weights)
    some = few(dataset)
    if features is None and (needed := seconds_for(network, some, len(some) + IMAGES)) > PATIENCE:
        raise UserError(
            f"{network.name} would take {needed / 60:.0f} minutes to look at {len(some) + IMAGES:,} images on this "
            f"{device.type}: give features={network.name} to have it all the same, or other features."
        )
    reference = gaussian_of(network, some)
    return QuickFid(network, reference, latent_size, classes, time.perf_counter() - began)


def few(dataset: Dataset) -> Dataset:
    """At most REFERENCE of the images, from all over the data."""
    if len(dataset) <= REFERENCE:
        return dataset
    rows = torch.from_numpy(evenly(len(dataset), REFERENCE))
    labels = None if dataset.labels is None else dataset.labels[rows]
    return make_dataset(
        dataset.samples[rows],
        labels,
        dataset.spec.class_names,
        name=dataset.name,
        source=dataset.source,
        split=dataset.split,
        notes=dataset.notes,
    )


def seconds_for(network: FeatureNetwork, dataset: Dataset, count: int) -> float:
    """What ``count`` images would take, from a try with a few; the first ones only warm up."""
    sample = as_pixels(dataset)[:TRIED]
    network(sample[:1])
    began = time.perf_counter()
    network(sample)
    return (time.perf_counter() - began) * count / len(sample)
