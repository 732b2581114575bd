"""The interface of feature networks, and how images reach one: in batches, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from gan_plugin.device import without_tf32
from gan_plugin.media.image import CHANNELS_FIRST, ImageRows, Images

PIXELS_AT_ONCE = 512 * 32 * 32  # bounds the memory of one batch on a CPU whatever the images' size
FACTOR_BYTES, MAX_FACTOR = 8 * 2**30, 8  # a GPU's memory for each time as much as a CPU computes at once


class Outputs(NamedTuple):
    """The output of a network for N images.

    Attributes:
        features: float32 [N, D], on the device that the network computes on; ONNX Runtime's are on the CPU.
        logits: float32 [N, K], unnormalized class scores, there, too; None for a network that has none.
    """

    features: Tensor
    logits: Tensor | None

    def to(self, device: torch.device) -> Outputs:
        """Return the outputs on a device."""
        return Outputs(self.features.to(device), None if self.logits is None else self.logits.to(device))


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

    def __call__(self, images: ImageRows) -> Outputs:
        """Compute features of images uint8 [N, H, W, C], N ≥ 1, in batches, so that memory stays bounded.

        Raises:
            UserError: the network takes no images of this shape.
        """


def check_images(images: ImageRows) -> None:
    """Refuse an array that does not hold images.

    Raises:
        ValueError: it is not uint8 [N, H, W, C] with N ≥ 1 and C 1 or 3.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
        raise ValueError(f"images are uint8 [N, H, W, 1 or 3] with N ≥ 1, not {images.dtype} {images.shape}")


def batch_factor(device: torch.device) -> int:
    """Return how many times as much as on a CPU is computed at once: 1, and on a GPU up to 8, by its memory.

    By all of its memory and not by what is free, so that the same GPU gives the same numbers each time.
    """
    if device.type != "cuda":
        return 1
    return min(max(torch.cuda.get_device_properties(device).total_memory // FACTOR_BYTES, 1), MAX_FACTOR)


def batch_size(height: int, width: int, device: torch.device) -> int:
    """Return how many images of this size are computed at once on a device."""
    return max(1, batch_factor(device) * PIXELS_AT_ONCE // (height * width))


def batches(images: ImageRows, size: int) -> Iterator[Images]:
    """Yield ``size`` of the images [N, H, W, C] at a time; the last batch may be smaller."""
    return (images[first : first + size] for first in range(0, len(images), size))


def as_tensor(images: Images, device: torch.device) -> Tensor:
    """Copy images [B, H, W, C] to ``device`` as uint8 [B, C, H, W], without waiting for what it still computes."""
    return torch.from_numpy(np.array(images)).permute(CHANNELS_FIRST).to(device, non_blocking=True)


def concatenate(parts: list[Outputs]) -> Outputs:
    """Concatenate the outputs of consecutive batches, as float32 where they are."""
    logits = [part.logits.float() for part in parts if part.logits is not None]
    return Outputs(torch.cat([part.features.float() for part in parts]), torch.cat(logits) if logits else None)


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Turn off autocast and TF32, so that features do not depend on the caller's settings; restore them at the end."""
    with without_tf32(), torch.autocast(device.type, enabled=False) if has_autocast(device) else nullcontext():
        yield


def has_autocast(device: torch.device) -> bool:
    """Return whether there is an autocast to turn off on a device: not on every one."""
    return torch.amp.autocast_mode.is_autocast_available(device.type)
