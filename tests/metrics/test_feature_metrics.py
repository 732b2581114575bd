"""Metrics of features, logits and labels, against their definitions and against answers known in closed form."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import torch
from torch import Tensor

from gan_plugin.metrics import frechet, neighbors
from gan_plugin.metrics.frechet import Gaussian, fit_gaussian, frechet_distance, is_singular
from gan_plugin.metrics.kernel import KernelDistance, kernel_distance
from gan_plugin.metrics.labels import frechet_by_class, label_kl, label_shares, mode_count
from gan_plugin.metrics.neighbors import Manifold, Neighborhood, compare, fit_manifold
from gan_plugin.metrics.score import Score, inception_score

Array = npt.NDArray[np.float64]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(dimensions: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(dimensions, dimensions, seed=seed)).Q


def line(*positions: float) -> Tensor:
    return torch.tensor(positions)[:, None]


# Fréchet distance


def gaussian(covariance: Tensor, mean: Tensor | None = None) -> Gaussian:
    return Gaussian(covariance.new_zeros(len(covariance)) if mean is None else mean, covariance, 10**6)


def by_definition(a: Gaussian, b: Gaussian) -> float:
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    means = np.square((a.mean - b.mean).numpy()).sum()
    return float(means + np.trace(a.covariance.numpy() + b.covariance.numpy() - 2 * root))


@pytest.mark.parametrize("block", [frechet.BLOCK, 30])
def test_fitted_gaussian_is_numpys_mean_and_unbiased_covariance(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "BLOCK", block)  # 30: blocks of 4 rows, the last of 1
    features = (normal(41, 7) + 1e4).float()  # a mean that would take 8 of the variance's digits
    fitted = fit_gaussian(features)
    assert (fitted.mean.dtype, fitted.covariance.dtype, fitted.count) == (torch.float64, torch.float64, 41)
    np.testing.assert_allclose(fitted.mean, features.double().numpy().mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(fitted.covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-10)


def test_what_no_gaussian_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two samples"):
        fit_gaussian(normal(1, 3))
    for broken in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="must be finite"):
            fit_gaussian(torch.tensor([[0.0], [1.0], [broken]]))


@pytest.mark.parametrize(("dimensions", "seed"), [(1, 0), (5, 1), (40, 2)])
def test_frechet_distance_is_the_definition_by_scipy(dimensions: int, seed: int) -> None:
    a = fit_gaussian(normal(200, dimensions, seed=seed) @ normal(dimensions, dimensions, seed=seed + 10))
    b = fit_gaussian(normal(300, dimensions, seed=seed + 20) @ normal(dimensions, dimensions, seed=seed + 30) + 0.3)
    assert frechet_distance(a, b) == pytest.approx(by_definition(a, b), rel=1e-10)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


def test_frechet_distance_in_closed_form() -> None:
    base = fit_gaussian(normal(500, 6) @ normal(6, 6, seed=1))
    trace = float(base.covariance.trace())
    assert frechet_distance(base, base) == pytest.approx(0, abs=1e-9)
    moved = base._replace(mean=base.mean + torch.tensor([3.0, 4, 0, 0, 0, 0]))
    assert frechet_distance(base, moved) == pytest.approx(25, rel=1e-10)
    scaled = base._replace(covariance=9 * base.covariance)  # Σ (3σ − σ)²
    assert frechet_distance(base, scaled) == pytest.approx(4 * trace, rel=1e-10)
    turn, a, b = rotation(6), normal(6, seed=2).square(), normal(6, seed=3).square()
    for basis in (torch.eye(6, dtype=torch.float64), turn):  # Σ (σ₁ − σ₂)² in any common basis
        distance = frechet_distance(gaussian(basis @ a.diag() @ basis.T), gaussian(basis @ b.diag() @ basis.T))
        assert distance == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-9)
    quarter = gaussian(torch.tensor([[4.0, 0], [0, 1]]).double()), gaussian(torch.tensor([[1.0, 0], [0, 4]]).double())
    assert frechet_distance(*quarter) == pytest.approx(2, rel=1e-12)  # an ellipse and itself turned by 90°


def test_frechet_distance_of_singular_covariances() -> None:
    turn = rotation(30)
    a, b = torch.zeros(30).double(), torch.zeros(30).double()
    a[:5], b[2:9] = normal(5, seed=1).square(), normal(7, seed=2).square()  # ranks 5 and 7, sharing three directions
    expected = float((a.sqrt() - b.sqrt()).square().sum())
    distance = frechet_distance(gaussian(turn @ a.diag() @ turn.T), gaussian(turn @ b.diag() @ turn.T))
    assert distance == pytest.approx(expected, abs=1e-6)

    u, v = normal(30, seed=3), normal(30, seed=4)  # of rank one: Tr (uuᵀvvᵀ)^½ = |u·v|
    expected = float(u @ u + v @ v - 2 * (u @ v).abs())
    assert frechet_distance(gaussian(u.outer(u)), gaussian(v.outer(v))) == pytest.approx(expected, abs=1e-5)

    zero = gaussian(torch.zeros(30, 30).double())
    assert frechet_distance(zero, zero) == 0
    assert frechet_distance(zero, gaussian(u.outer(u))) == pytest.approx(float(u @ u), rel=1e-9)


def test_frechet_distance_of_few_samples_is_finite_and_not_negative() -> None:
    few, others = fit_gaussian(normal(10, 64)), fit_gaussian(normal(20, 64, seed=1))
    # Tr (Σ₁Σ₂)^½ from samples alone: the singular values of the product of the centerd samples, which has no zeros
    x, y = normal(10, 64), normal(20, 64, seed=1)
    x, y = (x - x.mean(0)) / 3, (y - y.mean(0)) / math.sqrt(19)
    cross = np.linalg.svd((x @ y.T).numpy(), compute_uv=False).sum()
    means = float((few.mean - others.mean).square().sum())
    expected = means + float(x.square().sum() + y.square().sum()) - 2 * cross
    assert frechet_distance(few, others) == pytest.approx(expected, rel=1e-6)
    for seed in range(10):  # rounding alone would make some of these negative
        same = fit_gaussian(1e3 * normal(10, 64, seed=seed))
        assert 0 <= frechet_distance(same, same) < 1e-6 * float(same.covariance.trace())


def test_a_broken_gaussian_is_never_at_distance_0() -> None:
    whole = fit_gaussian(normal(20, 3))
    assert math.isnan(frechet_distance(whole, whole._replace(mean=whole.mean * torch.nan)))


def test_singular_means_a_rank_below_the_number_of_features() -> None:
    assert not is_singular(fit_gaussian(normal(9, 8)))
    assert is_singular(fit_gaussian(normal(8, 8)))
    features = normal(100, 8) * torch.logspace(-3, 3, 8)
    assert not is_singular(fit_gaussian(features))
    assert is_singular(fit_gaussian(torch.cat([features, features[:, :1] + features[:, 1:2]], dim=1)))  # a sum of two
    assert is_singular(fit_gaussian(torch.cat([features, torch.ones(100, 1)], dim=1)))  # never varies
    assert is_singular(gaussian(torch.zeros(3, 3).double()))


# Kernel distance


def unbiased_mmd(x: Array, y: Array) -> float:
    def kernel(a: Array, b: Array) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def within(points: Array) -> float:
        return float(np.mean([kernel(a, b) for a, b in itertools.permutations(points, 2)]))

    return within(x) + within(y) - 2 * float(np.mean([kernel(a, b) for a in x for b in y]))


def test_kernel_distance_is_the_definition_over_all_pairs() -> None:
    reference, generated = normal(40, 5).float(), normal(40, 5, seed=1).float() * 1.5 + 0.5
    found = kernel_distance(reference, generated, subsets=3)
    expected = unbiased_mmd(reference.double().numpy(), generated.double().numpy())
    assert found == KernelDistance(pytest.approx(expected, rel=1e-12), pytest.approx(0, abs=1e-12), 3, 40)


def test_kernel_distance_in_closed_form() -> None:
    """In one dimension (xy + 1)³ compares the first three moments: MMD² = 3 Δm₁² + 3 Δm₂² + Δm₃²."""
    shift = 0.7
    expected = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    found = kernel_distance(normal(10_000, 1), normal(10_000, 1, seed=1) + shift, subsets=20)
    assert found.mean == pytest.approx(expected, abs=5 * found.std / math.sqrt(20))
    assert 0 < found.std < 0.2 * expected


def test_kernel_distance_of_equal_distributions_is_0_on_average_however_small_the_subsets() -> None:
    found = kernel_distance(normal(20_000, 4), normal(20_000, 4, seed=1), subsets=2000, subset_size=5)
    # with the pairs x = x′ it would be E k(x, x) − E k(x, x′), divided by half of 5: about 4
    assert found.mean == pytest.approx(0, abs=5 * found.std / math.sqrt(2000))
    assert found.std < 10


def test_kernel_distance_shrinks_its_subsets_to_what_is_there() -> None:
    assert kernel_distance(normal(1001, 1), normal(1002, 1), subsets=1).subset_size == 1000
    assert kernel_distance(normal(30, 3), normal(7, 3))[2:] == (100, 7)
    assert kernel_distance(normal(7, 3), normal(30, 3)).subset_size == 7
    for reference, generated, size in ((1, 30, 1000), (30, 1, 1000), (30, 30, 1)):
        with pytest.raises(ValueError, match="at least two samples"):
            kernel_distance(normal(reference, 3), normal(generated, 3), subset_size=size)


def kernel_mean(seed: int) -> float:
    return kernel_distance(normal(50, 3), normal(50, 3, seed=1), subsets=3, subset_size=10, seed=seed).mean


def score_mean(seed: int) -> float:
    return inception_score(normal(50, 3), splits=5, seed=seed).mean


@pytest.mark.parametrize("mean", [kernel_mean, score_mean])
def test_equal_seeds_give_equal_numbers_and_leave_the_callers_random_state(mean: Callable[[int], float]) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = mean(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert mean(1) == first
    assert mean(2) != first


@pytest.mark.parametrize("mean", [kernel_mean, score_mean])
def test_nothing_is_warned_of(mean: Callable[[int], float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean(0)
        inception_score(normal(2, 3))


# Inception Score


def score_by_definition(logits: Array) -> float:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return float(np.exp(np.mean(np.sum(p * np.log(p / p.mean(axis=0)), axis=1))))


def test_inception_score_is_the_definition() -> None:
    logits = 3 * normal(60, 7).float()
    found = inception_score(logits, splits=1)
    assert found == Score(pytest.approx(score_by_definition(logits.double().numpy()), rel=1e-12), 0.0, 1)


def test_inception_score_over_splits() -> None:
    logits = 3 * normal(41, 7)
    found = inception_score(logits, splits=5, seed=3)
    order = torch.randperm(41, generator=torch.Generator().manual_seed(3))
    scores = [score_by_definition(part.numpy()) for part in logits[order].split(9)]  # 9, 9, 9, 9 and 5
    assert found == Score(pytest.approx(np.mean(scores)), pytest.approx(np.std(scores, ddof=1)), 5)


@pytest.mark.parametrize(
    ("images", "splits"), [(10_000, 10), (20, 10), (19, 5), (15, 5), (11, 4), (5, 2), (4, 2), (3, 1), (2, 1)]
)
def test_each_split_holds_two_images_at_least(images: int, splits: int) -> None:
    sure = 50 * torch.eye(3)[torch.arange(images) % 3]
    found = inception_score(sure)
    assert found.splits == splits
    assert all(math.isfinite(value) for value in found)
    assert len(sure.chunk(splits)) == splits  # as torchmetrics cuts it
    assert len(sure.chunk(splits)[-1]) >= 2


def test_inception_score_from_1_to_the_number_of_classes() -> None:
    assert inception_score(torch.zeros(100, 10)) == Score(pytest.approx(1), pytest.approx(0), 10)
    assert inception_score(1e4 * torch.eye(10)[:1].repeat(100, 1)).mean == pytest.approx(1)  # sure, all of one class
    assert inception_score(1e4 * torch.eye(10).repeat(10, 1), splits=1).mean == pytest.approx(10)
    half = 1e4 * torch.eye(10)[:5].repeat(20, 1)  # the probability of five classes underflows, in double too
    assert inception_score(half, splits=1).mean == pytest.approx(5)
    for wrong in (lambda: inception_score(torch.zeros(1, 3)), lambda: inception_score(torch.zeros(9, 3), splits=0)):
        with pytest.raises(ValueError, match="at least two images and one split"):
            wrong()


# Neighbors


def naive(reference: Array, generated: Array) -> dict[str, Any]:
    """The figures of neighbors.py, straight from their definitions: a loop over pairs, plain distances."""

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


def around(reference: Tensor, generated: Tensor) -> Neighborhood:
    return compare(fit_manifold(reference), fit_manifold(generated))


def assert_equal(found: Neighborhood, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("count", "made", "dimensions", "shift", "offset"),
    [(90, 70, 3, 0.4, 0), (6, 50, 2, 0.1, 0), (70, 6, 8, 0, 0), (60, 60, 40, 0.5, 0), (90, 70, 3, 0.4, 1e5)],
)
@pytest.mark.parametrize("block", [neighbors.BLOCK, 700, 1])  # one block; some, the last of them shorter; single rows
def test_neighborhood_is_the_definition(
    count: int, made: int, dimensions: int, shift: float, offset: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", block)
    reference = (normal(count, dimensions) + offset).float()
    generated = (0.9 * normal(made, dimensions, seed=1) + shift + offset).float()
    found = around(reference, generated)
    expected = naive(reference.double().numpy(), generated.double().numpy())
    assert_equal(found, expected)
    assert found.inside.dtype == found.covered.dtype == torch.bool
    assert (found.nearest.dtype, found.distance.dtype) == (torch.int64, torch.float64)
    assert expected["precision"] > 0  # not a test of sets apart


def test_manifold_holds_squared_distances_to_the_1st_3rd_and_5th_neighbor() -> None:
    found = fit_manifold(line(0, 1, 3, 6, 10, 15))
    assert found.radii.dtype == torch.float64
    assert found.radii.sqrt().tolist() == pytest.approx(
        np.array([[1, 6, 15], [1, 5, 14], [2, 3, 12], [3, 5, 9], [4, 7, 10], [5, 12, 15]])
    )
    points = (normal(30, 4) + 1e4).float()  # far from the origin, where products would lose half of the digits
    others = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist").sort().values
    np.testing.assert_allclose(fit_manifold(points).radii, others[:, [1, 3, 5]].square(), rtol=1e-10)

    points = normal(2, 4).float()
    assert fit_manifold(points.repeat(4, 1)).points.dtype == torch.float32  # as given
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
    assert_equal(around(REFERENCE, GENERATED), BY_HAND)


@pytest.mark.parametrize("offset", [0, 100])
def test_edges_are_inside_despite_rounding(offset: float) -> None:
    for seed in range(20):  # the same line, in some direction of a space of 50 dimensions
        direction = torch.nn.functional.normalize(normal(50, seed=seed), dim=0)
        found = around(REFERENCE * direction + offset, GENERATED * direction + offset)
        assert_equal(found, BY_HAND)


@pytest.mark.parametrize("copies", [1, 7])
def test_identical_sets(copies: int) -> None:
    points = (normal(50, 16) + 100).float().repeat(copies, 1)
    found = around(points, points.flip(0))
    assert (found.precision, found.recall, found.coverage, found.authenticity) == (1, 1, 1, 0)
    assert found.density == pytest.approx((5 + 1) / 5 if copies == 1 else 7 / 5)  # the point, too, is in its ball
    assert not found.distance.any()  # exactly 0, where ‖x‖² + ‖y‖² − 2x·y would leave some 1e-7
    assert torch.equal(points[found.nearest], points.flip(0))
    assert fit_manifold(points).radii.min() >= 0  # rounding alone would make some negative


def test_sets_of_one_and_the_same_point() -> None:
    """A network that maps everything to one point: balls of radius 0, and nothing to round."""
    found = around(torch.zeros(8, 3), torch.zeros(7, 3))
    assert found[:5] == (1, 1, 8 / 5, 1, 0)


def test_disjoint_sets() -> None:
    found = around(normal(50, 3), normal(40, 3, seed=1) + 1000)
    assert found[:5] == (0, 0, 0, 0, 1)
    assert not found.inside.any()
    assert not found.covered.any()


def modes(of: range, size: int, seed: int) -> Tensor:
    """Five narrow clusters, far apart: ``size`` points from each of those asked for."""
    return torch.cat([normal(size, 2, seed=seed + mode) + 100 * mode for mode in of])


def test_a_dropped_mode_costs_recall_and_coverage_but_no_precision() -> None:
    reference = modes(range(5), 100, seed=0)
    whole, dropped = around(reference, modes(range(5), 100, 10)), around(reference, modes(range(4), 125, 10))
    assert dropped.precision == pytest.approx(whole.precision, abs=0.03)
    assert whole.precision > 0.9
    assert min(whole.recall, whole.coverage) > 0.9
    assert 0.75 < dropped.recall <= 0.8
    assert 0.75 < dropped.coverage <= 0.8
    assert not dropped.covered[400:].any()


def test_memorized_images_show_as_no_authenticity_and_low_coverage() -> None:
    reference = normal(400, 8)
    repeated = around(reference, reference[:10].repeat(40, 1))
    assert (repeated.precision, repeated.authenticity) == (1, 0)
    assert repeated.coverage < 0.25
    assert torch.equal(repeated.nearest, torch.arange(10).repeat(40))
    assert not repeated.distance.any()
    fresh = around(reference, normal(400, 8, seed=1))
    assert fresh.authenticity > 0.4
    assert fresh.coverage > 0.9
    half = around(reference, torch.cat([reference[:200], normal(200, 8, seed=1)]))
    assert half.authenticity == pytest.approx(fresh.authenticity / 2, abs=0.05)
    # a copy of an image that the data holds twice
    twice = torch.cat([reference, reference[:1]])
    assert around(twice, reference[:1].repeat(6, 1)).authenticity == 0


def test_noise_has_no_precision() -> None:
    noise = 20 * (torch.rand(300, 8, generator=torch.Generator().manual_seed(0)) - 0.5)
    found = around(normal(300, 8), noise)
    assert found.precision < 0.02
    assert found.density < 0.02
    assert found.coverage < 0.05
    assert found.authenticity > 0.98


def test_an_outlier_does_not_widen_the_other_balls() -> None:
    """Were the tolerance 1e-12 of the largest squared norm, 6.1 would be a copy of 5, whose nearest other is 4."""
    found = around(torch.cat([REFERENCE, line(1e6)]).double(), line(6.1, 6.2, 6.3, 6.4, 6.5, 6.6).double())
    assert found.authenticity == 1


# Labels


def labels(*of: int) -> Tensor:
    return torch.tensor(of, dtype=torch.int64)


def test_modes_and_shares() -> None:
    assert mode_count(labels(0, 0, 4, 2), 6) == 3
    assert mode_count(labels(), 6) == 0
    shares = label_shares(labels(0, 0, 3, 1), 5)
    assert shares.dtype == torch.float64
    assert shares.tolist() == [0.5, 0.25, 0, 0.25, 0]
    for wrong in (labels(0, 5), labels(-1, 3)):
        for figure in (mode_count, label_shares):
            with pytest.raises(ValueError, match="labels must be 0…4"):
                figure(wrong, 5)
    with pytest.raises(ValueError, match="at least one label"):
        label_shares(labels(), 5)


def test_label_kl_is_reverse_kl() -> None:
    reference, generated = labels(0, 1, 1, 1), labels(0, 0, 0, 1)
    assert label_kl(generated, generated, 2) == 0
    assert label_kl(generated, reference, 2) == pytest.approx(0.75 * math.log(3) + 0.25 * math.log(1 / 3))
    assert label_kl(labels(0), labels(0, 1, 1, 1), 2) == pytest.approx(math.log(4))  # not log(4/3), the forward KL of p
    even = torch.arange(10).repeat(7)
    assert label_kl(even[even < 9], even, 10) == pytest.approx(math.log(10 / 9))  # a dropped class
    p, q = (
        torch.arange(5).repeat_interleave(labels(1, 2, 3, 4, 5)),
        torch.arange(5).repeat_interleave(labels(4, 4, 1, 9, 2)),
    )
    shares = np.array([4, 4, 1, 9, 2]) / 20, np.array([1, 2, 3, 4, 5]) / 15
    assert label_kl(q, p, 5) == pytest.approx(float(np.sum(shares[0] * np.log(shares[0] / shares[1]))))


def test_label_kl_stays_finite_where_the_reference_lacks_a_class() -> None:
    found = label_kl(labels(0, 2), labels(0, 0, 1), 3)  # p smoothed: (2.5, 1.5, 0.5) / 4.5
    assert found == pytest.approx(0.5 * math.log(0.5 / (2.5 / 4.5)) + 0.5 * math.log(0.5 / (0.5 / 4.5)))
    assert label_kl(labels(0, 1), labels(0, 1), 3) == 0  # a class that neither shows asks for no smoothing


def test_frechet_by_class() -> None:
    reference, generated = normal(60, 3), normal(50, 3, seed=1)
    real = torch.arange(60) % 5
    made = torch.arange(50) % 4
    made[made == 3] = 0
    made[0] = 3  # classes 0, 1 and 2, one image of class 3, none of class 4
    found = frechet_by_class(generated, made, reference, real, 6)
    for of in range(3):
        a, b = fit_gaussian(generated[made == of]), fit_gaussian(reference[real == of])
        assert found[of] == pytest.approx(by_definition(a, b), rel=1e-8)
    assert found[3:] == [None, None, None]
    two, other = labels(0, 0, 1), torch.zeros(3, dtype=torch.int64)
    assert frechet_by_class(line(1, 3, 5), two, line(4, 6, 5), two, 2) == [pytest.approx(9), None]
    assert frechet_by_class(line(1, 3, 5), two, line(4, 6, 5), other, 2)[1] is None
    swapped = frechet_by_class(reference, real, generated, made, 6)
    assert [value is None for value in swapped] == [False] * 3 + [True] * 3


def test_figures_of_half_precision_features_that_ask_for_gradients() -> None:
    """As they may come from a network: nothing is backpropagated through, and sums don't overflow float16."""
    features = (100 * normal(50, 4)).half().requires_grad_()
    assert fit_gaussian(features).covariance.isfinite().all()
    assert isinstance(kernel_distance(features, features, subsets=1).mean, float)
    assert isinstance(inception_score(features, splits=1).mean, float)
    found = compare(Manifold(features, fit_manifold(features).radii), fit_manifold(features))
    assert (found.precision, found.distance.requires_grad) == (1, False)
