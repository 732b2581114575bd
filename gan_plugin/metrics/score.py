"""The Inception Score: a classifier is confident of each image and predicts all classes equally often.

    IS = exp E KL(p(y|x) ‖ p(y))          Salimans et al. 2016, section 4

From 1, for images that all look alike to the classifier, to the number of classes. It uses no real images.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

# Of log p(y|x): e⁻⁷⁰⁰ adds nothing to a sum, but keeps the mean of a class that no image has above 0, its log finite
MIN_LOG_PROBABILITY = -700.0


class Score(NamedTuple):
    """The score over random splits of the images."""

    mean: float
    std: float  # over the splits, divided by their number − 1; 0 for one split
    splits: int


@torch.no_grad()
def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> Score:
    """Return mean and std of the score over splits, drawn with the seed, of logits float [N, classes].

    The splits are equal but for the last; there are fewer where one would hold fewer than two images. Equal seeds
    give equal numbers, and the caller's random state stays as it is.

    Raises:
        ValueError: fewer than two images, or no split.

    >>> round(inception_score(1000 * torch.eye(4).repeat(2, 1), splits=1).mean, 6)
    4.0
    """
    from torchmetrics.image.inception import InceptionScore

    count = len(logits)
    if count < 2 or splits < 1:
        raise ValueError("an Inception Score needs at least two images and one split")
    # torchmetrics cuts pieces of ⌈count / splits⌉, so the last may be short or missing
    splits = next(n for n in range(splits, 0, -1) if count - (n - 1) * -(-count // n) >= 2)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric `InceptionScore` will save", UserWarning)
        warnings.filterwarnings("ignore", r"std\(\): degrees of freedom", UserWarning)  # one split
        metric = InceptionScore(feature=torch.nn.Identity(), splits=splits)
        metric.update(logits.double().log_softmax(dim=1).clamp(min=MIN_LOG_PROBABILITY))
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every accelerator
        mean, std = metric.compute()
    return Score(float(mean), float(std) if splits > 1 else 0.0, splits)
