"""Metrics of nearest neighbors in feature space: are generated samples near real ones, near all of them, and no copies.

With Bₖ(x) the closed ball around x that reaches x's k-th nearest other point of x's own set, xᵢ the N reference and yⱼ
the M generated points:

    precision    = share of yⱼ in some B₃(xᵢ)                       Kynkäänniemi et al. 2019
    recall       = share of xᵢ in some B₃(yⱼ)                       the same
    density      = 1/(kM) Σⱼ Σᵢ 1[yⱼ ∈ Bₖ(xᵢ)], k = 5               Naeem et al. 2020
    coverage     = share of xᵢ with some yⱼ in B₅(xᵢ)               the same
    authenticity = share of yⱼ outside B₁(x*), x* nearest to yⱼ     Alaa et al. 2022

1 − authenticity is the memorized share: 1 for copies, but not 0 for fresh samples of the same distribution, so compare
it with that of real samples that were held out. A point at exactly the ball's radius is in it, so copies are memorized
and equal sets have precision, recall and coverage 1 even where points coincide.

Distances are squared wherever they are only compared, and come from ‖x‖² + ‖y‖² − 2x·y in float64 with the reference's
mean as the origin. That rounds, by some 2⁻⁵² of ‖x‖² + ‖y‖², so each ball's squared radius is made larger by 1e-12 of
its center's squared norm plus that radius.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

PRECISION_K = 3  # Kynkäänniemi et al. 2019
COVERAGE_K = 5  # Naeem et al. 2020
MIN_SAMPLES = COVERAGE_K + 1  # of a set: each point and its neighbors

TOLERANCE = 1e-12
BLOCK = 2**24  # distances held at a time: 128 MiB


class Manifold(NamedTuple):
    """Points and the distances to their nearest others."""

    points: Tensor  # float [N, D], in the type and on the device they came in
    radii: Tensor  # float64 [N, 3], squared distance to the 1st, PRECISION_K-th and COVERAGE_K-th nearest other point


class Neighborhood(NamedTuple):
    """The metrics, 0…1 but for density, which may exceed 1, and the points behind them."""

    precision: float
    recall: float
    density: float
    coverage: float
    authenticity: float
    inside: Tensor  # bool [M], precision's
    covered: Tensor  # bool [N], coverage's
    nearest: Tensor  # int64 [M], index of the reference point nearest to each generated one
    distance: Tensor  # float64 [M], to it; not squared


@torch.no_grad()
def fit_manifold(points: Tensor) -> Manifold:
    """Measure each point's distance to its nearest others, for points float [N, D].

    Takes N² time, and 128 MiB beside a float64 copy of the points.

    Raises:
        ValueError: fewer than COVERAGE_K + 1 points, or one that is not finite.

    >>> fit_manifold(torch.arange(6.0)[:, None]).radii[0].tolist()
    [1.0, 9.0, 25.0]
    """
    if len(points) <= COVERAGE_K:
        raise ValueError(f"a manifold needs at least {COVERAGE_K + 1} points")
    if not points.isfinite().all():
        raise ValueError("points must be finite")
    centered = points - origin(points)
    radii = centered.new_empty(len(points), 3)
    for rows, distances in squared_distances(centered, centered):
        distances[:, rows].fill_diagonal_(torch.inf)  # a point is no neighbor of its own; a copy of it is
        nearest = distances.topk(COVERAGE_K, largest=False).values
        radii[rows] = nearest[:, [0, PRECISION_K - 1, COVERAGE_K - 1]]
    return Manifold(points, radii)


@torch.no_grad()
def compare(reference: Manifold, generated: Manifold) -> Neighborhood:
    """Compare generated points [M, D] with reference points [N, D]: all metrics in one pass over the pairs.

    Takes 128 MiB beside a float64 copy of either set.

    >>> line = torch.arange(6.0)[:, None]
    >>> neighborhood = compare(fit_manifold(line), fit_manifold(line + 0.5))
    >>> neighborhood.precision, neighborhood.coverage, neighborhood.distance.tolist()
    (1.0, 1.0, [0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    """
    zero = origin(reference.points)
    real, fake = reference.points - zero, generated.points - zero
    first, precision_radii, coverage_radii = padded_radii(real, reference.radii).unbind(dim=1)  # [N] each
    fake_radii = padded_radii(fake, generated.radii)[:, 1]  # [M]

    covered = torch.zeros_like(first, dtype=torch.bool)
    recall_mask = torch.zeros_like(covered)
    inside = torch.zeros_like(fake_radii, dtype=torch.bool)
    authenticity_mask = torch.zeros_like(inside)
    nearest = torch.zeros_like(inside, dtype=torch.int64)
    distance = torch.zeros_like(fake_radii)
    pairs = 0  # of a generated point and a B₅ that it is in
    for rows, distances in squared_distances(fake, real):  # [rows, N]
        within = distances <= coverage_radii
        pairs += int(within.count_nonzero())
        covered |= within.any(dim=0)
        recall_mask |= (distances <= fake_radii[rows, None]).any(dim=0)
        inside[rows] = (distances <= precision_radii).any(dim=1)
        closest = distances.argmin(dim=1)
        exact = (fake[rows] - real[closest]).square().sum(dim=1)  # the product's rounding would show in a copy's 0
        nearest[rows], distance[rows], authenticity_mask[rows] = closest, exact.sqrt(), exact > first[closest]

    return Neighborhood(
        precision=fraction(inside),
        recall=fraction(recall_mask),
        density=pairs / (COVERAGE_K * len(fake)),
        coverage=fraction(covered),
        authenticity=fraction(authenticity_mask),
        inside=inside,
        covered=covered,
        nearest=nearest,
        distance=distance,
    )


def origin(points: Tensor) -> Tensor:
    """Return the points' mean, float64 [D]: distances between points near the origin lose the fewest digits."""
    return points.sum(dim=0, dtype=torch.float64) / len(points)


def padded_radii(centered: Tensor, radii: Tensor) -> Tensor:
    """Return squared radii [N, 3] of balls around points [N, D], larger by what rounding may add to a distance."""
    return radii + TOLERANCE * (centered.square().sum(dim=1, keepdim=True) + radii)


def squared_distances(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield squared distances of rows [M, D] to columns [N, D], as many rows at a time as BLOCK allows, at least one.

    The points must be centered. A block [rows, N] may be changed and is overwritten by the next: a fresh one each time
    takes three times as long.
    """
    norms = columns.square().sum(dim=1)
    step = min(max(1, BLOCK // len(columns)), len(rows))
    buffer = columns.new_empty(step, len(columns))
    for first in range(0, len(rows), step):
        block = rows[first : first + step]
        distances = torch.addmm(norms, block, columns.T, alpha=-2, out=buffer[: len(block)])
        distances.add_(block.square().sum(dim=1, keepdim=True)).clamp_(min=0)
        yield slice(first, first + len(block)), distances


def fraction(mask: Tensor) -> float:
    """Return the share of a mask, bool [N], that is true."""
    return int(mask.count_nonzero()) / len(mask)
