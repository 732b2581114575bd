"""Augmentation: each op against its definition, p = 0 and p = 1, gradients, rectangles."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gan_plugin import augment
from gan_plugin.augment import adaptive_augment, diff_augment, scheduled_augment

Adaptive = Callable[[Tensor, Tensor], Tensor]
BOTH = pytest.mark.parametrize("augmented", [adaptive_augment, scheduled_augment])
SHAPES = pytest.mark.parametrize("shape", [(64, 1, 28, 28), (64, 3, 36, 36), (64, 3, 17, 40)])


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


def test_an_image_is_left_alone_with_the_probability_of_no_op() -> None:
    torch.manual_seed(0)
    _, touched = augment.draw_warps(20_000, 28, 28, p=torch.tensor(0.1))
    # six ops with probability p, and two rotations of which at least one is drawn with probability p
    assert touched.float().mean().item() == pytest.approx(1 - 0.9**7, abs=0.02)


@BOTH
@pytest.mark.parametrize("channels", [1, 3])
def test_leaving_out_what_stays_changes_nothing(
    augmented: Adaptive, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU computes only what is changed, other devices all of it: images and gradients are the same, to the bit."""

    def images_and_gradients() -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        x = noise(64, channels, 17, 20).requires_grad_()
        y = augmented(x, torch.tensor(0.1))
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return y, first, second

    def change_all(x: Tensor, changed: Tensor, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        return torch.where(changed[:, None, None, None], function(x, *values), x)

    sparse = images_and_gradients()
    monkeypatch.setattr(augment, "change", change_all)
    assert all(torch.equal(a, b) for a, b in zip(sparse, images_and_gradients()))


def test_each_image_draws_for_itself() -> None:
    torch.manual_seed(0)
    same = noise(1, 1, 28, 28).expand(8, -1, -1, -1)
    p = torch.tensor(0.9)
    for result in (diff_augment(same), adaptive_augment(same, p), scheduled_augment(same, p)):
        assert len({tuple(image.flatten().tolist()) for image in result}) >= 7


def test_each_warp_is_drawn_from_its_distribution() -> None:
    torch.manual_seed(0)
    warps, touched = augment.draw_warps(40_000, 28, 28, p=torch.ones(()))
    assert touched.all()
    linear, shift = warps[:, :2, :2], warps[:, :2, 2]
    determinant = torch.linalg.det(linear)  # ± the square of the scale; the other ops keep areas
    assert (determinant < 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert (determinant.abs().log2() / 2).std().item() == pytest.approx(0.2, rel=0.03)
    stretches = torch.linalg.svdvals(linear).log2()
    ratio = (stretches[:, 0] - stretches[:, 1]) / 2  # the stretch without its sign: |N(0, .2²)|
    assert ratio.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.03)
    assert torch.atan2(linear[:, 1, 0], linear[:, 0, 0]).std().item() == pytest.approx(math.pi / 3**0.5, rel=0.02)
    # In half sides: integer pixels, -3 … 3 equally often, then N(0, ¼²) through two log-normal maps in any direction
    blit = 4 / 14**2
    expected = blit + 0.25**2 * math.exp((0.4 * math.log(2)) ** 2 / 2) ** 2
    assert shift.square().mean().item() == pytest.approx(expected, rel=0.03)


def test_one_op_at_a_time_is_drawn_with_its_probability() -> None:
    torch.manual_seed(0)
    p = 0.1
    warps, _ = augment.draw_warps(40_000, 28, 28, p=torch.tensor(p))
    linear, shift = warps[:, :2, :2], warps[:, :2, 2]
    determinant = torch.linalg.det(linear)
    stretches = torch.linalg.svdvals(linear)
    shares = {
        "mirrored": ((determinant < 0), p / 2),
        "scaled": ((determinant.abs() - 1).abs() > 1e-4, p),
        "stretched": (stretches[:, 0] / stretches[:, 1] > 1 + 1e-4, p),
        "shifted": (shift.abs().amax(1) > 1e-5, 1 - (1 - p) * (1 - p * 48 / 49)),  # a blit by (0, 0) changes nothing
        # quarter turns: of those not turned any further, a quarter each
        "on its side": ((linear[:, 0, 0].abs() < 1e-5) & (linear[:, 1, 0] > 0), p / 4 * (1 - p)),
        "upside down": ((linear[:, 1, 0].abs() < 1e-5) & (linear[:, 1, 1] < 0), p / 4 * (1 - p)),
        # at least one of two rotations, which alone make angles that are no quarter turns
        "rotated": ((linear[:, 0] / determinant.abs().sqrt()[:, None]).abs().amin(1) > 1e-3, p),
    }
    for name, (hit, expected) in shares.items():
        assert hit.float().mean().item() == pytest.approx(expected, abs=0.006), name


def test_blits_move_by_integer_pixels() -> None:
    """At most by an eighth of each side, which is 3.5 pixels of 28 and 7 of 56; the other shift is any fraction."""
    torch.manual_seed(0)
    warps, touched = augment.draw_warps(200_000, 28, 56, p=torch.tensor(0.02))
    pixels = warps[touched, :2, 2] * 14
    unscaled = (warps[touched][:, :2, :2].abs() - torch.eye(2)).abs().amax((1, 2)).lt(1e-6)
    moved = (pixels.abs().amax(1) > 1e-3) & unscaled
    integer = ((pixels - pixels.round()).abs().amax(1) < 1e-4) & moved
    assert (integer.sum() / moved.sum()).item() == pytest.approx(0.5, abs=0.03)
    right, down = pixels[integer].round().unbind(1)
    assert set(right.tolist()) == set(range(-7, 8))
    assert set(down.tolist()) == set(range(-3, 4))


def scaling(x: float, y: float) -> Tensor:
    return torch.tensor([[x, 0, 0], [0, y, 0]])[None]


def rotation(angle: float) -> Tensor:
    return torch.cat([augment.rotations(torch.tensor([[angle]]))[:, 0], torch.zeros(1, 2, 1)], 2)


def translation(x: float, y: float) -> Tensor:
    return torch.tensor([[1, 0, x], [0, 1, y]])[None]


def test_maps_of_positions_flip_rotate_and_shift() -> None:
    x = noise(1, 3, 12, 12)
    flipped = augment.resample(x, scaling(-1.0, 1.0))
    torch.testing.assert_close(flipped, x.flip(3))
    rotated = augment.resample(x, rotation(math.pi / 2))
    torch.testing.assert_close(rotated, x.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    shifted = augment.resample(x, translation(2 * 3 / 12, 0.0))
    torch.testing.assert_close(shifted[..., :9], x[..., 3:], atol=1e-4, rtol=0)
    torch.testing.assert_close(shifted[..., 9:], x[..., 8:11].flip(3), atol=1e-4, rtol=0)  # mirrored at the edge
    half = augment.resample(x, translation(2 * 0.5 / 12, 0.0))
    torch.testing.assert_close(half[..., :11], (x[..., :11] + x[..., 1:]) / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [28, 64])
def test_autocast_moves_no_image(side: int) -> None:
    columns = torch.arange(side).expand(16, 1, side, side).float()

    def warp() -> Tensor:
        torch.manual_seed(0)
        return augment.warp(columns, torch.tensor(0.7))

    exact = warp()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(warp(), exact, atol=1e-3, rtol=0)


@pytest.mark.parametrize("side", [6, 7, 28, 36])
def test_a_cutout_lies_at_either_edge_as_often(side: int) -> None:
    last = side - augment.cutout_side(side) % 2  # center
    torch.manual_seed(0)
    centers = augment.cutout_centers(5000, torch.zeros(()), side)
    assert (centers.min().item(), centers.max().item()) == (0, last)
    row, column = torch.arange(last + 1), torch.full((last + 1,), side // 2)
    hole = augment.cut_out(torch.ones(last + 1, 1, side, side), row, column) == 0
    assert torch.equal(hole, hole.flip(0, 2))
    assert hole.any(3).sum(2).max() == math.ceil(side / 2)


def test_shift_and_cutout_put_zeros() -> None:
    x = noise(1, 1, 8, 8) + 2
    moved = augment.shift(x, torch.tensor([2]), torch.tensor([-1]))
    torch.testing.assert_close(moved[..., 2:, :7], x[..., :6, 1:])
    assert not moved[..., :2, :].any()
    assert not moved[..., 7:].any()
    cut = augment.cut_out(x, torch.tensor([4]), torch.tensor([0]))
    assert not cut[..., 2:6, :2].any()
    assert cut.count_nonzero() == 64 - 4 * 2


RECTANGLES = pytest.mark.parametrize(("height", "width"), [(12, 20), (31, 16)])


def smooth(y: Tensor, x: Tensor) -> Tensor:
    """A smooth function of positions in pixels from the center of an image."""
    return torch.sin(0.15 * x + 0.4) * torch.cos(0.11 * y)


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Positions [H, W] of an image's pixels from its center, in pixels: down and to the right."""
    ys, xs = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    return torch.meshgrid(ys, xs, indexing="ij")


@RECTANGLES
@pytest.mark.parametrize("angle", [0.3, math.pi / 2, 2.5])
def test_rotations_of_rectangles_keep_angles_and_lengths(height: int, width: int, angle: float) -> None:
    """The value at each pixel is the image's at the rotated position in pixels, wherever that is inside."""
    y, x = grid(height, width)
    rotated = augment.resample(smooth(y, x)[None, None], rotation(angle))[0, 0]
    source_x, source_y = math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y
    inside = (source_x.abs() <= (width - 1) / 2) & (source_y.abs() <= (height - 1) / 2)
    assert inside.sum() > 100
    torch.testing.assert_close(rotated[inside], smooth(source_y, source_x)[inside], atol=0.01, rtol=0)


@RECTANGLES
def test_a_half_turn_of_a_rectangle_moves_pixels_exactly(height: int, width: int) -> None:
    x = noise(1, 3, height, width)
    turned = augment.resample(x, rotation(math.pi))
    torch.testing.assert_close(turned, x.flip(2, 3), atol=1e-4, rtol=0)


@RECTANGLES
def test_shifts_of_rectangles_are_shares_of_each_side(height: int, width: int) -> None:
    torch.manual_seed(0)
    warps, _ = augment.draw_warps(100_000, height, width, p=torch.tensor(0.02))
    unit = min(height, width) / 2  # pixels
    still = (warps[:, :2, :2] - torch.eye(2)).abs().amax((1, 2)) < 1e-6
    pixels = warps[still, :2, 2] * unit
    fractions = pixels[(pixels - pixels.round()).abs().amax(1) > 1e-3] / torch.tensor([width, height])
    assert fractions.std(0).tolist() == pytest.approx([augment.SHIFT] * 2, rel=0.1)


def test_a_rectangle_is_turned_by_half_turns_only() -> None:
    """Those that keep its frame; a square by quarter turns."""
    torch.manual_seed(0)
    p = 0.1
    linear = augment.draw_warps(40_000, 28, 56, p=torch.tensor(p))[0][:, :2, :2]
    on_its_side, upside_down = linear[:, 0, 0].abs() < 1e-5, (linear[:, 1, 0].abs() < 1e-5) & (linear[:, 1, 1] < 0)
    assert not on_its_side.any()
    assert upside_down.float().mean().item() == pytest.approx(p / 2 * (1 - p), abs=0.006)


def test_shift_and_cutout_of_a_rectangle_follow_each_side() -> None:
    torch.manual_seed(0)
    hole = augment.cut_out(torch.ones(1, 1, 20, 64), torch.tensor([10]), torch.tensor([32]))[0, 0] == 0
    assert (hole.any(1).sum(), hole.any(0).sum(), hole.sum()) == (10, 32, 320)
    assert hole[5:15, 16:48].all()
    result = diff_augment(torch.full((4000, 1, 16, 64), 9.0))[:, 0] != 0
    top = result.any(2).float().argmax(1)  # first row that is neither shifted in nor cut out
    left = result.any(1).float().argmax(1)
    assert (top.max(), left.max()) == (2, 8)  # an eighth of each side: a cutout takes no row or column as a whole


def test_color_ops() -> None:
    x = noise(2, 3, 4, 4)
    gray = x.mean(1)
    torch.testing.assert_close(augment.flip_luma(x).mean(1), -gray)
    torch.testing.assert_close(augment.flip_luma(x) - -gray[:, None], x - gray[:, None])  # the hue stays
    full_circle = augment.rotate_hue(x, torch.full((2, 1, 1, 1), 2 * math.pi))
    torch.testing.assert_close(full_circle, x, atol=1e-5, rtol=0)
    third = augment.rotate_hue(x, torch.full((2, 1, 1, 1), 2 * math.pi / 3))
    assert any(torch.allclose(third, x.roll(k, 1), atol=1e-5) for k in (1, 2))  # red, green and blue change places
    torch.testing.assert_close(third.mean(1), gray)


def test_each_color_op_has_its_probability_and_standard_deviation() -> None:
    torch.manual_seed(0)
    p = 0.3
    black_white = torch.tensor([0.0, 1.0]).expand(40_000, 1, 1, 2)
    black, white = augment.jitter_color(black_white, torch.tensor(p)).flatten(1).unbind(1)
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
    result = augment.jitter_color(red, torch.ones(())).flatten(1)  # [B, 3]
    vivid = result - result.mean(1, keepdim=True)
    # what is not gray: times contrast and saturation, 2 ** N(0, .5² + 1²), at any angle
    assert (vivid.norm(dim=1) / (2 / 3) ** 0.5).log2().std().item() == pytest.approx(1.25**0.5, rel=0.03)
    angle = torch.atan2((vivid[:, 1] - vivid[:, 2]) / 3**0.5, vivid[:, 0])
    assert angle.std().item() == pytest.approx(math.pi / 3**0.5, rel=0.02)
    torch.manual_seed(0)
    result = augment.jitter_color(red, torch.tensor(0.1)).flatten(1)
    rotated = (result[:, 1] - result[:, 2]).abs() > 1e-5
    assert rotated.float().mean().item() == pytest.approx(0.1, abs=0.006)


def test_the_schedule_changes_colors_with_half_and_cuts_out_with_all_of_the_probability() -> None:
    torch.manual_seed(0)
    p = 0.4
    result = scheduled_augment(torch.ones(10_000, 3, 8, 8), torch.tensor(p)).flatten(1)  # warps change nothing here
    assert (result == 0).any(1).float().mean().item() == pytest.approx(p, abs=0.02)
    unscheduled = adaptive_augment(torch.ones(10_000, 3, 8, 8), torch.tensor(p)).flatten(1)
    for colored, q in ((result, p / 2), (unscheduled, p)):
        value = colored.gather(1, colored.abs().argmax(1, keepdim=True))  # of what is not cut out
        expected = 1 - (1 - q) ** 2 * (1 - q / 2)  # brightness, contrast, and a flip half of the time
        assert ((value - 1).abs() > 1e-4).float().mean().item() == pytest.approx(expected, abs=0.02)


def test_diffaugments_draws_have_their_ranges() -> None:
    torch.manual_seed(0)
    stripes = torch.tensor([4.0, 6.0]).repeat(14).expand(4000, 1, 28, 28)
    result = diff_augment(stripes).flatten(1)
    dark = result.where(result > 0, 9).amin(1)  # neither shifted in nor cut out
    bright = result.amax(1)
    for values, low, high in (((bright + dark) / 2 - 5, -0.5, 0.5), ((bright - dark) / 2, 0.5, 1.5)):
        assert low - 1e-4 < values.min() < low + 0.01
        assert high - 0.01 < values.max() < high + 1e-4
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02)
    assert ((result == 0).float().mean(1) > 0.25 - 1e-6).float().mean() > 0.2  # the cutout, where all of it is inside

    counts = torch.bincount(augment.random_offsets(7000, stripes, 3) + 3)  # of the shifts
    torch.testing.assert_close(counts / 7000, torch.full((7,), 1 / 7), atol=0.02, rtol=0)
    columns = torch.arange(28.0).expand(4000, 1, 28, 28) + 10
    shifts = augment.shift(columns, *augment.random_offsets(8000, columns, 4).view(2, -1)).amax((1, 2, 3))
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
def test_no_augmentation_reads_a_tensors_values_on_the_host(channels: int) -> None:
    """On the meta device, where reading a value fails: on a GPU it would make the host wait."""
    x, p = torch.empty(4, channels, 28, 28, device="meta"), torch.empty((), device="meta")
    for result in (diff_augment(x), adaptive_augment(x, p), scheduled_augment(x, p)):
        assert result.shape == x.shape


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "augmented",
    [diff_augment, lambda x: adaptive_augment(x, torch.tensor(0.7)), lambda x: scheduled_augment(x, torch.tensor(0.7))],
)
def test_gradients_flow_once_and_twice(augmented: Callable[[Tensor], Tensor], channels: int) -> None:
    def seeded(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return augmented(x).sin()  # a curve, so that second derivatives are not all zero

    x = noise(3, channels, 6, 9).double().requires_grad_()
    assert torch.autograd.gradcheck(seeded, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(seeded, x, fast_mode=True)
    assert augmented(noise(2, channels, 8, 8).bfloat16()).dtype == torch.bfloat16


@BOTH
def test_images_are_looked_up_in_full_precision_under_autocast(augmented: Adaptive) -> None:
    """Positions in eight bits would be pixels away from where they should be."""
    x, p = noise(8, 1, 128, 128), torch.tensor(0.8)
    torch.manual_seed(1)
    plain = augmented(x, p)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        cast = augmented(x, p)
    torch.testing.assert_close(cast, plain)
