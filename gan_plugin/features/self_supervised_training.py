"""Training of the feature network "self-supervised": fill in hidden patches, then find the principal components.

A third of an image's patches are hidden, and a linear layer on each feature map predicts the pixels below, at the size
of the finest map; what is predicted is their sum. The loss is on hidden pixels only, so every map must learn from what
surrounds them: the fine ones how texture goes on, the coarse ones what the image shows.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.data import Dataset
from gan_plugin.data.loader import gather, move_samples
from gan_plugin.data.stored import Samples
from gan_plugin.device import tuned
from gan_plugin.features.classifier_training import SHIFT, adamw, draw_rows, shift
from gan_plugin.features.components import fit_components
from gan_plugin.features.network import exact_float32
from gan_plugin.features.self_supervised import Network, SelfSupervised
from gan_plugin.features.store import network_of
from gan_plugin.features.trained import signed
from gan_plugin.spec import image_spec

SEED = 20_001  # far from the classifier's, though equal ones would give different layers different weights
BATCH_PIXELS, MAX_BATCH, MIN_BATCH = 32 * 64 * 64, 64, 4  # what a batch holds
STEPS = 100
PEAK_RATE, WEIGHT_DECAY = 2e-3, 0.05
HIDDEN = 0.3  # share of the patches
MIN_PATCH, PATCHES = 4, 16  # a patch is a 16th of a side, and at least 4 pixels
MIN_VARIANCE = 1e-3  # of pixels in −1…1: keeps the loss finite where all images are alike


def self_supervised_of(dataset: Dataset, device: torch.device) -> tuple[SelfSupervised, Path | None]:
    """Return a dataset's network and its file: from the cache, or trained now and put there.

    The file is None where the cache cannot be written; then the network is kept in memory.
    """

    def train() -> SelfSupervised:
        return train_self_supervised(dataset.samples, device=device)

    return network_of(SelfSupervised, dataset, train, device=device)


def train_self_supervised(images: Samples, *, device: torch.device, seed: int = SEED) -> SelfSupervised:
    """Train a network; equal arguments give equal weights on a CPU, and torch's random state stays as it was.

    Args:
        images: uint8 [N, C, H, W], N ≥ 1, C 1 or 3, H and W from 16 to 1,024.
        device: where to train; the network stays there.
        seed: of the initial weights, the images' order, their shifts and what is hidden.
    """
    count, channels, height, width = images.shape
    spec = image_spec(height, width, channels)
    samples = move_samples(images, device)
    # Everything random here is drawn on the CPU, so only that generator's state changes, and is restored.
    with torch.random.fork_rng(devices=[]), exact_float32(device):
        torch.default_generator.manual_seed(seed)
        network = Network(spec.shape).to(device)
        decoders = nn.ModuleList(nn.Conv2d(of_map, channels, 1) for of_map, _, _ in network.sides).to(device)
        weights = [*network.parameters(), *decoders.parameters()]
        optimizer = adamw(weights, PEAK_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=STEPS, pct_start=0.2)
        batch, limit = training_batch(height, width), max(1, min(height, width) // SHIFT)
        for rows in tuned(draw_rows(count, batch, STEPS), "training of the self-supervised network"):
            hidden = draw_hidden(batch, height, width).to(device, non_blocking=True)
            shifted = shift(gather(samples, rows.to(samples.device, non_blocking=True), device), limit)
            loss = filling_loss(network, decoders, shifted, hidden=hidden)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        network.eval().requires_grad_(False)
        fit_components(network.components, network.statistics, samples, device=device)
    return SelfSupervised(network, spec, device)


def training_batch(height: int, width: int) -> int:
    """Return the number of images in a batch.

    >>> [training_batch(*size) for size in ((28, 28), (64, 64), (128, 128), (1024, 1024))]
    [64, 32, 8, 4]
    """
    return min(max(BATCH_PIXELS // (height * width), MIN_BATCH), MAX_BATCH)


def draw_hidden(count: int, height: int, width: int) -> Tensor:
    """Draw which pixels of images are hidden, whole patches of them: bool [count, 1, H, W]."""
    sides = [max(MIN_PATCH, side // PATCHES) for side in (height, width)]
    patches = torch.rand(count, 1, -(-height // sides[0]), -(-width // sides[1])) < HIDDEN
    pixels = patches.repeat_interleave(sides[0], 2).repeat_interleave(sides[1], 3)
    return pixels[:, :, :height, :width]


def filling_loss(network: Network, decoders: nn.ModuleList, images: Tensor, *, hidden: Tensor) -> Tensor:
    """Compute the mean squared error where pixels are hidden, relative to the pixels' variance over the batch.

    It is at the size of the finest map: of images up to 64 pixels their own, of larger ones less.

    Args:
        network: in train mode.
        decoders: for each feature map a 1×1 convolution, [B, channels, h, w] → [B, C, h, w].
        images: uint8 [B, C, H, W].
        hidden: bool [B, 1, H, W].
    """
    x = signed(images)
    maps = network.maps(x.masked_fill(hidden, 0))
    _, height, width = network.sides[0]
    size = height, width
    target, is_hidden = F.adaptive_avg_pool2d(x, size), F.interpolate(hidden.float(), size)
    filled = torch.stack(
        [F.interpolate(decoder(of_depth), size, mode="bilinear") for decoder, of_depth in zip(decoders, maps)]
    ).sum(0)
    variance = target.var(0, correction=0).mean().clamp(min=MIN_VARIANCE)
    error = ((filled - target).square() * is_hidden).sum() / (is_hidden.sum().clamp(min=1) * x.shape[1])
    return error / variance
