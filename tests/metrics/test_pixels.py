"""Statistics of pixels, against their definitions."""

import itertools

import numpy as np
import pytest

from gan_plugin.metrics.catalog import CATALOG
from gan_plugin.metrics.pixels import brightness, contrast, mean_image_difference, pixel_statistics, variety

RANDOM = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)


def test_variety_is_the_rms_difference_over_all_pairs() -> None:
    pairs = itertools.combinations(RANDOM.astype(float), 2)
    assert variety(RANDOM) == pytest.approx(np.sqrt(np.mean([np.square(a - b).mean() for a, b in pairs])))
    many = np.tile(RANDOM, (60, 1, 1, 1))  # more than one block: 60 of each, of whose pairs a few are equal
    expected = variety(RANDOM) ** 2 * (39 / 40) / (2399 / 2400)
    assert variety(many) == pytest.approx(np.sqrt(expected))


def test_every_statistic_is_in_the_catalog_under_its_logged_name() -> None:
    logged = {metric.logged_name for metric in CATALOG if metric.stage == "pixels"}
    assert {name for name in pixel_statistics(RANDOM, RANDOM) if "_reference/" not in name} == logged


def test_a_collapse_has_no_variety() -> None:
    assert variety(np.repeat(RANDOM[:1], 10, axis=0)) == 0
    with pytest.raises(ValueError, match="at least two images"):
        variety(RANDOM[:1])


def test_brightness_and_contrast() -> None:
    halves = np.zeros((3, 4, 4, 1), np.uint8)
    halves[:, :2] = 200
    assert (brightness(halves), contrast(halves)) == (100, 100)
    steps = np.stack([np.full((4, 4, 1), level, np.uint8) for level in (0, 100, 200)])
    assert (brightness(steps), contrast(steps)) == (100, 0)  # contrast is within an image, not between images


def test_the_order_of_images_does_not_matter() -> None:
    statistics = pixel_statistics(RANDOM, RANDOM[::-1])
    for name in ("brightness", "contrast", "variety"):
        assert statistics[f"{name}/pixels"] == pytest.approx(statistics[f"{name}_reference/pixels"])
    assert statistics["mean_image_difference/pixels"] == pytest.approx(0)
    darker = (RANDOM // 2).astype(np.uint8)
    assert mean_image_difference(darker, RANDOM) == pytest.approx(64, rel=0.1)
