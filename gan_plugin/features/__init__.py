"""Feature networks: images in, features out, by which generators are judged.

There are three kinds. "classifier" is a small network trained on the data's own labels and needs no download.
"inception" is the one that published figures use. "onnx:<path or URI>" is any network of the user's own. Figures in the
features of different networks cannot be compared, so a network's name is part of every metric's name.
"""

from __future__ import annotations

from pathlib import Path

import torch

from gan_plugin.data import Dataset
from gan_plugin.errors import UserError
from gan_plugin.features.network import FeatureNetwork, Outputs

__all__ = ["FeatureNetwork", "Outputs", "choose_spec", "load_network"]

ONNX = "onnx:"


def choose_spec(spec: str | None, labeled: bool) -> str:
    """Which network judges, checked before any work as far as it can be without a network or the data.

    Args:
        spec: "classifier", "inception", "onnx:<path or URI>", or None: the classifier where there are
            labels, else Inception.
        labeled: whether the data has labels, of two classes at least.

    Returns:
        ``spec``, or what None stands for.

    Raises:
        UserError: it is none of these, the data has no labels to train a classifier on, what Inception needs is not
            installed, or there is no such ONNX file.
    """
    chosen = spec if spec is not None else "classifier" if labeled else "inception"
    if chosen == "classifier":
        if not labeled:
            raise UserError(
                "features=classifier is trained to tell classes apart and this data has fewer than two: "
                "choose features=inception or features=onnx:PATH."
            )
    elif chosen == "inception":
        from gan_plugin.features.inception import import_extractor

        try:
            import_extractor()
        except UserError as error:
            if spec is None:
                raise UserError(
                    f"The data has no classes, so features=auto stands for inception, and {error}"
                ) from None
            raise
    elif chosen.startswith(ONNX):
        from gan_plugin.features.onnx_network import check_onnx_argument

        check_onnx_argument(chosen.removeprefix(ONNX))
    else:
        raise UserError(f"features={chosen!r} is unknown: give classifier, inception or onnx:PATH.")
    return chosen


def load_network(
    spec: str, dataset: Dataset, device: torch.device, inception_weights: Path | None = None
) -> FeatureNetwork:
    """The network, ready for the data's images.

    Args:
        spec: what ``choose_spec`` returned.
        images: the reference data, on whose labels "classifier" is trained, unless the cache holds it.
        device: where the network runs.
        inception_weights: Inception's weights file; None for one that was fetched before, or a download.

    Raises:
        UserError: the network cannot be had, or cannot take these images; the message names the ways out.
    """
    if spec == "classifier":
        from gan_plugin.features.classifier import classifier_of

        classifier, _ = classifier_of(dataset, device)
        return classifier
    if spec == "inception":
        from gan_plugin.features.inception import load_inception

        return load_inception(inception_weights, device)
    if spec.startswith(ONNX):
        from gan_plugin.features.onnx_network import load_onnx_network

        network = load_onnx_network(spec.removeprefix(ONNX), device)
        network(dataset.samples[:1].permute(0, 2, 3, 1).numpy())  # what it cannot compute is said now
        return network
    raise UserError(f"features={spec!r} is unknown: give classifier, inception or onnx:PATH.")
