"""The feature network "self-supervised": trained on the images alone, and apart from whatever trains or chooses.

A small convolutional network learns to fill in hidden patches (Pathak et al. 2016). Its features are read at several
depths, because each sees something else: mean and log standard deviation over the positions of the first three feature
maps follow texture, the last map follows the layout. What learns to fill in becomes smooth, so the pixels' own fine
detail stands beside the first map: how much of it there is (blur), and how much in the places that have little
(checkerboards, gray levels that are missing). Of each depth the 16 largest principal components over the training
images are kept, each scaled to about variance 1, so that a Fréchet distance is in units of the data's own standard
deviations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.features.components import MIN_VARIANCE, Components, texture
from gan_plugin.features.network import Outputs
from gan_plugin.features.trained import TrainedNetwork, signed
from gan_plugin.spec import SampleSpec

if TYPE_CHECKING:
    from typing import Self  # which Python 3.10 lacks

VERSION = 1  # of network, training and components together

TEXTURES = 3  # feature maps whose statistics are features, beside the layout of the last map
COMPONENTS = 16  # features from each of them
MIN_MAP = 4  # each side is reduced until it is no longer than this
SLOPE = 0.2  # of the activation below 0
MIN_DETAIL = 2 / 127.5  # two gray levels: less is not told apart from none


class Layer(nn.Module):
    """Maps [B, C, H, W] → [B, channels, ⌈H/down⌉, ⌈W/right⌉]: a convolution that skips no pixel."""

    def __init__(self, before: int, channels: int, strides: tuple[int, int]) -> None:
        super().__init__()
        down, right = strides
        kernel = max(3, 2 * down - 1), max(3, 2 * right - 1)
        padding = kernel[0] // 2, kernel[1] // 2
        self.convolution = nn.Conv2d(before, channels, kernel, strides, padding, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.convolution(x)), SLOPE)


class Network(nn.Module):
    """Images uint8 [B, C, H, W] → features [B, 64].

    Args:
        shape: of the images: (height, width, channels).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        height, width, before = shape
        strides = first_stride(height), first_stride(width)
        layers: list[nn.Module] = []
        self.sides: list[tuple[int, int, int]] = []  # channels, height and width of each map
        while not layers or max(height, width) > MIN_MAP:
            height, width = -(-height // strides[0]), -(-width // strides[1])
            channels = map_channels(max(height, width))
            layers.append(Layer(before, channels, strides))
            self.sides.append((channels, height, width))
            before, strides = channels, (1 + (height > MIN_MAP), 1 + (width > MIN_MAP))
        self.layers = nn.ModuleList(layers)
        sizes = [2 * channels for channels, _, _ in self.sides[:TEXTURES]] + [before * height * width]
        sizes[0] += 4 * shape[2]
        self.components = nn.ModuleList(Components(size, COMPONENTS) for size in sizes)
        # torch's annotations lack this form of to()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps [B, channels, h, w] of float images −1…1 [B, C, H, W], the finest first."""
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps

    def statistics(self, images: Tensor) -> list[Tensor]:
        """Return what is measured at each depth, float [B, size], of images uint8 [B, C, H, W]."""
        x = signed(images)
        maps = self.maps(x)
        finest, *coarser = (texture(of_depth) for of_depth in maps[:TEXTURES])
        return [torch.cat([texture(x), detail(x), finest], 1), *coarser, maps[-1].flatten(1)]

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, 64] of images uint8 [B, C, H, W]."""
        statistics = self.statistics(images)
        return torch.cat([component(x) for component, x in zip(self.components, statistics)], 1)


def detail(x: Tensor) -> Tensor:
    """Return log energy and mean log amplitude of what a mean over 3×3 pixels leaves out of images: [B, 2·C]."""
    rest = (x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)).flatten(2)
    return torch.cat([(rest.square().mean(2) + MIN_VARIANCE).log() / 2, (rest.abs() + MIN_DETAIL).log().mean(2)], 1)


def first_stride(side: int) -> int:
    """Return the stride of the first layer along a side of the image: 1 where that is affordable.

    >>> [first_stride(side) for side in (1024, 256, 64, 28)]
    [4, 2, 1, 1]
    """
    return 4 if side > 256 else 2 if side > 64 else 1


def map_channels(side: int) -> int:
    """Return the channels of a feature map whose longer side this is.

    >>> [map_channels(side) for side in (64, 32, 16, 8, 4)]
    [16, 32, 48, 64, 64]
    """
    return 64 if side <= 8 else 48 if side <= 16 else 32 if side <= 32 else 16


class SelfSupervised(TrainedNetwork[Network]):
    """A network trained on images alone: features [N, 64], no logits."""

    name: ClassVar[str] = "self-supervised"
    version: ClassVar[int] = VERSION

    @classmethod
    def untrained(cls, spec: SampleSpec, facts: Mapping[str, Any], device: torch.device) -> Self:
        """Return one for images of this shape, to load weights into."""
        return cls(Network(spec.shape), spec, device)

    def outputs(self, images: Tensor) -> Outputs:
        """Compute features of one batch, uint8 [B, C, H, W] on ``device``."""
        return Outputs(self.network(images), None)
