"""The kernel distance and the Inception Score, against their definitions and answers known in closed form."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from metrics_helpers import Array, normal
from torchmetrics.image.kid import KernelInceptionDistance

from gan_plugin.metrics.frechet import fit_gaussian
from gan_plugin.metrics.kernel import KernelDistance, kernel_distance
from gan_plugin.metrics.neighbors import Manifold, compare, fit_manifold
from gan_plugin.metrics.score import Score, inception_score


def unbiased_mmd(x: Array, y: Array) -> float:
    def kernel(a: Array, b: Array) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def within(points: Array) -> float:
        return float(np.mean([kernel(a, b) for a, b in itertools.permutations(points, 2)]))

    return within(x) + within(y) - 2 * float(np.mean([kernel(a, b) for a in x for b in y]))


def test_kernel_distance_is_the_definition_over_all_pairs() -> None:
    reference, generated = normal(40, 5).float(), normal(40, 5, seed=1).float() * 1.5 + 0.5
    distance = kernel_distance(reference, generated, subsets=3)
    expected = unbiased_mmd(reference.double().numpy(), generated.double().numpy())
    assert distance == KernelDistance(pytest.approx(expected, rel=1e-12), pytest.approx(0, abs=1e-12), 3, 40)


def test_kernel_distance_is_that_of_torchmetrics_from_the_same_subsets() -> None:
    reference, generated = normal(300, 16).float(), normal(200, 16, seed=1).float() + 0.1
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=7, subset_size=50)
        metric.update(reference.double(), real=True)
        metric.update(generated.double(), real=False)
        torch.manual_seed(3)
        mean, std = metric.compute()
    distance = kernel_distance(reference, generated, subsets=7, subset_size=50, seed=3)
    assert (distance.mean, distance.std) == pytest.approx((mean.item(), std.item()), rel=1e-12)


def test_kernel_distance_in_closed_form() -> None:
    """In one dimension (xy + 1)³ compares the first three moments: MMD² = 3 Δm₁² + 3 Δm₂² + Δm₃²."""
    shift = 0.7
    expected = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    distance = kernel_distance(normal(10_000, 1), normal(10_000, 1, seed=1) + shift, subsets=20)
    assert distance.mean == pytest.approx(expected, abs=5 * distance.std / math.sqrt(20))
    assert 0 < distance.std < 0.2 * expected


def test_kernel_distance_of_equal_distributions_is_0_on_average_however_small_the_subsets() -> None:
    distance = kernel_distance(normal(20_000, 4), normal(20_000, 4, seed=1), subsets=2000, subset_size=5)
    # with the pairs x = x′ it would be E k(x, x) − E k(x, x′), divided by half of 5: about 4
    assert distance.mean == pytest.approx(0, abs=5 * distance.std / math.sqrt(2000))
    assert distance.std < 10


def test_kernel_distance_shrinks_its_subsets_to_the_number_of_samples() -> None:
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
def test_there_are_no_warnings(mean: Callable[[int], float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean(0)
        inception_score(normal(2, 3))


def score_by_definition(logits: Array) -> float:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return float(np.exp(np.mean(np.sum(p * np.log(p / p.mean(axis=0)), axis=1))))


def test_inception_score_is_the_definition() -> None:
    logits = 3 * normal(60, 7).float()
    score = inception_score(logits, splits=1)
    assert score == Score(pytest.approx(score_by_definition(logits.double().numpy()), rel=1e-12), 0.0, 1)


def test_inception_score_over_splits() -> None:
    logits = 3 * normal(41, 7)
    score = inception_score(logits, splits=5, seed=3)
    order = torch.randperm(41, generator=torch.Generator().manual_seed(3))
    scores = [score_by_definition(part.numpy()) for part in logits[order].split(9)]  # 9, 9, 9, 9 and 5
    assert score == Score(pytest.approx(np.mean(scores)), pytest.approx(np.std(scores, ddof=1)), 5)


@pytest.mark.parametrize(
    ("images", "splits"), [(10_000, 10), (20, 10), (19, 5), (15, 5), (11, 4), (5, 2), (4, 2), (3, 1), (2, 1)]
)
def test_each_split_holds_two_images_at_least(images: int, splits: int) -> None:
    confident = 50 * torch.eye(3)[torch.arange(images) % 3]
    score = inception_score(confident)
    assert score.splits == splits
    assert all(math.isfinite(value) for value in score)
    assert len(confident.chunk(splits)) == splits  # as torchmetrics cuts it
    assert len(confident.chunk(splits)[-1]) >= 2


def test_inception_score_from_1_to_the_number_of_classes() -> None:
    assert inception_score(torch.zeros(100, 10)) == Score(pytest.approx(1), pytest.approx(0), 10)
    assert inception_score(1e4 * torch.eye(10)[:1].repeat(100, 1)).mean == pytest.approx(1)  # all of one class
    assert inception_score(1e4 * torch.eye(10).repeat(10, 1), splits=1).mean == pytest.approx(10)
    half = 1e4 * torch.eye(10)[:5].repeat(20, 1)  # the probability of five classes underflows, in double too
    assert inception_score(half, splits=1).mean == pytest.approx(5)
    for wrong in (lambda: inception_score(torch.zeros(1, 3)), lambda: inception_score(torch.zeros(9, 3), splits=0)):
        with pytest.raises(ValueError, match="at least two images and one split"):
            wrong()


def test_half_precision_features_with_gradients() -> None:
    """As they may come from a network: no graph is built, and sums don't overflow float16."""
    features = (100 * normal(50, 4)).half().requires_grad_()
    assert fit_gaussian(features).covariance.isfinite().all()
    assert isinstance(kernel_distance(features, features, subsets=1).mean, float)
    assert isinstance(inception_score(features, splits=1).mean, float)
    neighborhood = compare(Manifold(features, fit_manifold(features).radii), fit_manifold(features))
    assert (neighborhood.precision, neighborhood.distance.requires_grad) == (1, False)
