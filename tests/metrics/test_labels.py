"""Metrics of labels, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from metrics_helpers import frechet_by_definition, line, normal
from torch import Tensor

from gan_plugin.metrics.frechet import fit_gaussian
from gan_plugin.metrics.labels import frechet_by_class, label_kl, label_shares, mode_count


def labels(*indices: int) -> Tensor:
    return torch.tensor(indices, dtype=torch.int64)


def test_modes_and_shares() -> None:
    assert mode_count(labels(0, 0, 4, 2), 6) == 3
    assert mode_count(labels(), 6) == 0
    shares = label_shares(labels(0, 0, 3, 1), 5)
    assert shares.dtype == torch.float64
    assert shares.tolist() == [0.5, 0.25, 0, 0.25, 0]
    for wrong in (labels(0, 5), labels(-1, 3)):
        for metric in (mode_count, label_shares):
            with pytest.raises(ValueError, match="labels must be 0…4"):
                metric(wrong, 5)
    with pytest.raises(ValueError, match="at least one label"):
        label_shares(labels(), 5)


def test_label_kl_is_reverse_kl() -> None:
    reference, generated = labels(0, 1, 1, 1), labels(0, 0, 0, 1)
    assert label_kl(generated, generated, 2) == 0
    assert label_kl(generated, reference, 2) == pytest.approx(0.75 * math.log(3) + 0.25 * math.log(1 / 3))
    assert label_kl(labels(0), labels(0, 1, 1, 1), 2) == pytest.approx(math.log(4))  # not log(4/3), the forward KL of p
    even = torch.arange(10).repeat(7)
    assert label_kl(even[even < 9], even, 10) == pytest.approx(math.log(10 / 9))  # a missing class
    p, q = (
        torch.arange(5).repeat_interleave(labels(1, 2, 3, 4, 5)),
        torch.arange(5).repeat_interleave(labels(4, 4, 1, 9, 2)),
    )
    shares = np.array([4, 4, 1, 9, 2]) / 20, np.array([1, 2, 3, 4, 5]) / 15
    assert label_kl(q, p, 5) == pytest.approx(float(np.sum(shares[0] * np.log(shares[0] / shares[1]))))


def test_label_kl_stays_finite_where_the_reference_lacks_a_class() -> None:
    divergence = label_kl(labels(0, 2), labels(0, 0, 1), 3)  # p smoothed: (2.5, 1.5, 0.5) / 4.5
    assert divergence == pytest.approx(0.5 * math.log(0.5 / (2.5 / 4.5)) + 0.5 * math.log(0.5 / (0.5 / 4.5)))
    assert label_kl(labels(0, 1), labels(0, 1), 3) == 0  # a class that neither has needs no smoothing


def test_frechet_by_class() -> None:
    reference, generated = normal(60, 3), normal(50, 3, seed=1)
    real = torch.arange(60) % 5
    fake = torch.arange(50) % 4
    fake[fake == 3] = 0
    fake[0] = 3  # classes 0, 1 and 2, one image of class 3, none of class 4
    distances = frechet_by_class(generated, fake, reference=reference, reference_labels=real, classes=6)
    for label in range(3):
        a, b = fit_gaussian(generated[fake == label]), fit_gaussian(reference[real == label])
        assert distances[label] == pytest.approx(frechet_by_definition(a, b), rel=1e-8)
    assert distances[3:] == [None, None, None]
    two, other = labels(0, 0, 1), torch.zeros(3, dtype=torch.int64)
    assert frechet_by_class(line(1, 3, 5), two, reference=line(4, 6, 5), reference_labels=two, classes=2) == [
        pytest.approx(9),
        None,
    ]
    assert frechet_by_class(line(1, 3, 5), two, reference=line(4, 6, 5), reference_labels=other, classes=2)[1] is None
    swapped = frechet_by_class(reference, real, reference=generated, reference_labels=fake, classes=6)
    assert [value is None for value in swapped] == [False] * 3 + [True] * 3
