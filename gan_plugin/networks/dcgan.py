"""The DCGAN of TensorFlow's tutorial, and the same family for every image size.

At 28×28×1 and latent size 100 the layers are the tutorial's, with Keras' constants (LeakyReLU slope .3, batch-norm
epsilon .001 and momentum .99, Glorot-uniform weights): 2,330,944 values in the generator, 25,472 of them running
statistics, and 212,865 in the discriminator. PyTorch pads a stride-2 convolution symmetrically where Keras puts the odd
pixel at the end; the counts and the function class are the same.

With labels the generator's batch norms have a gain and a bias for each class (de Vries et al. 2017, arXiv:1707.00683),
and the discriminator a projection (Miyato & Koyama 2018, arXiv:1802.05637): its logit gains the inner product of its
features with an embedding of the class.

Radford et al. 2016, "Unsupervised Representation Learning with Deep Convolutional GANs", arXiv:1511.06434.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.spec import SampleSpec

KERNEL = 5
SLOPE = 0.3  # of LeakyReLU
EPSILON, MOMENTUM = 1e-3, 0.01  # of batch norm; Keras' momentum .99 is .01 in PyTorch's terms
MIN_START = 8  # the image is halved until a side is no longer than this
MAX_CHANNELS = 512


def sides(image_size: int) -> list[int]:
    """Side lengths from the image down to the first feature map, each half of the one before, rounded up.

    >>> sides(28)
    [28, 14, 7]
    >>> sides(64)
    [64, 32, 16, 8]
    """
    lengths = [image_size, -(-image_size // 2), -(-image_size // 4)]  # the family always halves at least twice
    while lengths[-1] > MIN_START:
        lengths.append(-(-lengths[-1] // 2))
    return lengths


def widths(halvings: int) -> list[int]:
    """Channels of the discriminator's layers: 64, 128, … doubling up to 512."""
    return [min(64 * 2**i, MAX_CHANNELS) for i in range(halvings)]


class StrideOneConvTranspose2d(nn.ConvTranspose2d):
    """A stride-1 'same' transposed convolution, computed as the plain convolution that it is.

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
        kept = words.view(torch.int16)[: x.numel()] >= round(self.probability * 2**16) - 2**15
        return x * kept.view(x.shape).to(x.dtype).div_(1 - self.probability)


def init_like_keras(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases, as Keras initializes the tutorial's layers."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ClassAffine(nn.Module):
    """Features [B, C] or [B, C, H, W] times a gain of the class plus a bias of it, the identity at first.

    The class does not go in beside z: there these networks soon hear of little else, and make one image a class.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Embedding(classes, width), nn.Embedding(classes, width)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        shape = (-1, x.shape[1], *(1 for _ in x.shape[2:]))  # [B, C, 1, 1]
        gain, bias = self.gain(label).view(shape), self.bias(label).view(shape)
        y: Tensor = x * gain.to(x.dtype) + bias.to(x.dtype)
        return y


class Generator(nn.Module):
    """z float32 [B, latent_size] → image float32 [B, channels, image_size, image_size] in −1…1.

    With ``classes`` it takes labels int64 [B], too.
    """

    def __init__(self, latent_size: int, spec: SampleSpec) -> None:
        super().__init__()
        up = sides(spec.height)[::-1]  # 7, 14, 28
        inner = [*widths(len(up) - 1)[::-1], spec.channels]  # 128, 64, 1
        first = min(2 * inner[0], MAX_CHANNELS)  # 256
        self.start = (first, up[0], up[0])
        self.dense = nn.Linear(latent_size, first * up[0] ** 2, bias=False)
        self.dense_norm = nn.BatchNorm1d(first * up[0] ** 2, EPSILON, MOMENTUM)
        layers = [StrideOneConvTranspose2d(first, inner[0], KERNEL, bias=False), *normed_activation(inner[0])]
        for before, after, low, high in zip(inner, inner[1:], up, up[1:]):
            parity = high - 2 * low + 1  # 1 doubles the side, 0 makes 2·low − 1
            conv = nn.ConvTranspose2d(before, after, KERNEL, 2, KERNEL // 2, output_padding=parity, bias=False)
            layers += [conv, *normed_activation(after)]
        self.upsample = nn.Sequential(*layers[:-2])  # the last convolution goes straight to tanh
        self.apply(init_like_keras)
        normed = [first * up[0] ** 2, *inner[:-1]] if spec.classes else []  # 256·7·7, 128, 64
        self.class_affines = nn.ModuleList([ClassAffine(spec.classes, width) for width in normed])

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        affines = iter(self.class_affines)
        x = of_class(self.dense_norm(self.dense(z)), label, affines)  # [B, 256·7·7]
        x = F.leaky_relu(x, SLOPE).view(-1, *self.start)  # [B, 256, 7, 7]
        for layer in self.upsample:
            x = layer(x)
            if isinstance(layer, nn.BatchNorm2d):
                x = of_class(x, label, affines)
        return torch.tanh(x)  # [B, 1, 28, 28]


def of_class(x: Tensor, label: Tensor | None, affines: Iterator[nn.Module]) -> Tensor:
    """Normalized features through the next of the generator's class affines, where it has such."""
    affine = next(affines, None)
    y: Tensor = x if affine is None else affine(x, label)
    return y


def normed_activation(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, EPSILON, MOMENTUM), nn.LeakyReLU(SLOPE)]


class Discriminator(nn.Module):
    """Image float32 [B, pack·channels, image_size, image_size] in −1…1 → logit [B], large for a real image.

    ``pack`` images are judged at once, stacked on their channels. With ``classes`` their labels int64 [B, pack] are
    taken, too. ``dropout`` is the probability with which a feature is dropped.
    """

    def __init__(self, spec: SampleSpec, dropout: float = 0.3, pack: int = 1) -> None:
        super().__init__()
        down = sides(spec.height)
        inner = [spec.channels * pack, *widths(len(down) - 1)]  # 1, 64, 128
        layers: list[nn.Module] = []
        for before, after in pairwise(inner):
            layers += [nn.Conv2d(before, after, KERNEL, 2, KERNEL // 2), nn.LeakyReLU(SLOPE)]
            layers += [Dropout(dropout)] if dropout else []
        self.features = nn.Sequential(*layers)
        self.feature_size = inner[-1] * down[-1] ** 2
        self.logit = nn.Linear(self.feature_size, 1)
        self.label = nn.Embedding(spec.classes * pack, self.feature_size) if spec.classes else None
        self.first_row: Tensor
        self.register_buffer("first_row", torch.arange(pack) * spec.classes, persistent=False)
        self.apply(init_like_keras)
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=self.feature_size**-0.5)

    def embed(self, x: Tensor) -> Tensor:
        """Dataset → features [B, feature_size]."""
        features: Tensor = self.features(x).flatten(1)  # [B, 128·7·7]
        return features

    def score(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        """Features → logit [B]."""
        logit: Tensor = self.logit(features).squeeze(1)
        if self.label is None or label is None:
            return logit
        rows: Tensor = self.label(label + self.first_row)  # [B, pack, feature_size]: a table for each place in a pack
        return logit + (rows.sum(1) * features).sum(1)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.score(self.embed(x), label)
