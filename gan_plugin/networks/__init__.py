"""Network families by name. A family builds a generator and a discriminator for any admissible picture size."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from gan_plugin.networks import dcgan


class Family(NamedTuple):
    """How to build the two networks of one family.

    ``generator(latent_size, image_size, channels)`` maps float32 [B, latent_size] to [B, channels, H, W] in −1…1;
    ``discriminator(image_size, channels)`` maps such pictures to logits [B].
    """

    generator: Callable[[int, int, int], nn.Module]
    discriminator: Callable[[int, int], nn.Module]


FAMILIES: dict[str, Family] = {
    "dcgan": Family(dcgan.Generator, dcgan.Discriminator),
}
