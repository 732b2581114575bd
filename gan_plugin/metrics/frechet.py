"""The Fréchet distance between two Gaussians fitted to features; with Inception's features, the FID.

    d² = ‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½)          Dowson and Landau 1982; Heusel et al. 2017, eq. 6

For equal generators it falls with the number of samples, so that number belongs beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**23  # elements turned to float64 at a time: 64 MiB


class Gaussian(NamedTuple):
    """A Gaussian fitted to ``count`` samples; on the CPU, wherever the samples were.

    Its covariance is decomposed there: LAPACK converges where the covariance is singular, too, and takes seconds at
    most, while the products over all samples, which take longest, are computed where these are.
    """

    mean: Tensor  # float64 [D]
    covariance: Tensor  # float64 [D, D], unbiased: divided by count − 1
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs of a Gaussian


@torch.no_grad()
def fit_gaussian(features: Tensor) -> Gaussian:
    """Fit mean and unbiased covariance of features float [N, D], in float64 without a float64 copy of them all.

    Raises:
        ValueError: fewer than two samples, or one that is not finite.

    >>> fit_gaussian(torch.tensor([[1.0, 0.0], [3.0, 4.0]])).covariance.tolist()
    [[2.0, 4.0], [4.0, 8.0]]
    """
    count = len(features)
    if count < 2:
        raise ValueError("a Gaussian needs at least two samples")
    mean, covariance = (x.cpu() for x in moments(features))
    if not covariance.isfinite().all():
        raise ValueError("features must be finite")
    return Gaussian(mean, covariance, count)


@torch.no_grad()
def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased covariance, float64 [D] and [D, D], of features float [N, D] on their device."""
    count, dimensions = features.shape
    blocks = features.split(max(1, BLOCK // dimensions))
    mean = torch.zeros(dimensions, dtype=torch.float64, device=features.device)
    for block in blocks:
        mean += block.sum(dim=0, dtype=torch.float64)
    mean /= count
    covariance = mean.new_zeros(dimensions, dimensions)
    for block in blocks:  # a second pass: E xxᵀ − μμᵀ would lose the digits that a large mean takes
        centered = block - mean
        covariance.addmm_(centered.T, centered)
    return mean, covariance / (count - 1)


@torch.no_grad()
def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return the distance d² above: ≥ 0, in squared units of the features, equal for (a, b) and (b, a) up to rounding.

    Tr (Σ₁Σ₂)^½ = Tr (Σ₁^½ Σ₂ Σ₁^½)^½, and with Σ₁ = V Λ Vᵀ that is the sum of the roots of the eigenvalues of
    (VΛ^½)ᵀ Σ₂ (VΛ^½). Both eigen-solves are of symmetric matrices, so singular covariances need no care: an eigenvalue
    that rounding made negative is 0. Each such zero errs by up to about 1e-8 of the largest eigenvalue.

    >>> near, far = fit_gaussian(torch.tensor([[0.0], [2.0]])), fit_gaussian(torch.tensor([[3.0], [5.0]]))
    >>> round(frechet_distance(near, far), 6)
    9.0
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    factor = vectors * values.clamp(min=0).sqrt()
    product = factor.T @ b.covariance @ factor
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    means = (a.mean - b.mean).square().sum()
    # Not max(0.0, …): that would turn a NaN into the best distance there is
    return max(float(means + a.covariance.trace() + b.covariance.trace() - 2 * cross), 0.0)


@torch.no_grad()
def is_singular(gaussian: Gaussian) -> bool:
    """Return whether the covariance's rank is below D: too few samples, or features that are constant or redundant.

    Numerically zero is what rounding can leave: below D · 2⁻⁵² of the largest eigenvalue.

    >>> is_singular(fit_gaussian(torch.eye(3)))
    True
    """
    dimensions = len(gaussian.mean)
    if gaussian.count <= dimensions:
        return True
    return int(torch.linalg.matrix_rank(gaussian.covariance, hermitian=True)) < dimensions
