"""A quick Fréchet distance of a generator in training, from few images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gan_plugin.data import Dataset
from gan_plugin.distributed import ALONE, Ranks
from gan_plugin.errors import UserError
from gan_plugin.evaluation.reference import as_pixels, gaussian_of, has_classes
from gan_plugin.evaluation.results import regular_indices
from gan_plugin.features import FeatureNetwork, choose_quick_features, load_network
from gan_plugin.metrics.catalog import METRICS
from gan_plugin.metrics.frechet import Gaussian, fit_gaussian, frechet_distance
from gan_plugin.networks.wrappers import Quantized, generator_inputs

METRIC = METRICS["fid_2k"]
IMAGES = 2048  # generated
SEEDS = np.arange(IMAGES) + 2**51  # far from those of evaluations, or the choice of the best would flatter these
MAX_REFERENCE = 10_000  # real images
BATCH = 128
TRIAL_IMAGES = 32  # by which the time for all of them is estimated
PATIENCE = 300.0  # seconds


class QuickFeatures:
    """Features of what a generator makes of fixed seeds; where there are several processes, each has a share of them.

    The shares are whole batches, so that a process makes of each what one alone would.
    """

    def __init__(self, network: FeatureNetwork, *, latent_size: int, classes: int, ranks: Ranks = ALONE) -> None:
        self.network, self.ranks = network, ranks
        self.inputs = generator_inputs(SEEDS, latent_size=latent_size, classes=classes, device=torch.device("cpu"))

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield z float32 [B, latent_size] and, where there are classes, labels int64 [B]."""
        return zip(*(x.split(BATCH) for x in self.inputs))

    @torch.no_grad()
    def features(self, generator: nn.Module, *inputs: Tensor) -> Tensor:
        """Return the features [B, F] of what a generator makes of such inputs."""
        device = next(generator.parameters()).device
        images = Quantized(generator)(*(x.to(device) for x in inputs)).cpu().numpy()  # uint8 [B, H, W, C]
        return self.network(images).features

    def share(self, generator: nn.Module) -> list[Tensor]:
        """Return the features of this process's batches: of every one, or every second one, and so on."""
        own = islice(self.batches(), self.ranks.rank, None, self.ranks.world_size)
        return [self.features(generator, *batch) for batch in own]


class QuickFid(QuickFeatures):
    """Fréchet distance between 2,048 images of fixed seeds and the training images, at most 10,000 of them.

    Always the same seeds, so that two generators differ by what they learned and not by what they drew. The distance
    is comparable within a run and not with ``fid``, which is from more images: hence its own name.

    Attributes:
        metric: ``fid_2k/`` and the network's name.
        digest: the network's.
        seconds: that loading or training the network and the reference's features took.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        reference: Gaussian,
        *,
        latent_size: int,
        classes: int,
        seconds: float,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(network, latent_size=latent_size, classes=classes, ranks=ranks)
        self.metric, self.digest = f"{METRIC.name}/{network.name}", network.digest
        self.seconds, self.reference = seconds, reference

    def __call__(self, generator: nn.Module) -> float:
        """Return the distance for a generator in eval mode; in rank 0, where the others answer for their shares.

        They have its weights. What they are asked with are its buffers, such as batch norm's statistics.

        Args:
            generator: makes −1…1 images [B, C, H, W] from z [B, latent_size] and, where it takes labels, from those,
                of all classes equally often.
        """
        buffers = {name: buffer.cpu() for name, buffer in generator.named_buffers()}
        shares, count = self.ranks.ask(buffers, lambda: self.share(generator)), self.ranks.world_size
        in_order = [shares[i % count][i // count] for i in range(IMAGES // BATCH)]
        features = torch.cat([part.to(in_order[0].device) for part in in_order])
        return frechet_distance(fit_gaussian(features), self.reference)

    def time_evaluation(self, generator: nn.Module) -> float:
        """Return how long an evaluation takes, by the second of its batches, as the first is slower, and a distance."""
        first, second, *_rest = self.batches()
        self.features(generator, *first).cpu()
        start = time.perf_counter()
        self.features(generator, *second).cpu()  # or a GPU would still compute
        batch_s, start = time.perf_counter() - start, time.perf_counter()
        frechet_distance(self.reference, self.reference)
        share = -(-IMAGES // (BATCH * self.ranks.world_size))  # batches
        return batch_s * share + time.perf_counter() - start


def make_quick_fid(
    dataset: Dataset,
    features: str | None,
    *,
    latent_size: int,
    classes: int,
    device: torch.device,
    weights: Path | None = None,
    ranks: Ranks = ALONE,
) -> QuickFid:
    """Load or train the feature network, and fit the Gaussian of the training images, unless the cache holds them.

    Args:
        dataset: the training images.
        features: as ``choose_quick_features`` takes it; None chooses by the data.
        latent_size: length of z.
        classes: of the generator; 0 for one that takes no label.
        device: where the feature network runs.
        weights: file of Inception's weights.
        ranks: that share the generated images.

    Raises:
        UserError: the network cannot be had for these images; or ``features`` is None and the network is so slow here
            that its preparation would take longer than PATIENCE.
    """
    start = time.perf_counter()
    chosen = choose_quick_features(features, has_classes(dataset))
    network = load_network(chosen, dataset, device, inception_weights=weights)
    subset = reference_subset(dataset)
    count = len(subset) + IMAGES
    if features is None and (needed := estimated_seconds(network, subset, count)) > PATIENCE:
        raise UserError(
            f"{network.name} would take {needed / 60:.0f} minutes for {count:,} images on this {device.type}: give "
            f"features={network.name} to use it all the same, or other features."
        )
    reference = gaussian_of(network, subset, device)
    seconds = time.perf_counter() - start
    return QuickFid(network, reference, latent_size=latent_size, classes=classes, seconds=seconds, ranks=ranks)


def reference_subset(dataset: Dataset) -> Dataset:
    """Return at most MAX_REFERENCE of the images, spaced evenly over the data."""
    if len(dataset) <= MAX_REFERENCE:
        return dataset
    return dataset.take(torch.from_numpy(regular_indices(len(dataset), MAX_REFERENCE)))


def estimated_seconds(network: FeatureNetwork, dataset: Dataset, count: int) -> float:
    """Estimate the network's time for ``count`` images by a trial with a few; the first image only warms it up."""
    images = as_pixels(dataset)[:TRIAL_IMAGES]
    network(images[:1]).features.cpu()  # or a GPU would still compute
    start = time.perf_counter()
    network(images).features.cpu()
    return (time.perf_counter() - start) * count / len(images)
