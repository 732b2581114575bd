"""Metrics of a generator's features beside those of held-out real images, the real-data baseline."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from gan_plugin.data import Dataset
from gan_plugin.evaluation.generated import Generated
from gan_plugin.evaluation.reference import Reference, as_pixels, gaussian_of, manifold_of, outputs_of
from gan_plugin.evaluation.results import Measurement, regular_indices
from gan_plugin.features.cache import Content, cached
from gan_plugin.media.image import ImageRows
from gan_plugin.metrics.frechet import Gaussian, fit_gaussian, frechet_distance, is_singular
from gan_plugin.metrics.kernel import SUBSETS, kernel_distance
from gan_plugin.metrics.neighbors import Manifold, Neighborhood, compare, fit_manifold
from gan_plugin.metrics.pixels import sharpness
from gan_plugin.metrics.score import inception_score

KID_SUBSET = 1000
MAX_SHARP = 10_000  # real images whose sharpness is measured


def feature_distances(generated: Generated, reference: Reference) -> list[Measurement]:
    """Measure fid with its ratio to the baseline, kid, and the score where the network has classes.

    All of it is computed on the device of the generated images' features.
    """
    network, features = reference.network, generated.outputs.features
    device = features.device
    real, fake = gaussian_of(network, reference.dataset, device), fit_gaussian(features)
    real_features = outputs_of(network, reference.dataset).features.to(device)
    fid = Measurement("fid", frechet_distance(fake, real))
    kid = kernel_measurement(real_features, features)
    score = score_measurement(generated.outputs.logits)
    if reference.held_out is None:
        return [replace(fid, note=singular_note(real=real, generated=fake)), kid, *score]
    held_out = outputs_of(network, reference.held_out).to(device)
    baseline = fit_gaussian(held_out.features)
    counts = count_note(len(held_out.features), len(features))
    fid = replace(
        fid,
        real=frechet_distance(baseline, real),
        note=join(singular_note(real=real, generated=fake, held_out=baseline), counts and f"{counts}: see fid_ratio."),
    )
    kid = replace(kid, real=kernel_baseline(reference, device))
    score = [
        replace(measurement, real=inception_score(held_out.logits).mean, note=counts and f"{counts}.")
        for measurement in score
        if held_out.logits is not None
    ]
    return [fid, *ratio_measurement(features, held_out.features, real), kid, *score]


def ratio_measurement(generated: Tensor, held_out: Tensor, real: Gaussian) -> list[Measurement]:
    """Divide fid by its baseline, both from equally many images since fid falls with them; none where that is 0.

    Args:
        generated: features float [M, D].
        held_out: features float [N, D].
        real: of the reference.
    """
    count = min(len(generated), len(held_out))
    fake, baseline = (fit_gaussian(random_subset(features, count)) for features in (generated, held_out))
    note = f"Both from {count:,} images." if len(generated) != len(held_out) else ""
    distance, real_distance = frechet_distance(fake, real), frechet_distance(baseline, real)
    if real_distance == 0:
        return []
    singular = singular_note(real=real, generated=fake, held_out=baseline)
    return [Measurement("fid_ratio", distance / real_distance, note=join(note, singular))]


def random_subset(features: Tensor, count: int) -> Tensor:
    """Draw ``count`` rows in random order, always the same: held-out images often lie class after class."""
    rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:count]
    return features[rows.to(features.device)]


def kernel_measurement(real: Tensor, generated: Tensor) -> Measurement:
    """Measure kid between features [N, D] and [M, D]."""
    kid = kernel_distance(real, generated, subsets=SUBSETS, subset_size=KID_SUBSET)
    small = kid.subset_size < KID_SUBSET
    note = f"Subsets of {kid.subset_size:,}, because there are no more images." if small else ""
    constant = len(real) == len(generated) == kid.subset_size  # every subset is everything: nothing varies
    return Measurement("kid", kid.mean, std=None if constant else kid.std, note=note)


def kernel_baseline(reference: Reference, device: torch.device) -> float:
    """Return the kid of held-out images, from the cache where it was computed before: it takes seconds."""
    network, dataset, held_out = reference.network, reference.dataset, reference.held_out
    assert held_out is not None

    def compute() -> Content:
        features = (outputs_of(network, images).features.to(device) for images in (dataset, held_out))
        return {"kid": torch.tensor(kernel_measurement(*features).value, dtype=torch.float64)}, {}

    name = f"kid-{SUBSETS}-{KID_SUBSET}-{dataset.digest}-{held_out.digest}-{network.digest}"
    return cached(name, compute, lambda content: float(content[0]["kid"]))[0]


def score_measurement(logits: Tensor | None) -> list[Measurement]:
    """Measure the Inception Score of logits [M, K]; none for a network without classes."""
    if logits is None:
        return []
    score = inception_score(logits)
    return [Measurement("inception_score", score.mean, std=score.std)]


def neighborhood_measurements(
    neighborhood: Neighborhood, *, real: Manifold, features: Tensor, reference: Reference
) -> list[Measurement]:
    """Measure precision, recall, density, coverage and authenticity.

    Args:
        neighborhood: of the generated features beside ``real``.
        real: of the reference.
        features: generated ones, float [M, D], on the device of ``real``.
    """
    measurements = [
        Measurement("precision", neighborhood.precision),
        recall_measurement(neighborhood, real, features),
        Measurement("density", neighborhood.density),
        Measurement("coverage", neighborhood.coverage),
        Measurement("authenticity", neighborhood.authenticity),
    ]
    if reference.held_out is None:
        return measurements
    held_out = outputs_of(reference.network, reference.held_out).features.to(features.device)
    baseline = compare(real, fit_manifold(held_out))
    counts = count_note(len(held_out), len(features))
    notes = {"coverage": f"{counts}: it grows with them."} if counts else {}
    return [
        replace(
            measurement,
            real=getattr(baseline, measurement.name),
            note=join(measurement.note, notes.get(measurement.name, "")),
        )
        for measurement in measurements
    ]


def second_measurements(generated: Generated, reference: Reference, device: torch.device) -> list[Measurement]:
    """Measure in the features of the reference's second network what the main one's are measured by; none without it.

    Args:
        generated: with the second network's outputs.
        reference: the real images.
        device: where distances are computed.
    """
    if reference.second is None or generated.second is None:
        return []
    generated, reference = replace(generated, outputs=generated.second), replace(reference, network=reference.second)
    features = generated.outputs.features
    real = manifold_of(reference.network, reference.dataset, device)
    neighborhood = compare(real, fit_manifold(features))
    measurements = [
        *feature_distances(generated, reference),
        *neighborhood_measurements(neighborhood, real=real, features=features, reference=reference),
    ]
    return [replace(measurement, network=reference.network.name) for measurement in measurements]


def recall_measurement(neighborhood: Neighborhood, real: Manifold, features: Tensor) -> Measurement:
    """Measure recall from at most as many generated images as there are real ones.

    Equally many is how Kynkäänniemi et al. 2019 measure it. Each further generated image makes the balls around all
    of them smaller, so that from many more of them than of real ones even a good generator has hardly any recall.
    """
    count = len(real.points)
    if len(features) <= count:
        return Measurement("recall", neighborhood.recall)
    recall = compare(real, fit_manifold(features[:count])).recall
    return Measurement("recall", recall, note=f"From {count:,} generated images, as many as real ones.")


def with_seen(measurements: list[Measurement], reference: Reference, seen: Collection[str]) -> list[Measurement]:
    """Note beside a network's fid where training chose the generator by it: where its digest is one of ``seen``."""
    names = seen_names(reference, seen)
    return [
        replace(measurement, note=join(measurement.note, "Training chose the generator by these features."))
        if measurement.name == "fid" and measurement.network in names
        else measurement
        for measurement in measurements
    ]


def independent_first(
    measurements: list[Measurement], reference: Reference, seen: Collection[str]
) -> list[Measurement]:
    """Put those in features by which training chose the generator behind the others."""
    names = seen_names(reference, seen)
    return sorted(measurements, key=lambda measurement: measurement.network in names)


def seen_names(reference: Reference, seen: Collection[str]) -> set[str]:
    """Return the networks with one of these digests, as measurements name them: "" is the evaluation's own."""
    return {"" if n is reference.network else n.name for n in reference.networks if n.digest in seen}


def sharpness_measurement(generated: ImageRows, reference: Reference, device: torch.device) -> Measurement:
    """Measure how sharp images uint8 [N, H, W, C] are, as a multiple of the reference's sharpness."""

    def of_real(dataset: Dataset) -> float:
        rows = as_pixels(dataset)[regular_indices(len(dataset), MAX_SHARP)]
        return sharpness(rows, device)

    real = of_real(reference.dataset)
    baseline = None if reference.held_out is None or not real else of_real(reference.held_out) / real
    value = sharpness(generated, device) / real if real else 1.0
    return Measurement("sharpness", value, real=baseline, network="pixels")


# ---- notes beside a number -------------------------------------------------------------------------------------------


def singular_note(**gaussians: Gaussian) -> str:
    """Return a sentence on those Gaussians whose covariance is singular, or "". Keywords name the images."""
    singular = [
        f"{gaussian.count:,} {kind.replace('_', '-')}" for kind, gaussian in gaussians.items() if is_singular(gaussian)
    ]
    if not singular:
        return ""
    dimensions = len(next(iter(gaussians.values())).mean)
    return (
        f"The covariance of {' and '.join(singular)} images in {dimensions:,} features is singular, so the distance "
        "depends strongly on their number: prefer kid."
    )


def count_note(held_out: int, generated: int) -> str:
    """Return a clause for metrics that depend on how many images they come from, or "" for equal counts."""
    return "" if held_out == generated else f"The baseline is from {held_out:,} images, the value from {generated:,}"


def join(*sentences: str) -> str:
    """Join the sentences that are not empty."""
    return " ".join(filter(None, sentences))
