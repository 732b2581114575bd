"""Directions of z along which an attribute of the images changes, or, without attributes, the images most.

An attribute's direction is the normal of the plane that tells z of images with it from others: Shen et al. 2020,
"Interpreting the latent space of GANs for semantic face editing", arXiv:1907.10786. Those of most change are the first
eigenvectors of JᵀJ, J being the Jacobian of an image by z, averaged over a few z: Wang & Ponce 2021, arXiv:2101.06006.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn

from gan_plugin.data import Dataset
from gan_plugin.data.stored import pixels_of
from gan_plugin.evaluation.results import regular_indices
from gan_plugin.networks.autoencoder import Autoencoder
from gan_plugin.networks.wrappers import QuantizedEncoder, generator_inputs
from gan_plugin.seeds import latents
from gan_plugin.serving.description import Direction

MAX_IMAGES = 10_000  # whose z are looked at
BATCH = 256
MIN_IMAGES = 50  # with an attribute
TESTED = 5  # every fifth image tests what the others teach
RANGE = 3.0  # standard deviations of the data's z along an attribute's direction, to either side
MAX_PRINCIPAL = 8
PRINCIPAL_RANGE = 4.0
STEP = 0.5  # in z, of the differences by which J is taken
PROBES = 128  # directions in which z is moved: its axes, or of a longer z random ones
IMAGES = 1024  # generated for it, about
PROBE_SEEDS = 2**52  # far from the seeds that people choose

Matrix = npt.NDArray[np.float64]


@torch.no_grad()
def latents_of(encoder: QuantizedEncoder, dataset: Dataset) -> tuple[Matrix, npt.NDArray[np.int64]]:
    """Return the z float64 [N, latent_size] of at most MAX_IMAGES images, spaced evenly, and their rows int64 [N]."""
    rows = regular_indices(len(dataset), MAX_IMAGES)
    images, device = pixels_of(dataset.samples), next(encoder.parameters()).device
    parts = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
    z = [encoder(torch.from_numpy(images[part]).to(device))[0].double().cpu().numpy() for part in parts]
    return np.concatenate(z), rows


def attribute_directions(encoder: QuantizedEncoder, dataset: Dataset, *, classes: int, skipped: int) -> list[Direction]:
    """Return the direction of each attribute of the data; of each class where they have none and z decides on it.

    Args:
        classes: of the generator; 0 for one that takes no label.
        skipped: z's first values, along which nothing is edited, because they choose something.
    """
    attributes: dict[str, Tensor] = dict(dataset.attributes)
    if not attributes and dataset.labels is not None and not classes:
        attributes = {f"class={name}": (dataset.labels == i).float() for i, name in enumerate(dataset.spec.class_names)}
    if not attributes:
        return []
    z, rows = latents_of(encoder, dataset)
    of_rows = {name: values[torch.from_numpy(rows)].double().numpy() for name, values in attributes.items()}
    none = (0.0,) * skipped
    directions = fit_directions(z[:, skipped:], of_rows)
    return [dataclasses.replace(direction, normal=none + direction.normal) for direction in directions]


def fit_directions(z: Matrix, attributes: Mapping[str, Matrix]) -> list[Direction]:
    """Return the direction of each attribute of which enough is known.

    Args:
        z: [N, latent_size].
        attributes: [N] by name; NaN where nothing is known.
    """
    directions = [fit_direction(name, z, values) for name, values in attributes.items()]
    return [direction for direction in directions if direction is not None]


def fit_direction(name: str, z: Matrix, values: Matrix) -> Direction | None:
    """Return the direction of an attribute; None where too few images have it, or only one value of it."""
    known = np.isfinite(values)
    z, values = z[known], values[known]
    test = np.arange(len(values)) % TESTED == 0
    if len(values) < MIN_IMAGES or min(len(np.unique(values[part])) for part in (test, ~test)) < 2:
        return None
    scale = z.std(0) + 1e-6
    is_binary = set(np.unique(values)) <= {0.0, 1.0}
    model = LogisticRegression(class_weight="balanced", max_iter=1000) if is_binary else Ridge()
    model.fit(z[~test] / scale, values[~test])
    normal = np.ravel(model.coef_) / scale
    length = np.linalg.norm(normal)
    if length == 0:
        return None
    normal = normal / length
    score = balanced_accuracy(model.predict(z[test] / scale), values[test]) if is_binary else None
    accuracy = model.score(z[test] / scale, values[test]) if score is None else score
    reach = RANGE * float((z @ normal).std())
    return Direction(name, tuple(normal.tolist()), low=-reach, high=reach, accuracy=float(accuracy))


def balanced_accuracy(predicted: Matrix, values: Matrix) -> float:
    """Return the mean over both values of the share that is predicted."""
    return float(np.mean([np.mean(predicted[values == value] == value) for value in (0.0, 1.0)]))


@torch.no_grad()
def principal_directions(generator: nn.Module, *, latent_size: int, classes: int) -> list[Direction]:
    """Return the directions in which images change most, called "direction 1" and so on, to brighter images."""
    device = next(generator.parameters()).device
    probes = torch.from_numpy(probes_of(latent_size, skipped=chosen_values(generator))).to(device)  # [M, latent_size]
    points = max(2, IMAGES // (2 * len(probes)))
    gram, brighter = torch.zeros(len(probes), len(probes), device=device), torch.zeros(len(probes), device=device)
    for seed in range(points):
        z, *labels = generator_inputs([seed], latent_size=latent_size, classes=classes, device=device)
        own = [label.expand(len(probes)) for label in labels]
        ahead, behind = (generator(z + step * probes, *own).float().flatten(1) for step in (STEP, -STEP))
        jacobian = ahead - behind  # [M, P], but for a factor
        gram += jacobian @ jacobian.T
        brighter += jacobian.sum(1)
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(gram.double()))  # the largest first
    signs = torch.where(vectors.T @ brighter.double() < 0, -1.0, 1.0)
    normals = (signs[:, None] * vectors.T) @ probes.double()  # [M, latent_size]
    shares = values / values.sum().clamp(min=1e-12)
    return [
        Direction(
            f"direction {i + 1}", tuple(normals[i].tolist()), low=-PRINCIPAL_RANGE, high=PRINCIPAL_RANGE, share=share
        )
        for i, share in enumerate(shares[:MAX_PRINCIPAL].tolist())
    ]


def chosen_values(generator: nn.Module) -> int:
    """Return how many of z's first values choose something, so that images jump along them and do not change."""
    is_mixture = isinstance(generator, Autoencoder) and generator.prior is not None and generator.prior.components > 1
    return 1 if is_mixture else int(getattr(generator, "categorical_codes", 0))


def probes_of(latent_size: int, *, skipped: int) -> npt.NDArray[np.float32]:
    """Return orthonormal directions in which z is moved, float32 [M, latent_size], none along the first values."""
    axes = np.eye(latent_size, dtype=np.float32)[skipped:]
    if len(axes) <= PROBES:
        return axes
    random = latents(PROBE_SEEDS + np.arange(PROBES), latent_size).astype(np.float64)
    random[:, :skipped] = 0
    orthonormal: npt.NDArray[np.float32] = np.linalg.qr(random.T)[0].T.astype(np.float32)
    return orthonormal
