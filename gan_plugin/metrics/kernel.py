"""The kernel distance between two sets of features; with Inception's features, the KID.

    MMD² = E k(x, x′) + E k(y, y′) − 2 E k(x, y),  k(x, y) = (x·y/D + 1)³          Bińkowski et al. 2018, section 4

The unbiased estimate leaves out the pairs x = x′. Unlike the Fréchet distance it expects the same of few samples as of
many, and may be slightly negative for equal distributions.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

SUBSETS = 100


class KernelDistance(NamedTuple):
    """Unbiased MMD² over random subsets of both sets."""

    mean: float
    std: float  # over the subsets, divided by their number
    subsets: int
    subset_size: int


@torch.no_grad()
def kernel_distance(
    reference: Tensor, generated: Tensor, *, subsets: int = SUBSETS, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Return mean and std of MMD² between features float [N, D] and [M, D] over subsets drawn with the seed.

    The size of a subset is min(N, M) where that is less. Equal seeds give equal numbers, and the caller's random state
    stays as it is.

    Raises:
        ValueError: fewer than two samples in a subset.

    >>> kernel_distance(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]]), subsets=1).mean
    7.0
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(subset_size, len(reference), len(generated))
    if size < 2:
        raise ValueError("a kernel distance needs at least two samples on either side")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save", UserWarning)
        metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=subsets, subset_size=size)
        metric.update(reference.double(), real=True)
        metric.update(generated.double(), real=False)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every accelerator
        mean, std = metric.compute()
    return KernelDistance(float(mean), float(std), subsets, size)
