"""The Fréchet distance, against its definition and answers known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from metrics_helpers import frechet_by_definition, normal
from torch import Tensor

from gan_plugin.metrics import frechet
from gan_plugin.metrics.frechet import Gaussian, fit_gaussian, frechet_distance, is_singular


def rotation(dimensions: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(dimensions, dimensions, seed=seed)).Q


def gaussian(covariance: Tensor, mean: Tensor | None = None) -> Gaussian:
    return Gaussian(covariance.new_zeros(len(covariance)) if mean is None else mean, covariance, 10**6)


@pytest.mark.parametrize("block", [frechet.BLOCK, 30])
def test_fitted_gaussian_is_numpys_mean_and_unbiased_covariance(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "BLOCK", block)  # 30: blocks of 4 rows, the last of 1
    features = (normal(41, 7) + 1e4).float()  # a mean that would take 8 of the variance's digits
    fitted = fit_gaussian(features)
    assert (fitted.mean.dtype, fitted.covariance.dtype, fitted.count) == (torch.float64, torch.float64, 41)
    np.testing.assert_allclose(fitted.mean, features.double().numpy().mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(fitted.covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-10)


def test_too_few_or_infinite_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two samples"):
        fit_gaussian(normal(1, 3))
    for broken in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="must be finite"):
            fit_gaussian(torch.tensor([[0.0], [1.0], [broken]]))


@pytest.mark.parametrize(("dimensions", "seed"), [(1, 0), (5, 1), (40, 2)])
def test_frechet_distance_is_the_definition_by_scipy(dimensions: int, seed: int) -> None:
    a = fit_gaussian(normal(200, dimensions, seed=seed) @ normal(dimensions, dimensions, seed=seed + 10))
    b = fit_gaussian(normal(300, dimensions, seed=seed + 20) @ normal(dimensions, dimensions, seed=seed + 30) + 0.3)
    assert frechet_distance(a, b) == pytest.approx(frechet_by_definition(a, b), rel=1e-10)
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
    small, others = fit_gaussian(normal(10, 64)), fit_gaussian(normal(20, 64, seed=1))
    # Tr (Σ₁Σ₂)^½ from samples alone: the singular values of the product of the centered samples, which has no zeros
    x, y = normal(10, 64), normal(20, 64, seed=1)
    x, y = (x - x.mean(0)) / 3, (y - y.mean(0)) / math.sqrt(19)
    cross = np.linalg.svd((x @ y.T).numpy(), compute_uv=False).sum()
    means = float((small.mean - others.mean).square().sum())
    expected = means + float(x.square().sum() + y.square().sum()) - 2 * cross
    assert frechet_distance(small, others) == pytest.approx(expected, rel=1e-6)
    for seed in range(10):  # rounding alone would make some of these negative
        same = fit_gaussian(1e3 * normal(10, 64, seed=seed))
        assert 0 <= frechet_distance(same, same) < 1e-6 * float(same.covariance.trace())


def test_a_broken_gaussian_is_never_at_distance_0() -> None:
    fitted = fit_gaussian(normal(20, 3))
    assert math.isnan(frechet_distance(fitted, fitted._replace(mean=fitted.mean * torch.nan)))


def test_singular_means_a_rank_below_the_number_of_features() -> None:
    assert not is_singular(fit_gaussian(normal(9, 8)))
    assert is_singular(fit_gaussian(normal(8, 8)))
    features = normal(100, 8) * torch.logspace(-3, 3, 8)
    assert not is_singular(fit_gaussian(features))
    assert is_singular(fit_gaussian(torch.cat([features, features[:, :1] + features[:, 1:2]], dim=1)))  # a sum of two
    assert is_singular(fit_gaussian(torch.cat([features, torch.ones(100, 1)], dim=1)))  # never varies
    assert is_singular(gaussian(torch.zeros(3, 3).double()))
