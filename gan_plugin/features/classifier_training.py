"""Training of the feature network "classifier".

Labels alone give features that follow texture far more than variety. So during training a linear layer must also
reconstruct the image, averaged to 8×8, from the same 64 features: then the Fréchet distance responds to images that
are missing within a class as well as to images that are blurred.

Random shifts, label smoothing, weight decay and a bounded number of steps keep the features of training and held-out
images alike; ``tests/features/test_classifier.py`` checks that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.data.loader import gather, move_samples
from gan_plugin.data.stored import Samples
from gan_plugin.device import tuned
from gan_plugin.features.classifier import FEATURES, LARGE, Classifier, Network, RotationLayers, RotationNetwork
from gan_plugin.features.components import fit_components
from gan_plugin.features.network import exact_float32
from gan_plugin.features.trained import signed
from gan_plugin.spec import image_spec

AnyNetwork = TypeVar("AnyNetwork", bound=Network)

BATCH = 128
EPOCHS, MIN_STEPS, MAX_STEPS = 10, 300, 1500  # about half a minute for Fashion-MNIST on two CPU cores
PEAK_RATE, WEIGHT_DECAY, SMOOTHING = 6e-3, 0.05, 0.1
SMALL_SIDE = 8  # side of the image that is reconstructed, pixels
MIN_VARIANCE = 1e-3  # of thumbnails in −1…1: keeps the loss finite where all images are alike
SHIFT = 32  # images are shifted by up to a 32nd of their shorter side


def train_classifier(
    images: Samples, labels: Tensor, classes: int, *, device: torch.device, seed: int = 0
) -> Classifier:
    """Train a classifier; equal arguments give equal weights on a CPU, and torch's random state stays as it was.

    Args:
        images: uint8 [N, C, H, W], N ≥ 1, C 1 or 3, H and W from 16 to 1,024.
        labels: int64 [N], 0 to ``classes`` − 1; a class may have one image, or none.
        classes: number of logits.
        device: where to train; the classifier stays there.
        seed: of the initial weights, the images' order and their shifts.
    """
    _, channels, height, width = images.shape
    spec = image_spec(height, width, channels)
    samples = move_samples(images, device)
    classes_of = labels.to(samples.device)
    examples = Examples(
        len(images), samples.device, lambda rows: (gather(samples, rows, device), gather(classes_of, rows, device))
    )
    with seeded(seed, device):
        network = fit(Network(spec.shape, classes).to(device), examples, device)
    return Classifier(network, spec, device)


def train_rotation(images: Samples, *, device: torch.device, seed: int = 0) -> RotationNetwork:
    """Train the same layers to tell by how much an image was rotated (Gidaris et al. 2018), as the classifier is.

    Each image is an example of every rotation that keeps its shape: of four, or where the sides differ of two.

    Args:
        images: as in :func:`train_classifier`.
        device: where to train; the network stays there.
        seed: as there.
    """
    _, channels, height, width = images.shape
    spec = image_spec(height, width, channels)
    angles = (0, 1, 2, 3) if spec.height == spec.width else (0, 2)  # in quarters of a turn
    samples = move_samples(images, device)

    def rotated(rows: Tensor) -> tuple[Tensor, Tensor]:
        labels = (rows % len(angles)).to(device, non_blocking=True)
        return rotate(gather(samples, rows // len(angles), device), labels, angles), labels

    examples = Examples(len(angles) * len(images), samples.device, rotated)
    with seeded(seed, device):
        network = fit(RotationLayers(spec.shape, len(angles)).to(device), examples, device)
        fit_components(network.components, network.statistics, samples, device=device)
    return RotationNetwork(network, spec, device)


class Examples(NamedTuple):
    """What is learned from.

    Attributes:
        total: how many examples there are.
        home: where the data lives, and rows are to be: on the device, or on the host if it does not fit.
        at: gives images uint8 [B, C, H, W] and labels int64 [B], on the device that trains, of rows int64 [B].
    """

    total: int
    home: torch.device
    at: Callable[[Tensor], tuple[Tensor, Tensor]]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Train from a seed and in exact float32; torch's random state comes back as it was.

    Everything random is drawn on the CPU, so only that generator's state changes, and is restored.
    """
    with torch.random.fork_rng(devices=[]), exact_float32(device):
        torch.default_generator.manual_seed(seed)
        yield


def fit(network: AnyNetwork, examples: Examples, device: torch.device) -> AnyNetwork:
    """Train the layers, which are on the device, on examples; returns them in eval mode."""
    height, width, channels = network.shape
    batch = training_batch(height, width)
    steps = min(max(EPOCHS * examples.total // batch, MIN_STEPS), MAX_STEPS)
    decoder = nn.Linear(FEATURES, channels * SMALL_SIDE**2).to(device)
    weights = [*network.parameters(), *decoder.parameters()]
    optimizer = adamw(weights, PEAK_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.2)
    limit = max(1, min(height, width) // SHIFT)
    for rows in tuned(draw_rows(examples.total, batch, steps), "training of the classifier"):
        images, labels = examples.at(rows.to(examples.home, non_blocking=True))
        loss = training_loss(network, decoder, shift(images, limit), labels=labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def adamw(weights: list[nn.Parameter], rate: float, *, weight_decay: float) -> torch.optim.AdamW:
    """Make the optimizer, on a GPU as one kernel for all weights: those of small networks are many launches else."""
    return torch.optim.AdamW(weights, rate, weight_decay=weight_decay, fused=True if weights[0].is_cuda else None)


def training_batch(height: int, width: int) -> int:
    """Return the number of images in a batch: 128, and fewer of more than 64×64 pixels.

    >>> [training_batch(*size) for size in ((28, 28), (128, 32), (256, 256), (1024, 256), (1024, 1024))]
    [128, 128, 32, 16, 8]
    """
    return BATCH * LARGE // max(LARGE, math.isqrt(height * width))


def training_loss(network: Network, decoder: nn.Linear, images: Tensor, *, labels: Tensor) -> Tensor:
    """Compute cross-entropy plus the share of the thumbnails' variance that the features do not reconstruct.

    Args:
        network: in train mode.
        decoder: features [B, 64] → thumbnails [B, C·8·8].
        images: uint8 [B, C, H, W].
        labels: int64 [B].
    """
    features, logits = network(images)
    small_images = F.adaptive_avg_pool2d(signed(images), SMALL_SIDE).flatten(1)  # [B, C·8·8]
    variance = small_images.var(0).mean().clamp(min=MIN_VARIANCE)
    residual = F.mse_loss(decoder(features), small_images) / variance
    return F.cross_entropy(logits, labels, label_smoothing=SMOOTHING) + residual


def rotate(images: Tensor, labels: Tensor, angles: tuple[int, ...]) -> Tensor:
    """Turn each image of [B, C, H, W] by ``angles[label]`` quarters, all of which keep its shape; labels int64 [B]."""
    turned = torch.stack([torch.rot90(images, angle, (2, 3)) for angle in angles])  # [angles, B, C, H, W]
    return turned[labels, torch.arange(len(images), device=images.device)]


def draw_rows(count: int, batch: int, steps: int) -> Iterator[Tensor]:
    """Yield for each step ``batch`` rows, int64 [B], of endlessly reshuffled data."""
    rows = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(rows) < batch:
            rows = torch.cat([rows, torch.randperm(count)])
        yield rows[:batch]
        rows = rows[batch:]


def shift(images: Tensor, limit: int) -> Tensor:
    """Move each image of [B, C, H, W] by up to ``limit`` pixels along either axis, repeating the edge it leaves.

    By how much is drawn on the CPU, wherever the images are.
    """
    count, channels, height, width = images.shape
    device = images.device
    down, right = torch.randint(-limit, limit + 1, (2, count, 1)).to(device, non_blocking=True)
    rows = (torch.arange(height, device=device) + down).clamp(0, height - 1)  # [B, H]
    columns = (torch.arange(width, device=device) + right).clamp(0, width - 1)  # [B, W]
    every = torch.arange(count, device=device).view(-1, 1, 1, 1), torch.arange(channels, device=device).view(-1, 1, 1)
    return images[(*every, rows[:, None, :, None], columns[:, None, None, :])]
