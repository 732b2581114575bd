"""Statistics of pixels, against their definitions."""

import itertools

import numpy as np
import pytest
import torch

from gan_plugin.media.image import Images
from gan_plugin.metrics import pixels
from gan_plugin.metrics.catalog import CATALOG
from gan_plugin.metrics.pixels import PixelSums, mean_image_difference, pixel_statistics, pixel_sums

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)


def sums(images: Images) -> PixelSums:
    return pixel_sums(images, CPU)


def variety(images: Images) -> float:
    return pixels.variety(sums(images))


def brightness_and_contrast(images: Images) -> tuple[float, float]:
    return pixels.brightness(sums(images)), pixels.contrast(sums(images))


def test_variety_is_the_rms_difference_over_all_pairs() -> None:
    pairs = itertools.combinations(RANDOM.astype(float), 2)
    assert variety(RANDOM) == pytest.approx(np.sqrt(np.mean([np.square(a - b).mean() for a, b in pairs])))
    many = np.tile(RANDOM, (60, 1, 1, 1))  # 60 of each, of whose pairs a few are equal
    expected = variety(RANDOM) ** 2 * (39 / 40) / (2399 / 2400)
    assert variety(many) == pytest.approx(np.sqrt(expected))


def test_every_statistic_is_in_the_catalog_under_its_logged_name() -> None:
    logged = {metric.logged_name for metric in CATALOG if metric.stage == "pixels"}
    assert {name for name in pixel_statistics(RANDOM, RANDOM, CPU) if "_reference/" not in name} == logged


def test_a_collapse_has_no_variety() -> None:
    assert variety(np.repeat(RANDOM[:1], 10, axis=0)) == 0
    with pytest.raises(ValueError, match="at least two images"):
        variety(RANDOM[:1])


def test_brightness_and_contrast() -> None:
    halves = np.zeros((3, 4, 4, 1), np.uint8)
    halves[:, :2] = 200
    assert brightness_and_contrast(halves) == (100, 100)
    steps = np.stack([np.full((4, 4, 1), level, np.uint8) for level in (0, 100, 200)])
    assert brightness_and_contrast(steps) == (100, 0)  # contrast is within an image, not between images
    expected = np.mean([image.std() for image in RANDOM])
    assert brightness_and_contrast(RANDOM) == pytest.approx((RANDOM.mean(), expected), rel=1e-14)


def test_the_order_of_images_does_not_matter() -> None:
    statistics = pixel_statistics(RANDOM, RANDOM[::-1], CPU)
    for name in ("brightness", "contrast", "variety"):
        assert statistics[f"{name}/pixels"] == pytest.approx(statistics[f"{name}_reference/pixels"])
    assert statistics["mean_image_difference/pixels"] == pytest.approx(0)
    darker = (RANDOM // 2).astype(np.uint8)
    assert mean_image_difference(sums(darker), sums(RANDOM)) == pytest.approx(64, rel=0.1)


def test_sums_are_exact_however_the_images_are_laid_out_and_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = RANDOM.transpose(0, 3, 1, 2).reshape(len(RANDOM), -1).astype(np.int64)
    channels_first = np.ascontiguousarray(RANDOM.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    monkeypatch.setattr(pixels, "VALUES_AT_ONCE", 7 * RANDOM[0].size)
    for images in (RANDOM, channels_first):
        of_images, of_pixels = sums(images)
        assert np.array_equal(of_images, [expected.sum(1), np.square(expected).sum(1)])
        assert np.array_equal(of_pixels, [expected.sum(0), np.square(expected).sum(0)])
