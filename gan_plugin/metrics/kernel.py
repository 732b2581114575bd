"""The kernel distance between two sets of features; with Inception's features, the KID.

    MMD² = E k(x, x′) + E k(y, y′) − 2 E k(x, y),  k(x, y) = (x·y/D + 1)³          Bińkowski et al. 2018, section 4

The unbiased estimate leaves out the pairs x = x′. Unlike the Fréchet distance it expects the same of few samples as of
many, and may be slightly negative for equal distributions. The subsets are those that torchmetrics draws, and so are
the values, up to rounding: 100 small products on whatever device the features are on.
"""

from __future__ import annotations

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

    The size of a subset is min(N, M) where that is less. Equal seeds give the same subsets, and the caller's random
    state stays as it is. Computed in float64 on the device of the features, which is read once, at the end.

    Raises:
        ValueError: fewer than two samples in a subset.

    >>> kernel_distance(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]]), subsets=1).mean
    7.0
    """
    size = min(subset_size, len(reference), len(generated))
    if size < 2:
        raise ValueError("a kernel distance needs at least two samples on either side")
    rows = subset_rows((len(reference), len(generated)), subsets, size=size, seed=seed)
    values = subset_distances(reference, generated, rows)
    return KernelDistance(float(values.mean()), float(values.std(correction=0)), subsets, size)


def subset_rows(counts: tuple[int, int], subsets: int, *, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the rows of each subset of two sets, in turns, without repetition: two int64 [subsets, size], on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randperm(count, generator=generator)[:size] for _ in range(subsets) for count in counts])
    return rows[0::2], rows[1::2]


def subset_distances(reference: Tensor, generated: Tensor, rows: tuple[Tensor, Tensor]) -> Tensor:
    """Estimate MMD² of each subset, float64 [subsets], from rows int64 [subsets, size] of either set of features."""
    pairs = zip(rows[0].to(reference.device), rows[1].to(generated.device))
    return torch.stack([unbiased_mmd(reference[one].double(), generated[other].double()) for one, other in pairs])


def unbiased_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Estimate MMD² as above from as many samples of either kind, float64 [n, D] each, n ≥ 2; returns a scalar."""
    count = len(x)
    pairs = sum(kernels(z, z).sum() - (z.square().mean(1) + 1).pow(3).sum() for z in (x, y))  # all but k(z, z)
    return pairs / (count * (count - 1)) - 2 * kernels(x, y).sum() / count**2


def kernels(x: Tensor, y: Tensor) -> Tensor:
    """Return k of each pair, [n, m], of x [n, D] and y [m, D]."""
    base = (x @ y.T).div_(x.shape[1]).add_(1)
    return base.square().mul_(base)
