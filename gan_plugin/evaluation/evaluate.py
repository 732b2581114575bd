"""The evaluation of a generator against real images.

Every metric is computed as gan_plugin/metrics/ defines it. What can make a number doubtful (too few samples, a singular
covariance, a class that was never generated) becomes a sentence beside it; there is no NaN.
"""

from __future__ import annotations

import torch

from gan_plugin.evaluation.classes import class_rows, label_measurements
from gan_plugin.evaluation.context import evaluation_notes, nearest_pairs, project, protocol
from gan_plugin.evaluation.critic import critic_measurements
from gan_plugin.evaluation.generated import generate
from gan_plugin.evaluation.measures import (
    feature_distances,
    independent_first,
    neighborhood_measurements,
    second_measurements,
    sharpness_measurement,
    with_seen,
)
from gan_plugin.evaluation.reconstruction import normal_measurements, reconstruction_measurements
from gan_plugin.evaluation.reference import Reference, as_pixels, gaussian_of, manifold_of
from gan_plugin.evaluation.results import MAX_SAMPLES, Evaluation, regular_indices
from gan_plugin.evaluation.spectra import spectrum_measurements
from gan_plugin.evaluation.verdict import verdict
from gan_plugin.metrics.neighbors import compare, fit_manifold
from gan_plugin.metrics.pixels import pixel_statistics
from gan_plugin.serving.generator import OnnxGenerator


def evaluate_generator(
    generator: OnnxGenerator, reference: Reference, *, count: int, first_seed: int, device: torch.device
) -> Evaluation:
    """Generate ``count`` images from the seeds ``first_seed``, ``first_seed + 1``, … and compare them with real ones.

    Args:
        count: at least :data:`~gan_plugin.metrics.neighbors.MIN_SAMPLES`.
        device: where everything is computed but what the networks do, which run where they were loaded.
    """
    generated = generate(generator, reference, count=count, first_seed=first_seed, device=device)
    features = generated.outputs.features
    real = manifold_of(reference.network, reference.dataset, device)
    neighborhood = compare(real, fit_manifold(features))
    real_pixels = as_pixels(reference.dataset)
    measurements = [
        *critic_measurements(generated.pixels, reference, device),
        *spectrum_measurements(generated.pixels, reference, device),
        sharpness_measurement(generated.pixels, reference, device),
        *feature_distances(generated, reference),
        *neighborhood_measurements(neighborhood, real=real, features=features, reference=reference),
        *label_measurements(generated, reference, device),
        *second_measurements(generated, reference, device),
        *reconstruction_measurements(generator, reference, device),
        *normal_measurements(generator, reference, count=count, device=device),
    ]
    seen = generator.description.seen_features
    return Evaluation(
        network=reference.network.name,
        protocol=protocol(generator.description, generated, reference),
        measurements=tuple(with_seen(measurements, reference, seen)),
        classes=tuple(class_rows(generated, reference, device)),
        notes=tuple(evaluation_notes(generator.description, generated, reference)),
        samples=generated.pixels[:MAX_SAMPLES],
        reference_samples=real_pixels[regular_indices(len(real_pixels), MAX_SAMPLES)],
        neighbors=nearest_pairs(generator, generated, neighborhood=neighborhood, reference=reference.dataset),
        projection=project(
            real.points,
            features,
            neighborhood=neighborhood,
            gaussian=gaussian_of(reference.network, reference.dataset, device),
        ),
        pixels=pixel_statistics(generated.pixels, real_pixels, device),
        verdict=verdict(independent_first(measurements, reference, seen)),
    )
