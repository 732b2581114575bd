"""The verdict, sentence by sentence."""

from __future__ import annotations

import pytest

from gan_plugin.evaluation.results import Measurement
from gan_plugin.evaluation.verdict import NO_HELD_OUT, verdict


def critics(**values: float) -> list[Measurement]:
    return [Measurement("critic_auroc", value, network=f"critic-{side[1:]}") for side, value in values.items()]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, NO_HELD_OUT),
        ({"_28": 0.55, "_16": 0.43}, "A critic cannot tell them from real images (AUROC 0.55 at 28 px)."),
        ({"_16": 0.95}, "A critic tells them from real images at 16 px (AUROC 0.95)."),
        (
            {"_64": 1.0, "_32": 0.993, "_16": 0.97, "_8": 0.904},
            "A critic tells them from real images at every size from 8 to 64 px (AUROC 0.90 to 1.00).",
        ),
        (
            {"_64": 0.99, "_32": 0.95, "_16": 0.91, "_8": 0.52},
            "A critic tells them from real images at 16, 32 and 64 px (AUROC 0.99); at 8 px they pass for real.",
        ),
        (
            {"_28": 0.96, "_16": 0.7, "_8": 0.5},
            "A critic tells them from real images at 28 px (AUROC 0.96) and often at 16 px (AUROC 0.70); "
            "at 8 px they pass for real.",
        ),
        (
            {"_28": 0.7, "_16": 0.65, "_8": 0.55},
            "A critic often tells them from real images at 16 and 28 px (AUROC 0.70); at 8 px they pass for real.",
        ),
    ],
)
def test_at_which_sizes_a_critic_tells_them_apart(values: dict[str, float], sentence: str) -> None:
    assert verdict(critics(**values)) == sentence


@pytest.mark.parametrize(
    ("fine", "board", "sentence"),
    [
        (0.5, 1.0, ""),
        (-12.6, 0.0, "High frequencies are too weak by 13 dB: blur."),
        (-12.6, 9.2, "High frequencies are too weak by 13 dB: blur, under a checkerboard of 9 dB."),
        (9.4, 0.0, "High frequencies are too strong by 9 dB: noise or hard edges."),
        (9.4, 6.1, "High frequencies are too strong by 9 dB: a checkerboard, which stands out by 6 dB."),
        (1.0, 4.4, "A checkerboard stands out by 4 dB."),
    ],
)
def test_what_the_spectrum_shows(fine: float, board: float, sentence: str) -> None:
    spectrum = [Measurement("high_frequencies", fine), Measurement("checkerboard", board)]
    assert verdict(spectrum).removeprefix(NO_HELD_OUT).strip() == sentence


def test_the_spectrum_is_compared_with_that_of_held_out_images() -> None:
    assert verdict([Measurement("high_frequencies", 5.0, real=3.0)]) == NO_HELD_OUT
    assert "too strong by 5 dB" in verdict([Measurement("high_frequencies", 4.0, real=-1.0)])


def feature_measurements(**values: float) -> list[Measurement]:
    baselines = {"precision": 0.9, "recall": 0.8, "authenticity": 0.6}
    return [Measurement(name, value, real=baselines.get(name)) for name, value in values.items()]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"precision": 0.1}, ""),  # without held-out images there is no ratio, and no baseline
        ({"fid_ratio": 1.04}, "Fid is 1.0 times that of real images."),
        ({"fid_ratio": 1.2, "recall": 0.3}, "Fid is 1.2 times that of real images."),
        (
            {"fid_ratio": 18.3, "precision": 0.88, "recall": 0.21},
            "Fid is 18 times that of real images; variety is missing (recall 0.21, real images 0.80).",
        ),
        (
            {"fid_ratio": 4.0, "precision": 0.4, "recall": 0.7},
            "Fid is 4.0 times that of real images; many resemble no real one (precision 0.40, real images 0.90).",
        ),
        (
            {"fid_ratio": 0.4, "authenticity": 0.05},
            "Fid is 0.4 times that of real images; training images are copied (authenticity 0.05, real images 0.60).",
        ),
    ],
)
def test_what_the_features_show(values: dict[str, float], sentence: str) -> None:
    assert verdict(feature_measurements(**values)).removeprefix(NO_HELD_OUT).strip() == sentence


def test_of_several_networks_the_first_speaks() -> None:
    ratios = [Measurement("fid_ratio", 3.0, network="one"), Measurement("fid_ratio", 30.0, network="two")]
    assert "Fid is 3.0 times" in verdict(ratios)


def test_the_sentences_stand_in_one_order() -> None:
    measurements = [Measurement("fid_ratio", 18.0), Measurement("high_frequencies", -9.0), *critics(_64=0.99)]
    assert verdict(measurements) == (
        "A critic tells them from real images at 64 px (AUROC 0.99). High frequencies are too weak by 9 dB: blur. "
        "Fid is 18 times that of real images."
    )
