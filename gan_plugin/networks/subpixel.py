"""Networks that are wide where images are small, and never at their own resolution, where arithmetic costs most.

The generator ends with a sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158) and one small convolution over the
image, which blends what neighboring kernels have made; the discriminator begins with the inverse, which turns each 2×2
pixels into channels. In between both work at half of each side and below, as in :mod:`~gan_plugin.networks.dcgan`, down
to at most 8×8. The generator enlarges by nearest neighbors and plain convolutions, which leave no checkerboard (Odena
et al. 2016, doi:10.23915/distill.00003), and has batch norm; the discriminator is residual, has no normalization, and
about as much arithmetic as the generator. In images of 64 pixels and more a blur follows each enlargement, or uniform
colors get stripes as wide as the neighbors that were equal.

The generator's batch norms have a gain and a bias from z and, with labels, from the class; the discriminator then has a
projection, as in :mod:`~gan_plugin.networks.dcgan`. Images with an odd side are made a pixel larger, and cut.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.config.recipe import Recipe
from gan_plugin.derivatives import Conv2d, leaky_relu
from gan_plugin.errors import UserError
from gan_plugin.media.image import CHANNELS_FIRST, CHANNELS_LAST
from gan_plugin.networks import dcgan
from gan_plugin.networks.dcgan import feature_map_sizes, strides
from gan_plugin.networks.projection import ProjectionDiscriminator
from gan_plugin.spec import SampleSpec, Size

SLOPE = 0.2  # of LeakyReLU
LAST_MAPS = {1: 4, 3: 8}  # feature maps at the image's own resolution, by its channels
OVERSHOOT = 1.1  # of tanh over −1…1, or black and white, which images are full of, would be out of reach
MIN_WIDTH = 16  # of a stage, unless even the widest has less
BLURRED_FROM = 64  # shorter side of images, pixels: what is real in smaller ones changes from pixel to pixel


def check(recipe: Recipe, spec: SampleSpec) -> None:
    """Refuse what this family has no networks for.

    Raises:
        UserError: width or blocks is missing, or a side is not from 16 to 1,024 pixels.
    """
    if not (recipe.width and recipe.blocks):
        raise UserError("family=subpixel needs width and blocks: give both, for example width=64 and blocks=1.")
    dcgan.check(recipe, spec)


def build_generator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    """Return an untrained generator of samples of ``spec``."""
    return Generator(recipe.latent_size, spec, width=recipe.width, blocks=recipe.blocks)


def build_discriminator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    """Return one untrained discriminator of samples of ``spec``."""
    return Discriminator(spec, width=recipe.width, blocks=recipe.blocks, pack=recipe.pack)


def stage_widths(stages: int, width: int) -> list[int]:
    """Return the channels of each stage, from the coarsest on: half of those before, but at least MIN_WIDTH.

    >>> stage_widths(4, 96)
    [96, 48, 24, 16]
    """
    return [max(width >> i, min(width, MIN_WIDTH)) for i in range(stages)]


def conv(before: int, after: int, kernel: Size = (3, 3), *, stride: Size = (1, 1), gain: float = 2**0.5) -> nn.Conv2d:
    """Return a convolution that keeps the size at stride 1; weights N(0, gain² / fan_in), He et al. 2015."""
    layer = Conv2d(before, after, kernel, stride, ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2))
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class NormedActivation(nn.Module):
    """Batch norm, with a gain and a bias for each image from its z and its class, and leaky ReLU.

    So z has a say at every scale, as in BigGAN's conditional batch norm (Brock et al. 2019, arXiv:1809.11096, appendix
    B); initially it has none.
    """

    def __init__(self, width: int, latent_size: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.from_z = nn.Linear(latent_size, 2 * width, bias=False)
        nn.init.zeros_(self.from_z.weight)
        self.affine = nn.Parameter(torch.zeros(max(1, classes), 2 * width))

    def forward(self, x: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        affine: Tensor = self.affine  # [1, 2C]
        if self.classes:
            assert label is not None
            affine = F.embedding(label, affine)  # [B, 2C]
        gain, bias = (self.from_z(z) + affine)[:, :, None, None].chunk(2, 1)  # [B, C, 1, 1] each
        x = torch.addcmul(bias.to(x.dtype), self.norm(x), (1 + gain).to(x.dtype))
        return F.leaky_relu(x, SLOPE, inplace=True)


class Generator(nn.Module):
    """Generator of images float32 [B, channels, height, width] in −1…1 from z float32 [B, latent_size].

    Where ``spec`` has classes it takes labels int64 [B], too. Shapes in comments are those of 28×28×1 at width 64.
    """

    def __init__(self, latent_size: int, spec: SampleSpec, *, width: int, blocks: int) -> None:
        super().__init__()
        self.size = spec.size
        self.sizes = feature_map_sizes(spec.size)[:0:-1]  # 7×7, 14×14
        widths = stage_widths(len(self.sizes), width)  # 64, 32
        self.start = (*self.sizes[0], widths[0])
        self.dense = nn.Linear(latent_size, math.prod(self.start), bias=False)
        nn.init.normal_(self.dense.weight, std=latent_size**-0.5)
        self.dense_norm = NormedActivation(widths[0], latent_size, spec.classes)
        normed = functools.partial(NormedConv, latent_size=latent_size, classes=spec.classes)
        self.blocks = nn.ModuleList([NormedConvs(normed(w, w) for _ in range(blocks)) for w in widths])
        self.transitions = nn.ModuleList([normed(a, b) for a, b in pairwise(widths)])
        blur = Blur if min(spec.size) >= BLURRED_FROM else nn.Identity
        self.blurs = nn.ModuleList(
            [blur(width, strides(high, low)) for width, (low, high) in zip(widths, pairwise(self.sizes))]
        )
        maps = LAST_MAPS[spec.channels]
        self.subpixel = conv(widths[-1], 4 * maps)
        with torch.no_grad():  # at first the four pixels are equal: Aitken et al. 2017, arXiv:1707.02937
            self.subpixel.weight.copy_(self.subpixel.weight[::4].repeat_interleave(4, 0))
        self.last_blur = blur(maps, (2, 2))  # the sub-pixel convolution can learn a checkerboard
        self.to_image = conv(maps, spec.channels, gain=1)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x = self.dense(z).view(-1, *self.start).permute(CHANNELS_FIRST)
        x = self.dense_norm(x, z, label)  # [B, 64, 7, 7]
        for i, (size, stage) in enumerate(zip(self.sizes, self.blocks)):
            if i:
                x = self.blurs[i - 1](F.interpolate(x, size))  # [B, 64, 14, 14]
                x = self.transitions[i - 1](x, z, label)  # [B, 32, 14, 14]
            x = stage(x, z, label)
        x = F.leaky_relu(F.pixel_shuffle(self.subpixel(x), 2), SLOPE)  # [B, 4, 28, 28]
        height, width = self.size
        x = OVERSHOOT * torch.tanh(self.to_image(self.last_blur(x))[:, :, :height, :width])  # [B, 1, 28, 28]
        return straight_through_clamp(x) if self.training else x.clamp(-1, 1)


def straight_through_clamp(x: Tensor) -> Tensor:
    """Return x within −1…1, with the gradient of x: a pixel that is cut still learns.

    As a straight-through estimator does: Bengio et al. 2013, arXiv:1308.3432.
    """
    return x + (x.clamp(-1, 1) - x).detach()


class Blur(nn.Module):
    """A fixed low pass, 1 2 1 along each axis that was doubled, which leaves nothing of a pattern from pixel to pixel.

    As of a checkerboard: Karras et al. 2019, arXiv:1812.04948, appendix B, blur for that. An enlargement by nearest
    neighbors becomes a bilinear one, but at the edges, beyond which there are zeros as for the convolutions.
    """

    kernel: Tensor

    def __init__(self, width: int, enlargement: Size) -> None:
        super().__init__()
        column, row = (torch.tensor([0.25, 0.5, 0.25] if factor == 2 else [0.0, 1.0, 0.0]) for factor in enlargement)
        self.register_buffer("kernel", (column[:, None] * row).expand(width, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, padding=1, groups=len(self.kernel))


class NormedConv(nn.Module):
    """A 3×3 convolution, batch norm and leaky ReLU."""

    def __init__(self, before: int, after: int, *, latent_size: int, classes: int) -> None:
        super().__init__()
        self.conv = conv(before, after)
        self.activation = NormedActivation(after, latent_size, classes)

    def forward(self, x: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        y: Tensor = self.activation(self.conv(x), z, label)
        return y


class NormedConvs(nn.ModuleList):
    """Such layers in a row, with the same z and label."""

    def forward(self, x: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        for layer in self:
            x = layer(x, z, label)
        return x


class Block(nn.Module):
    """x + conv ∘ act ∘ conv ∘ act, initially the identity: Goyal et al. 2017, arXiv:1706.02677, section 5.1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = conv(width, width), conv(width, width, gain=0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.last(leaky_relu(self.first(leaky_relu(x, SLOPE)), SLOPE))
        return y


class Downsampling(nn.Module):
    """Leaky ReLU, then a convolution that halves what is longer in ``high``, every pixel of which counts equally."""

    def __init__(self, before: int, after: int, *, high: Size, low: Size) -> None:
        super().__init__()
        stride = strides(high, low)
        self.missing = (high[1] % 2 * (stride[1] - 1), high[0] % 2 * (stride[0] - 1))  # for even sides: width, height
        self.conv = conv(before, after, (2 + stride[0], 2 + stride[1]), stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        right, bottom = self.missing
        y: Tensor = self.conv(F.pad(leaky_relu(x, SLOPE), (0, right, 0, bottom)))
        return y


class Discriminator(ProjectionDiscriminator):
    """Discriminator of images float32 [B, pack·channels, height, width] in −1…1: logit [B], large for real images.

    ``pack`` images are classified together, stacked on their channels. Where ``spec`` has classes it takes labels int64
    [B, pack], too.
    """

    def __init__(self, spec: SampleSpec, *, width: int, blocks: int, pack: int = 1) -> None:
        super().__init__()
        self.missing = (spec.width % 2, spec.height % 2)
        sizes = feature_map_sizes(spec.size)[1:]  # 14×14, 7×7
        widths = stage_widths(len(sizes), width)[::-1]  # 32, 64
        self.from_image = conv(4 * spec.channels * pack, widths[0])
        self.blocks = nn.ModuleList([nn.Sequential(*[Block(w) for _ in range(blocks)]) for w in widths])
        self.transitions = nn.ModuleList(
            [
                Downsampling(before, after, high=high, low=low)
                for (before, after), (high, low) in zip(pairwise(widths), pairwise(sizes))
            ]
        )
        self.add_head(widths[-1] * math.prod(sizes[-1]), classes=spec.classes, pack=pack)  # from 64·7·7
        for weight in (self.logit.weight, *([] if self.label is None else [self.label.weight])):
            nn.init.normal_(weight, std=self.feature_size**-0.5)
        nn.init.zeros_(self.logit.bias)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features [B, feature_size] of images."""
        right, bottom = self.missing
        x = self.from_image(F.pixel_unshuffle(F.pad(x, (0, right, 0, bottom)), 2))  # [B, 32, 14, 14]
        for i, stage in enumerate(self.blocks):
            x = stage(x if i == 0 else self.transitions[i - 1](x))  # [B, 64, 7, 7]
        return leaky_relu(x, SLOPE).permute(CHANNELS_LAST).flatten(1)  # in the order of channels_last memory
