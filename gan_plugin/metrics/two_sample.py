"""What a classifier two-sample test needs: the area under its ROC curve, and folds of images to learn from and not.

Lopez-Paz and Oquab 2017, arXiv:1610.06545, learn to tell two sets of samples apart and test the accuracy on others of
both. The area under the ROC curve says the same without a threshold: ½ is chance, whatever the classifier's bias.
"""

from __future__ import annotations

import torch
from torch import Tensor


def auroc(generated: Tensor, real: Tensor) -> float:
    """Return the area under the ROC curve: the share of pairs in which the generated image scores higher, 0…1.

    Equal scores count half, which makes it the Mann–Whitney statistic divided by the number of pairs.

    Args:
        generated: scores, float [M], M ≥ 1.
        real: scores, float [N], N ≥ 1.

    Raises:
        ValueError: there are no scores of one kind.

    >>> auroc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]))
    0.875
    """
    if not len(generated) or not len(real):
        raise ValueError("an area under the ROC curve needs scores of both kinds")
    ordered = real.double().sort().values
    scores = generated.double()
    below, up_to = (torch.searchsorted(ordered, scores, right=right) for right in (False, True))
    return float((below + up_to).double().mean() / (2 * len(ordered)))


def folds(count: int, parts: int, seed: int) -> list[Tensor]:
    """Return random, disjoint rows int64 of about equal number that are together 0 … ``count`` − 1.

    >>> sorted(len(rows) for rows in folds(7, 3, seed=0))
    [2, 2, 3]
    """
    return list(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tensor_split(parts))
