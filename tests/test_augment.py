"""Augmentation: each op against its definition, p = 0 and p = 1, gradients, and what adapts p."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gan_plugin import augment
from gan_plugin.augment import (
    ADA_EVERY,
    ADA_PICTURES,
    MOST_P,
    AdaController,
    adaptive_augment,
    diff_augment,
    scheduled_augment,
)

Adaptive = Callable[[Tensor, Tensor], Tensor]
BOTH = pytest.mark.parametrize("augmented", [adaptive_augment, scheduled_augment])
SHAPES = pytest.mark.parametrize("shape", [(64, 1, 28, 28), (64, 3, 36, 36)])


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@BOTH
@SHAPES
def test_with_probability_zero_pictures_stay_as_they_are(augmented: Adaptive, shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    assert torch.equal(augmented(x, torch.zeros(())), x)


@BOTH
@SHAPES
def test_with_probability_one_hardly_any_picture_does(augmented: Adaptive, shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    y = augmented(x, torch.ones(()))
    assert y.shape == x.shape
    assert (x != y).flatten(1).any(1).float().mean() > 0.98


def test_a_share_of_the_pictures_is_touched() -> None:
    torch.manual_seed(0)
    _, touched = augment.draw_warps(20_000, 28, 28, torch.tensor(0.1))
    # six ops with probability p, and two turns that are made with probability p together
    assert touched.float().mean().item() == pytest.approx(1 - 0.9**7, abs=0.02)


def test_each_picture_draws_for_itself() -> None:
    torch.manual_seed(0)
    same = noise(1, 1, 28, 28).expand(8, -1, -1, -1)
    for result in (diff_augment(same), adaptive_augment(same, torch.tensor(0.9))):
        assert len({tuple(picture.flatten().tolist()) for picture in result}) >= 7


def matrices(*steps: Tensor) -> Tensor:
    result = torch.eye(3)[None]
    for step in steps:
        result = result @ step
    return result


def test_the_warp_flips_turns_and_shifts() -> None:
    x = noise(1, 3, 12, 12)
    one = torch.ones(1)
    flipped = augment.warped(x, matrices(augment.scaling(-one, one)))
    torch.testing.assert_close(flipped, x.flip(3))
    turned = augment.warped(x, matrices(augment.rotation(one * math.pi / 2)))
    torch.testing.assert_close(turned, x.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    shifted = augment.warped(x, matrices(augment.translation(one * 2 * 3 / 12, one * 0)))
    torch.testing.assert_close(shifted[..., :9], x[..., 3:], atol=1e-4, rtol=0)
    torch.testing.assert_close(shifted[..., 9:], x[..., 8:11].flip(3), atol=1e-4, rtol=0)  # mirrored at the edge
    half = augment.warped(x, matrices(augment.translation(one * 2 * 0.5 / 12, one * 0)))
    torch.testing.assert_close(half[..., :11], (x[..., :11] + x[..., 1:]) / 2, atol=1e-4, rtol=0)


def test_shift_and_cutout_put_zeros() -> None:
    x = noise(1, 1, 8, 8) + 2
    moved = augment.shifted(x, torch.tensor([2]), torch.tensor([-1]))
    torch.testing.assert_close(moved[..., 2:, :7], x[..., :6, 1:])
    assert not moved[..., :2, :].any()
    assert not moved[..., 7:].any()
    cut = augment.cut_out(x, torch.tensor([4]), torch.tensor([0]))
    assert not cut[..., 2:6, :2].any()
    assert cut.count_nonzero() == 64 - 4 * 2


def test_colour_ops() -> None:
    x = noise(2, 3, 4, 4)
    grey = x.mean(1)
    torch.testing.assert_close(augment.luma_flipped(x).mean(1), -grey)
    torch.testing.assert_close(augment.luma_flipped(x) - -grey[:, None], x - grey[:, None])  # the hue stays
    whole_turn = augment.hue_turned(x, torch.full((2, 1, 1, 1), 2 * math.pi))
    torch.testing.assert_close(whole_turn, x, atol=1e-5, rtol=0)
    third = augment.hue_turned(x, torch.full((2, 1, 1, 1), 2 * math.pi / 3))
    assert any(torch.allclose(third, x.roll(k, 1), atol=1e-5) for k in (1, 2))  # red, green and blue change places
    torch.testing.assert_close(third.mean(1), grey)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "augmented",
    [diff_augment, lambda x: adaptive_augment(x, torch.tensor(0.7)), lambda x: scheduled_augment(x, torch.tensor(0.7))],
)
def test_gradients_flow_once_and_twice(augmented: Callable[[Tensor], Tensor], channels: int) -> None:
    def seeded(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return augmented(x).sin()  # a curve, so that second derivatives are not all zero

    x = noise(3, channels, 6, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(seeded, x, fast_mode=True, atol=1e-3, rtol=1e-3)
    assert torch.autograd.gradgradcheck(seeded, x, fast_mode=True, atol=1e-3, rtol=1e-3)
    assert augmented(noise(2, channels, 8, 8).bfloat16()).dtype == torch.bfloat16


def test_p_rises_while_the_discriminator_is_sure_of_real_pictures() -> None:
    controller = AdaController(torch.device("cpu"))
    for _ in range(2 * ADA_EVERY):
        controller.observe(torch.full((1, 64), 0.7), boundary=0.5)
    assert controller.p.item() == pytest.approx(2 * ADA_EVERY * 64 / ADA_PICTURES)
    for _ in range(ADA_EVERY):
        controller.observe(torch.full((1, 64), 0.3), boundary=0.5)
    assert controller.p.item() == pytest.approx(ADA_EVERY * 64 / ADA_PICTURES)
    for _ in range(5 * ADA_EVERY):
        controller.observe(torch.cat([torch.ones(1, 50), -torch.ones(1, 14)], 1), boundary=0.0)  # E sign is .5625
    assert controller.p.item() == 0
    for _ in range(4 * ADA_EVERY):
        controller.observe(torch.ones(1, 200_000), boundary=0.0)
    assert controller.p.item() == pytest.approx(MOST_P)


def test_the_controllers_state_survives() -> None:
    first, second = AdaController(torch.device("cpu")), AdaController(torch.device("cpu"))
    for _ in range(ADA_EVERY + 1):
        first.observe(torch.ones(1, 64), 0.0)
    second.load(first.state())
    for controller in (first, second):
        for _ in range(ADA_EVERY - 1):
            controller.observe(torch.ones(1, 64), 0.0)
    assert second.p.item() == first.p.item() == pytest.approx(2 * ADA_EVERY * 64 / ADA_PICTURES)


@BOTH
def test_pictures_are_looked_up_in_full_precision_under_autocast(augmented: Adaptive) -> None:
    """Places in eight bits would be pixels away from where they should be."""
    x, p = noise(8, 1, 128, 128), torch.tensor(0.8)
    torch.manual_seed(1)
    plain = augmented(x, p)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        cast = augmented(x, p)
    torch.testing.assert_close(cast, plain)
