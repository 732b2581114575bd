"""The context of an evaluation's metrics: notes, protocol, nearest training images, projected features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_plugin.data import Dataset
from gan_plugin.evaluation.critic import critic_protocol
from gan_plugin.evaluation.generated import Generated
from gan_plugin.evaluation.reference import Reference, as_pixels
from gan_plugin.evaluation.results import (
    MAX_CLASS_METRICS,
    MAX_PAIRS,
    MAX_POINTS,
    Neighbors,
    Projection,
    regular_indices,
)
from gan_plugin.features import FeatureNetwork, Outputs
from gan_plugin.metrics.frechet import Gaussian
from gan_plugin.metrics.labels import mode_count
from gan_plugin.metrics.neighbors import COVERAGE_K, PRECISION_K, Neighborhood
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import OnnxGenerator

WAYS_TO_HOLD_OUT = "give held_out=auto and a training split large enough to be divided, or the name of another split"
NOT_RECORDED = "no network, or it is not recorded"


def evaluation_notes(model: Description, generated: Generated, reference: Reference) -> list[str]:
    """Return sentences on the whole evaluation."""
    notes = []
    training_digest, held_out = model.data_digest, reference.held_out
    if held_out is not None and training_digest == held_out.digest:
        notes.append("The model was trained on the held-out images, so its real-data baselines mean nothing.")
    elif reference.dataset.drawn_from is not None and training_digest == reference.dataset.drawn_from:
        notes.append(
            "The model was trained on the held-out images as well, as with held_out=none: what it may have memorized "
            "of them is not in authenticity and nearest images; held_out=none compares with all that it was trained on."
        )
    elif training_digest != reference.dataset.digest:
        notes.append(
            "The model was not trained on the reference images, or does not record it: authenticity and nearest "
            "images are about the reference, not about what it may have memorized. A model that was trained with "
            "another held_out is to be evaluated with that one."
        )
    if held_out is None:
        notes.append(
            f"Nothing of {reference.dataset.name} is held out here, so there is no real-data baseline: "
            f"{WAYS_TO_HOLD_OUT}."
        )
    return notes + seen_notes(model, reference) + class_notes(generated, reference.dataset.spec.classes)


def seen_notes(model: Description, reference: Reference) -> list[str]:
    """Return a sentence on which network's numbers are independent of how training chose the generator."""
    seen, disjoint = split_networks(model, reference)
    if not seen:
        return []
    start = f"Training chose the generator by the features of {' and '.join(seen)}"
    if disjoint:
        return [f"{start}: the numbers in those of {' and '.join(disjoint)} are independent of that choice."]
    return [
        f"{start}, so no number here is independent of that choice: another network, named with features, gives one."
    ]


def split_networks(model: Description, reference: Reference) -> tuple[list[str], list[str]]:
    """Return the names of the networks by which training chose the generator, and of the others."""
    by_seen: dict[bool, list[str]] = {True: [], False: []}
    for network in reference.networks:
        by_seen[network.digest in model.seen_features].append(network.name)
    return by_seen[True], by_seen[False]


def class_notes(generated: Generated, classes: int) -> list[str]:
    """Return sentences on classes that were never generated, or are too many to be logged."""
    if generated.predicted is None:
        return []
    notes = []
    if missing := classes - mode_count(generated.predicted, classes):
        notes.append(f"{missing:,} of {classes:,} classes were never generated.")
    if classes > MAX_CLASS_METRICS:
        notes.append(
            f"Results of the {classes:,} single classes are in the report and in metrics.json only: at most "
            f"{MAX_CLASS_METRICS} classes are logged as metrics."
        )
    if missing == classes - 1:
        notes.append("From images of a single class no classifier can be learned, so there is no cas.")
    return notes


def protocol(model: Description, generated: Generated, reference: Reference) -> dict[str, str]:
    """Return what the metrics depend on, in words."""
    count = len(generated.outputs.features)
    first_seed, classifier = generated.first_seed, reference.classifier
    second = {}
    if reference.second is not None and generated.second is not None:
        second = {"second features": features_in_words(reference.second, generated.second)}
    seen, disjoint = split_networks(model, reference)
    return {
        "model": model_in_words(model),
        "generated": seeds_in_words(count, first_seed),
        "reference": in_words(reference.dataset),
        "held out": "none" if reference.held_out is None else in_words(reference.held_out),
        "features": features_in_words(reference.network, generated.outputs),
        **second,
        "chosen in training by": ", ".join(seen) or (NOT_RECORDED if not model.seen_features else "none of these"),
        "independent of that choice": ", ".join(disjoint) or "none of these",
        "resize": reference.network.resize,
        "neighbors": f"k = {PRECISION_K} for precision and recall, {COVERAGE_K} for density and coverage",
        "critic": critic_protocol(),
        "classes": "none" if classifier is None else f"as predicted by the classifier {classifier.digest}",
    }


def seeds_in_words(count: int, first_seed: int) -> str:
    """Return which images are generated."""
    return f"{count:,} images of the seeds {first_seed:,} to {first_seed + count - 1:,}"


def model_in_words(model: Description) -> str:
    """Return a generator's recipe and the run that trained it."""
    return f"recipe {model.recipe or 'unknown'}, trained in run {model.run_id or 'unknown'}"


def features_in_words(network: FeatureNetwork, outputs: Outputs) -> str:
    """Return a network's name, dimensions and digest."""
    return f"{network.name}, {outputs.features.shape[1]:,} dimensions, digest {network.digest}"


def in_words(dataset: Dataset) -> str:
    """Return the data's name, split, size and digest."""
    return f"{dataset.name}, split {dataset.split}, {len(dataset):,} images, digest {dataset.digest}"


def nearest_pairs(
    generator: OnnxGenerator, generated: Generated, *, neighborhood: Neighborhood, reference: Dataset
) -> Neighbors:
    """Return the generated images closest to a training image, with it; generated again from their seeds."""
    closest = neighborhood.distance.argsort()[:MAX_PAIRS].cpu()
    nearest = neighborhood.nearest.cpu()[closest]
    return Neighbors(
        generated=generator.sample(generated.first_seed + closest.numpy()),
        nearest=as_pixels(reference)[nearest.numpy()],
        distances=neighborhood.distance.cpu()[closest].numpy(),
    )


def project(real: Tensor, generated: Tensor, *, neighborhood: Neighborhood, gaussian: Gaussian) -> Projection:
    """Project evenly spaced points on the plane of the reference's two largest principal components.

    Args:
        real: features float [N, D].
        generated: features float [M, D].
        neighborhood: of both.
        gaussian: of the real features.
    """
    _, vectors = torch.linalg.eigh(gaussian.covariance)  # eigenvalues ascend
    components = vectors[:, -2:].flip(1)  # [D, 2]

    def project_points(points: Tensor, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        projected: npt.NDArray[np.float64] = ((points[rows].cpu().double() - gaussian.mean) @ components).numpy()
        return projected

    real_rows, generated_rows = (regular_indices(len(points), MAX_POINTS) for points in (real, generated))
    return Projection(
        reference=project_points(real, real_rows),
        generated=project_points(generated, generated_rows),
        covered=neighborhood.covered.cpu().numpy()[real_rows],
        inside=neighborhood.inside.cpu().numpy()[generated_rows],
    )
