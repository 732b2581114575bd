"""Helpers of the metrics' tests: random points, points on a line, Gaussians."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from torch import Tensor

from gan_plugin.metrics.frechet import Gaussian

Array = npt.NDArray[np.float64]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def line(*positions: float) -> Tensor:
    return torch.tensor(positions)[:, None]


def frechet_by_definition(a: Gaussian, b: Gaussian) -> float:
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    means = np.square((a.mean - b.mean).numpy()).sum()
    return float(means + np.trace(a.covariance.numpy() + b.covariance.numpy() - 2 * root))
