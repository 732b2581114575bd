"""The feature network "classifier": a small convolutional network trained on the data's own labels.

It needs no download and its features fit the data at hand. There are 64: the layer before the last, ahead of its ReLU,
each scaled to about mean 0 and variance 1 over the training images, so that a Fréchet distance is in units of the
data's own standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.features.components import Components, texture
from gan_plugin.features.network import Outputs
from gan_plugin.features.trained import TrainedNetwork, signed
from gan_plugin.media.image import ImageRows
from gan_plugin.spec import SampleSpec

if TYPE_CHECKING:
    from typing import Self  # which Python 3.10 lacks

VERSION = 1  # of network and training together: another version makes other features of the same data
ROTATION_VERSION = 2  # likewise, of the network that learns from rotations

FEATURES = 64
MIN_MAP = 4  # each side is reduced until it is no longer than this
COMPONENTS = 16  # of each of what a network that learns from rotations measures
LARGE = 64  # pixels; longer sides are first reduced with a stride of 4


class Network(nn.Module):
    """Images uint8 [B, C, H, W] → features [B, 64] and logits [B, K].

    Args:
        shape: of the images: (height, width, channels).
        classes: number of logits, K.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.shape = height, width, before = shape
        layers: list[nn.Module] = []
        while max(height, width) > MIN_MAP:
            strides = down, right = stride_of(height), stride_of(width)
            kernel, padding = (2 * down - 1, 2 * right - 1), (down - 1, right - 1)
            height, width = -(-height // down), -(-width // right)
            after = map_channels(max(height, width))
            layers += [
                nn.Conv2d(before, after, kernel, strides, padding, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            before = after
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.features = nn.Linear(before * height * width, FEATURES, bias=False)
        self.norm = nn.BatchNorm1d(FEATURES, affine=False)
        self.logits = nn.Linear(FEATURES, classes)
        # a fifth faster on a CPU; torch's annotations lack this form of to()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, FEATURES] and logits [B, classes] of images uint8 [B, C, H, W]."""
        x = self.body(signed(images))  # [B, 64·h·w], h and w at most 4
        features = self.norm(self.features(x))
        return features, self.logits(F.relu(features))


def stride_of(side: int) -> int:
    """Return the stride along a side of a feature map; 1 where the side is short enough.

    >>> [stride_of(side) for side in (1024, 256, 64, 32, 5, 4)]
    [4, 4, 2, 2, 2, 1]
    """
    return 4 if side > LARGE else 2 if side > MIN_MAP else 1


def map_channels(side: int) -> int:
    """Return the channels of a feature map whose longer side this is.

    >>> [map_channels(side) for side in (64, 32, 16, 8, 4)]
    [16, 32, 32, 64, 64]
    """
    return 64 if side <= 8 else 32 if side <= 32 else 16


class Classifier(TrainedNetwork[Network]):
    """A classifier of the data's labels: features [N, 64], logits [N, K]."""

    name: ClassVar[str] = "classifier"
    version: ClassVar[int] = VERSION

    @classmethod
    def untrained(cls, spec: SampleSpec, facts: Mapping[str, Any], device: torch.device) -> Self:
        """Return one for images of this shape and ``facts["classes"]`` classes, to load weights into."""
        return cls(Network(spec.shape, facts["classes"]), spec, device)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.network.logits.out_features

    @property
    def facts(self) -> dict[str, Any]:
        """The number of classes."""
        return {"classes": self.classes}

    def outputs(self, images: Tensor) -> Outputs:
        """Compute features and logits of one batch, uint8 [B, C, H, W] on ``device``."""
        return Outputs(*self.network(images))


class RotationLayers(Network):
    """The same layers, and principal components [B, 32] of what they measure: half of texture, half of content.

    The features alone hardly notice blur, and in data of which most images look the same whichever way up they are,
    they follow little but what the rotations of a few images show.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__(shape, classes)
        sizes = 2 * cast(nn.Conv2d, self.body[0]).out_channels, FEATURES
        self.components = nn.ModuleList(Components(size, COMPONENTS) for size in sizes)

    def statistics(self, images: Tensor) -> list[Tensor]:
        """Return the texture of the first feature map and the features, float [B, size], of uint8 [B, C, H, W]."""
        first = self.body[:3](signed(images))
        return [texture(first), self.norm(self.features(self.body[3:](first)))]


class RotationNetwork(TrainedNetwork[RotationLayers]):
    """A network that tells by how much an image was rotated (Gidaris et al. 2018), which takes no labels.

    It has no logits: which way up an image is says nothing about its content.
    """

    name: ClassVar[str] = "rotation"
    version: ClassVar[int] = ROTATION_VERSION

    @classmethod
    def untrained(cls, spec: SampleSpec, facts: Mapping[str, Any], device: torch.device) -> Self:
        """Return one for images of this shape and ``facts["classes"]`` rotations, to load weights into."""
        return cls(RotationLayers(spec.shape, facts["classes"]), spec, device)

    @property
    def facts(self) -> dict[str, Any]:
        """The number of rotations."""
        return {"classes": self.network.logits.out_features}

    def outputs(self, images: Tensor) -> Outputs:
        """Compute features of one batch, uint8 [B, C, H, W] on ``device``."""
        statistics = self.network.statistics(images)
        return Outputs(torch.cat([of(x) for of, x in zip(self.network.components, statistics)], 1), None)


def predict_labels(network: Classifier, images: ImageRows) -> Tensor:
    """Return the most likely class of each image uint8 [N, H, W, C], int64 [N] on the CPU.

    Raises:
        UserError: the images have another shape than the ones trained on.
    """
    logits = network(images).logits
    assert logits is not None
    return logits.argmax(1).cpu()


def accuracy(network: Classifier, images: ImageRows, labels: Tensor) -> float:
    """Return the share, 0…1, of images uint8 [N, H, W, C] whose most likely class is their label.

    Args:
        network: of the same number of classes as the labels.
        images: uint8 [N, H, W, C].
        labels: int64 [N].

    Raises:
        UserError: the images have another shape than the ones trained on.
    """
    return float((predict_labels(network, images) == labels.cpu()).double().mean())
