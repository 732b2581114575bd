"""Feature networks: images in, features out, in which generated images are compared with real ones.

"classifier" is a small network trained on the data's own labels and needs no download. "inception" is the one that
published results use. "onnx:<path or URI>" is any network of the user's own. Metrics in the features of different
networks cannot be compared, so a network's name is part of the name of every metric.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from gan_plugin.data import Dataset
from gan_plugin.errors import UserError
from gan_plugin.features.classifier_store import check_labeled, classifier_of
from gan_plugin.features.inception import import_extractor, load_inception
from gan_plugin.features.network import FeatureNetwork, Outputs
from gan_plugin.features.onnx_network import check_onnx_argument, load_onnx_network
from gan_plugin.media.image import CHANNELS_LAST
from gan_plugin.waiting import announced

__all__ = ["FeatureNetwork", "Outputs", "choose_features", "load_network"]


class Loader(NamedTuple):
    """How one kind of network is checked and loaded.

    Attributes:
        check: raise a UserError for what can be refused without a network or the data, from the text after the name
            and whether the data has labels of at least two classes.
        load: return the network, from the text after the name, the reference data, the device and the file of
            Inception's weights.
    """

    check: Callable[[str, bool], object]
    load: Callable[[str, Dataset, torch.device, Path | None], FeatureNetwork]


# A name that ends in a colon is followed by a path or URI.
LOADERS = {
    "classifier": Loader(
        check=lambda _, labeled: check_labeled(labeled),
        load=lambda _, dataset, device, weights: classifier_of(dataset, device)[0],
    ),
    "inception": Loader(
        check=lambda _, labeled: import_extractor(),
        load=lambda _, dataset, device, weights: load_inception(weights, device),
    ),
    "onnx:": Loader(
        check=lambda path, labeled: check_onnx_argument(path),
        load=lambda path, dataset, device, weights: load_onnx_network(path, device),
    ),
}


def choose_features(features: str | None, labeled: bool) -> str:
    """Choose the feature network, and refuse early what can be refused without a network or the data.

    Args:
        features: "classifier", "inception", "onnx:<path or URI>", or None: the classifier where there are
            labels, else Inception.
        labeled: whether the data has labels of at least two classes.

    Returns:
        ``features``, or what None stands for.

    Raises:
        UserError: it is none of these, the data has no labels to train a classifier on, the package that Inception
            needs is not installed, or there is no such ONNX file.
    """
    chosen = features if features is not None else "classifier" if labeled else "inception"
    loader, argument = find_loader(chosen)
    try:
        loader.check(argument, labeled)
    except UserError as error:
        if features is None:
            raise UserError(f"The data has no classes, so features=auto stands for {chosen}, and {error}") from None
        raise
    return chosen


def load_network(
    features: str, dataset: Dataset, device: torch.device, *, inception_weights: Path | None = None
) -> FeatureNetwork:
    """Load the network and try it on one of the data's images.

    Args:
        features: what ``choose_features`` returned.
        dataset: the reference data, on whose labels "classifier" is trained unless the cache holds it.
        device: where the network runs.
        inception_weights: file of Inception's weights; None for the one fetched before, or a download.

    Raises:
        UserError: the network cannot be had, or cannot take these images; the message names the alternatives.
    """
    loader, argument = find_loader(features)
    network = loader.load(argument, dataset, device, inception_weights)
    with announced(f"Trying {network.name} on one image."):
        network(dataset.samples[:1].permute(CHANNELS_LAST).numpy())  # refuses here, not in the middle of an evaluation
    return network


def find_loader(features: str) -> tuple[Loader, str]:
    """Return the loader of a network and the text that follows the network's name.

    Raises:
        UserError: there is no such network.
    """
    name, separator, argument = features.partition(":")
    if loader := LOADERS.get(name + separator):
        return loader, argument
    names = ", ".join(f"{name}PATH" if name.endswith(":") else name for name in LOADERS)
    raise UserError(f"features={features!r} is unknown: give one of {names}.")
