"""Each damage to real images is seen by at least one metric, and untouched ones by none."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, load_script

from gan_plugin.data import Dataset
from gan_plugin.evaluation.reference import Reference, as_pixels
from gan_plugin.media.image import Images

validity: Any = load_script(ROOT / "benchmarks" / "validity.py")
SEEN_BY = {
    "blurred by 0.7 pixels": {"critic_auroc/critic-16", "spectrum_distance/pixels", "high_frequencies/pixels"},
    "checkerboard of ± 6": {"critic_auroc/critic-16", "spectrum_distance/pixels", "checkerboard/pixels"},
    "four gray levels": {"critic_auroc/critic-16", "critic_auroc/critic-8", "high_frequencies/pixels"},
    "patches shuffled": {"critic_auroc/critic-16", "critic_auroc/critic-8", "fid/classifier"},
    "four images repeated": {"critic_auroc/critic-16", "critic_auroc/critic-8", "fid/classifier"},
    "blobs with a checkerboard": {"critic_auroc/critic-16", "critic_auroc/critic-8", "fid/classifier"},
}


@pytest.fixture(scope="module")
def half(reference: Reference) -> Reference:
    """The reference with one half of its held-out images."""
    assert reference.held_out is not None
    return dataclasses.replace(reference, held_out=reference.held_out.take(torch.arange(0, 358, 2)))


@pytest.fixture(scope="module")
def untouched(held_out: Dataset) -> Images:
    return np.ascontiguousarray(as_pixels(held_out)[1::2])


@pytest.fixture(scope="module")
def baseline(half: Reference, untouched: Images) -> dict[str, Any]:
    scores: dict[str, Any] = validity.scores(untouched, half, {"classifier": half.network})
    return scores


def test_untouched_real_images_pass(baseline: dict[str, Any]) -> None:
    assert "cannot tell them from real images" in baseline["verdict"]
    assert "High frequencies" not in baseline["verdict"]
    assert baseline["critic_auroc/critic-16"] == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("damage", SEEN_BY)
def test_a_damage_is_seen(damage: str, half: Reference, untouched: Images, baseline: dict[str, Any]) -> None:
    images = validity.DAMAGES[damage](untouched)
    assert images.shape == untouched.shape
    scores = validity.scores(images, half, {"classifier": half.network})
    seen = {
        name for name, value in scores.items() if name != "verdict" and validity.is_seen(name, value, baseline[name])
    }
    assert seen >= SEEN_BY[damage], scores
    assert "tells them from real images" in scores["verdict"]
