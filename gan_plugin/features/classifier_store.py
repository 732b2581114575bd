"""The networks of the classifier's layers that belong to a dataset: trained on its labels, or on rotations."""

from __future__ import annotations

from pathlib import Path

import torch

from gan_plugin.data import Dataset
from gan_plugin.errors import UserError
from gan_plugin.features.classifier import Classifier, RotationNetwork
from gan_plugin.features.classifier_training import train_classifier, train_rotation
from gan_plugin.features.store import network_of


def check_labeled(labeled: bool) -> None:
    """Refuse data without at least two classes.

    Raises:
        UserError: the data has no labels, or a single class.
    """
    if not labeled:
        raise UserError(
            "features=classifier is trained to tell classes apart and this data has fewer than two: "
            "choose features=self-supervised, features=inception or features=onnx:PATH."
        )


def classifier_of(dataset: Dataset, device: torch.device) -> tuple[Classifier, Path | None]:
    """Return the classifier of labeled data and its file: from the cache, or trained now and put there.

    The file is None where the cache cannot be written; then the classifier is kept in memory.

    Raises:
        UserError: the data has no labels.
    """
    labels = dataset.labels
    if labels is None:
        raise UserError(
            f"features=classifier is trained on labels and {dataset.name} has none: "
            "give features=self-supervised, features=inception or features=onnx:PATH."
        )

    def train() -> Classifier:
        return train_classifier(dataset.samples, labels, dataset.spec.classes, device=device)

    return network_of(Classifier, dataset, train, device=device)


def rotation_of(dataset: Dataset, device: torch.device) -> tuple[RotationNetwork, Path | None]:
    """Return the network that tells rotations of the data apart and its file, as :func:`classifier_of` does."""
    return network_of(RotationNetwork, dataset, lambda: train_rotation(dataset.samples, device=device), device=device)
