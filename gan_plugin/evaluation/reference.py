"""Real images in the features of a network: computed once, then read from the cache.

A cached file's name holds the digest of the images and the digest of the network, which covers its resize, so other
images or another network never meet it.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import torch

from gan_plugin.data import Dataset
from gan_plugin.data.limits import check_memory
from gan_plugin.data.stored import StoredSamples, pixels_of
from gan_plugin.errors import UserError
from gan_plugin.features import FeatureNetwork, Outputs, choose_features, load_network
from gan_plugin.features.cache import Content, cached
from gan_plugin.features.classifier import Classifier
from gan_plugin.features.classifier_store import classifier_of
from gan_plugin.features.trained import TrainedNetwork
from gan_plugin.media.image import ImageRows
from gan_plugin.metrics.frechet import Gaussian, fit_gaussian
from gan_plugin.metrics.neighbors import MIN_SAMPLES, Manifold, fit_manifold
from gan_plugin.waiting import announced


@dataclass(frozen=True)
class Reference:
    """Real images that generators are compared with, and the networks that compare them.

    Attributes:
        dataset: the images that they were trained on.
        held_out: real images that they were not trained on; None where there are none.
        network: in whose features they are compared.
        classifier: of the data's own labels; None for data without labels, or with one class only.
        second: another network in whose features they are compared, too; None for no other.
    """

    dataset: Dataset
    _: KW_ONLY
    held_out: Dataset | None
    network: FeatureNetwork
    classifier: Classifier | None
    second: FeatureNetwork | None = None

    @property
    def networks(self) -> list[FeatureNetwork]:
        """The networks in whose features images are compared, the main one first."""
        return [self.network] if self.second is None else [self.network, self.second]

    @property
    def trained_networks(self) -> list[TrainedNetwork[Any]]:
        """Those of the networks that were trained on the dataset, each of them once."""
        networks = dict.fromkeys([self.classifier, *self.networks])
        return [network for network in networks if isinstance(network, TrainedNetwork)]


def prepare_reference(
    dataset: Dataset,
    held_out: Dataset | None,
    features: str | None,
    *,
    device: torch.device,
    inception_weights: Path | None = None,
) -> Reference:
    """Load, or train, the networks of an evaluation.

    Args:
        dataset: the images that generators were trained on.
        held_out: real images that they were not trained on, or None.
        features: as ``choose_features`` takes it; None (auto) chooses by the data, and for labeled data adds
            "self-supervised" as the second network.
        device: where the networks run.
        inception_weights: file of Inception's weights.

    Raises:
        UserError: there are too few images, or the network cannot be had for them; the sentence names the ways out.
    """
    for images in (dataset, held_out):
        if images is not None and len(images) < MIN_SAMPLES:
            raise UserError(
                f"{images.name}, split {images.split!r}, has {len(images)} images: "
                f"an evaluation needs at least {MIN_SAMPLES}."
            )
    chosen = choose_features(features, has_classes(dataset))
    classifier = classifier_of(dataset, device)[0] if has_classes(dataset) else None
    if classifier is not None and chosen == "classifier":
        second = load_network("self-supervised", dataset, device) if features is None else None
        return Reference(dataset, held_out=held_out, network=classifier, classifier=classifier, second=second)
    network = load_network(chosen, dataset, device, inception_weights=inception_weights)
    return Reference(dataset, held_out=held_out, network=network, classifier=classifier)


def has_classes(dataset: Dataset) -> bool:
    """Return whether there are classes to tell apart: a single one teaches a classifier nothing."""
    return dataset.labels is not None and len(dataset.spec.class_names) > 1


def as_pixels(dataset: Dataset) -> ImageRows:
    """Return the images as the networks take them, uint8 [N, H, W, C]; a view."""
    return pixels_of(dataset.samples)


def outputs_of(network: FeatureNetwork, dataset: Dataset) -> Outputs:
    """Return features and logits of real images, on the CPU, from the cache where they were computed before."""

    def compute() -> Content:
        if isinstance(dataset.samples, StoredSamples):  # whose features may be too many all the same
            size = network(as_pixels(dataset)[:1]).features[0].nbytes
            check_memory(2 * size * len(dataset), f"The features of {len(dataset):,} images with {network.name}")
        with announced(f"Computing the features of {len(dataset):,} images of {dataset.name} with {network.name}."):
            outputs = network(as_pixels(dataset)).to(torch.device("cpu"))
        return {"features": outputs.features} | ({} if outputs.logits is None else {"logits": outputs.logits}), {}

    def read(content: Content) -> Outputs:
        return Outputs(content[0]["features"], content[0].get("logits"))

    return cached(f"outputs-{dataset.digest}-{network.digest}", compute, read)[0]


def gaussian_of(network: FeatureNetwork, dataset: Dataset, device: torch.device) -> Gaussian:
    """Return the Gaussian, fitted to the features on a device, for the Fréchet distance."""

    def compute() -> Content:
        mean, covariance, _ = fit_gaussian(outputs_of(network, dataset).features.to(device))
        return {"mean": mean, "covariance": covariance}, {}

    def read(content: Content) -> Gaussian:
        return Gaussian(content[0]["mean"], content[0]["covariance"], len(dataset))

    return cached(f"gaussian-{dataset.digest}-{network.digest}", compute, read)[0]


def manifold_of(network: FeatureNetwork, dataset: Dataset, device: torch.device) -> Manifold:
    """Return each image's neighborhood in the features, for precision, recall and the like: the expensive part."""
    features = outputs_of(network, dataset).features.to(device)

    def compute() -> Content:
        with announced(f"Finding the nearest neighbors among {len(dataset):,} images of {dataset.name}."):
            return {"radii": fit_manifold(features).radii.cpu()}, {}

    def read(content: Content) -> Manifold:
        return Manifold(features, content[0]["radii"].to(device))

    return cached(f"radii-{dataset.digest}-{network.digest}", compute, read)[0]
