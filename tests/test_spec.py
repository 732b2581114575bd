"""What one sample is, and the text form of a size."""

from __future__ import annotations

import pytest

from gan_plugin.spec import image_spec, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("64", (64, 64)), ("256x128", (256, 128)), ("16x1024", (16, 1024)), (" 30 ", (30, 30)), ("64x64", (64, 64))],
)
def test_a_size_is_height_and_width(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size
    assert parse_size(size_text(size)) == size


NO_SIZES = ["", "x", "64x", "x64", "64x64x3", "64 64", "64×64", "-64", "64.0", "٦٤", "15", "1025", "64x15", 5000 * "9"]


@pytest.mark.parametrize("text", NO_SIZES, ids=range(len(NO_SIZES)))
def test_text_that_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is neither HEIGHTxWIDTH nor one number|that is not from 16 to 1,024 pixels"):
        parse_size(text)


def test_a_square_is_written_as_one_number() -> None:
    assert size_text((64, 64)) == "64"
    assert size_text((256, 128)) == "256x128"


def test_image_spec() -> None:
    spec = image_spec(256, 128, 3, class_names=["cat", "dog"])
    assert (spec.kind, spec.shape, str(spec)) == ("image", (256, 128, 3), "256×128×3")
    assert (spec.height, spec.width, spec.size, spec.channels) == (256, 128, (256, 128), 3)
    assert (spec.classes, spec.inputs) == (2, ("z", "label"))
    assert spec.unlabeled() == image_spec(256, 128, 3)
    assert (spec.unlabeled().classes, spec.unlabeled().inputs) == (0, ("z",))
