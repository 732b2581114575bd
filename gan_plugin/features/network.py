"""The interface of feature networks, and how images reach one: in batches, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from gan_plugin.media.image import CHANNELS_FIRST, Images

PIXELS_AT_ONCE = 512 * 32 * 32  # bounds the memory of one batch whatever the images' size


class Outputs(NamedTuple):
    """The output of a network for N images.

    Attributes:
        features: float32 [N, D], on the CPU.
        logits: float32 [N, K], unnormalized class scores, on the CPU; None for a network that has none.
    """

    features: Tensor
    logits: Tensor | None


class FeatureNetwork(Protocol):
    """A network that turns images into features, in which generated images are compared with real ones.

    Attributes:
        name: the last part of the name of every metric in these features.
        digest: 32 hexadecimal characters over the weights and whatever else decides the output.
        resize: how images are resized to the network's input, in words.
    """

    @property
    def name(self) -> str:
        """What the metrics' names end with, such as ``classifier``."""

    @property
    def digest(self) -> str:
        """What tells apart two networks of the same name."""

    @property
    def resize(self) -> str:
        """How images are brought to the network's size, in words."""

    def __call__(self, images: Images) -> Outputs:
        """Compute features of images uint8 [N, H, W, C], N ≥ 1, in batches, so that memory stays bounded.

        Raises:
            UserError: the network takes no images of this shape.
        """


def check_images(images: Images) -> None:
    """Refuse an array that does not hold images.

    Raises:
        ValueError: it is not uint8 [N, H, W, C] with N ≥ 1 and C 1 or 3.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
        raise ValueError(f"images are uint8 [N, H, W, 1 or 3] with N ≥ 1, not {images.dtype} {images.shape}")


def batch_size(height: int, width: int) -> int:
    """Return how many images of this size are computed at once."""
    return max(1, PIXELS_AT_ONCE // (height * width))


def batches(images: Images, size: int) -> Iterator[Images]:
    """Yield ``size`` of the images [N, H, W, C] at a time; the last batch may be smaller."""
    return (images[first : first + size] for first in range(0, len(images), size))


def as_tensor(images: Images, device: torch.device) -> Tensor:
    """Copy images [B, H, W, C] to ``device`` as uint8 [B, C, H, W]."""
    return torch.from_numpy(np.array(images)).permute(CHANNELS_FIRST).to(device)


def concatenate(parts: list[Outputs]) -> Outputs:
    """Concatenate the outputs of consecutive batches, float32 on the CPU."""
    logits = [part.logits for part in parts if part.logits is not None]
    return Outputs(_on_cpu([part.features for part in parts]), _on_cpu(logits) if logits else None)


def _on_cpu(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.to("cpu", torch.float32) for part in parts])


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Turn off autocast and TF32, so that features do not depend on the caller's settings; restore them at the end."""
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # torch creates the attribute at import
    product = torch.backends.cuda.matmul
    before = convolution.fp32_precision, product.fp32_precision
    convolution.fp32_precision = product.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        convolution.fp32_precision, product.fp32_precision = before
