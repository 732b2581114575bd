"""Size and channels: chosen, refused, cropped to, described."""

from __future__ import annotations

import pytest
from helpers import refusal

from gan_plugin.data import load_dataset
from gan_plugin.data.sizes import as_size, automatic_size, crop_size, size_notes


def test_automatic_size_is_the_one_that_all_share() -> None:
    assert automatic_size([(28, 28)] * 3) == (28, 28)
    for size in ((16, 1024), (1024, 16), (30, 30), (260, 260), (257, 129)):
        assert automatic_size([size, size]) == size
    assert automatic_size([(28, 28), (32, 32)]) == (64, 64)
    assert automatic_size([(32, 48), (48, 32)]) == (64, 64)
    for size in ((15, 100), (100, 15), (1025, 64), (64, 1025), (12, 12)):
        assert automatic_size([size]) == (64, 64)


def test_size_is_an_integer_or_height_and_width() -> None:
    assert as_size(None) is None
    assert as_size(16) == (16, 16)
    assert as_size((1024, 17)) == (1024, 17)


@pytest.mark.parametrize(
    ("image_size", "text"),
    [(0, "0"), (15, "15"), (1025, "1025"), (-16, "-16"), ((16, 15), "16x15"), ((1025, 16), "1025x16")],
)
def test_impossible_image_size(image_size: int | tuple[int, int], text: str) -> None:
    message = refusal(lambda: load_dataset("digits", image_size=image_size))
    assert message == f"image_size={text} is not possible: give a height and a width from 16 to 1,024 pixels."


def test_wrong_channels() -> None:
    assert refusal(lambda: load_dataset("digits", channels=4)) == "channels=4 is neither 1 (gray) nor 3 (RGB)."


@pytest.mark.parametrize(
    ("size", "target", "cropped"),
    [
        ((300, 100), (64, 64), (100, 100)),
        ((100, 300), (128, 256), (100, 200)),
        ((100, 300), (256, 128), (100, 50)),
        ((40, 50), (32, 40), (40, 50)),  # the same aspect ratio
        ((33, 50), (64, 96), (33, 50)),  # 49.5 is rounded up, and is all there is
        ((31, 50), (64, 96), (31, 47)),  # 46.5 is rounded up
        ((2, 600), (1024, 16), (2, 1)),  # never nothing
        ((600, 2), (16, 1024), (1, 2)),
    ],
)
def test_crop_size(size: tuple[int, int], target: tuple[int, int], cropped: tuple[int, int]) -> None:
    assert crop_size(size, target) == cropped
    assert crop_size(size[::-1], target[::-1]) == cropped[::-1]


def test_notes_say_what_was_done() -> None:
    assert size_notes([(28, 28)] * 2, (28, 28), requested=False) == ["The images are 28x28 pixels and keep that size."]
    assert size_notes([(256, 128)], (256, 128), requested=True) == [
        "The images are 256x128 pixels (height x width) and keep that size."
    ]
    assert size_notes([(20, 30)] * 3, (64, 32), requested=True) == [
        "The images were 20x30 pixels (height x width) and are resized to 64x32 (Lanczos), since image_size=64x32.",
        "3 of 3 images had another aspect ratio and were cropped around their center.",
    ]
    assert size_notes([(40, 80), (20, 40)], (32, 64), requested=True) == [
        "The images were of different sizes, with sides of 20 to 80 pixels, and are resized to 32x64 (Lanczos), since "
        "image_size=32x64."
    ]
    assert size_notes([(2000, 2000)], (64, 64), requested=False) == [
        "The images were 2000x2000 pixels and are resized to 64x64 (Lanczos), the size taken where the images do not "
        "share one with sides of 16 to 1,024 pixels."
    ]
