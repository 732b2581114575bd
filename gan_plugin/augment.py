"""Differentiable augmentation of what a discriminator sees, real and fake alike, against overfitting to little data.

Dataset are square, float32 or bfloat16. Each draws for itself, from torch's global random state on its device, and
nothing waits for the device. The maps are differentiable twice, as penalties on gradients need it. Where an image is
looked up is computed in float32 and without matrix products, which autocast would round to 8 bits: at a side of 256
that is up to two pixels.

ADA: Karras et al. 2020, arXiv:2006.06676, appendix B, without its filtering and corruption ops, which its authors left
out, too. Its warp is bilinear here, where the paper adds wavelet filters against aliasing: at the sizes of this project
that is a tenth of the work. DiffAugment: Zhao et al. 2020, arXiv:2006.10738.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

ADA_TARGET = 0.6  # of E sign(D(x)): where it is higher, the discriminator overfits
ADA_EVERY = 4  # batches from one adjustment of p to the next
ADA_IMAGES = 500_000  # in which p goes from 0 to 1
# A generator can tell which way is up only while upright images are seen most often. Of quarter turns, upright ones
# are twice as frequent as any other at p = .8, and no more frequent at 1: above .8, turned images may be generated
# ("leak"). Karras et al. 2020, section 2.2
MAX_P = 0.8
SHIFT, CUTOUT = 0.125, 0.5  # shares of the side
BRIGHTNESS, LOG_CONTRAST, LOG_SATURATION, LOG_SCALE = 0.2, 0.5, 1.0, 0.2  # standard deviations


def diff_augment(x: Tensor) -> Tensor:
    """Brightness, saturation, contrast, shift and cutout of every image [B, C, H, W] in −1…1. Zhao et al. 2020.

    Brightness ± ½, saturation × U(0, 2), contrast × U(½, 1½), shifts up to an eighth and a cutout of half the side;
    what is shifted in or cut out is 0.
    """
    n, _, height, width = x.shape
    x = x + (uniform(n, x) - 0.5)
    x = scaled_around(x, x.mean(1, keepdim=True), 2 * uniform(n, x))
    x = scaled_around(x, x.mean((1, 2, 3), keepdim=True), 0.5 + uniform(n, x))
    down, right = (whole(n, x, round(side * SHIFT)) for side in (height, width))
    return cut_out(shifted(x, down, right), middles(n, x, height), middles(n, x, width))


def adaptive_augment(x: Tensor, p: Tensor) -> Tensor:
    """ADA's blitting, geometry and color of [B, C, H, W], C 1 or 3, each op with probability ``p``.

    ``p`` is a scalar float32 in 0…1 on x's device. At 0 images stay as they are, to the bit. Karras et al. 2020.
    """
    return color(warp(x, p), p)


def scheduled_augment(x: Tensor, p: Tensor) -> Tensor:
    """Blitting and geometry with probability ``p``, color with p/2, a cutout with p, as in ``adaptive_augment``.

    Huang et al. 2024, arXiv:2501.05441, appendix.
    """
    n, _, height, width = x.shape
    x = color(warp(x, p), p / 2)
    return torch.where(happens(n, x, p), cut_out(x, middles(n, x, height), middles(n, x, width)), x)


def uniform(n: int, x: Tensor) -> Tensor:
    """U(0, 1), one number an image, of x's type: [n, 1, 1, 1]."""
    return torch.rand(n, 1, 1, 1, device=x.device).to(x.dtype)


def happens(n: int, x: Tensor, p: Tensor) -> Tensor:
    """True with probability ``p``, for each image: [n, 1, 1, 1]."""
    return torch.rand(n, 1, 1, 1, device=x.device) < p


def whole(n: int, x: Tensor, most: int) -> Tensor:
    """Whole numbers from −most to most: int64 [n]."""
    return torch.randint(-most, most + 1, (n,), device=x.device)


def cutout_side(side: int) -> int:
    """Half of an image's side, rounded up, in pixels.

    >>> [cutout_side(side) for side in (28, 9)]
    [14, 5]
    """
    return int(side * CUTOUT + 0.5)


def middles(n: int, x: Tensor, side: int) -> Tensor:
    """Where a cutout's middle lies, at either edge as often: int64 [n], a pixel, or a gap where its side is even."""
    return torch.randint(0, side + 1 - cutout_side(side) % 2, (n,), device=x.device)


def scaled_around(x: Tensor, middle: Tensor, factor: Tensor) -> Tensor:
    return middle + (x - middle) * factor


def shifted(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Every image moved by whole pixels, int64 [B] each; zeros move in."""
    n, channels, height, width = x.shape
    rows = torch.arange(height, device=x.device) - down[:, None]  # [B, H]
    columns = torch.arange(width, device=x.device) - right[:, None]  # [B, W]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    flat = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]  # [B, H, W]
    index = flat.view(n, 1, -1).expand(-1, channels, -1)
    return x.flatten(2).gather(2, index).view_as(x) * inside[:, None].to(x.dtype)


def cut_out(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """A square of half the side becomes 0; its middle is (row, column), int64 [B] each (see ``middles``)."""
    height, width = x.shape[2:]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    top, left = row[:, None] - cutout_side(height) // 2, column[:, None] - cutout_side(width) // 2
    inside_rows = (rows >= top) & (rows < top + cutout_side(height))  # [B, H]
    inside_columns = (columns >= left) & (columns < left + cutout_side(width))  # [B, W]
    cut = inside_rows[:, :, None] & inside_columns[:, None, :]  # [B, H, W]
    return x * (~cut[:, None]).to(x.dtype)


def warp(x: Tensor, p: Tensor) -> Tensor:
    """Blitting and geometry, as one map of places. An image that draws nothing stays as it is, to the bit."""
    n, _, height, width = x.shape
    matrices, touched = draw_warps(n, height, width, p)
    return torch.where(touched[:, None, None, None], warped(x, matrices), x)


def draw_warps(n: int, height: int, width: int, p: Tensor) -> tuple[Tensor, Tensor]:
    """n maps from places in the result to places in the image, each op drawn with probability ``p``.

    Returns float32 [n, 3, 3], acting on (x, y, 1) in units of half a side from the middle, and bool [n]: any op drawn.
    """

    def drawn(value: Tensor, neutral: float, probability: Tensor = p) -> tuple[Tensor, Tensor]:
        hit = torch.rand(n, device=p.device) < probability
        return torch.where(hit, value, neutral), hit

    def random() -> Tensor:
        return torch.rand(n, device=p.device)

    def normal() -> Tensor:
        return torch.randn(n, device=p.device)

    turn_p = 1 - (1 - p).sqrt()  # twice, so that an image is turned with probability p
    mirror, mirrored = drawn(torch.where(random() < 0.5, -1.0, 1.0), 1)
    quarter, quartered = drawn((random() * 4).floor() * (math.pi / 2), 0)
    right, blitted = drawn((2 * random() - 1) * SHIFT, 0)
    down = torch.where(blitted, (2 * random() - 1) * SHIFT, 0.0)
    scale, scaled = drawn(2 ** (normal() * LOG_SCALE), 1)
    before, turned_before = drawn((2 * random() - 1) * math.pi, 0, turn_p)
    stretch, stretched = drawn(2 ** (normal() * LOG_SCALE), 1)
    after, turned_after = drawn((2 * random() - 1) * math.pi, 0, turn_p)
    far_right, moved = drawn(normal() * SHIFT, 0)
    far_down = torch.where(moved, normal() * SHIFT, 0.0)
    one = torch.ones_like(mirror)
    steps = [
        scaling(mirror, one),
        rotation(quarter),
        translation((right * width).round() / width * 2, (down * height).round() / height * 2),
        scaling(scale, scale),
        rotation(before),
        scaling(stretch, 1 / stretch),
        rotation(after),
        translation(far_right * 2, far_down * 2),
    ]
    flags = [mirrored, quartered, blitted, scaled, turned_before, stretched, turned_after, moved]
    return functools.reduce(product, steps), torch.stack(flags).any(0)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b for matrices float32 [n, 3, 3], in full precision also under autocast."""
    return (a[:, :, :, None] * b[:, None]).sum(2)


def scaling(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return as_matrices(x, zero, zero, zero, y, zero, zero, zero, one)


def rotation(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    return as_matrices(angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one)


def translation(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return as_matrices(one, zero, x, zero, one, y, zero, zero, one)


def as_matrices(*entries: Tensor) -> Tensor:
    return torch.stack(entries, 1).view(-1, 3, 3)


def warped(x: Tensor, matrices: Tensor) -> Tensor:
    """Dataset [B, C, H, W] through maps [B, 3, 3] of places, bilinear, mirrored at the edges.

    By gathering, which is differentiable as often as one likes; ``grid_sample`` is so only once.
    """
    channels, height, width = x.shape[1:]
    ys = (torch.arange(height, device=x.device) + 0.5) / height * 2 - 1
    xs = (torch.arange(width, device=x.device) + 0.5) / width * 2 - 1
    across, along = (
        m[:, 0, None, None] * xs + m[:, 1, None, None] * ys[:, None] + m[:, 2, None, None]
        for m in matrices.unbind(1)[:2]
    )  # [B, H, W]
    column = mirrored(((across + 1) * (width / 2) - 0.5).flatten(1), width)  # [B, H·W], in pixels
    row = mirrored(((along + 1) * (height / 2) - 0.5).flatten(1), height)
    left, top = column.floor(), row.floor()
    flat, result = x.flatten(2), torch.zeros_like(x.flatten(2))
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (1 - (column - left - dx).abs()) * (1 - (row - top - dy).abs())  # [B, H·W]
            index = (top + dy).clamp(0, height - 1) * width + (left + dx).clamp(0, width - 1)
            index = index.long()[:, None].expand(-1, channels, -1)
            result = result + flat.gather(2, index) * weight[:, None].to(x.dtype)
    return result.view_as(x)


def mirrored(place: Tensor, side: int) -> Tensor:
    """Places in pixels, folded back into 0 … side − 1 at the middles of the outermost pixels.

    >>> mirrored(torch.tensor([-1.0, 2.5, 3.5]), 4)
    tensor([1.0000, 2.5000, 2.5000])
    """
    period = 2 * (side - 1)
    folded = place.remainder(period)
    return torch.minimum(folded, period - folded)


def color(x: Tensor, p: Tensor) -> Tensor:
    """Brightness, contrast, luma flip and, of RGB, hue and saturation, each with probability ``p``."""
    n, channels = x.shape[:2]
    dtype = x.dtype

    def normal() -> Tensor:
        return torch.randn(n, 1, 1, 1, device=x.device).to(dtype)

    x = torch.where(happens(n, x, p), x + BRIGHTNESS * normal(), x)
    x = torch.where(happens(n, x, p), x * 2 ** (LOG_CONTRAST * normal()), x)
    flip = torch.rand(n, 1, 1, 1, device=x.device) < 0.5
    x = torch.where(happens(n, x, p) & flip, luma_flipped(x), x)
    if channels == 1:
        return x
    angle = (2 * uniform(n, x) - 1) * math.pi
    x = torch.where(happens(n, x, p), hue_turned(x, angle), x)
    gray = x.mean(1, keepdim=True)
    return torch.where(happens(n, x, p), scaled_around(x, gray, 2 ** (LOG_SATURATION * normal())), x)


def luma_flipped(x: Tensor) -> Tensor:
    """Light becomes dark and the reverse, at the same hue: mirrored at the plane across the gray axis."""
    return x - 2 * x.mean(1, keepdim=True)


def hue_turned(x: Tensor, angle: Tensor) -> Tensor:
    """RGB [B, 3, H, W] turned about the gray axis by ``angle`` [B, 1, 1, 1]. Rodrigues' formula."""
    gray = x.mean(1, keepdim=True)
    across = (x.roll(1, 1) - x.roll(-1, 1)) / math.sqrt(3)  # the axis (1, 1, 1)/√3 times x
    return gray + (x - gray) * angle.cos() + across * angle.sin()


class AdaController:
    """Moves p so that E sign(D(x) − boundary) over real images stays at ADA_TARGET, without waiting for the device.

    Karras et al. 2020, section 3.1.

    Attributes:
        p: the probability, a scalar on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.p = torch.zeros((), device=device)
        self.signs = torch.zeros((), device=device)  # the mean sign times the images since p was moved
        self.dataset = 0  # how many that were
        self.batches = 0

    def observe(self, real_logits: Tensor, boundary: float, images: int) -> None:
        """Take in the logits of a batch of real images; every ADA_EVERY batches p moves by images / ADA_IMAGES.

        There may be more logits than images, from several discriminators, or fewer, from packs.
        """
        self.signs = self.signs + (real_logits.detach() - boundary).sign().float().mean() * images
        self.dataset += images
        self.batches += 1
        if self.batches % ADA_EVERY == 0:
            direction = (self.signs / self.dataset - ADA_TARGET).sign()
            self.p = (self.p + direction * (self.dataset / ADA_IMAGES)).clamp(0, MAX_P)
            self.signs, self.dataset = torch.zeros_like(self.signs), 0

    def state(self) -> dict[str, Tensor]:
        counts = torch.tensor([self.dataset, self.batches])
        return {"p": self.p, "signs": self.signs, "counts": counts}

    def load(self, state: dict[str, Tensor]) -> None:
        self.p, self.signs = (state[name].to(self.p.device) for name in ("p", "signs"))
        self.dataset, self.batches = (int(count) for count in state["counts"])
