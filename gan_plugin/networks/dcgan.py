"""The DCGAN of TensorFlow's tutorial, and the same family for every height and width from 16 to 1,024 pixels.

At 28×28×1 and latent size 100 the layers are the tutorial's, with Keras' constants (LeakyReLU slope .3, batch-norm
epsilon .001 and momentum .99, Glorot-uniform weights): 2,330,944 values in the generator, 25,472 of them running
statistics, and 212,865 in the discriminator. PyTorch pads a stride-2 convolution symmetrically where Keras puts the odd
pixel at the end; the counts and the function class are the same.

Each side is halved on its own until it is at most 8 pixels, rounded up where it is odd. So the coarsest feature map has
at most 8×8 pixels and the dense layers are of bounded size, however long a side is. Images of 64×1,024 pixels go down
to 8×8 in seven layers, the last four of which halve the width alone.

With labels the generator's batch norms have a gain and a bias for each class (de Vries et al. 2017, arXiv:1707.00683),
and the discriminator a projection (Miyato & Koyama 2018, arXiv:1802.05637): its logit gains the inner product of its
features with an embedding of the class.

Radford et al. 2016, "Unsupervised Representation Learning with Deep Convolutional GANs", arXiv:1511.06434.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.config.recipe import Recipe
from gan_plugin.derivatives import Conv2d, LeakyReLU
from gan_plugin.errors import UserError
from gan_plugin.networks.projection import ProjectionDiscriminator
from gan_plugin.spec import MAX_SIDE, MIN_SIDE, SampleSpec, Size, is_possible_size, size_text

KERNEL = 5
SLOPE = 0.3  # of LeakyReLU
EPSILON, MOMENTUM = 1e-3, 0.01  # of batch norm; Keras' momentum .99 is .01 in PyTorch's terms
MIN_DOWNSAMPLING = 2  # of each side
MAX_BASE = 8  # pixels: a side is halved until it is no longer than this
MAX_CHANNELS = 512


def check(recipe: Recipe, spec: SampleSpec) -> None:
    """Refuse images that this family has no networks for.

    Raises:
        UserError: a side is not from 16 to 1,024 pixels; the message names the nearest size that is possible.
    """
    if not is_possible_size(spec.size):
        height, width = (min(max(side, MIN_SIDE), MAX_SIDE) for side in spec.size)
        raise UserError(
            f"image_size={size_text(spec.size)} is not possible with family={recipe.family}, which makes sides of "
            f"{MIN_SIDE} to {MAX_SIDE:,} pixels: give {size_text((height, width))}."
        )


def build_generator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    """Return an untrained generator of samples of ``spec``."""
    return Generator(recipe.latent_size, spec)


def build_discriminator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    """Return one untrained discriminator of samples of ``spec``."""
    return Discriminator(spec, dropout=recipe.dropout, pack=recipe.pack)


def side_lengths(side: int) -> list[int]:
    """Return the lengths of one side from the image to the coarsest feature map: halves, rounded up.

    >>> side_lengths(28), side_lengths(64), side_lengths(25)
    ([28, 14, 7], [64, 32, 16, 8], [25, 13, 7])
    """
    lengths = [side]
    while len(lengths) <= MIN_DOWNSAMPLING or lengths[-1] > MAX_BASE:
        lengths.append(-(-lengths[-1] // 2))
    return lengths


def feature_map_sizes(size: Size) -> list[Size]:
    """Return (height, width) from the image to the coarsest feature map, one entry more than there are layers.

    A side that has come to its end stays as it is while the other one is still halved.

    >>> feature_map_sizes((28, 28))
    [(28, 28), (14, 14), (7, 7)]
    >>> feature_map_sizes((128, 32))
    [(128, 32), (64, 16), (32, 8), (16, 8), (8, 8)]
    """
    heights, widths = side_lengths(size[0]), side_lengths(size[1])
    layers = max(len(heights), len(widths)) - 1
    return [(heights[min(i, len(heights) - 1)], widths[min(i, len(widths) - 1)]) for i in range(layers + 1)]


def strides(high: Size, low: Size) -> tuple[int, int]:
    """Return the strides of the convolution between feature maps of two sizes: 2 for a side that is halved, else 1."""
    return (2 if low[0] < high[0] else 1, 2 if low[1] < high[1] else 1)


def channel_counts(layers: int) -> list[int]:
    """Return the channels of the discriminator's layers: 64, 128, … doubling up to 512."""
    return [min(64 * 2**i, MAX_CHANNELS) for i in range(layers)]


class StrideOneConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution of stride 1 with 'same' padding, computed as the plain convolution that it is.

    Flipping the kernel and swapping its channel axes turns one into the other. Parameters, initial values and results
    are those of ``nn.ConvTranspose2d``; the plain form is the faster of the two.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        kernel = self.weight.transpose(0, 1).flip(2, 3)  # [in, out, k, k] → [out, in, k, k]
        return F.conv2d(x, kernel, self.bias, padding=KERNEL // 2)


class Dropout(nn.Module):
    """``nn.Dropout`` that draws four decisions from each random number of a CPU, where the draws are what it costs.

    A decision takes 16 bits, so the probability is met to within 2⁻¹⁷. Other devices use PyTorch's own kernel.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return F.dropout(x, self.probability, self.training)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        mask = words.view(torch.int16)[: x.numel()] >= round(self.probability * 2**16) - 2**15
        return x * mask.view(x.shape).to(x.dtype).div_(1 - self.probability)


def init_like_keras(module: nn.Module) -> None:
    """Initialize a layer as Keras does in the tutorial: Glorot-uniform weights, zero biases."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ClassAffine(nn.Module):
    """Per-class gain and bias of normalized features [B, C] or [B, C, H, W]; the identity at initialization.

    The class enters here and not beside z: these networks would soon ignore the rest of z and make one image a class.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Embedding(classes, width), nn.Embedding(classes, width)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        shape = (-1, x.shape[1], *(1 for _ in x.shape[2:]))  # [B, C, 1, 1]
        gain, bias = self.gain(label).view(shape), self.bias(label).view(shape)
        return torch.addcmul(bias.to(x.dtype), x, gain.to(x.dtype))


class Generator(nn.Module):
    """Generator of images float32 [B, channels, height, width] in −1…1 from z float32 [B, latent_size].

    Where ``spec`` has classes it takes labels int64 [B], too. Shapes in comments are those of 28×28×1.
    """

    def __init__(self, latent_size: int, spec: SampleSpec) -> None:
        super().__init__()
        sizes = feature_map_sizes(spec.size)[::-1]  # 7×7, 14×14, 28×28
        channels = [*channel_counts(len(sizes) - 1)[::-1], spec.channels]  # 128, 64, 1
        first = min(2 * channels[0], MAX_CHANNELS)  # 256
        self.start = (first, *sizes[0])
        dense_width = math.prod(self.start)  # 256·7·7
        self.dense = nn.Linear(latent_size, dense_width, bias=False)
        self.dense_norm = nn.BatchNorm1d(dense_width, EPSILON, MOMENTUM)
        layers = [StrideOneConvTranspose2d(first, channels[0], KERNEL, bias=False), *normed_activation(channels[0])]
        for (before, after), (low, high) in zip(pairwise(channels), pairwise(sizes)):
            layers += [upsampling_conv(before, after, low=low, high=high), *normed_activation(after)]
        self.upsample = nn.Sequential(*layers[:-2])  # the last convolution goes straight to tanh
        self.apply(init_like_keras)
        norm_widths = [dense_width, *channels[:-1]] if spec.classes else []  # 256·7·7, 128, 64
        self.class_affines = nn.ModuleList([ClassAffine(spec.classes, width) for width in norm_widths])

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        affines = iter(self.class_affines)
        x = apply_next(affines, self.dense_norm(self.dense(z)), label)  # [B, 256·7·7]
        x = F.leaky_relu(x, SLOPE).view(-1, *self.start)  # [B, 256, 7, 7]
        for layer in self.upsample:
            x = layer(x)
            if isinstance(layer, nn.BatchNorm2d):
                x = apply_next(affines, x, label)
        return torch.tanh(x)  # [B, 1, 28, 28]


def apply_next(affines: Iterator[nn.Module], x: Tensor, label: Tensor | None) -> Tensor:
    """Apply the next class affine to normalized features; without any left (no classes) return them as they are."""
    affine = next(affines, None)
    y: Tensor = x if affine is None else affine(x, label)
    return y


def upsampling_conv(before: int, after: int, *, low: Size, high: Size) -> nn.Module:
    """Return a transposed convolution from ``before`` channels at size ``low`` to ``after`` channels at ``high``."""
    stride = strides(high, low)
    # With padding 2 a side n becomes stride·(n − 1) + 1: what is missing is 1 where an even side is doubled, else 0.
    missing = (high[0] - stride[0] * (low[0] - 1) - 1, high[1] - stride[1] * (low[1] - 1) - 1)
    return nn.ConvTranspose2d(before, after, KERNEL, stride, KERNEL // 2, output_padding=missing, bias=False)


def normed_activation(channels: int) -> list[nn.Module]:
    """Return batch norm and leaky ReLU over ``channels`` feature maps."""
    return [nn.BatchNorm2d(channels, EPSILON, MOMENTUM), nn.LeakyReLU(SLOPE)]


class Discriminator(ProjectionDiscriminator):
    """Discriminator of images float32 [B, pack·channels, height, width] in −1…1: logit [B], large for real images.

    ``pack`` images are classified together, stacked on their channels. Where ``spec`` has classes it takes labels int64
    [B, pack], too. ``dropout`` is the probability with which a feature is dropped.
    """

    def __init__(self, spec: SampleSpec, *, dropout: float, pack: int = 1) -> None:
        super().__init__()
        sizes = feature_map_sizes(spec.size)  # 28×28, 14×14, 7×7
        channels = [spec.channels * pack, *channel_counts(len(sizes) - 1)]  # 1, 64, 128
        layers: list[nn.Module] = []
        for (before, after), (high, low) in zip(pairwise(channels), pairwise(sizes)):
            layers += [Conv2d(before, after, KERNEL, strides(high, low), KERNEL // 2), LeakyReLU(SLOPE)]
            layers += [Dropout(dropout)] if dropout else []
        self.features = nn.Sequential(*layers)
        self.add_head(channels[-1] * math.prod(sizes[-1]), classes=spec.classes, pack=pack)  # from 128·7·7
        self.apply(init_like_keras)
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=self.feature_size**-0.5)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features [B, feature_size] of images."""
        features: Tensor = self.features(x).flatten(1)  # [B, 128·7·7]
        return features
