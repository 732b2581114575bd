"""Feature networks: images in, features out, in which generated images are compared with real ones.

"classifier" is a small network trained on the data's own labels, "self-supervised" another one trained on the images
alone, and "rotation" has the classifier's layers and learns by how much an image was rotated, which needs no labels.
None of them needs a download.
"inception" is the one that published results use. "onnx:<path or URI>" is any network of the user's own. Metrics in the
features of different networks cannot be compared, so a network's name is part of the name of every metric.

Training chooses the generator by the classifier or, for data without labels, by "rotation". So "self-supervised" is a
network that neither trained nor chose a generator.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from gan_plugin.data import Dataset
from gan_plugin.errors import UserError
from gan_plugin.features.classifier_store import check_labeled, classifier_of, rotation_of
from gan_plugin.features.inception import import_extractor, load_inception
from gan_plugin.features.network import FeatureNetwork, Outputs
from gan_plugin.features.onnx_network import check_onnx_argument, load_onnx_network
from gan_plugin.features.self_supervised_training import self_supervised_of
from gan_plugin.media.image import CHANNELS_LAST
from gan_plugin.waiting import announced

__all__ = ["FeatureNetwork", "Outputs", "choose_features", "choose_quick_features", "load_network"]


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
    "self-supervised": Loader(
        check=lambda _, labeled: None,
        load=lambda _, dataset, device, weights: self_supervised_of(dataset, device)[0],
    ),
    "rotation": Loader(
        check=lambda _, labeled: None,
        load=lambda _, dataset, device, weights: rotation_of(dataset, device)[0],
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
    """Choose the main feature network of an evaluation, and refuse early what can be refused without it or the data.

    Args:
        features: "classifier", "self-supervised", "rotation", "inception", "onnx:<path or URI>", or None: the
            classifier where there are labels, else "self-supervised".
        labeled: whether the data has labels of at least two classes.

    Returns:
        ``features``, or what None stands for.

    Raises:
        UserError: it is none of these, the data has no labels to train a classifier on, the package that Inception
            needs is not installed, or there is no such ONNX file.
    """
    automatic = "classifier" if labeled else "self-supervised"
    return checked(automatic if features is None else features, labeled)


def choose_quick_features(features: str | None, labeled: bool) -> str:
    """Choose the network by which training chooses the generator, as :func:`choose_features` for evaluations.

    None stands for the classifier where there are labels, else for "rotation": not for "self-supervised", so that an
    evaluation has a network that has not chosen what it evaluates.
    """
    automatic = "classifier" if labeled else "rotation"
    return checked(automatic if features is None else features, labeled)


def checked(features: str, labeled: bool) -> str:
    """Return the name of a network that can be had for the data.

    Raises:
        UserError: as :func:`choose_features`.
    """
    loader, argument = find_loader(features)
    loader.check(argument, labeled)
    return features


def load_network(
    features: str, dataset: Dataset, device: torch.device, *, inception_weights: Path | None = None
) -> FeatureNetwork:
    """Load the network and try it on one of the data's images.

    Args:
        features: what ``choose_features`` or ``choose_quick_features`` returned.
        dataset: the reference data, on which those networks are trained that need it, unless the cache holds them.
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
