"""The networks of R3GAN: residual, without normalization, held by their initial values and by gradient penalties.

Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern GAN Baseline", arXiv:2501.05441. A side is 4, 5, 6 or 7
pixels at the coarsest stage and doubles from stage to stage. With the published sizes the networks have 20.78 and 21.28
million parameters (32 pixels, 10 classes) and 22.43 and 22.38 million (64 pixels, no classes).

Under autocast the coarsest stage and what is linear stay in float32: there the published ones lose quality otherwise.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.errors import UserError
from gan_plugin.spec import SampleSpec

BASES = range(4, 8)  # sides of the coarsest stage
GROUP = 16  # channels of a group of the grouped convolution
EXPANSION = 2  # of a block's width inside
SLOPE = 0.2  # of LeakyReLU
ACTIVATION_GAIN = math.sqrt(2 / (1 + SLOPE**2))
LABEL_SIZE = 64  # of the generator's embedding of a class
MIN, MAX = 16, 256


def base(image_size: int) -> int:
    """The side of the coarsest stage: ``image_size`` halved until it is 4 to 7.

    >>> base(28), base(32), base(96)
    (7, 4, 6)

    Raises:
        UserError: halving does not end there; the message names the nearest sizes for which it does.
    """
    side = image_size
    while side not in BASES and side % 2 == 0:
        side //= 2
    if side in BASES:
        return side
    possible = sorted({b * 2**k for b in BASES for k in range(2, 7) if MIN <= b * 2**k <= MAX})
    below, above = (max(s for s in possible if s < image_size), min(s for s in possible if s > image_size))
    raise UserError(
        f"image_size={image_size} is not possible with family=r3gan, which doubles a side of 4 to 7 pixels: give "
        f"{below} or {above}, or family=dcgan."
    )


def stage_widths(image_size: int, width: int, full_stages: int) -> list[int]:
    """Feature maps from the coarsest stage to the finest: ``width`` in the first ``full_stages``, then halved at each.

    Never fewer than 16, so that small networks make large images, too.

    >>> stage_widths(64, 768, full_stages=4)  # as published
    [768, 768, 768, 768, 384]
    >>> stage_widths(128, 64, full_stages=1)
    [64, 32, 16, 16, 16, 16]

    Raises:
        UserError: the size does not go down to a base, or a width is not a multiple of 16.
    """
    stages = int(math.log2(image_size // base(image_size))) + 1
    widths = [max(width // 2 ** max(0, i - full_stages + 1), GROUP) for i in range(stages)]
    if width < GROUP or any(w % GROUP for w in widths):
        raise UserError(
            f"width={width} is not possible: it is halved from stage to stage, down to {GROUP}, and stays a multiple "
            f"of {GROUP}. Give a power of two, from {GROUP} on."
        )
    return widths


def initialized(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    """Weights N(0, gain² / fan_in)."""
    weight = cast(Tensor, layer.weight)
    fan_in = weight.shape[0] if isinstance(layer, nn.Embedding) else weight[0].numel()
    nn.init.normal_(weight, std=gain / math.sqrt(fan_in)) if gain else nn.init.zeros_(weight)
    return layer


def conv(before: int, after: int, kernel: int, groups: int = 1, gain: float = 1.0, padding: int = 0) -> nn.Module:
    return initialized(nn.Conv2d(before, after, kernel, padding=padding, groups=groups, bias=False), gain)


class BiasedActivation(nn.Module):
    """LeakyReLU(x + bias), one bias a feature map, zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias.to(x.dtype).view(1, -1, 1, 1), SLOPE)


class Block(nn.Module):
    """x + conv1×1 ∘ act ∘ conv3×3 in groups ∘ act ∘ conv1×1, twice as wide inside; the identity at first."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        inner = EXPANSION * width
        gain = ACTIVATION_GAIN * blocks**-0.25  # of L residual blocks with two activated layers each: L^(−1/4)
        self.layers = nn.Sequential(
            conv(width, inner, 1, gain=gain),
            BiasedActivation(inner),
            conv(inner, inner, 3, inner // GROUP, gain, padding=1),
            BiasedActivation(inner),
            conv(inner, width, 1, gain=0),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


def upsampled(x: Tensor) -> Tensor:
    """Twice the side, [B, C, H, W] → [B, C, 2H, 2W], by the filter [1, 3, 3, 1] / 4 along each axis; zeros outside.

    An even pixel of the result is ¼ of the one before and ¾ of its own, an odd one ¾ of its own and ¼ of the next.
    """
    return upsampled_rows(upsampled_rows(x).transpose(2, 3)).transpose(2, 3)


def upsampled_rows(x: Tensor) -> Tensor:
    padded = F.pad(x, (0, 0, 1, 1))  # [B, C, H + 2, W]
    before, after = padded[:, :, :-2], padded[:, :, 2:]
    both = torch.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], 3)  # [B, C, H, 2, W]
    return both.flatten(2, 3)


def downsampled(x: Tensor) -> Tensor:
    """Half the side, [B, C, H, W] → [B, C, H / 2, W / 2], by the filter [1, 3, 3, 1] / 8 along each axis."""
    return downsampled_rows(downsampled_rows(x).transpose(2, 3)).transpose(2, 3)


def downsampled_rows(x: Tensor) -> Tensor:
    padded = F.pad(x, (0, 0, 1, 1))  # [B, C, H + 2, W]
    outer = padded[:, :, :-3:2] + padded[:, :, 3::2]  # the filter's ends
    return 0.125 * outer + 0.375 * (x[:, :, ::2] + x[:, :, 1::2])


def stage(width: int, blocks: int, in_all: int) -> nn.Sequential:
    return nn.Sequential(*[Block(width, in_all) for _ in range(blocks)])


class Generator(nn.Module):
    """z float32 [B, latent_size] → image [B, channels, image_size, image_size], about −1…1 but not bounded.

    With ``classes`` it takes labels int64 [B], too.
    """

    def __init__(
        self,
        latent_size: int,
        spec: SampleSpec,
        width: int = 768,
        full_stages: int = 4,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        widths = stage_widths(spec.height, width, full_stages)
        self.label = initialized(nn.Embedding(spec.classes, LABEL_SIZE)) if spec.classes else None
        self.linear = initialized(nn.Linear(latent_size + LABEL_SIZE * bool(spec.classes), widths[0], bias=False))
        self.basis = nn.Parameter(torch.randn(widths[0], base(spec.height), base(spec.width)))
        in_all = blocks * len(widths)
        self.stages = nn.ModuleList([stage(w, blocks, in_all) for w in widths])
        self.transitions = nn.ModuleList([conv(a, b, 1) if a != b else nn.Identity() for a, b in pairwise(widths)])
        self.to_image = conv(widths[-1], spec.channels, 1)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            if self.label is not None:
                z = torch.cat([z, self.label(label)], 1)  # [B, latent_size + 64]
            x = self.linear(z)[:, :, None, None] * self.basis  # [B, width, 4, 4]
            x = self.stages[0](x)
        for transition, following in zip(self.transitions, self.stages[1:]):
            x = following(upsampled(transition(x)))
        image: Tensor = self.to_image(x)
        return image


class Discriminator(nn.Module):
    """Image [B, pack·channels, image_size, image_size] in about −1…1 → logit [B], large for a real image.

    ``pack`` images are judged at once, stacked on their channels. With ``classes`` their labels int64 [B, pack] are
    taken, too.
    """

    def __init__(
        self,
        spec: SampleSpec,
        width: int = 768,
        full_stages: int = 4,
        blocks: int = 2,
        pack: int = 1,
    ) -> None:
        super().__init__()
        widths = stage_widths(spec.height, width, full_stages)[::-1]  # from the finest to the coarsest
        in_all = blocks * len(widths)
        self.from_image = conv(spec.channels * pack, widths[0], 1)
        self.stages = nn.ModuleList([stage(w, blocks, in_all) for w in widths])
        self.transitions = nn.ModuleList([conv(a, b, 1) if a != b else nn.Identity() for a, b in pairwise(widths)])
        self.feature_size = widths[-1]
        self.basis = conv(widths[-1], widths[-1], base(spec.height), groups=widths[-1])
        self.linear = initialized(nn.Linear(self.feature_size, self.feature_size if spec.classes else 1, bias=False))
        self.label: nn.Module | None = None
        if spec.classes:
            self.label = nn.Embedding(spec.classes * pack, self.feature_size)
            nn.init.normal_(self.label.weight, std=1 / math.sqrt(spec.classes * self.feature_size))
        self.first_row: Tensor
        self.register_buffer("first_row", torch.arange(pack) * spec.classes, persistent=False)

    def embed(self, x: Tensor) -> Tensor:
        """Dataset → features [B, feature_size]."""
        x = self.from_image(x)
        for transition, current in zip(self.transitions, self.stages[:-1]):
            x = transition(downsampled(current(x)))
        with torch.autocast(x.device.type, enabled=False):
            features: Tensor = self.basis(self.stages[-1](x.float()))  # [B, width, 1, 1]
        return features.flatten(1)

    def score(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        """Features → logit [B]."""
        with torch.autocast(features.device.type, enabled=False):
            scores: Tensor = self.linear(features)  # [B, 1], or [B, feature_size] beside labels
            if self.label is None or label is None:
                return scores.squeeze(1)
            rows: Tensor = self.label(label + self.first_row)  # [B, pack, feature_size]
            return (scores * rows.sum(1)).sum(1)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.score(self.embed(x), label)
