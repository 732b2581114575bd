"""A network that fills missing pixels: it sees the known ones, and z decides on one of many answers.

A U-Net (Ronneberger et al. 2015, arXiv:1505.04597): an encoder that halves the sides, a decoder that doubles them by
nearest neighbors, and at each size the encoder's features added to the decoder's. What the encoder sees as a whole and
z together scale and shift each layer of the decoder, so that one hole has many answers: Zhao et al. 2021, "Large scale
image completion via co-modulated GANs", arXiv:2103.10428, section 3.2.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.media.image import CHANNELS_FIRST, CHANNELS_LAST, WHITE, denormalize, normalize
from gan_plugin.networks.dcgan import feature_map_sizes, strides
from gan_plugin.networks.subpixel import OVERSHOOT, SLOPE, conv, straight_through_clamp
from gan_plugin.spec import SampleSpec, Size

MAX_GROWTH = 4  # of the channels, from the image's size to the coarsest features
STYLE = 64  # values of what scales and shifts, from the image and from z each


class Generator(nn.Module):
    """Filler of images float32 [B, C, H, W] in −1…1, of z float32 [B, latent_size] and masks float32 [B, 1, H, W].

    A mask is 1 where a pixel is known, and that is returned as it is. Shapes in comments are those of 28×28×1 at width
    32.
    """

    def __init__(self, latent_size: int, spec: SampleSpec, *, width: int) -> None:
        super().__init__()
        self.sizes = feature_map_sizes(spec.size)  # 28×28, 14×14, 7×7
        widths = [width * min(2**i, MAX_GROWTH) for i in range(len(self.sizes))]  # 32, 64, 128
        self.from_image = conv(spec.channels + 1, widths[0])
        self.down = nn.ModuleList(
            [
                conv(before, after, stride=strides(high, low))
                for (before, after), (high, low) in zip(pairwise(widths), pairwise(self.sizes))
            ]
        )
        self.from_whole = nn.Linear(widths[-1], STYLE)
        self.from_z = nn.Sequential(nn.Linear(latent_size, STYLE), nn.LeakyReLU(SLOPE), nn.Linear(STYLE, STYLE))
        self.middle = ModulatedConv(widths[-1], widths[-1])
        self.up = nn.ModuleList([ModulatedConv(after, before) for before, after in reversed(list(pairwise(widths)))])
        self.to_image = conv(widths[0], spec.channels, gain=1)

    def forward(self, z: Tensor, image: Tensor, known: Tensor) -> Tensor:
        x = self.from_image(torch.cat([image * known, known - 0.5], 1))  # [B, 32, 28, 28]
        skips: list[Tensor] = []
        for layer in self.down:
            skips.append(x)
            x = layer(F.leaky_relu(x, SLOPE))  # [B, 128, 7, 7]
        style = torch.cat([self.from_whole(F.leaky_relu(x, SLOPE).mean((2, 3))), self.from_z(z)], 1)  # [B, 128]
        x = x + self.middle(x, style, self.sizes[-1])
        for layer, size, skip in zip(self.up, self.sizes[-2::-1], reversed(skips)):
            x = layer(x, style, size) + skip  # [B, 32, 28, 28]
        values = OVERSHOOT * torch.tanh(self.to_image(F.leaky_relu(x, SLOPE)))  # [B, 1, 28, 28]
        filled = straight_through_clamp(values) if self.training else values.clamp(-1, 1)
        completed: Tensor = known * image + (1 - known) * filled
        return completed


class ModulatedConv(nn.Module):
    """Leaky ReLU, an enlargement, a 3×3 convolution, and a scale and a shift of each of its feature maps by a style."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = conv(before, after)
        self.affine = nn.Linear(2 * STYLE, 2 * after)
        nn.init.normal_(self.affine.weight, std=0.5 * (2 * STYLE) ** -0.5)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, style: Tensor, size: Size) -> Tensor:
        x = F.leaky_relu(x, SLOPE)
        x = self.conv(x if x.shape[2:] == size else F.interpolate(x, size))
        gain, bias = self.affine(style)[:, :, None, None].chunk(2, 1)  # [B, after, 1, 1] each
        y: Tensor = x * (1 + gain) + bias
        return y


class QuantizedFill(nn.Module):
    """A filler of images uint8 [B, H, W, C] and masks uint8 [B, H, W], of which white, 255, is to be filled.

    Known pixels come out byte for byte.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, image: Tensor, missing: Tensor) -> Tensor:
        is_missing = (missing > WHITE // 2)[..., None]  # [B, H, W, 1]
        known = 1 - is_missing.float().permute(CHANNELS_FIRST)  # [B, 1, H, W]
        values: Tensor = self.generator(z, normalize(image.float().permute(CHANNELS_FIRST)), known)
        levels = denormalize(values).round().clamp(0, WHITE).to(torch.uint8).permute(CHANNELS_LAST)
        return torch.where(is_missing, levels, image)
