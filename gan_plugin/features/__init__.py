"""Feature networks: pictures in, features out, by which generators are judged.

Three kinds. "classifier" is a small network trained on the data's own labels and needs no download. "inception" is the
network that published FIDs use. "onnx:<path or URI>" is any network of the user's own. Figures in the features of
different networks cannot be compared, so a network's name is part of every metric's name.
"""

from __future__ import annotations

from pathlib import Path

import torch

from gan_plugin.data import Pictures
from gan_plugin.errors import UserError
from gan_plugin.features.network import FeatureNetwork, Outputs

__all__ = ["FeatureNetwork", "Outputs", "choose_spec", "load_network"]

ONNX_PREFIX = "onnx:"


def choose_spec(spec: str | None, labelled: bool) -> str:
    if spec is None:
        spec = "classifier" if labelled else "inception"
    if spec == "classifier" and not labelled:
        raise UserError("features=classifier needs labelled data.")
    return spec


def load_network(
    spec: str, pictures: Pictures, device: torch.device, inception_weights: Path | None = None
) -> FeatureNetwork:
    if spec == "classifier":
        from gan_plugin.features.classifier import classifier_of

        network, _ = classifier_of(pictures, device)
        return network
    raise UserError(f"features={spec!r} is unknown.")
