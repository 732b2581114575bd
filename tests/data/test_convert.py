"""Conversion: every mode and format of an image to the pixels that a person sees."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import BLACK, BLUE, RED, WHITE, chw, noise, ramp_of_16_bits, reopened, save
from PIL import Image

from gan_plugin.data.convert import resize_gray, to_pixels, to_rgb


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".ppm", ".tga"])
def test_rgb_files_keep_every_pixel(suffix: str, tmp_path: Path) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    image = noise(0)
    assert torch.equal(chw(to_rgb(reopened(image, suffix, tmp_path, **options))), chw(image))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".gif"])
def test_gray_files(suffix: str, tmp_path: Path) -> None:
    gray = Image.new("L", (16, 16), 100)
    assert to_rgb(reopened(gray, suffix, tmp_path)).getpixel((3, 5)) == (100, 100, 100)


@pytest.mark.parametrize(
    ("mode", "dtype", "suffix"),
    [
        ("I;16", "<u2", ".png"),
        ("I;16", "<u2", ".tif"),
        ("I;16B", ">u2", ".tif"),
        ("I", "<i4", ".pgm"),
        ("I", "<i4", ".tif"),
    ],
)
def test_deep_gray_is_scaled_and_not_clipped(mode: str, dtype: str, suffix: str, tmp_path: Path) -> None:
    image = Image.frombytes(mode, (16, 16), ramp_of_16_bits().astype(dtype).tobytes())
    path = save(image, tmp_path / f"ramp{suffix}")
    if mode == "I;16B":
        assert path.read_bytes()[:2] == b"MM"
    pixels = to_pixels(to_rgb(Image.open(path)), (16, 16), 1)
    assert np.array_equal(pixels[0], np.arange(256).reshape(16, 16))


def test_deep_gray_is_rounded_to_the_nearest(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 385, 386, 65535]], dtype=np.uint16)
    image = reopened(Image.fromarray(values), ".png", tmp_path)
    assert image.mode == "I;16"
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 0, 1, 1, 2, 255]


def test_transparent_value_of_a_deep_gray_png_is_white(tmp_path: Path) -> None:
    values = np.array([[1000, 0, 2000]], dtype=np.uint16)
    image = reopened(Image.fromarray(values), ".png", tmp_path, transparency=1000)
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [255, 0, 8]


def tiff(width: int, height: int, *, bits: int, photometric: int, strip: bytes) -> bytes:
    """A little-endian gray TIFF of one strip, for kinds that Pillow reads and does not write."""
    tags = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, bits),
        (259, 3, 1),  # uncompressed
        (262, 3, photometric),
        (273, 4, 8 + 2 + 9 * 12 + 4),  # where the strip begins
        (277, 3, 1),
        (278, 3, height),
        (279, 4, len(strip)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + strip


def test_tiff_of_12_bits_and_tiff_with_zero_as_white() -> None:
    twelve = Image.open(io.BytesIO(tiff(2, 1, bits=12, photometric=1, strip=bytes([0xFF, 0xF0, 0x80]))))  # 4095 and 128
    assert np.asarray(to_rgb(twelve))[0, :, 0].tolist() == [255, 8]
    inverted = Image.open(io.BytesIO(tiff(3, 1, bits=16, photometric=0, strip=struct.pack("<HHH", 0, 65535, 257))))
    assert np.asarray(to_rgb(inverted))[0, :, 0].tolist() == [255, 0, 254]


def test_float_gray_is_0_to_1(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert np.asarray(to_rgb(reopened(Image.fromarray(values), ".tif", tmp_path)))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("bad", [255.0, -0.5, float("nan"), float("inf")])
def test_float_gray_beyond_0_to_1_is_refused(bad: float, tmp_path: Path) -> None:
    image = reopened(Image.fromarray(np.array([[0.5, bad]], dtype=np.float32)), ".tif", tmp_path)
    with pytest.raises(ValueError, match=r"outside 0 to 1$"):
        to_rgb(image)


def test_32_bit_integers_beyond_65535_are_refused(tmp_path: Path) -> None:
    image = reopened(Image.fromarray(np.array([[0, 65536]], dtype=np.int32)), ".tif", tmp_path)
    with pytest.raises(ValueError, match="gray values from 0 to 65536, outside 0 to 65535"):
        to_rgb(image)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_one_bit_images(suffix: str, tmp_path: Path) -> None:
    image = Image.new("1", (16, 16), 0)
    image.putpixel((2, 1), 1)
    rgb = to_rgb(reopened(image, suffix, tmp_path))
    assert rgb.getpixel((2, 1)) == WHITE
    assert rgb.getpixel((1, 2)) == BLACK


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    rgba = to_rgb(reopened(Image.new("RGBA", (16, 16), (255, 0, 0, 128)), ".png", tmp_path))
    assert rgba.getpixel((0, 0)) == (255, 127, 127)
    gray_alpha = to_rgb(reopened(Image.new("LA", (16, 16), (0, 64)), ".png", tmp_path))
    assert gray_alpha.getpixel((0, 0)) == (191, 191, 191)
    hidden = to_rgb(reopened(Image.new("RGBA", (16, 16), (0, 0, 0, 0)), ".webp", tmp_path, lossless=True, exact=True))
    assert hidden.getpixel((0, 0)) == WHITE


def test_palettes(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([*BLUE, *RED, *BLACK])
    image.paste(0, (0, 0, 8, 16))
    for suffix in (".png", ".gif", ".bmp"):
        rgb = to_rgb(reopened(image, suffix, tmp_path))
        assert (rgb.getpixel((0, 0)), rgb.getpixel((15, 0))) == (BLUE, RED)
    for suffix in (".png", ".gif"):
        rgb = to_rgb(reopened(image, suffix, tmp_path, transparency=0))
        assert (rgb.getpixel((0, 0)), rgb.getpixel((15, 0))) == (WHITE, RED)
    rgb = to_rgb(reopened(image, ".png", tmp_path, transparency=bytes([0, 128])))  # an alpha for each entry
    assert (rgb.getpixel((0, 0)), rgb.getpixel((15, 0))) == (WHITE, (255, 127, 127))


def test_color_that_a_png_declares_transparent(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), RED)
    image.putpixel((0, 0), BLUE)
    rgb = to_rgb(reopened(image, ".png", tmp_path, transparency=BLUE))
    assert (rgb.getpixel((0, 0)), rgb.getpixel((1, 0))) == (WHITE, RED)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])  # the JPEG is inverted on disk, as Adobe's are
def test_cmyk(suffix: str, tmp_path: Path) -> None:
    for ink, color in {(0, 255, 255, 0): RED, (0, 0, 0, 0): WHITE, (0, 0, 0, 255): BLACK}.items():
        path = save(Image.new("CMYK", (16, 16), ink), tmp_path / f"image{suffix}")
        if suffix == ".jpg":
            assert b"Adobe" in path.read_bytes()
        converted = np.asarray(to_rgb(Image.open(path)).getpixel((8, 8)), int)
        assert np.abs(converted - color).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_exif_orientation(orientation: int, suffix: str, tmp_path: Path) -> None:
    stored = noise(0, 12, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(stored, tmp_path / f"image{suffix}", exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    # EXIF 2.3: the sides of the upright image at which the stored first row and first column lie
    first_row, first_column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    upright = np.asarray(stored)
    if first_row in ("left", "right"):
        upright = upright.swapaxes(0, 1)
    if "bottom" in (first_row, first_column):
        upright = upright[::-1]
    if "right" in (first_row, first_column):
        upright = upright[:, ::-1]
    assert np.array_equal(np.asarray(to_rgb(Image.open(path))), upright)


def test_orientation_6_turns_the_left_side_of_a_jpeg_up(tmp_path: Path) -> None:
    stored = Image.new("RGB", (64, 32), BLUE)
    stored.paste(RED, (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = to_rgb(reopened(stored, ".jpg", tmp_path, exif=exif, quality=95))
    assert rgb.size == (32, 64)
    assert np.abs(np.asarray(rgb.getpixel((16, 8)), int) - RED).max() <= 3
    assert np.abs(np.asarray(rgb.getpixel((16, 56)), int) - BLUE).max() <= 3


def test_damaged_exif_leaves_the_image_as_it_is_stored(tmp_path: Path) -> None:
    image = noise(3)
    assert torch.equal(chw(to_rgb(reopened(image, ".png", tmp_path, exif=b"Exif\0\0no tiff header"))), chw(image))


def test_pixels_are_the_middle_square_resized() -> None:
    image = Image.new("RGB", (64, 32), BLUE)
    image.paste(RED, (16, 0, 48, 32))
    pixels = to_pixels(image, (16, 16), 3)
    assert pixels.shape == (3, 16, 16)
    assert (pixels.transpose(1, 2, 0) == RED).all()
    tall = noise(5, 20, 33)
    expected = tall.crop((0, 6, 20, 26)).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(to_pixels(tall, (16, 16), 3), chw(expected).numpy())


def test_pixels_are_the_middle_part_of_the_aspect_ratio_resized() -> None:
    image = noise(6, 50, 40)  # 40 high
    portrait = image.crop((15, 0, 35, 40)).resize((16, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(to_pixels(image, (32, 16), 3), chw(portrait).numpy())
    landscape = image.crop((0, 7, 50, 32)).resize((64, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(to_pixels(image, (32, 64), 3), chw(landscape).numpy())
    assert np.array_equal(to_pixels(image, (40, 50), 3), chw(image).numpy())
    assert to_pixels(noise(7, 600, 2), (1024, 16), 1).shape == (1, 1024, 16)  # a sliver of one pixel


def test_gray_images_are_cropped_and_resized_alike() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    resized = resize_gray(gray, (32, 16), Image.Resampling.LANCZOS)
    for before, after in zip(gray, resized, strict=True):
        rgb = Image.fromarray(before).convert("RGB")
        assert np.array_equal(after, to_pixels(rgb, (32, 16), 1)[0])
    assert resize_gray(gray, (20, 30), Image.Resampling.LANCZOS) is gray


def test_one_channel_is_luma() -> None:
    assert to_pixels(Image.new("RGB", (16, 16), RED), (16, 16), 1)[0, 0, 0] == 76  # .299 of 255
