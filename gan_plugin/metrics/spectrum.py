"""Power spectra: how strong each spatial frequency is in generated images, beside real ones.

Blur lacks high frequencies, noise has too much of them, and the checkerboard of transposed convolutions (Odena et al.
2016) is a peak where a pattern repeats every 2 or every 4 pixels.

    P(u, v) = mean |F{w · (x − mean x)}(u, v)|² / Σ w²     over images and channels x; w: Hann's window
    L(u, v) = 10 log₁₀(P(u, v) + 1)                        in decibels
    S(r)    = 10 log₁₀(mean P(u, v) + 1)                   over the ring of frequencies with |(u, v)| ≈ r

White noise of variance σ² has P = σ² everywhere, so the 1 is a noise of one gray level: what is weaker cannot be seen
and does not count. The window keeps the images' borders, which are no edges, out of the spectrum. S is what Durall et
al. 2020, arXiv:2003.01826, and Dzanic et al. 2020, arXiv:1911.06465, look at. Frequencies are in cycles per pixel, ½
being the finest pattern along an axis, so images of any shape are measured alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_plugin.media.image import Images
from gan_plugin.metrics.pixels import blocks_on

INVISIBLE = 1.0  # power of a noise of one gray level
FINE = 0.25  # cycles per pixel: patterns of fewer than 4 pixels
PERIODS = (2, 4)  # pixels, after which the pattern of a convolution with stride 2, or two of them, repeats
NEAR, FAR = 2, 3  # frequencies around a peak with which it is compared: the window smears one over its neighbors
VALUES_AT_ONCE = 1 << 18  # bounds the memory of a block whatever the images' size

Power = npt.NDArray[np.float64]


class Comparison(NamedTuple):
    """The difference between two spectra, in decibels.

    Attributes:
        distance: root mean square over rings, 0 for equal spectra.
        fine: mean over the rings of frequencies above FINE: negative where the compared images are blurred, positive
            where they have too much detail, such as noise.
        checkerboard: by how much peaks of the periods 2 and 4 stand out more than in the reference; the larger of both.
    """

    distance: float
    fine: float
    checkerboard: float


def compare_spectra(power: Power, reference: Power) -> Comparison:
    """Compare the power spectra [H, W] of images of one size with those of the reference.

    >>> flat, noise = np.ones((16, 16)), np.full((16, 16), 19.0)
    >>> compare_spectra(noise, flat)
    Comparison(distance=10.0, fine=10.0, checkerboard=0.0)
    """
    height, width = power.shape
    index = ring_index(height, width)
    difference = ring_decibels(power, index) - ring_decibels(reference, index)
    radii = np.arange(1, len(difference) + 1) / min(height, width)
    peaks = [peak(power, period) - peak(reference, period) for period in PERIODS]
    return Comparison(
        float(np.sqrt(np.square(difference).mean())),
        float(difference[radii >= FINE].mean()),
        float(max(peaks)),
    )


def power_spectrum(images: Images, device: torch.device) -> Power:
    """Return the mean power P of images uint8 [N, H, W, C] at each frequency, float64 [H, W], in gray levels squared.

    The order of frequencies is that of ``numpy.fft.fft2``. Computed on a device, from which it is read once.

    Raises:
        ValueError: there is no image.
    """
    count, height, width, channels = images.shape
    if not count:
        raise ValueError("a power spectrum needs at least one image")
    window = np.outer(hann(height), hann(width))
    total = total_power(blocks_on(images, device, VALUES_AT_ONCE), torch.from_numpy(window).to(device))
    power: Power = all_frequencies(total.cpu().numpy(), width) / (count * channels * np.square(window).sum())
    return power


def total_power(blocks: Iterator[Tensor], window: Tensor) -> Tensor:
    """Sum |F{w · (x − mean x)}|² over blocks uint8 [B, C, H, W], with a window [H, W]: float64 [H, W // 2 + 1].

    Of real numbers the other frequencies have the power of those opposite to them.
    """
    total = window.new_zeros(len(window), window.shape[1] // 2 + 1)
    for block in blocks:
        values = block.double()
        values = (values - values.mean((2, 3), keepdim=True)).mul_(window)
        total += torch.view_as_real(torch.fft.rfft2(values)).square_().sum((0, 1, 4))
    return total


def all_frequencies(half: Power, width: int) -> Power:
    """Complete the powers [H, W // 2 + 1] of real images by those of the opposite frequencies: [H, W].

    >>> all_frequencies(np.array([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]), 4).tolist()
    [[0.0, 1.0, 2.0, 1.0], [3.0, 4.0, 5.0, 7.0], [6.0, 7.0, 8.0, 4.0]]
    """
    opposite = half[-np.arange(len(half)) % len(half)]
    return np.concatenate([half, opposite[:, 1 : (width + 1) // 2][:, ::-1]], axis=1)


def hann(length: int) -> Power:
    """Return Hann's window without its zeros, float64 [length].

    >>> hann(3).round(2).tolist()
    [0.5, 1.0, 0.5]
    """
    return np.hanning(length + 2)[1:-1]


def ring_index(height: int, width: int) -> npt.NDArray[np.int64]:
    """Return for each frequency the number of its ring, int64 [H, W]; rings are as wide as the longer step of an axis.

    >>> ring_index(4, 4)[:3, :3].tolist()
    [[0, 1, 2], [1, 1, 2], [2, 2, 3]]
    """
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    index: npt.NDArray[np.int64] = (radius * min(height, width)).round().astype(np.int64)
    return index


def ring_decibels(power: Power, index: npt.NDArray[np.int64]) -> Power:
    """Return S of every ring but the one of frequency 0, float64 [R]."""
    sums, counts = np.bincount(index.ravel(), power.ravel()), np.bincount(index.ravel())
    return decibels(sums[1:] / counts[1:])


def decibels(power: Power) -> Power:
    """Convert power in gray levels squared; what cannot be seen is 0."""
    return 10 * np.log10(power + INVISIBLE)


def peak(power: Power, period: int) -> float:
    """Return by how many decibels patterns that repeat every ``period`` pixels stand out from similar frequencies.

    The mean over the patterns along either axis and both. In images of fewer than four periods it is 0: too few
    frequencies are similar.
    """
    height, width = power.shape
    if min(height, width) < 4 * period:
        return 0.0
    level = decibels(power)
    row, column = round(height / period), round(width / period)
    return float(np.mean([excess(level, *place) for place in ((0, column), (row, 0), (row, column))]))


def excess(level: Power, row: int, column: int) -> float:
    """Return by how much a frequency exceeds the median of those around it; frequencies wrap around."""
    steps = np.arange(-FAR, FAR + 1)
    around = level[(row + steps)[:, None] % len(level), (column + steps)[None, :] % level.shape[1]]
    is_far = np.maximum(np.abs(steps)[:, None], np.abs(steps)[None, :]) >= NEAR
    return float(level[row % len(level), column % level.shape[1]] - np.median(around[is_far]))
