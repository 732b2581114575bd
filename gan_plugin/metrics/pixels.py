"""Statistics of pixels alone: whether brightness, contrast and variety are those of the real images.

Equal values do not mean good images; unequal ones mean that something is wrong. A variety far below the real one is
what mode collapse looks like.

All of them follow from sums of gray levels and of their squares. Those are integers, which float64 holds exactly, so
they are the same in any order and on any device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_plugin.media.image import CHANNELS_FIRST, ImageRows

VALUES_AT_ONCE = 1 << 20  # gray levels in floating point: a whole data set of them may not fit


class PixelSums(NamedTuple):
    """Sums of gray levels and, second, of their squares, over N images of P values each.

    Attributes:
        of_images: within each image, float64 [2, N].
        of_pixels: of each pixel and channel over all images, float64 [2, P].
    """

    of_images: npt.NDArray[np.float64]
    of_pixels: npt.NDArray[np.float64]


def blocks_on(images: ImageRows, device: torch.device, values: int) -> Iterator[Tensor]:
    """Yield images uint8 [N, H, W, C] as [B, C, H, W] on a device, about so many values at a time."""
    size = max(1, values // math.prod(images.shape[1:]))
    for first in range(0, len(images), size):
        block = np.array(images[first : first + size])  # torch takes no view of reversed order
        yield torch.from_numpy(block).permute(CHANNELS_FIRST).to(device, non_blocking=True)


def pixel_sums(images: ImageRows, device: torch.device) -> PixelSums:
    """Sum the pixels of images uint8 [N, H, W, C], N ≥ 1, on a device; read from there once, at the end.

    >>> pixel_sums(np.array([3, 4], np.uint8).reshape(2, 1, 1, 1), torch.device("cpu")).of_pixels.tolist()
    [[7.0], [25.0]]
    """
    of_images, of_pixels = sums_on(images, device)
    return PixelSums(of_images.cpu().numpy(), of_pixels.cpu().numpy())


def sums_on(images: ImageRows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the two tensors of :class:`PixelSums` on a device; of a block nothing is kept, however many there are."""
    of_images, of_pixels = (
        torch.zeros(2, size, dtype=torch.float64, device=device) for size in (len(images), math.prod(images.shape[1:]))
    )
    first = 0
    for block in blocks_on(images, device, VALUES_AT_ONCE):
        values, rows = block.flatten(1).double(), slice(first, first + len(block))
        of_images[0, rows] = values.sum(1)
        of_pixels[0] += values.sum(0)
        values.square_()
        of_images[1, rows] = values.sum(1)
        of_pixels[1] += values.sum(0)
        first += len(block)
    return of_images, of_pixels


def brightness(sums: PixelSums) -> float:
    """Return the mean gray level, 0…255."""
    return float(sums.of_pixels[0].sum() / (sums.of_images.shape[1] * sums.of_pixels.shape[1]))


def contrast(sums: PixelSums) -> float:
    """Return the standard deviation of the gray levels within an image, averaged over images."""
    values = sums.of_pixels.shape[1]
    total, squares = sums.of_images
    return float(np.sqrt((values * squares - np.square(total)) / values**2).mean())


def variety(sums: PixelSums) -> float:
    """Return the root mean square difference, in gray levels, between two different images drawn at random.

    Over all N(N − 1) ordered pairs E (x − y)² is 2N/(N − 1) times the variance over images, so no pair is formed.

    Raises:
        ValueError: fewer than two images.

    >>> variety(pixel_sums(np.array([0, 200], np.uint8).reshape(2, 1, 1, 1), torch.device("cpu")))
    200.0
    """
    count = sums.of_images.shape[1]
    if count < 2:
        raise ValueError("variety needs at least two images")
    total, squares = sums.of_pixels
    variance = np.mean(squares / count - np.square(total / count))
    return float(np.sqrt(2 * count / (count - 1) * variance))


def mean_image_difference(generated: PixelSums, reference: PixelSums) -> float:
    """Return the root mean square difference, in gray levels, between the mean generated and the mean real image."""
    means = [sums.of_pixels[0] / sums.of_images.shape[1] for sums in (generated, reference)]
    return float(np.sqrt(np.square(means[0] - means[1]).mean()))


def sharpness(images: ImageRows, device: torch.device) -> float:
    """Return the variance of an image's Laplacian, in squared gray levels, averaged over images: blur has little.

    The Laplacian is the difference of a pixel from the mean of its four neighbors, times four, where it has all four.
    Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    for block in blocks_on(images, device, VALUES_AT_ONCE):
        x = block.double()
        neighbors = x[:, :, :-2, 1:-1] + x[:, :, 2:, 1:-1] + x[:, :, 1:-1, :-2] + x[:, :, 1:-1, 2:]
        total += (neighbors - 4 * x[:, :, 1:-1, 1:-1]).flatten(1).var(1, unbiased=False).sum()
    return total.item() / len(images)


STATISTICS = {"brightness": brightness, "contrast": contrast, "variety": variety}


def pixel_statistics(generated: ImageRows, reference: ImageRows, device: torch.device) -> dict[str, float]:
    """Return all of the above under the names that the run in MLflow shows, summed up on a device.

    >>> black, white = np.zeros((2, 1, 1, 1), np.uint8), np.full((2, 1, 1, 1), 255, np.uint8)
    >>> pixel_statistics(black, white, torch.device("cpu"))["brightness_reference/pixels"]
    255.0
    """
    fake, real = pixel_sums(generated, device), pixel_sums(reference, device)
    statistics = {f"{name}/pixels": statistic(fake) for name, statistic in STATISTICS.items()}
    statistics |= {f"{name}_reference/pixels": statistic(real) for name, statistic in STATISTICS.items()}
    return statistics | {"mean_image_difference/pixels": mean_image_difference(fake, real)}
