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
    ADA_IMAGES,
    MAX_P,
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_probability_zero_images_stay_as_they_are(
    augmented: Adaptive, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = noise(*shape).to(dtype)
    assert torch.equal(augmented(x, torch.zeros(())), x)


@BOTH
@SHAPES
def test_with_probability_one_hardly_any_image_does(augmented: Adaptive, shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    y = augmented(x, torch.ones(()))
    assert y.shape == x.shape
    assert (x != y).flatten(1).any(1).float().mean() > 0.98


def test_a_share_of_the_images_is_touched() -> None:
    torch.manual_seed(0)
    _, touched = augment.draw_warps(20_000, 28, 28, torch.tensor(0.1))
    # six ops with probability p, and two turns that are made with probability p together
    assert touched.float().mean().item() == pytest.approx(1 - 0.9**7, abs=0.02)


def test_each_image_draws_for_itself() -> None:
    torch.manual_seed(0)
    same = noise(1, 1, 28, 28).expand(8, -1, -1, -1)
    p = torch.tensor(0.9)
    for result in (diff_augment(same), adaptive_augment(same, p), scheduled_augment(same, p)):
        assert len({tuple(image.flatten().tolist()) for image in result}) >= 7


def test_each_warp_is_drawn_from_its_distribution() -> None:
    torch.manual_seed(0)
    drawn, touched = augment.draw_warps(40_000, 28, 28, torch.ones(()))
    assert touched.all()
    linear, shift = drawn[:, :2, :2], drawn[:, :2, 2]
    determinant = torch.linalg.det(linear)  # ± the square of the scale; the other ops keep areas
    assert (determinant < 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert (determinant.abs().log2() / 2).std().item() == pytest.approx(0.2, rel=0.03)
    stretches = torch.linalg.svdvals(linear).log2()
    ratio = (stretches[:, 0] - stretches[:, 1]) / 2  # the stretch without its sign: |N(0, .2²)|
    assert ratio.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.03)
    assert torch.atan2(linear[:, 1, 0], linear[:, 0, 0]).std().item() == pytest.approx(math.pi / 3**0.5, rel=0.02)
    # In half sides: whole pixels, -3 … 3 equally often, then N(0, ¼²) through two log-normal maps that turn anywhere
    blit = 4 / 14**2
    wanted = blit + 0.25**2 * math.exp((0.4 * math.log(2)) ** 2 / 2) ** 2
    assert shift.square().mean().item() == pytest.approx(wanted, rel=0.03)


def test_one_op_at_a_time_is_drawn_with_its_probability() -> None:
    torch.manual_seed(0)
    p = 0.1
    drawn, _ = augment.draw_warps(40_000, 28, 28, torch.tensor(p))
    linear, shift = drawn[:, :2, :2], drawn[:, :2, 2]
    determinant = torch.linalg.det(linear)
    stretches = torch.linalg.svdvals(linear)
    shares = {
        "mirrored": ((determinant < 0), p / 2),
        "scaled": ((determinant.abs() - 1).abs() > 1e-4, p),
        "stretched": (stretches[:, 0] / stretches[:, 1] > 1 + 1e-4, p),
        "shifted": (shift.abs().amax(1) > 1e-5, 1 - (1 - p) * (1 - p * 48 / 49)),  # a blit by (0, 0) shows nothing
        # quarter turns: of those not turned any further, a quarter each
        "on its side": ((linear[:, 0, 0].abs() < 1e-5) & (linear[:, 1, 0] > 0), p / 4 * (1 - p)),
        "upside down": ((linear[:, 1, 0].abs() < 1e-5) & (linear[:, 1, 1] < 0), p / 4 * (1 - p)),
        # at least one of two turns, which alone make angles that are no quarters
        "turned": ((linear[:, 0] / determinant.abs().sqrt()[:, None]).abs().amin(1) > 1e-3, p),
    }
    for name, (hit, wanted) in shares.items():
        assert hit.float().mean().item() == pytest.approx(wanted, abs=0.006), name


def test_blits_are_whole_pixels() -> None:
    torch.manual_seed(0)
    drawn, touched = augment.draw_warps(200_000, 28, 28, torch.tensor(0.02))
    pixels = drawn[touched, :2, 2] * 14
    moved = (pixels.abs().amax(1) > 1e-3) & (drawn[touched][:, :2, :2].abs() - torch.eye(2)).abs().amax((1, 2)).lt(1e-6)
    whole = ((pixels - pixels.round()).abs().amax(1) < 1e-4) & moved
    assert (whole.sum() / moved.sum()).item() == pytest.approx(0.5, abs=0.03)  # the other shift is any fraction
    assert set(pixels[whole].round().flatten().tolist()) == set(range(-3, 4))  # 3.5 is an eighth of the side


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


@pytest.mark.parametrize("side", [28, 64])
def test_autocast_moves_no_image(side: int) -> None:
    places = torch.arange(side).expand(16, 1, side, side).float()

    def warped() -> Tensor:
        torch.manual_seed(0)
        return augment.warp(places, torch.tensor(0.7))

    exact = warped()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(warped(), exact, atol=1e-3, rtol=0)


@pytest.mark.parametrize("side", [6, 7, 28, 36])
def test_a_cutout_lies_at_either_edge_as_often(side: int) -> None:
    last = side - augment.cutout_side(side) % 2  # of the middles
    torch.manual_seed(0)
    drawn = augment.middles(5000, torch.zeros(()), side)
    assert (drawn.min().item(), drawn.max().item()) == (0, last)
    row, column = torch.arange(last + 1), torch.full((last + 1,), side // 2)
    cut = augment.cut_out(torch.ones(last + 1, 1, side, side), row, column) == 0
    assert torch.equal(cut, cut.flip(0, 2))
    assert cut.any(3).sum(2).max() == math.ceil(side / 2)


def test_shift_and_cutout_put_zeros() -> None:
    x = noise(1, 1, 8, 8) + 2
    moved = augment.shifted(x, torch.tensor([2]), torch.tensor([-1]))
    torch.testing.assert_close(moved[..., 2:, :7], x[..., :6, 1:])
    assert not moved[..., :2, :].any()
    assert not moved[..., 7:].any()
    cut = augment.cut_out(x, torch.tensor([4]), torch.tensor([0]))
    assert not cut[..., 2:6, :2].any()
    assert cut.count_nonzero() == 64 - 4 * 2


def test_color_ops() -> None:
    x = noise(2, 3, 4, 4)
    gray = x.mean(1)
    torch.testing.assert_close(augment.luma_flipped(x).mean(1), -gray)
    torch.testing.assert_close(augment.luma_flipped(x) - -gray[:, None], x - gray[:, None])  # the hue stays
    whole_turn = augment.hue_turned(x, torch.full((2, 1, 1, 1), 2 * math.pi))
    torch.testing.assert_close(whole_turn, x, atol=1e-5, rtol=0)
    third = augment.hue_turned(x, torch.full((2, 1, 1, 1), 2 * math.pi / 3))
    assert any(torch.allclose(third, x.roll(k, 1), atol=1e-5) for k in (1, 2))  # red, green and blue change places
    torch.testing.assert_close(third.mean(1), gray)


def test_each_color_op_has_its_probability_and_spread() -> None:
    torch.manual_seed(0)
    p = 0.3
    black_white = torch.tensor([0.0, 1.0]).expand(40_000, 1, 1, 2)
    black, white = augment.color(black_white, torch.tensor(p)).flatten(1).unbind(1)
    contrast = white - black  # times the contrast, negative where flipped; brightness is added before
    brightness = black / contrast
    assert (contrast < 0).float().mean().item() == pytest.approx(p / 2, abs=0.01)
    contrasted, brightened = (contrast.abs() - 1).abs() > 1e-5, brightness.abs() > 1e-5
    assert contrasted.float().mean().item() == pytest.approx(p, abs=0.01)
    assert brightened.float().mean().item() == pytest.approx(p, abs=0.01)
    assert contrast[contrasted].abs().log2().std().item() == pytest.approx(0.5, rel=0.03)
    assert brightness[brightened].std().item() == pytest.approx(0.2, rel=0.03)


def test_hue_and_saturation_are_drawn_for_rgb() -> None:
    torch.manual_seed(0)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(40_000, -1, -1, -1)
    result = augment.color(red, torch.ones(())).flatten(1)  # [B, 3]
    vivid = result - result.mean(1, keepdim=True)
    # what is not gray: times contrast and saturation, 2 ** N(0, .5² + 1²), at any angle
    assert (vivid.norm(dim=1) / (2 / 3) ** 0.5).log2().std().item() == pytest.approx(1.25**0.5, rel=0.03)
    angle = torch.atan2((vivid[:, 1] - vivid[:, 2]) / 3**0.5, vivid[:, 0])
    assert angle.std().item() == pytest.approx(math.pi / 3**0.5, rel=0.02)
    torch.manual_seed(0)
    few = augment.color(red, torch.tensor(0.1)).flatten(1)
    turned = (few[:, 1] - few[:, 2]).abs() > 1e-5
    assert turned.float().mean().item() == pytest.approx(0.1, abs=0.006)


def test_the_schedule_halves_the_colors_probability_and_cuts_out_with_all_of_it() -> None:
    torch.manual_seed(0)
    p = 0.4
    result = scheduled_augment(torch.ones(10_000, 3, 8, 8), torch.tensor(p)).flatten(1)  # warps change nothing here
    assert (result == 0).any(1).float().mean().item() == pytest.approx(p, abs=0.02)
    unscheduled = adaptive_augment(torch.ones(10_000, 3, 8, 8), torch.tensor(p)).flatten(1)
    for colored, q in ((result, p / 2), (unscheduled, p)):
        value = colored.gather(1, colored.abs().argmax(1, keepdim=True))  # of what is not cut out
        wanted = 1 - (1 - q) ** 2 * (1 - q / 2)  # brightness, contrast, and a flip half of the time
        assert ((value - 1).abs() > 1e-4).float().mean().item() == pytest.approx(wanted, abs=0.02)


def test_diffaugments_draws_have_their_ranges() -> None:
    torch.manual_seed(0)
    stripes = torch.tensor([4.0, 6.0]).repeat(14).expand(4000, 1, 28, 28)
    result = diff_augment(stripes).flatten(1)
    dark = result.where(result > 0, 9).amin(1)  # neither shifted in nor cut out
    bright = result.amax(1)
    for drawn, low, high in (((bright + dark) / 2 - 5, -0.5, 0.5), ((bright - dark) / 2, 0.5, 1.5)):
        assert low - 1e-4 < drawn.min() < low + 0.01
        assert high - 0.01 < drawn.max() < high + 1e-4
        assert drawn.mean().item() == pytest.approx((low + high) / 2, abs=0.02)
    assert ((result == 0).float().mean(1) > 0.25 - 1e-6).float().mean() > 0.2  # a whole cutout, wherever it is inside

    places = torch.bincount(augment.whole(7000, stripes, 3) + 3)  # of the shifts
    torch.testing.assert_close(places / 7000, torch.full((7,), 1 / 7), atol=0.02, rtol=0)
    columns = torch.arange(28.0).expand(4000, 1, 28, 28) + 10
    shifts = augment.shifted(columns, *augment.whole(8000, columns, 4).view(2, -1)).amax((1, 2, 3))
    assert set(shifts.tolist()) == {37.0, 36.0, 35.0, 34.0, 33.0}

    colors = torch.tensor([4.0, 5.0, 6.0]).view(3, 1, 1).expand(4000, 3, 28, 28)
    red, green, blue = diff_augment(colors).flatten(2).amax(2).unbind(1)
    factor = (blue - red) / 2  # contrast times saturation, each with mean 1
    torch.testing.assert_close(green - red, factor)
    assert factor.mean().item() == pytest.approx(1, abs=0.05)
    assert factor.square().mean().item() == pytest.approx(4 / 3 * 13 / 12, rel=0.05)
    assert factor.min() >= 0
    assert 2.5 < factor.max() < 3


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_depends_on_what_is_in_a_tensor_when_it_is_called(channels: int) -> None:
    """Tensors without values tell: whoever asks for one, as a host that waits for its device does, fails."""
    x, p = torch.empty(4, channels, 28, 28, device="meta"), torch.empty((), device="meta")
    for result in (diff_augment(x), adaptive_augment(x, p), scheduled_augment(x, p)):
        assert result.shape == x.shape
    controller = AdaController(torch.device("meta"))
    for _ in range(ADA_EVERY):
        controller.observe(torch.empty(1, 4, device="meta"), 0.0, 4)
    assert controller.p.device.type == "meta"


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
    assert torch.autograd.gradcheck(seeded, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(seeded, x, fast_mode=True)
    assert augmented(noise(2, channels, 8, 8).bfloat16()).dtype == torch.bfloat16


def test_p_rises_while_the_discriminator_is_sure_of_real_images() -> None:
    controller = AdaController(torch.device("cpu"))
    for _ in range(2 * ADA_EVERY):
        controller.observe(torch.full((1, 64), 0.7), boundary=0.5, images=64)
    assert controller.p.item() == pytest.approx(2 * ADA_EVERY * 64 / ADA_IMAGES)
    for _ in range(ADA_EVERY):
        controller.observe(torch.full((1, 64), 0.3), boundary=0.5, images=64)
    assert controller.p.item() == pytest.approx(ADA_EVERY * 64 / ADA_IMAGES)
    for _ in range(5 * ADA_EVERY):
        logits = torch.cat([torch.ones(1, 50), -torch.ones(1, 14)], 1)  # E sign is .5625
        controller.observe(logits, boundary=0.0, images=64)
    assert controller.p.item() == 0
    for _ in range(4 * ADA_EVERY):
        controller.observe(torch.ones(1, 8), boundary=0.0, images=200_000)
    assert controller.p.item() == pytest.approx(MAX_P)


@pytest.mark.parametrize("logits", [(1, 64), (3, 64), (1, 32)])  # of one discriminator, of three, of packs of two
def test_p_moves_with_the_images_seen_however_many_logits_judge_them(logits: tuple[int, int]) -> None:
    controller = AdaController(torch.device("cpu"))
    for _ in range(ADA_EVERY):
        controller.observe(torch.ones(logits), boundary=0.0, images=64)
    assert controller.p.item() == pytest.approx(ADA_EVERY * 64 / ADA_IMAGES)


def test_signs_are_counted_exactly_in_bfloat16() -> None:
    controller = AdaController(torch.device("cpu"))
    controller.observe(torch.ones(1, 307, dtype=torch.bfloat16), 0.0, 307)
    assert controller.signs.item() == 307


def test_the_controllers_state_survives() -> None:
    first, second = AdaController(torch.device("cpu")), AdaController(torch.device("cpu"))
    for _ in range(ADA_EVERY + 1):
        first.observe(torch.ones(1, 64), 0.0, 64)
    second.load(first.state())
    for controller in (first, second):
        for _ in range(ADA_EVERY - 1):
            controller.observe(torch.ones(1, 64), 0.0, 64)
    assert second.p.item() == first.p.item() == pytest.approx(2 * ADA_EVERY * 64 / ADA_IMAGES)


@BOTH
def test_images_are_looked_up_in_full_precision_under_autocast(augmented: Adaptive) -> None:
    """Places in eight bits would be pixels away from where they should be."""
    x, p = noise(8, 1, 128, 128), torch.tensor(0.8)
    torch.manual_seed(1)
    plain = augmented(x, p)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        cast = augmented(x, p)
    torch.testing.assert_close(cast, plain)
