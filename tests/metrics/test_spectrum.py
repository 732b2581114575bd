"""Power spectra, against what is known of the images that they are of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gan_plugin.media.image import Images
from gan_plugin.metrics.spectrum import Comparison, compare_spectra, power_spectrum

CPU = torch.device("cpu")
SHAPES = [(28, 28, 1), (64, 64, 3), (17, 33, 1), (48, 32, 3)]


def random_images(shape: tuple[int, ...], *, std: float, count: int = 200, seed: int = 0) -> Images:
    values = np.random.default_rng(seed).normal(128, std, (count, *shape))
    return np.clip(values, 0, 255).round().astype(np.uint8)


def compare(images: Images, reference: Images) -> Comparison:
    return compare_spectra(power_spectrum(images, CPU), power_spectrum(reference, CPU))


@pytest.mark.parametrize("shape", SHAPES)
def test_white_noise_has_its_variance_at_every_frequency(shape: tuple[int, ...]) -> None:
    power = power_spectrum(random_images(shape, std=20), CPU)
    assert power.shape == shape[:2]
    away = np.maximum(*np.meshgrid(*(np.abs(np.fft.fftfreq(n)) for n in shape[:2]), indexing="ij")) > 0.2
    assert power[away].mean() == pytest.approx(400, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_of_ten_times_the_power_is_10_decibels_away(shape: tuple[int, ...]) -> None:
    weak, strong = (random_images(shape, std=std, seed=int(std)) for std in (8, 8 * 10**0.5))
    result = compare(strong, weak)
    assert result.distance == pytest.approx(10, abs=0.4)
    assert result.fine == pytest.approx(10, abs=0.4)
    assert abs(result.checkerboard) < 1
    assert compare(weak, weak) == Comparison(0, 0, 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("period", [2, 4])
def test_a_faint_checkerboard_stands_out(shape: tuple[int, ...], period: int) -> None:
    real = random_images(shape, std=10)
    height, width = shape[:2]
    board = (np.indices((height, width)) // (period // 2)).sum(0) % 2 * 12 - 6
    result = compare(np.clip(real + board[:, :, None], 0, 255).astype(np.uint8), real)
    assert result.checkerboard > 3
    other = random_images(shape, std=10, seed=1)
    assert abs(compare(other, real).checkerboard) < 1


def test_stripes_along_one_axis_stand_out_too() -> None:
    real = random_images((32, 32, 1), std=10)
    stripes = (np.arange(32) % 2 * 12 - 6)[:, None, None]
    for axis in (0, 1):
        striped = (real + np.moveaxis(np.broadcast_to(stripes, (32, 32, 1)), 0, axis)).astype(np.uint8)
        assert compare(striped, real).checkerboard > 3


def test_blur_lacks_high_frequencies() -> None:
    real = random_images((32, 32, 3), std=30)
    smooth = real.astype(float)
    for axis in (1, 2):
        smooth = (np.roll(smooth, 1, axis) + 2 * smooth + np.roll(smooth, -1, axis)) / 4
    result = compare(smooth.round().astype(np.uint8), real)
    assert result.fine < -6
    assert result.distance > 6


def test_what_cannot_be_seen_does_not_count() -> None:
    """A gray level of noise in the background is 20 decibels more than none at all."""
    flat = np.full((200, 32, 32, 1), 128, np.uint8)
    flicker = flat + np.random.default_rng(0).integers(0, 2, flat.shape, dtype=np.uint8)
    assert compare(flicker, flat).distance < 1.5


def test_neither_brightness_nor_the_number_of_images_matters() -> None:
    real = random_images((24, 24, 1), std=10)
    assert compare((real + 20).astype(np.uint8), real).distance == pytest.approx(0, abs=1e-6)
    assert compare(np.concatenate([real, real]), real).distance == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least one image"):
        power_spectrum(real[:0], CPU)


def test_images_in_blocks_are_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real = random_images((24, 24, 3), std=10, count=10)
    at_once = power_spectrum(real, CPU)
    monkeypatch.setattr("gan_plugin.metrics.spectrum.VALUES_AT_ONCE", 3 * real[0].size)
    assert np.allclose(power_spectrum(real, CPU), at_once)


def test_small_images_have_no_number_for_periods_that_do_not_fit() -> None:
    real = random_images((7, 40, 1), std=10)
    assert compare(random_images((7, 40, 1), std=20), real).checkerboard == 0
