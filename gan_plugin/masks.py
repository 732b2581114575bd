"""Masks of missing pixels, as people make them: boxes, strokes of a brush, halves and borders.

A mask is a pure function of numbers drawn evenly from 0…1, so that training draws them where it computes, and an
evaluation has the same masks forever, from seeds. It is 1 where a pixel is known, and 0 where it is to be filled.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_plugin.seeds import latents

KINDS = ("boxes", "strokes", "half", "border")
MAX_BOXES, MAX_STROKES, VERTICES = 4, 8, 4
BOX_SIDE = (0.25, 0.5)  # of the image's sides
STROKE_WIDTH = (1 / 20, 1 / 6)  # of the shorter side
REACH = 0.35  # of a stroke from one vertex to the next, as a share of the sides
CUT = (-0.25, 0.25)  # of a half from the middle, as a share of the sides
MARGIN = (1 / 8, 3 / 8)  # of a border on each side that has one
MIN_KNOWN, MIN_MISSING = 0.1, 0.02  # shares of the pixels; a mask beyond them is a box in the middle instead
MASK_SEEDS = 2**50  # of those of an evaluation, far from those of images

NUMBERS = 1 + (1 + 4 * MAX_BOXES) + (1 + MAX_STROKES * (1 + 2 * VERTICES)) + 2 + 5  # from which a mask is made


def masks(numbers: Tensor, height: int, width: int) -> Tensor:
    """Return masks float32 [B, 1, H, W] of numbers [B, NUMBERS] in 0…1; no value of them is read on the host.

    The first number decides on one of KINDS, all equally likely.
    """
    kind, of_boxes, of_strokes, of_half, of_border = numbers.split(
        [1, 1 + 4 * MAX_BOXES, 1 + MAX_STROKES * (1 + 2 * VERTICES), 2, 5], 1
    )
    y, x = grid(height, width, numbers.device)
    missing = torch.stack(
        [
            boxes(of_boxes, y, x),
            strokes(of_strokes, y, x, aspect=(height / min(height, width), width / min(height, width))),
            half(of_half, y, x),
            border(of_border, y, x),
        ],
        1,
    )  # bool [B, 4, H, W]
    index = (kind[:, 0] * len(KINDS)).long().clamp(max=len(KINDS) - 1)
    chosen = missing.gather(1, index[:, None, None, None].expand(-1, 1, height, width))  # [B, 1, H, W]
    share = chosen.float().mean((1, 2, 3), keepdim=True)
    middle = ((y - 0.5).abs() < 0.25) & ((x - 0.5).abs() < 0.25)  # [H, W]
    is_extreme = (share > 1 - MIN_KNOWN) | (share < MIN_MISSING)
    return 1 - torch.where(is_extreme, middle, chosen).float()


def grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the places of pixels' middles, 0…1 along each side: y [H, 1] and x [1, W]."""
    y, x = ((torch.arange(size, device=device) + 0.5) / size for size in (height, width))
    return y[:, None], x[None]


def within(numbers: Tensor, ends: tuple[float, float]) -> Tensor:
    """Map numbers in 0…1 to those between two ends."""
    return ends[0] + (ends[1] - ends[0]) * numbers


def boxes(numbers: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return up to MAX_BOXES boxes, which may overlap, bool [B, H, W], of numbers [B, 1 + 4·MAX_BOXES]."""
    count = (numbers[:, :1] * MAX_BOXES).long() + 1  # [B, 1]
    middle_y, middle_x, tall, wide = numbers[:, 1:].view(len(numbers), 4, MAX_BOXES).unbind(1)  # [B, MAX_BOXES] each
    is_drawn = torch.arange(MAX_BOXES, device=numbers.device) < count
    tall, wide = within(tall, BOX_SIDE), within(wide, BOX_SIDE)
    inside = ((y - column(middle_y)).abs() < column(tall) / 2) & ((x - column(middle_x)).abs() < column(wide) / 2)
    return (inside & column(is_drawn)).any(1)


def strokes(numbers: Tensor, y: Tensor, x: Tensor, *, aspect: tuple[float, float]) -> Tensor:
    """Return up to MAX_STROKES polylines of a round brush, bool [B, H, W].

    Args:
        numbers: [B, 1 + MAX_STROKES·(1 + 2·VERTICES)].
        y: as of ``grid``; ``x`` likewise.
        aspect: both sides as multiples of the shorter one.
    """
    count = (numbers[:, :1] * MAX_STROKES).long() + 1  # [B, 1]
    rest = numbers[:, 1:].view(len(numbers), MAX_STROKES, 1 + 2 * VERTICES)
    widths, turns = within(rest[..., 0], STROKE_WIDTH), rest[..., 1:].view(len(numbers), MAX_STROKES, VERTICES, 2)
    steps = REACH * (2 * turns[:, :, 1:] - 1)  # from each vertex to the next
    vertices = torch.cat([turns[:, :, :1], turns[:, :, :1] + steps.cumsum(2)], 2)  # [B, MAX_STROKES, VERTICES, 2]
    is_drawn = torch.arange(MAX_STROKES, device=numbers.device) < count
    missing = torch.zeros(len(numbers), y.shape[0], x.shape[1], dtype=torch.bool, device=numbers.device)
    for stroke in range(MAX_STROKES):
        for i in range(VERTICES - 1):
            start, end = vertices[:, stroke, i], vertices[:, stroke, i + 1]
            near = distance(start, end, y=y, x=x, aspect=aspect) < widths[:, stroke, None, None] / 2
            missing = missing | (near & is_drawn[:, stroke, None, None])
    return missing


def distance(start: Tensor, end: Tensor, *, y: Tensor, x: Tensor, aspect: tuple[float, float]) -> Tensor:
    """Return the distance of each pixel from the way between two points [B, 2], in shorter sides, [B, H, W]."""
    tall, wide = aspect
    (start_y, start_x), (end_y, end_x) = (
        (tall * p[:, 0, None, None], wide * p[:, 1, None, None]) for p in (start, end)
    )
    along_y, along_x = end_y - start_y, end_x - start_x
    length = (along_y.square() + along_x.square()).clamp(min=1e-12)
    share = (((tall * y - start_y) * along_y + (wide * x - start_x) * along_x) / length).clamp(0, 1)
    return ((tall * y - start_y - share * along_y).square() + (wide * x - start_x - share * along_x).square()).sqrt()


def half(numbers: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return what lies beyond a line of any direction near the middle, bool [B, H, W], of numbers [B, 2]."""
    angle, cut = 2 * math.pi * numbers[:, 0, None, None], within(numbers[:, 1, None, None], CUT)
    return (y - 0.5) * angle.sin() + (x - 0.5) * angle.cos() > cut


def border(numbers: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return a margin on one to four sides, to be painted outwards, bool [B, H, W], of numbers [B, 5].

    The first number says how many sides, beginning with the left one and clockwise, the others how wide each is.
    """
    count = (numbers[:, :1] * 4).long() + 1
    widths = torch.where(torch.arange(4, device=numbers.device) < count, within(numbers[:, 1:], MARGIN), 0.0)
    left, top, right, bottom = (width[:, None, None] for width in widths.unbind(1))
    return (x < left) | (y < top) | (x > 1 - right) | (y > 1 - bottom)


def column(values: Tensor) -> Tensor:
    """Return values [B, K] in a shape that is broadcast over pixels, [B, K, 1, 1]."""
    return values[..., None, None]


def mask_numbers(count: int) -> npt.NDArray[np.float32]:
    """Return the numbers [count, NUMBERS] of the masks of an evaluation, the same ones forever.

    By the normal distribution's own: a value of a seed's z is below x as often as Φ(x) says.
    """
    z = torch.from_numpy(latents(MASK_SEEDS + np.arange(count), NUMBERS))
    numbers: npt.NDArray[np.float32] = torch.special.ndtr(z.double()).float().numpy()
    return numbers
