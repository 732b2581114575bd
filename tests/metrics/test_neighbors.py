"""Metrics of nearest neighbors, against their definitions and answers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from metrics_helpers import Array, line, normal
from torch import Tensor

from gan_plugin.metrics import neighbors
from gan_plugin.metrics.neighbors import Neighborhood, compare, fit_manifold


def naive(reference: Array, generated: Array) -> dict[str, Any]:
    """Return the metrics of neighbors.py straight from their definitions: a loop over pairs, plain distances."""

    def distances(a: Array, b: Array) -> Array:
        return np.array([[np.sqrt(np.square(p - q).sum()) for q in b] for p in a])

    def radius(points: Array, k: int) -> Array:
        return np.array([np.sort(np.delete(row, index))[k - 1] for index, row in enumerate(distances(points, points))])

    pairs = distances(reference, generated)  # [N, M]
    nearest = pairs.argmin(axis=0)
    inside = (pairs <= radius(reference, 3)[:, None]).any(axis=0)
    covered = (pairs <= radius(reference, 5)[:, None]).any(axis=1)
    return {
        "precision": inside.mean(),
        "recall": (pairs <= radius(generated, 3)).any(axis=1).mean(),
        "density": (pairs <= radius(reference, 5)[:, None]).sum() / (5 * len(generated)),
        "coverage": covered.mean(),
        "authenticity": (pairs.min(axis=0) > radius(reference, 1)[nearest]).mean(),
        "inside": inside,
        "covered": covered,
        "nearest": nearest,
        "distance": pairs.min(axis=0),
    }


def neighborhood_of(reference: Tensor, generated: Tensor) -> Neighborhood:
    return compare(fit_manifold(reference), fit_manifold(generated))


def assert_equal(neighborhood: Neighborhood, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(neighborhood, name), value, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("count", "generated_count", "dimensions", "shift", "offset"),
    [(90, 70, 3, 0.4, 0), (6, 50, 2, 0.1, 0), (70, 6, 8, 0, 0), (60, 60, 40, 0.5, 0), (90, 70, 3, 0.4, 1e5)],
)
@pytest.mark.parametrize(
    "block", [neighbors.BLOCK, 700, 1]
)  # one block; several, the last of them shorter; single rows
def test_neighborhood_is_the_definition(
    count: int,
    generated_count: int,
    dimensions: int,
    shift: float,
    offset: float,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", block)
    reference = (normal(count, dimensions) + offset).float()
    generated = (0.9 * normal(generated_count, dimensions, seed=1) + shift + offset).float()
    result = neighborhood_of(reference, generated)
    expected = naive(reference.double().numpy(), generated.double().numpy())
    assert_equal(result, expected)
    assert result.inside.dtype == result.covered.dtype == torch.bool
    assert (result.nearest.dtype, result.distance.dtype) == (torch.int64, torch.float64)
    assert expected["precision"] > 0  # not a test of sets apart


def test_manifold_holds_squared_distances_to_the_1st_3rd_and_5th_neighbor() -> None:
    result = fit_manifold(line(0, 1, 3, 6, 10, 15))
    assert result.radii.dtype == torch.float64
    assert result.radii.sqrt().tolist() == pytest.approx(
        np.array([[1, 6, 15], [1, 5, 14], [2, 3, 12], [3, 5, 9], [4, 7, 10], [5, 12, 15]])
    )
    points = (normal(30, 4) + 1e4).float()  # far from the origin, where products would lose half of the digits
    others = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist").sort().values
    np.testing.assert_allclose(fit_manifold(points).radii, others[:, [1, 3, 5]].square(), rtol=1e-10)

    points = normal(2, 4).float()
    assert fit_manifold(points.repeat(4, 1)).points.dtype == torch.float32  # in the type they came in
    # four copies of two points: three others at 0, then the other point
    apart = float((points[0].double() - points[1].double()).square().sum())
    np.testing.assert_allclose(fit_manifold(points.repeat(4, 1)).radii, [[0, 0, apart]] * 8, atol=1e-13, rtol=1e-12)
    with pytest.raises(ValueError, match="at least 6 points"):
        fit_manifold(line(0, 1, 2, 3, 4))
    with pytest.raises(ValueError, match="must be finite"):
        fit_manifold(line(0, 1, 2, 3, 4, torch.nan))


# Worked by hand. The reference's balls for k = 3 are [−3, 3], [−1, 3], [0, 4], [1, 5], [2, 6] and [2, 8]; for k = 5
# [−5, 5], [−3, 5], [−1, 5], [0, 6], [0, 8] and [0, 10]. Each point's nearest other is at 1. The generated points' balls
# for k = 3 are [1, 11], [5, 11], [6, 14], [6, 16], [8, 32] and [10, 50]. Four of the points lie on an edge.
REFERENCE = line(0, 1, 2, 3, 4, 5)
GENERATED = line(6, 8, 10, 11, 20, 30)
BY_HAND = {
    "precision": 2 / 6,  # 6 and 8, on the edges of [2, 6] and [2, 8]
    "recall": 5 / 6,  # all but 0 in [1, 11]
    "density": 6 / (5 * 6),  # 6 is in three balls, 8 in two, 10 in one
    "coverage": 3 / 6,  # the last three
    "authenticity": 5 / 6,  # 6 is as far from 5 as 4 is
    "inside": [True, True, False, False, False, False],
    "covered": [False, False, False, True, True, True],
    "nearest": [5] * 6,
    "distance": [1, 3, 5, 6, 15, 25],
}


def test_points_on_a_line_by_hand() -> None:
    assert_equal(neighborhood_of(REFERENCE, GENERATED), BY_HAND)


@pytest.mark.parametrize("offset", [0, 100])
def test_edges_are_inside_despite_rounding(offset: float) -> None:
    for seed in range(20):  # the same line, in some direction of a space of 50 dimensions
        direction = torch.nn.functional.normalize(normal(50, seed=seed), dim=0)
        result = neighborhood_of(REFERENCE * direction + offset, GENERATED * direction + offset)
        assert_equal(result, BY_HAND)


@pytest.mark.parametrize("copies", [1, 7])
def test_identical_sets(copies: int) -> None:
    points = (normal(50, 16) + 100).float().repeat(copies, 1)
    result = neighborhood_of(points, points.flip(0))
    assert (result.precision, result.recall, result.coverage, result.authenticity) == (1, 1, 1, 0)
    assert result.density == pytest.approx((5 + 1) / 5 if copies == 1 else 7 / 5)  # the point, too, is in its ball
    assert not result.distance.any()  # exactly 0, where ‖x‖² + ‖y‖² − 2x·y would leave some 1e-7
    assert torch.equal(points[result.nearest], points.flip(0))
    assert fit_manifold(points).radii.min() >= 0  # rounding alone would make some negative


def test_sets_of_one_and_the_same_point() -> None:
    """A network that maps everything to one point: balls of radius 0, and nothing to round."""
    result = neighborhood_of(torch.zeros(8, 3), torch.zeros(7, 3))
    assert result[:5] == (1, 1, 8 / 5, 1, 0)


def test_disjoint_sets() -> None:
    result = neighborhood_of(normal(50, 3), normal(40, 3, seed=1) + 1000)
    assert result[:5] == (0, 0, 0, 0, 1)
    assert not result.inside.any()
    assert not result.covered.any()


def clusters(indices: range, size: int, seed: int) -> Tensor:
    """Return ``size`` points from each of several narrow clusters, far apart."""
    return torch.cat([normal(size, 2, seed=seed + index) + 100 * index for index in indices])


def test_a_missing_mode_costs_recall_and_coverage_but_no_precision() -> None:
    reference = clusters(range(5), 100, seed=0)
    complete, missing = (
        neighborhood_of(reference, clusters(range(5), 100, 10)),
        neighborhood_of(reference, clusters(range(4), 125, 10)),
    )
    assert missing.precision == pytest.approx(complete.precision, abs=0.03)
    assert complete.precision > 0.9
    assert min(complete.recall, complete.coverage) > 0.9
    assert 0.75 < missing.recall <= 0.8
    assert 0.75 < missing.coverage <= 0.8
    assert not missing.covered[400:].any()


def test_memorized_images_have_no_authenticity_and_low_coverage() -> None:
    reference = normal(400, 8)
    repeated = neighborhood_of(reference, reference[:10].repeat(40, 1))
    assert (repeated.precision, repeated.authenticity) == (1, 0)
    assert repeated.coverage < 0.25
    assert torch.equal(repeated.nearest, torch.arange(10).repeat(40))
    assert not repeated.distance.any()
    fresh = neighborhood_of(reference, normal(400, 8, seed=1))
    assert fresh.authenticity > 0.4
    assert fresh.coverage > 0.9
    half = neighborhood_of(reference, torch.cat([reference[:200], normal(200, 8, seed=1)]))
    assert half.authenticity == pytest.approx(fresh.authenticity / 2, abs=0.05)
    # a copy of an image that the data holds twice
    twice = torch.cat([reference, reference[:1]])
    assert neighborhood_of(twice, reference[:1].repeat(6, 1)).authenticity == 0


def test_noise_has_no_precision() -> None:
    noise = 20 * (torch.rand(300, 8, generator=torch.Generator().manual_seed(0)) - 0.5)
    result = neighborhood_of(normal(300, 8), noise)
    assert result.precision < 0.02
    assert result.density < 0.02
    assert result.coverage < 0.05
    assert result.authenticity > 0.98


def test_an_outlier_does_not_widen_the_other_balls() -> None:
    """Were the tolerance 1e-12 of the largest squared norm, 6.1 would be a copy of 5, whose nearest other is 4."""
    result = neighborhood_of(torch.cat([REFERENCE, line(1e6)]).double(), line(6.1, 6.2, 6.3, 6.4, 6.5, 6.6).double())
    assert result.authenticity == 1
