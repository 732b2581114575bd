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
BLOCK, GPU_BLOCK = 2**24, 2**26  # distances held at a time: 128 MiB, and 512 MiB on a GPU


class Manifold(NamedTuple):
    """Points and the distances to their nearest others."""

    points: Tensor  # float [N, D], in the type and on the device they came in
    radii: Tensor  # float64 [N, 3], squared distance to the 1st, PRECISION_K-th and COVERAGE_K-th nearest other point


class Matches(NamedTuple):
    """Which of N reference and M generated points are near which, on their device."""

    inside: Tensor  # bool [M], generated points in some B₃ of a reference point
    covered: Tensor  # bool [N], reference points with some generated one in their B₅
    recalled: Tensor  # bool [N], reference points in some B₃ of a generated one
    authentic: Tensor  # bool [M], generated points outside of the B₁ of the reference point nearest to them
    nearest: Tensor  # int64 [M], index of that
    distance: Tensor  # float64 [M], to it; not squared
    pairs: Tensor  # int64 [], of a generated point and a B₅ that it is in


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

    Takes N² time, and 128 MiB beside a float64 copy of the points, on a GPU 512 MiB.

    Raises:
        ValueError: fewer than COVERAGE_K + 1 points, or one that is not finite.

    >>> fit_manifold(torch.arange(6.0)[:, None]).radii[0].tolist()
    [1.0, 9.0, 25.0]
    """
    if len(points) <= COVERAGE_K:
        raise ValueError(f"a manifold needs at least {COVERAGE_K + 1} points")
    if not points.isfinite().all():
        raise ValueError("points must be finite")
    return Manifold(points, nearest_radii(points - origin(points)))


def nearest_radii(centered: Tensor) -> Tensor:
    """Return the radii of a :class:`Manifold` of centered points, float64 [N, D]."""
    radii = centered.new_empty(len(centered), 3)
    columns = torch.tensor([0, PRECISION_K - 1, COVERAGE_K - 1], device=centered.device)
    for rows, distances in squared_distances(centered, centered):
        distances[:, rows].fill_diagonal_(torch.inf)  # a point is no neighbor of its own; a copy of it is
        nearest = distances.topk(COVERAGE_K, largest=False).values
        radii[rows] = nearest.index_select(1, columns)
    return radii


@torch.no_grad()
def compare(reference: Manifold, generated: Manifold) -> Neighborhood:
    """Compare generated points [M, D] with reference points [N, D]: all metrics in one pass over the pairs.

    Takes 128 MiB beside a float64 copy of either set, on a GPU 512 MiB.

    >>> line = torch.arange(6.0)[:, None]
    >>> neighborhood = compare(fit_manifold(line), fit_manifold(line + 0.5))
    >>> neighborhood.precision, neighborhood.coverage, neighborhood.distance.tolist()
    (1.0, 1.0, [0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    """
    matches = match(reference, generated)
    return Neighborhood(
        precision=fraction(matches.inside),
        recall=fraction(matches.recalled),
        density=int(matches.pairs) / (COVERAGE_K * len(generated.points)),
        coverage=fraction(matches.covered),
        authenticity=fraction(matches.authentic),
        inside=matches.inside,
        covered=matches.covered,
        nearest=matches.nearest,
        distance=matches.distance,
    )


@torch.no_grad()
def match(reference: Manifold, generated: Manifold) -> Matches:
    """Compare all pairs of points, as many at a time as BLOCK allows; nothing is read from the device meanwhile."""
    zero = origin(reference.points)
    real, fake = reference.points - zero, generated.points - zero
    first, precision_radii, coverage_radii = padded_radii(real, reference.radii).unbind(dim=1)  # [N] each
    fake_radii = padded_radii(fake, generated.radii)[:, 1]  # [M]

    covered, recalled = (torch.zeros_like(first, dtype=torch.bool) for _ in range(2))
    inside, authentic = (torch.zeros_like(fake_radii, dtype=torch.bool) for _ in range(2))
    nearest = torch.zeros_like(inside, dtype=torch.int64)
    distance = torch.zeros_like(fake_radii)
    pairs = nearest.new_zeros(())
    for rows, distances in squared_distances(fake, real):  # [rows, N]
        within = distances <= coverage_radii
        pairs += within.count_nonzero()
        covered |= within.any(dim=0)
        recalled |= (distances <= fake_radii[rows, None]).any(dim=0)
        inside[rows] = (distances <= precision_radii).any(dim=1)
        closest = distances.argmin(dim=1)
        exact = (fake[rows] - real[closest]).square().sum(dim=1)  # the product's rounding would show in a copy's 0
        nearest[rows], distance[rows], authentic[rows] = closest, exact.sqrt(), exact > first[closest]

    return Matches(inside, covered, recalled, authentic, nearest, distance, pairs)


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
    step = min(max(1, (GPU_BLOCK if rows.is_cuda else BLOCK) // len(columns)), len(rows))
    buffer = columns.new_empty(step, len(columns))
    for first in range(0, len(rows), step):
        block = rows[first : first + step]
        distances = torch.addmm(norms, block, columns.T, alpha=-2, out=buffer[: len(block)])
        distances.add_(block.square().sum(dim=1, keepdim=True)).clamp_(min=0)
        yield slice(first, first + len(block)), distances


def fraction(mask: Tensor) -> float:
    """Return the share of a mask, bool [N], that is true."""
    return int(mask.count_nonzero()) / len(mask)
