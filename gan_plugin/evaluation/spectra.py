"""The power spectrum of generated images beside that of held-out real ones, the real-data baseline."""

from __future__ import annotations

import math

import torch

from gan_plugin.data import Dataset
from gan_plugin.evaluation.measures import count_note
from gan_plugin.evaluation.reference import Reference, as_pixels
from gan_plugin.evaluation.results import Measurement, regular_indices
from gan_plugin.features.cache import Content, cached
from gan_plugin.media.image import ImageRows, Images
from gan_plugin.metrics.spectrum import Power, compare_spectra, power_spectrum

VERSION = 1  # of the spectrum: another version has other files in the cache
MIN_IMAGES, MAX_IMAGES = 100, 10_000
MAX_VALUES = 5e7  # gray levels: bounds the time, to some seconds, whatever the images' size


def spectrum_measurements(generated: Images, reference: Reference, device: torch.device) -> list[Measurement]:
    """Measure spectrum_distance, high_frequencies and checkerboard, beside those of the held-out images.

    Args:
        generated: uint8 [N, H, W, C], N ≥ 1.
        reference: real images of the same shape.
        device: where spectra are computed.
    """
    real = spectrum_of(reference.dataset, device)
    result = compare_spectra(power_spectrum(evenly_spaced(generated), device), real)
    values = {
        "spectrum_distance": result.distance,
        "high_frequencies": result.fine,
        "checkerboard": result.checkerboard,
    }
    if reference.held_out is None:
        return [Measurement(name, value, network="pixels") for name, value in values.items()]
    baseline = compare_spectra(spectrum_of(reference.held_out, device), real)
    counts = count_note(len(reference.held_out), len(generated))
    note = counts and f"{counts}: it falls as they grow."
    return [
        Measurement(name, value, real=real_value, note=note if name == "spectrum_distance" else "", network="pixels")
        for (name, value), real_value in zip(values.items(), baseline)
    ]


def spectrum_of(dataset: Dataset, device: torch.device) -> Power:
    """Return the power spectrum of real images, from the cache where it was computed before."""

    def compute() -> Content:
        return {"power": torch.from_numpy(power_spectrum(evenly_spaced(as_pixels(dataset)), device))}, {}

    def read(content: Content) -> Power:
        power: Power = content[0]["power"].numpy()
        return power

    return cached(f"spectrum-{VERSION}-{dataset.digest}", compute, read)[0]


def evenly_spaced(images: ImageRows) -> Images:
    """Return as many of the images as bound the time, at least 100 where there are so many."""
    limit = max(MIN_IMAGES, min(MAX_IMAGES, int(MAX_VALUES) // math.prod(images.shape[1:])))
    return images[:] if len(images) <= limit else images[regular_indices(len(images), limit)]
