"""The critic: a fresh network learns to tell generated images from held-out real ones, at several scales.

A classifier two-sample test, Lopez-Paz and Oquab 2017, arXiv:1610.06545. Each fold of the images is scored by a network
that learned from the other folds, so the area under the ROC curve, AUROC, is ½ for images that cannot be told apart and
1 for those that always can. It needs no features of natural images and no labels, and sees what is wrong in all images
alike, such as a checkerboard, which features for classes are trained to overlook.

Images that are reduced to a side of 8 pixels show what lies in color and shape, larger ones add structure and texture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_plugin.device import tuned
from gan_plugin.evaluation.measures import join
from gan_plugin.evaluation.reference import Reference, as_pixels
from gan_plugin.evaluation.results import Measurement, regular_indices
from gan_plugin.features.cache import Content, cached
from gan_plugin.features.classifier import Network
from gan_plugin.features.classifier_training import adamw, draw_rows, shift
from gan_plugin.features.network import as_tensor, exact_float32
from gan_plugin.media.image import ImageRows, Images
from gan_plugin.metrics.two_sample import auroc, folds
from gan_plugin.waiting import announced

VERSION = 1  # of the critic and its training: another version has other baselines in the cache

MIN_SIDE, MAX_SIDE = 8, 128  # pixels, of the longer side
MAX_IMAGES = 4000  # of each kind
FOLDS = 4
BATCH = 32  # half of it generated, half real
MIN_STEPS, MAX_STEPS = 100, 300
IMAGES_PER_STEP = 10  # more images are worth more steps
RATE, WEIGHT_DECAY, SMOOTHING = 3e-3, 0.1, 0.05
# A difference that nobody sees, such as a black that is 1 gray level bright, must not be told apart
NOISE = 3.0  # standard deviation in gray levels, of what is added to each pixel, and to each channel of an image
SCORED_AT_ONCE = 256
VALUES_AT_ONCE = 1 << 23  # gray levels that are reduced at once: bounds the memory of larger images


class Separation(NamedTuple):
    """How well a critic tells two sets of images apart.

    Attributes:
        auroc: mean over the folds, 0…1; ½ is chance.
        std: standard deviation over the folds.
    """

    auroc: float
    std: float


def critic_measurements(generated: Images, reference: Reference, device: torch.device) -> list[Measurement]:
    """Measure critic_auroc at each scale, the full size first; none where no real images were held out.

    The baseline is the same test of held-out real images against the real images that the generator was trained on. It
    is computed once for each scale and number of images, and cached.

    Args:
        generated: uint8 [N, H, W, C].
        reference: real images of the same shape.
        device: where the critics learn.
    """
    if reference.held_out is None:
        return []
    real, trained_on = as_pixels(reference.held_out), as_pixels(reference.dataset)
    count = min(len(generated), len(real), len(trained_on), MAX_IMAGES)
    digests = f"{reference.dataset.digest}-{reference.held_out.digest}"
    measurements = []
    for side in scales(*real.shape[1:3]):

        def compute(side: int = side) -> Content:
            result = separation(trained_on, real, side=side, count=count, device=device)
            return {"separation": torch.tensor(result, dtype=torch.float64)}, {}

        def read(content: Content) -> Separation:
            return Separation(*content[0]["separation"].tolist())

        with announced(f"A critic learns to tell generated from real images at {side} pixels."):
            baseline, _ = cached(f"critic-{VERSION}-{side}-{count}-{digests}", compute, read)
            result = separation(generated, real, side=side, count=count, device=device)
        measurements.append(
            Measurement(
                "critic_auroc",
                result.auroc,
                std=result.std,
                real=baseline.auroc,
                note=critic_note(real.shape[1:3], side=side, count=count, std=baseline.std),
                network=f"critic-{side}",
            )
        )
    return measurements


def critic_note(size: tuple[int, ...], *, side: int, count: int, std: float) -> str:
    """Return how many images of which size the critic saw."""
    reduced = f", reduced from a longer side of {max(size):,} pixels to {side}" if side < max(size) else ""
    return join(f"From {count:,} images of each kind{reduced}. The baseline has ± {std:.3f}.")


def critic_protocol() -> str:
    """Return how the critics learn, in words."""
    return (
        f"version {VERSION}: {FOLDS} folds of at most {MAX_IMAGES:,} images of each kind and {MAX_SIDE} pixels, "
        f"{MIN_STEPS} to {MAX_STEPS} steps, a noise of {NOISE:g} gray levels on every image"
    )


def scales(height: int, width: int) -> list[int]:
    """Return the longer sides, in pixels, at which images are compared: theirs, at most 128, then reduced ones.

    >>> scales(28, 28), scales(64, 48), scales(10, 10), scales(1024, 512)
    ([28, 16, 8], [64, 32, 16, 8], [10], [128, 64, 32, 16, 8])
    """
    full = min(max(height, width), MAX_SIDE)
    sides = [MIN_SIDE << i for i in range(4)]
    return [full, *(side for side in reversed(sides) if 1.5 * side <= full)]


def separation(
    generated: ImageRows, real: ImageRows, *, side: int, count: int, device: torch.device, seed: int = 0
) -> Separation:
    """Learn to tell images [N, H, W, C] from real ones at a scale, and test it on images not learned from.

    Equal arguments give equal numbers on a CPU, and torch's random state stays as it was.

    Args:
        generated: uint8 [N, H, W, C].
        real: uint8 [M, H, W, C].
        side: longer side to which the images are reduced, in pixels.
        count: how many of each kind take part, spaced evenly; at least FOLDS and at most N and M.
        device: where the networks learn.
        seed: of the folds, and of the networks' weights, batches and noise.
    """
    pair = tuple(reduce(images, side, count=count, device=device) for images in (generated, real))
    parts = [rows.to(device) for rows in folds(count, FOLDS, seed)]
    scores = []
    with torch.random.fork_rng(devices=[]), exact_float32(device):
        torch.default_generator.manual_seed(seed)
        generator = noise_generator(device, seed)
        for i, rows in enumerate(parts):
            others = torch.cat(parts[:i] + parts[i + 1 :])
            network = train_critic(pair[0][others], pair[1][others], generator)
            scores.append([score(network, images[rows], generator) for images in pair])
    result = torch.tensor([auroc(*of_fold) for of_fold in scores], dtype=torch.float64)
    return Separation(float(result.mean()), float(result.std()))


def noise_generator(device: torch.device, seed: int) -> torch.Generator:
    """Return what noise is drawn from on a device: on a CPU the generator from which everything else comes, too."""
    return torch.default_generator if device.type == "cpu" else torch.Generator(device).manual_seed(seed)


def reduce(images: ImageRows, side: int, *, count: int, device: torch.device) -> Tensor:
    """Reduce ``count`` of the images uint8 [N, H, W, C], spaced evenly, by area averaging to a longer side.

    Returns uint8 [count, C, h, w] on a device. Of larger images no more are in memory than are reduced at once.
    """
    height, width = images.shape[1:3]
    rows = regular_indices(len(images), count)
    if side >= max(height, width):
        return as_tensor(images[rows], device)
    size = (max(1, round(height * side / max(height, width))), max(1, round(width * side / max(height, width))))
    at_once = max(1, VALUES_AT_ONCE // math.prod(images.shape[1:]))
    blocks = (as_tensor(images[rows[first : first + at_once]], device) for first in range(0, len(rows), at_once))
    return torch.cat([F.adaptive_avg_pool2d(block.float(), size).round().to(torch.uint8) for block in blocks])


def train_critic(generated: Tensor, real: Tensor, generator: torch.Generator | None) -> Network:
    """Train a network whose first logit is larger for generated images, from uint8 [N, C, H, W] of both kinds.

    It is trained where the images are, with noise from the generator, which is there, too.
    """
    count, channels, height, width = generated.shape
    device = generated.device
    network = Network((height, width, channels), 2).to(device)
    steps = min(max(count // IMAGES_PER_STEP, MIN_STEPS), MAX_STEPS)
    optimizer = adamw(list(network.parameters()), RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    labels = torch.arange(2).repeat_interleave(BATCH // 2).to(device)
    for rows in tuned(paired_rows(count, steps), f"training of the critic at {max(height, width)} pixels"):
        one, other = (x.to(device, non_blocking=True) for x in rows)
        batch = shift(torch.cat([generated[one], real[other]]), max(1, min(height, width) // 32))
        loss = F.cross_entropy(network(noisy(batch, generator))[1], labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def paired_rows(count: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each step the rows of generated and of real images, int64 [BATCH / 2] each."""
    return zip(draw_rows(count, BATCH // 2, steps), draw_rows(count, BATCH // 2, steps))


def noisy(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Add the noise that hides what nobody sees, also in the mean of all pixels; returns float32 of gray levels."""
    count, channels, *size = images.shape
    of_pixels, of_images = (
        torch.randn(count, channels, *shape, generator=generator, device=images.device) for shape in (size, (1, 1))
    )
    return images + NOISE * (of_pixels + of_images)


def score(network: Network, images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return for each image of uint8 [N, C, H, W] how much more it looks generated than real, float32 [N]."""
    logits = torch.cat([network(noisy(block, generator))[1] for block in images.split(SCORED_AT_ONCE)])
    return logits[:, 0] - logits[:, 1]
