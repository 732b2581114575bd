"""Real pictures in the features of a network: computed once, then read from the cache.

A cached file's name holds the digest of the pictures and the digest of the network, which covers its resize, so other
pictures or another network never meet it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gan_plugin.data import Pictures
from gan_plugin.errors import UserError
from gan_plugin.features import FeatureNetwork, Outputs, choose_spec, load_network
from gan_plugin.features.cache import cache_folder, write_atomically
from gan_plugin.features.classifier import Classifier, classifier_of
from gan_plugin.metrics.frechet import Gaussian, fit_gaussian
from gan_plugin.metrics.neighbours import COVERAGE_K, Manifold, fit_manifold

FEWEST_PICTURES = COVERAGE_K + 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """What generators are held against.

    Attributes:
        pictures: what they were trained on.
        held_out: real pictures that they were not trained on; None where there are none.
        network: whose features are compared.
        classifier: of the data's own labels; None for data without labels, or with one class only.
        classifier_file: where it is cached.
    """

    pictures: Pictures
    held_out: Pictures | None
    network: FeatureNetwork
    classifier: Classifier | None
    classifier_file: Path | None


def prepare_reference(
    pictures: Pictures,
    held_out: Pictures | None,
    features: str | None,
    device: torch.device,
    inception_weights: Path | None = None,
) -> Reference:
    """Load, or train, the networks that judge. ``features`` is None (auto), classifier, inception or onnx:….

    Raises:
        UserError: there are too few pictures, or the network cannot be had for them; the sentence names the ways out.
    """
    for some in (pictures, held_out):
        if some is not None and len(some) < FEWEST_PICTURES:
            raise UserError(
                f"{some.name}, split {some.split!r}, has {len(some)} pictures: "
                f"an evaluation needs at least {FEWEST_PICTURES}."
            )
    spec = choose_spec(features, has_classes(pictures))
    classifier, file = classifier_of(pictures, device) if has_classes(pictures) else (None, None)
    if classifier is not None and spec == "classifier":
        return Reference(pictures, held_out, classifier, classifier, file)
    return Reference(pictures, held_out, load_network(spec, pictures, device, inception_weights), classifier, file)


def has_classes(pictures: Pictures) -> bool:
    """Whether there is anything to tell apart: a single class teaches a classifier nothing."""
    return pictures.labels is not None and len(pictures.class_names) > 1


def as_pixels(pictures: Pictures) -> npt.NDArray[np.uint8]:
    """The pictures as the networks take them, uint8 [N, H, W, C]; a view."""
    return pictures.images.permute(0, 2, 3, 1).numpy()


def outputs_of(network: FeatureNetwork, pictures: Pictures) -> Outputs:
    """Features and scores of real pictures, from the cache where they were computed before."""

    def compute() -> dict[str, Tensor]:
        outputs = network(as_pixels(pictures))
        return {"features": outputs.features} | ({} if outputs.logits is None else {"logits": outputs.logits})

    found = cached(f"outputs-{pictures.digest}-{network.digest}", compute)
    return Outputs(found["features"], found.get("logits"))


def gaussian_of(network: FeatureNetwork, pictures: Pictures) -> Gaussian:
    """The Gaussian fitted to the features, for the Fréchet distance."""

    def compute() -> dict[str, Tensor]:
        mean, covariance, _ = fit_gaussian(outputs_of(network, pictures).features)
        return {"mean": mean, "covariance": covariance}

    found = cached(f"gaussian-{pictures.digest}-{network.digest}", compute)
    return Gaussian(found["mean"], found["covariance"], len(pictures))


def manifold_of(network: FeatureNetwork, pictures: Pictures, device: torch.device) -> Manifold:
    """Each picture's neighbourhood in the features, for precision, recall and the like: the expensive part."""
    features = outputs_of(network, pictures).features.to(device)
    found = cached(f"radii-{pictures.digest}-{network.digest}", lambda: {"radii": fit_manifold(features).radii.cpu()})
    return Manifold(features, found["radii"].to(device))


def cached(name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in the cache's file of this name, computed and written where there is none or it is damaged."""
    path = cache_folder() / f"{name}.safetensors"
    if path.exists():
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            logger.warning("%s is damaged and computed anew: %s", path, error)
    tensors = {key: value.contiguous() for key, value in compute().items()}
    write_atomically(path, lambda partial: save_file(tensors, partial))
    return tensors
