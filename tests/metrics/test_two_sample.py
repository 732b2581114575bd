"""The area under the ROC curve and folds, against their definitions."""

from __future__ import annotations

import itertools

import pytest
import torch
from sklearn.metrics import roc_auc_score

from gan_plugin.metrics.two_sample import auroc, folds


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    random = torch.Generator().manual_seed(0)
    generated, real = (torch.randint(0, 6, (count,), generator=random).float() for count in (40, 31))
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(generated.tolist(), real.tolist())]
    assert auroc(generated, real) == pytest.approx(sum(pairs) / len(pairs))
    labels = torch.cat([torch.ones(40), torch.zeros(31)])
    assert auroc(generated, real) == pytest.approx(roc_auc_score(labels, torch.cat([generated, real])))


def test_the_ends_of_its_range() -> None:
    low, high = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0, 4.0])
    assert (auroc(high, low), auroc(low, high), auroc(low, low), auroc(high, high)) == (1, 0, 0.5, 0.5)
    for scores in ((low, low[:0]), (low[:0], low)):
        with pytest.raises(ValueError, match="scores of both kinds"):
            auroc(*scores)


def test_folds_are_disjoint_and_complete() -> None:
    parts = folds(103, 4, seed=1)
    assert sorted(torch.cat(parts).tolist()) == list(range(103))
    assert {len(part) for part in parts} == {25, 26}
    assert all(torch.equal(a, b) for a, b in zip(parts, folds(103, 4, seed=1)))
    assert not torch.equal(parts[0], folds(103, 4, seed=2)[0])
