"""Metrics of labels: which classes occur among generated images, how often, and how good each of them is."""

from __future__ import annotations

import torch
from torch import Tensor

from gan_plugin.metrics.frechet import fit_gaussian, frechet_distance


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """Count each class among labels int64 [N]: int64 [classes].

    Raises:
        ValueError: a label outside 0…classes − 1.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels must be 0…{classes - 1}")
    return torch.bincount(labels, minlength=classes)


def mode_count(labels: Tensor, classes: int) -> int:
    """Count the classes that occur among labels int64 [N]: 0…classes. Metz et al. 2017.

    Raises:
        ValueError: a label outside 0…classes − 1.

    >>> mode_count(torch.tensor([0, 2, 2]), 4)
    2
    """
    return int(class_counts(labels, classes).count_nonzero())


def label_shares(labels: Tensor, classes: int) -> Tensor:
    """Return the share of each class among labels int64 [N]: float64 [classes], sum 1.

    Raises:
        ValueError: no label, or one outside 0…classes − 1.

    >>> label_shares(torch.tensor([0, 2, 2, 2]), 3).tolist()
    [0.25, 0.0, 0.75]
    """
    if not len(labels):
        raise ValueError("shares need at least one label")
    return class_counts(labels, classes).double() / len(labels)


def label_kl(generated: Tensor, reference: Tensor, classes: int) -> float:
    """Return the reverse Kullback–Leibler divergence Σ q log(q / p) ≥ 0, in nats.

    q and p are the shares of the generated and of the reference labels.

    A class that is never generated adds 0. One that is generated although the reference lacks it would add infinity:
    then, and only then, p is smoothed by half a count in each class. Metz et al. 2017.

    Args:
        generated: int64 [M].
        reference: int64 [N].
        classes: number of classes.

    Raises:
        ValueError: no label on one side, or one outside 0…classes − 1.

    >>> round(label_kl(torch.tensor([1, 1]), torch.tensor([0, 1]), 2), 6)
    0.693147
    """
    q, p = label_shares(generated, classes), label_shares(reference, classes)
    if ((p == 0) & (q > 0)).any():
        p = (p * len(reference) + 0.5) / (len(reference) + 0.5 * classes)
    present = q > 0
    return max(float((q[present] * (q[present] / p[present]).log()).sum()), 0.0)  # rounding could leave −1e-17


def frechet_by_class(
    generated: Tensor, generated_labels: Tensor, *, reference: Tensor, reference_labels: Tensor, classes: int
) -> list[float | None]:
    """Return the Fréchet distance between each class's generated and reference features.

    Args:
        generated: float [M, D].
        generated_labels: int64 [M].
        reference: float [N, D].
        reference_labels: int64 [N].
        classes: number of classes.

    Returns:
        One distance a class; None where a class has fewer than two images on either side.
    """

    def distance(fake: Tensor, real: Tensor) -> float | None:
        if min(len(fake), len(real)) < 2:
            return None
        return frechet_distance(fit_gaussian(fake), fit_gaussian(real))

    of_classes = by_class(generated, generated_labels, classes), by_class(reference, reference_labels, classes)
    return [distance(*pair) for pair in zip(*of_classes)]


def by_class(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, ...]:
    """Return the features [n, D] of each class, in their order, of features [N, D] and labels int64 [N] on the CPU."""
    order = labels.argsort(stable=True).to(features.device)
    parts: tuple[Tensor, ...] = features[order].split(class_counts(labels, classes).tolist())
    return parts
