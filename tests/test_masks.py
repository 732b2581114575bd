"""Masks of missing pixels: what each kind is, and that they are the same forever."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gan_plugin.masks import (
    KINDS,
    MIN_KNOWN,
    MIN_MISSING,
    NUMBERS,
    border,
    boxes,
    grid,
    half,
    mask_numbers,
    masks,
    strokes,
)

CPU = torch.device("cpu")


def test_a_box_lies_where_its_numbers_say() -> None:
    numbers = torch.full((1, 17), 0.5)
    numbers[0, 0] = 0.1  # a single one
    missing = boxes(numbers, *grid(16, 32, CPU))[0]
    assert missing.sum() == 6 * 12  # .375 of each side, in the middle
    assert missing[5:11, 10:22].all()


def test_a_stroke_is_as_wide_as_its_brush() -> None:
    numbers = torch.full((1, 73), 0.5)
    numbers[0, 0] = 0.0
    numbers[0, 3] = 0.0  # begins at the left, and stays at one height
    numbers[0, 4:10:2] = 0.5
    numbers[0, 5:10:2] = 1.0  # each step as far to the right as it goes
    missing = strokes(numbers, *grid(64, 64, CPU), aspect=(1.0, 1.0))[0]
    heights = missing.sum(0)
    assert heights[2:60].min() == heights[2:60].max()
    assert heights[30].item() == pytest.approx(64 * (1 / 20 + 1 / 6) / 2, abs=1)
    assert missing[32, 30]


def test_a_half_and_a_border() -> None:
    y, x = grid(8, 8, CPU)
    assert half(torch.tensor([[0.0, 0.5]]), y, x)[0].tolist() == [[False] * 4 + [True] * 4] * 8
    missing = border(torch.tensor([[0.3, 0.5, 0.5, 0.5, 0.5]]), y, x)[0]  # two sides: left and top, a quarter each
    assert missing[:2].all()
    assert missing[:, :2].all()
    assert not missing[2:, 2:].any()


@pytest.mark.parametrize("size", [(28, 28), (16, 64)])
def test_every_kind_is_drawn_and_neither_all_nor_nothing_is_missing(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    numbers = torch.rand(2000, NUMBERS)
    known = masks(numbers, *size)
    assert known.shape == (2000, 1, *size)
    assert set(known.unique().tolist()) == {0, 1}
    shares = known.mean((1, 2, 3))
    assert shares.min() >= MIN_KNOWN
    assert shares.max() <= 1 - MIN_MISSING
    kinds = (numbers[:, 0] * len(KINDS)).long()
    for kind in range(len(KINDS)):
        own = shares[kinds == kind]
        assert 0.2 < own.mean() < 0.9
        assert own.std() > 0.05


def test_the_masks_of_evaluations_are_the_same_forever() -> None:
    numbers = mask_numbers(50)
    assert numbers.shape == (50, NUMBERS)
    assert 0 <= numbers.min() < 0.01
    assert 0.99 < numbers.max() <= 1
    np.testing.assert_allclose(numbers[:2, :3], [[0.42154, 0.09295, 0.10351], [0.4045, 0.32904, 0.56183]], atol=1e-5)
    # rounding may decide on a pixel at an edge
    assert masks(torch.from_numpy(numbers), 28, 28).sum().item() == pytest.approx(22741, abs=20)
