"""What a feature network is, whatever stands behind it, and how images reach one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from gan_plugin.media.image import Images

PIXELS_AT_ONCE = 512 * 32 * 32  # bounds the memory of one batch whatever the images' size


class Outputs(NamedTuple):
    """What a network says of N images.

    Attributes:
        features: float32 [N, D], on the CPU.
        logits: float32 [N, K], unnormalized class scores, on the CPU; None for a network that has none.
    """

    features: Tensor
    logits: Tensor | None


class FeatureNetwork(Protocol):
    """Turns images into features, by which generators are judged.

    Attributes:
        name: the last part of the name of every metric in these features.
        digest: 32 hexadecimal characters over the weights and whatever else decides the output.
        resize: in words, how images reach the network's size.
    """

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def resize(self) -> str: ...

    def __call__(self, images: Images) -> Outputs:
        """Features of images [N, H, W, C], N ≥ 1, computed in batches, so that memory stays bounded.

        Raises:
            UserError: the network takes no images of this shape.
        """


def check_images(images: Images) -> None:
    """
    Raises:
        ValueError: they are not uint8 [N, H, W, C] with N ≥ 1 and C 1 or 3.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
        raise ValueError(f"images are uint8 [N, H, W, 1 or 3] with N ≥ 1, not {images.dtype} {images.shape}")


def batch_size(height: int, width: int) -> int:
    """How many images of this size are computed at once."""
    return max(1, PIXELS_AT_ONCE // (height * width))


def batches(images: Images, size: int) -> Iterator[Images]:
    """Dataset [N, H, W, C], ``size`` at a time; the last batch may be smaller."""
    return (images[first : first + size] for first in range(0, len(images), size))


def as_tensor(images: Images, device: torch.device) -> Tensor:
    """Dataset [B, H, W, C] as uint8 [B, C, H, W] on ``device``."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(device)


def joined(parts: list[Outputs]) -> Outputs:
    """Outputs of consecutive batches as one, float32 on the CPU."""
    logits = [part.logits for part in parts if part.logits is not None]
    return Outputs(_joined([part.features for part in parts]), _joined(logits) if logits else None)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.to("cpu", torch.float32) for part in parts])


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """No autocast and no TF32 inside, whatever the caller set: figures must not depend on who computes them."""
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # made when the module is loaded
    product = torch.backends.cuda.matmul
    before = convolution.fp32_precision, product.fp32_precision
    convolution.fp32_precision = product.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        convolution.fp32_precision, product.fp32_precision = before
