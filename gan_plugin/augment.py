"""Differentiable augmentation of what a discriminator sees, real and fake alike, against overfitting to little data.

Images are float32 or bfloat16 [B, C, H, W], of any height and width. Random numbers are drawn for each image, from
torch's global random state on its device, and nothing waits for the device. All maps are differentiable twice, as
penalties on gradients need it. Positions are computed in float32 and without matrix products, which autocast would
round to 8 bits: at a side of 256 that is up to two pixels.

ADA: Karras et al. 2020, arXiv:2006.06676, appendix B, without its filtering and corruption ops, which its authors left
out, too. Its warp is bilinear here, where the paper adds wavelet filters against aliasing: at the sizes of this project
that is a tenth of the work. DiffAugment: Zhao et al. 2020, arXiv:2006.10738.

Where height and width differ, rotations and scalings act on pixels, so that nothing is sheared; shifts and cutouts are
shares of each side. The turns that keep the frame are then half turns only: a quarter turn would leave most of a long
image outside and fill the rest with its mirror images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SHIFT, CUTOUT = 0.125, 0.5  # shares of each side
BRIGHTNESS, LOG_CONTRAST, LOG_SATURATION, LOG_SCALE = 0.2, 0.5, 1.0, 0.2  # standard deviations; logs to base 2


def diff_augment(x: Tensor) -> Tensor:
    """Change brightness, saturation and contrast, shift and cut out: images [B, C, H, W] in −1…1. Zhao et al. 2020.

    Brightness ± ½, saturation × U(0, 2), contrast × U(½, 1½), shifts up to an eighth of each side, and a cutout of half
    of each; what is shifted in or cut out is 0.
    """
    n, _, height, width = x.shape
    u = torch.rand(n, 3, 1, 1, 1, device=x.device).to(x.dtype)
    brightness, saturation, contrast = u.unbind(1)  # [B, 1, 1, 1] each
    x = x + (brightness - 0.5)
    x = scale_about(x, x.mean(1, keepdim=True), 2 * saturation)
    x = scale_about(x, x.mean((1, 2, 3), keepdim=True), 0.5 + contrast)
    down, right = (random_offsets(n, x, round(side * SHIFT)) for side in (height, width))
    return cut_out(shift(x, down, right), cutout_centers(n, x, height), cutout_centers(n, x, width))


def adaptive_augment(x: Tensor, p: Tensor) -> Tensor:
    """Apply ADA's blitting, geometry and color to images [B, C, H, W], C 1 or 3, each op with probability ``p``.

    ``p`` is a scalar float32 in 0…1 on x's device. At 0 images stay as they are, to the bit. Karras et al. 2020.
    """
    return jitter_color(warp(x, p), p)


def scheduled_augment(x: Tensor, p: Tensor) -> Tensor:
    """Apply blitting and geometry with probability ``p``, color with p/2, a cutout with p, as in ``adaptive_augment``.

    Huang et al. 2024, arXiv:2501.05441, appendix.
    """
    n, _, height, width = x.shape
    x = jitter_color(warp(x, p), p / 2)
    hit = torch.rand(n, 1, 1, 1, device=x.device) < p
    return torch.where(hit, cut_out(x, cutout_centers(n, x, height), cutout_centers(n, x, width)), x)


def random_offsets(n: int, x: Tensor, largest: int) -> Tensor:
    """Draw integers from −largest to largest: int64 [n]."""
    return torch.randint(-largest, largest + 1, (n,), device=x.device)


def cutout_side(side: int) -> int:
    """Return half of an image's side, rounded up, in pixels.

    >>> [cutout_side(side) for side in (28, 9)]
    [14, 5]
    """
    return int(side * CUTOUT + 0.5)


def cutout_centers(n: int, x: Tensor, side: int) -> Tensor:
    """Draw where a cutout's center lies along a side of the image: int64 [n].

    A pixel, or the gap before it where the cutout's own side is even; both edges are equally likely.
    """
    return torch.randint(0, side + 1 - cutout_side(side) % 2, (n,), device=x.device)


def scale_about(x: Tensor, center: Tensor, factor: Tensor) -> Tensor:
    """Return ``x`` with its distance from ``center`` multiplied by ``factor``."""
    return center + (x - center) * factor


def shift(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move images by integer pixels, int64 [B] each; zeros move in."""
    n, channels, height, width = x.shape
    rows = torch.arange(height, device=x.device) - down[:, None]  # [B, H]
    columns = torch.arange(width, device=x.device) - right[:, None]  # [B, W]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    flat = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]  # [B, H, W]
    index = flat.view(n, 1, -1).expand(-1, channels, -1)  # [B, C, H·W]
    return x.flatten(2).gather(2, index).view_as(x) * inside[:, None].to(x.dtype)


def cut_out(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Set a rectangle of half of each side to 0, its center at (row, column), int64 [B] each, of ``cutout_centers``."""
    height, width = x.shape[2:]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    top, left = row[:, None] - cutout_side(height) // 2, column[:, None] - cutout_side(width) // 2
    inside_rows = (rows >= top) & (rows < top + cutout_side(height))  # [B, H]
    inside_columns = (columns >= left) & (columns < left + cutout_side(width))  # [B, W]
    mask = inside_rows[:, :, None] & inside_columns[:, None, :]  # [B, H, W]
    return x * (~mask[:, None]).to(x.dtype)


def warp(x: Tensor, p: Tensor) -> Tensor:
    """Apply blitting and geometry as one map of positions. An image that draws no op stays as it is, to the bit."""
    n, _, height, width = x.shape
    matrices, changed = draw_warps(n, height, width, p=p)
    return change(x, changed, resample, matrices)


def change(x: Tensor, changed: Tensor, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """Return images [B, C, H, W] with ``function(x, *values)`` in place of those that are ``changed``, bool [B].

    On a CPU, where reading a mask waits for nothing, no other image is computed: while ``p`` is small, nearly none.

    Args:
        values: further arguments of ``function``, which has no part in other images: tensors of B rows each.
    """
    if x.device.type != "cpu":
        return torch.where(changed[:, None, None, None], function(x, *values), x)
    rows = changed.nonzero().squeeze(1)
    return x.index_copy(0, rows, function(x[rows], *(value[rows] for value in values))) if len(rows) else x


def half_size(height: int, width: int) -> tuple[float, float]:
    """Return half the height and half the width in the unit of positions, half the shorter side; 1 and 1 of a square.

    One unit for both axes keeps rotations free of shear.

    >>> half_size(64, 128)
    (1.0, 2.0)
    """
    unit = min(height, width)
    return height / unit, width / unit


def draw_warps(n: int, height: int, width: int, *, p: Tensor) -> tuple[Tensor, Tensor]:
    """Draw n maps from positions in the result to positions in the image, each op with probability ``p``.

    Returns float32 [n, 2, 3], acting on (x, y, 1) from the center in units of ``half_size``, and bool [n]: whether any
    op was drawn. A map flips, then turns, moves by pixels, scales, rotates, stretches, rotates again, and moves by any
    fraction, in the order of its matrices from left to right. Rotated before and after, a stretch has any direction.
    """
    u, normal = torch.rand(n, 14, device=p.device), torch.randn(n, 4, device=p.device)
    rotation_p = 1 - (1 - p).sqrt()  # drawn twice, so that an image is rotated with probability p
    hit = u[:, :8] < torch.stack([p, p, p, rotation_p, p, rotation_p, p, p])
    turns = 4 if height == width else 2  # that map the frame to itself
    half_height, half_width = half_size(height, width)
    (scale, stretch), (far_right, far_down) = (normal[:, :2] * LOG_SCALE).unbind(1), (normal[:, 2:] * SHIFT).unbind(1)
    first, second, right, down = (2 * u[:, 10:] - 1).unbind(1)
    values = torch.stack(
        [
            (u[:, 8] < 0.5).float(),  # flip
            (u[:, 9] * turns).floor() * (2 * math.pi / turns),
            *(scale, first * math.pi, stretch, second * math.pi),
            # integer pixels, so that a blit copies values and interpolates nothing
            (right * SHIFT * width).round() * (2 * half_width / width),
            far_right * (2 * half_width),
            (down * SHIFT * height).round() * (2 * half_height / height),
            far_down * (2 * half_height),
        ],
        1,
    )  # [n, 10]; 0 stands for no op
    values = torch.where(torch.cat([hit, hit[:, 6:]], 1), values, 0)
    flip, turn, scale, first, stretch, second = values[:, :6].unbind(1)
    blit, move = values[:, 6::2], values[:, 7::2]  # [n, 2] each: right, down
    turned, before, after = rotations(torch.stack([turn, turn + first, second], 1)).unbind(1)
    # in one factor of columns, since a scale commutes with rotations
    mirror = torch.stack([1 - 2 * flip, torch.ones_like(flip)], 1)[:, :, None]  # of rows
    factors = 2 ** torch.stack([scale + stretch, scale - stretch], 1)[:, None]  # of columns
    linear = mirror * matmul(before * factors, after)  # [n, 2, 2]
    offset = (mirror * turned * blit[:, None]).sum(2) + (linear * move[:, None]).sum(2)  # [n, 2]
    return torch.cat([linear, offset[:, :, None]], 2), hit.any(1)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a b for matrices float32 [n, 2, 2], in full precision also under autocast."""
    return (a[:, :, :, None] * b[:, None]).sum(2)


def rotations(angles: Tensor) -> Tensor:
    """Return matrices [n, m, 2, 2] that rotate by angles [n, m] in radians."""
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack([cosine, -sine, sine, cosine], 2).view(*angles.shape, 2, 2)


def resample(x: Tensor, matrices: Tensor) -> Tensor:
    """Look up images [B, C, H, W] where maps [B, 2, 3] of positions point: bilinear, mirrored at the edges.

    By gathering, which is differentiable any number of times; ``grid_sample`` is so only once.
    """
    channels, height, width = x.shape[1:]
    half_height, half_width = half_size(height, width)
    ys = ((torch.arange(height, device=x.device) + 0.5) / height * 2 - 1) * half_height  # [H], of pixel centers
    xs = ((torch.arange(width, device=x.device) + 0.5) / width * 2 - 1) * half_width  # [W]
    of_x, of_y, offset = matrices[..., None, None].unbind(2)  # [B, 2, 1, 1] each
    source_x, source_y = (of_x * xs + of_y * ys[:, None] + offset).flatten(2).unbind(1)  # [B, H·W] each
    column = reflect((source_x / half_width + 1) * (width / 2) - 0.5, width)  # in pixels
    row = reflect((source_y / half_height + 1) * (height / 2) - 0.5, height)
    rows, row_weights = neighbors(row, height)  # [B, 2, H·W] each
    columns, column_weights = neighbors(column, width)
    index = (rows[:, :, None] * width + columns[:, None]).flatten(1)[:, None].expand(-1, channels, -1)  # [B, C, 4·H·W]
    weights = (row_weights[:, :, None] * column_weights[:, None]).flatten(1, 2)[:, None].to(x.dtype)  # [B, 1, 4, H·W]
    corners = x.flatten(2).gather(2, index).view(len(x), channels, 4, -1)  # [B, C, 4, H·W]
    first, second, third, fourth = (corners * weights).unbind(2)
    return (first + second + third + fourth).view_as(x)  # in this order, as a sum over an axis would not be everywhere


def neighbors(position: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the two pixels about positions [B, N] along a side, int64 [B, 2, N], and their weights, likewise."""
    first = position.floor()
    fraction = position - first
    # beyond the last pixel the weight is 0, and the index only has to be a valid one
    pixels = torch.stack([first, first + 1], 1).clamp(0, side - 1).long()
    return pixels, torch.stack([1 - fraction, fraction], 1)


def reflect(position: Tensor, side: int) -> Tensor:
    """Fold positions in pixels back into 0 … side − 1 at the centers of the outermost pixels.

    >>> reflect(torch.tensor([-1.0, 2.5, 3.5]), 4)
    tensor([1.0000, 2.5000, 2.5000])
    """
    period = 2 * (side - 1)
    wrapped = position.remainder(period)
    return torch.minimum(wrapped, period - wrapped)


def jitter_color(x: Tensor, p: Tensor) -> Tensor:
    """Change brightness and contrast, flip luma and, of RGB, change hue and saturation, each with probability ``p``."""
    n, channels = x.shape[:2]
    ops = 3 if channels == 1 else 5  # brightness, contrast, luma, hue, saturation
    u, normal = torch.rand(n, ops + 1, device=x.device), torch.randn(n, 3, device=x.device)
    probabilities = torch.stack([p, p, p / 2, p, p])[:ops]  # luma is flipped in half of the cases
    drawn = u[:, :ops] < probabilities
    offset, contrast, saturation = normal.unbind(1)
    angle = (2 * u[:, ops] - 1) * math.pi
    values = [BRIGHTNESS * offset, 2 ** (LOG_CONTRAST * contrast), angle, 2 ** (LOG_SATURATION * saturation)][: ops - 1]
    columns = torch.stack(values, 1).to(x.dtype)[:, :, None, None, None]  # [B, ops − 1, 1, 1, 1]
    return change(x, drawn.any(1), recolor, drawn[:, :, None, None, None], columns)


def recolor(x: Tensor, drawn: Tensor, values: Tensor) -> Tensor:
    """Apply to each image [B, C, H, W] those of the color ops that are drawn for it.

    Args:
        drawn: bool [B, ops, 1, 1, 1]: brightness, contrast, luma, hue, saturation; of gray images the first three.
        values: [B, ops − 1, 1, 1, 1], of all but luma: what is added, factors, and for hue an angle.
    """
    brightness, contrast, luma, *of_rgb = drawn.unbind(1)
    offset, factor, *angle_and_saturation = values.unbind(1)
    x = torch.where(brightness, x + offset, x)
    x = torch.where(contrast, x * factor, x)
    x = torch.where(luma, flip_luma(x), x)
    if not of_rgb:
        return x
    (hue, saturation), (angle, chroma) = of_rgb, angle_and_saturation
    x = torch.where(hue, rotate_hue(x, angle), x)
    return torch.where(saturation, scale_about(x, x.mean(1, keepdim=True), chroma), x)


def flip_luma(x: Tensor) -> Tensor:
    """Make light dark and the reverse, at the same hue: mirror colors at the plane across the gray axis."""
    return x - 2 * x.mean(1, keepdim=True)


def rotate_hue(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate RGB [B, 3, H, W] about the gray axis by ``angle`` [B, 1, 1, 1], in radians. Rodrigues' formula."""
    gray = x.mean(1, keepdim=True)
    across = (x.roll(1, 1) - x.roll(-1, 1)) / math.sqrt(3)  # the axis (1, 1, 1)/√3 times x
    return gray + (x - gray) * angle.cos() + across * angle.sin()
