"""The networks of R3GAN: residual, without normalization, stable by their initial values and gradient penalties.

Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern GAN Baseline", arXiv:2501.05441. The coarsest stage has
4, 5, 6 or 7 pixels on its shorter side, and both sides double from stage to stage: 256×128 starts from 8×4. With the
published sizes the networks have 20.78 and 21.28 million parameters (32 pixels, 10 classes) and 22.43 and 22.38 million
(64 pixels, no classes).

Under autocast the coarsest stage and the linear layers stay in float32: the published networks lose quality otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise, product
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.config.recipe import Recipe
from gan_plugin.derivatives import Conv2d, leaky_relu
from gan_plugin.errors import UserError
from gan_plugin.spec import MAX_SIDE, MIN_SIDE, SampleSpec, Size, is_possible_size, size_text

MIN_BASE = 4  # shorter side of the coarsest stage, which is less than twice that
GROUP = 16  # channels of a group of the grouped convolution
EXPANSION = 2  # of a block's width inside
SLOPE = 0.2  # of LeakyReLU
ACTIVATION_GAIN = math.sqrt(2 / (1 + SLOPE**2))
LABEL_SIZE = 64  # of the generator's embedding of a class


def check(recipe: Recipe, spec: SampleSpec) -> None:
    """Refuse what this family has no networks for.

    Raises:
        UserError: width or blocks is missing, there is spectral norm, the width is not a multiple of 16, or the images
            do not halve to a coarsest stage; the message then names the nearest sizes that do.
    """
    if not (recipe.width and recipe.blocks):
        raise UserError("family=r3gan needs width and blocks: give both, for example width=64 and blocks=1.")
    if recipe.spectral_norm:
        raise UserError(
            "spectral_norm is not possible with family=r3gan, whose discriminator is regularized by its penalty alone: "
            "give spectral_norm=false, or family=dcgan."
        )
    stage_widths(stages(spec.size), recipe.width, recipe.full_stages)


def build_generator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    """Return an untrained generator of samples of ``spec``."""
    return Generator(recipe.latent_size, spec, width=recipe.width, full_stages=recipe.full_stages, blocks=recipe.blocks)


def build_discriminator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    """Return one untrained discriminator of samples of ``spec``."""
    return Discriminator(
        spec, width=recipe.width, full_stages=recipe.full_stages, blocks=recipe.blocks, pack=recipe.pack
    )


def stages(size: Size) -> list[Size]:
    """Return (height, width) of each stage, from the coarsest to the image.

    >>> stages((28, 28)), stages((64, 32))
    ([(7, 7), (14, 14), (28, 28)], [(8, 4), (16, 8), (32, 16), (64, 32)])

    Raises:
        UserError: there are none for this size; the message names the nearest sizes that have them.
    """
    if has_stages(size):
        height, width = size
        return [(height >> k, width >> k) for k in range(upsample_count(size), -1, -1)]
    alternative = ", or family=dcgan" if is_possible_size(size) else ""
    raise UserError(
        f"image_size={size_text(size)} is not possible with family=r3gan, which doubles both sides of an image whose "
        f"shorter side is {MIN_BASE} to {2 * MIN_BASE - 1} pixels, up to {MAX_SIDE:,}: give "
        f"{' or '.join(map(size_text, nearest_sizes(size)))}{alternative}."
    )


def upsample_count(size: Size) -> int:
    """Return how often the shorter side is halved until it is 4 to 7 pixels, rounded down where it is odd."""
    return min(size).bit_length() - MIN_BASE.bit_length()


def has_stages(size: Size) -> bool:
    """Return whether both sides are a coarsest stage's times the same power of two."""
    return is_possible_size(size) and all(side % 2 ** upsample_count(size) == 0 for side in size)


def nearest_sizes(size: Size) -> list[Size]:
    """Return the nearest possible size with no side longer, and the nearest with no side shorter, where there are such.

    Squares for a square.

    >>> nearest_sizes((36, 36)), nearest_sizes((100, 60)), nearest_sizes((2000, 2000))
    ([(32, 32), (40, 40)], [(96, 56), (112, 64)], [(1024, 1024)])
    """
    height, width = (min(max(side, MIN_SIDE), MAX_SIDE) for side in size)

    def distance(other: Size) -> int:
        return abs(other[0] - height) + abs(other[1] - width)

    candidates = [other for other in possible_sizes(height, width) if height != width or other[0] == other[1]]
    lower = [other for other in candidates if other[0] <= height and other[1] <= width]
    upper = [other for other in candidates if other[0] >= height and other[1] >= width]
    return list(dict.fromkeys(min(sizes, key=distance) for sizes in (lower, upper) if sizes))


def possible_sizes(height: int, width: int) -> Iterator[Size]:
    """Yield possible sizes around a size, for each number of doublings."""
    for k in range(upsample_count((MIN_SIDE, MIN_SIDE)), upsample_count((MAX_SIDE, MAX_SIDE)) + 1):
        step = 2**k
        # a side as it is, rounded, and the least and most that the shorter one can be
        lengths = [{side // step, -(-side // step), MIN_BASE, 2 * MIN_BASE - 1} for side in (height, width)]
        yield from (size for h, w in product(*lengths) if has_stages(size := (h * step, w * step)))


def stage_widths(sizes: list[Size], width: int, full_stages: int) -> list[int]:
    """Return the channels of each stage: ``width`` in the first ``full_stages``, then half of those before.

    Rounded up to a multiple of 16, which the grouped convolutions need: so narrow networks make large images, too.

    >>> stage_widths(stages((64, 64)), 768, full_stages=4)  # as published
    [768, 768, 768, 768, 384]
    >>> stage_widths(stages((128, 128)), 96, full_stages=1)
    [96, 48, 32, 16, 16, 16]

    Raises:
        UserError: the width is not a multiple of 16.
    """
    if width < GROUP or width % GROUP:
        raise UserError(
            f"width={width} is not possible with family=r3gan, whose convolutions work on groups of {GROUP} channels: "
            f"give a multiple of {GROUP}."
        )
    exponents = [max(0, i - full_stages + 1) for i in range(len(sizes))]
    return [-(-width // (GROUP * 2**n)) * GROUP for n in exponents]


def init_normal(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    """Draw a layer's weights from N(0, gain² / fan_in) and return the layer."""
    weight = cast(Tensor, layer.weight)
    fan_in = weight.shape[0] if isinstance(layer, nn.Embedding) else weight[0].numel()
    nn.init.normal_(weight, std=gain / math.sqrt(fan_in)) if gain else nn.init.zeros_(weight)
    return layer


def conv(
    before: int, after: int, kernel: int | Size, *, groups: int = 1, gain: float = 1.0, padding: int = 0
) -> nn.Module:
    """Return a convolution without bias, its weights drawn as ``init_normal`` says."""
    return init_normal(Conv2d(before, after, kernel, padding=padding, groups=groups, bias=False), gain)


class BiasedActivation(nn.Module):
    """LeakyReLU(x + bias), one bias a feature map, initially zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x, SLOPE, bias=self.bias)


class Block(nn.Module):
    """x + conv1×1 ∘ act ∘ conv3×3 in groups ∘ act ∘ conv1×1, twice as wide inside; initially the identity.

    ``total_blocks`` is the number of blocks of the whole network.
    """

    def __init__(self, width: int, total_blocks: int) -> None:
        super().__init__()
        inner = EXPANSION * width
        # Fixup initialization (Zhang et al. 2019, arXiv:1901.09321): L^(−1/(2m−2)) with m = 3 layers in each of L
        # blocks, and zeros in the last, so that the sum over all blocks keeps its variance without normalization
        gain = ACTIVATION_GAIN * total_blocks**-0.25
        self.layers = nn.Sequential(
            conv(width, inner, 1, gain=gain),
            BiasedActivation(inner),
            conv(inner, inner, 3, groups=inner // GROUP, gain=gain, padding=1),
            BiasedActivation(inner),
            conv(inner, width, 1, gain=0),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


def upsample(x: Tensor) -> Tensor:
    """Double both sides, [B, C, H, W] → [B, C, 2H, 2W], by the filter [1, 3, 3, 1] / 4 along each axis; zeros outside.

    An even pixel of the result is ¼ of the one before and ¾ of its own, an odd one ¾ of its own and ¼ of the next.
    """
    return upsample_rows(upsample_rows(x).transpose(2, 3)).transpose(2, 3)


def upsample_rows(x: Tensor) -> Tensor:
    """Double the height by the filter [1, 3, 3, 1] / 4."""
    padded = F.pad(x, (0, 0, 1, 1))  # [B, C, H + 2, W]
    before, after = padded[:, :, :-2], padded[:, :, 2:]
    both = torch.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], 3)  # [B, C, H, 2, W]
    return both.flatten(2, 3)


def downsample(x: Tensor) -> Tensor:
    """Halve both sides, [B, C, H, W] → [B, C, H / 2, W / 2], by the filter [1, 3, 3, 1] / 8 along each axis."""
    return downsample_rows(downsample_rows(x).transpose(2, 3)).transpose(2, 3)


def downsample_rows(x: Tensor) -> Tensor:
    """Halve the height by the filter [1, 3, 3, 1] / 8."""
    padded = F.pad(x, (0, 0, 1, 1))  # [B, C, H + 2, W]
    outer = padded[:, :, :-3:2] + padded[:, :, 3::2]  # the filter's ends
    return 0.125 * outer + 0.375 * (x[:, :, ::2] + x[:, :, 1::2])


def residual_stages(widths: list[int], blocks: int) -> nn.ModuleList:
    """Return one sequence of ``blocks`` blocks for each of the widths."""
    total = blocks * len(widths)
    return nn.ModuleList([nn.Sequential(*[Block(width, total) for _ in range(blocks)]) for width in widths])


def transitions_between(widths: list[int]) -> nn.ModuleList:
    """Return what changes the number of channels from each stage to the next, nothing where it stays."""
    return nn.ModuleList([conv(a, b, 1) if a != b else nn.Identity() for a, b in pairwise(widths)])


class Generator(nn.Module):
    """Generator of images [B, channels, height, width], about −1…1 but not bounded, from z float32 [B, latent_size].

    Where ``spec`` has classes it takes labels int64 [B], too.
    """

    def __init__(
        self,
        latent_size: int,
        spec: SampleSpec,
        *,
        width: int,
        full_stages: int,
        blocks: int,
    ) -> None:
        super().__init__()
        sizes = stages(spec.size)
        widths = stage_widths(sizes, width, full_stages)
        self.label = init_normal(nn.Embedding(spec.classes, LABEL_SIZE)) if spec.classes else None
        self.linear = init_normal(nn.Linear(latent_size + LABEL_SIZE * bool(spec.classes), widths[0], bias=False))
        self.basis = nn.Parameter(torch.randn(widths[0], *sizes[0]))  # [width, 4, 4], scaled by z channel by channel
        self.stages = residual_stages(widths, blocks)
        self.transitions = transitions_between(widths)
        self.to_image = conv(widths[-1], spec.channels, 1)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            if self.label is not None:
                z = torch.cat([z, self.label(label)], 1)  # [B, latent_size + 64]
            x = self.linear(z)[:, :, None, None] * self.basis  # [B, width, 4, 4]
            x = self.stages[0](x)
        if torch.is_autocast_enabled(z.device.type):  # or all stages would add to float32, at twice the memory
            x = x.to(torch.get_autocast_dtype(z.device.type))
        for transition, stage in zip(self.transitions, self.stages[1:]):
            x = stage(upsample(transition(x)))  # fewer channels first: the filter is cheaper on them
        image: Tensor = self.to_image(x)
        return image


class Discriminator(nn.Module):
    """Discriminator of images [B, pack·channels, height, width] in about −1…1: logit [B], large for real images.

    ``pack`` images are classified together, stacked on their channels. Where ``spec`` has classes it takes labels int64
    [B, pack], too.
    """

    head = ("linear", "label")  # what only ``score`` needs

    def __init__(
        self,
        spec: SampleSpec,
        *,
        width: int,
        full_stages: int,
        blocks: int,
        pack: int = 1,
    ) -> None:
        super().__init__()
        sizes = stages(spec.size)
        widths = stage_widths(sizes, width, full_stages)[::-1]  # from the finest to the coarsest
        self.from_image = conv(spec.channels * pack, widths[0], 1)
        self.stages = residual_stages(widths, blocks)
        self.transitions = transitions_between(widths)
        self.feature_size = widths[-1]
        self.basis = conv(widths[-1], widths[-1], sizes[0], groups=widths[-1])  # one filter a channel, of the whole map
        self.linear = init_normal(nn.Linear(self.feature_size, self.feature_size if spec.classes else 1, bias=False))
        self.label: nn.Module | None = None
        if spec.classes:
            self.label = nn.Embedding(spec.classes * pack, self.feature_size)
            nn.init.normal_(self.label.weight, std=1 / math.sqrt(spec.classes * self.feature_size))
        self.first_row: Tensor
        self.register_buffer("first_row", torch.arange(pack) * spec.classes, persistent=False)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features [B, feature_size] of images."""
        x = self.from_image(x)
        for transition, stage in zip(self.transitions, self.stages[:-1]):
            x = transition(downsample(stage(x)))
        with torch.autocast(x.device.type, enabled=False):
            features: Tensor = self.basis(self.stages[-1](x.float()))  # [B, width, 1, 1]
        return features.flatten(1)

    def score(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the logits [B] of features."""
        with torch.autocast(features.device.type, enabled=False):
            projected: Tensor = self.linear(features)  # [B, 1], or [B, feature_size] where there are classes
            if self.label is None or label is None:
                return projected.squeeze(1)
            rows: Tensor = self.label(label + self.first_row)  # [B, pack, feature_size], a table for each place
            return (projected * rows.sum(1)).sum(1)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.score(self.embed(x), label)
