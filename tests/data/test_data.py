"""Data: every kind that can be given, as real files, and every refusal."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, refusal
from PIL import Image
from sklearn.datasets import load_digits

from gan_plugin.data import Dataset, check_data_argument, load_dataset
from gan_plugin.data.convert import to_pixels, to_rgb
from gan_plugin.data.dataset import automatic_size, digest
from gan_plugin.data.digits import held_out
from gan_plugin.data.parquet import HubDataset, find_parquet_files, split_in_name

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def noise(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    """A color image whose pixels all differ from those of another seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def reopened(image: Image.Image, suffix: str, tmp_path: Path, **options: Any) -> Image.Image:
    return Image.open(save(image, tmp_path / f"image{suffix}", **options))


def chw(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


# --- conversion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".ppm", ".tga"])
def test_rgb_files_keep_every_pixel(suffix: str, tmp_path: Path) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    image = noise(0)
    assert torch.equal(chw(to_rgb(reopened(image, suffix, tmp_path, **options))), chw(image))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".gif"])
def test_gray_files(suffix: str, tmp_path: Path) -> None:
    gray = Image.new("L", (16, 16), 100)
    assert to_rgb(reopened(gray, suffix, tmp_path)).getpixel((3, 5)) == (100, 100, 100)


def ramp_of_16_bits() -> np.ndarray:
    return (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)


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
    pixels = to_pixels(Image.open(path), 16, 1)
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


def tiff(width: int, height: int, bits: int, photometric: int, strip: bytes) -> bytes:
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
    twelve = Image.open(io.BytesIO(tiff(2, 1, 12, 1, bytes([0xFF, 0xF0, 0x80]))))  # 4095 and 128
    assert np.asarray(to_rgb(twelve))[0, :, 0].tolist() == [255, 8]
    inverted = Image.open(io.BytesIO(tiff(3, 1, 16, 0, struct.pack("<HHH", 0, 65535, 257))))
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
        shown = np.asarray(to_rgb(Image.open(path)).getpixel((8, 8)), int)
        assert np.abs(shown - color).max() <= 2


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


def test_orientation_6_jpeg_shows_its_left_side_on_top(tmp_path: Path) -> None:
    stored = Image.new("RGB", (64, 32), BLUE)
    stored.paste(RED, (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = to_rgb(reopened(stored, ".jpg", tmp_path, exif=exif, quality=95))
    assert rgb.size == (32, 64)
    assert np.abs(np.asarray(rgb.getpixel((16, 8)), int) - RED).max() <= 3
    assert np.abs(np.asarray(rgb.getpixel((16, 56)), int) - BLUE).max() <= 3


def test_damaged_exif_leaves_the_image_as_it_lies(tmp_path: Path) -> None:
    image = noise(3)
    assert torch.equal(chw(to_rgb(reopened(image, ".png", tmp_path, exif=b"Exif\0\0no tiff header"))), chw(image))


def test_pixels_are_the_middle_square_resized() -> None:
    image = Image.new("RGB", (64, 32), BLUE)
    image.paste(RED, (16, 0, 48, 32))
    pixels = to_pixels(image, 16, 3)
    assert pixels.shape == (3, 16, 16)
    assert (pixels.transpose(1, 2, 0) == RED).all()
    tall = noise(5, 20, 33)
    expected = tall.crop((0, 6, 20, 26)).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(to_pixels(tall, 16, 3), chw(expected).numpy())


def test_one_channel_is_luma() -> None:
    assert to_pixels(Image.new("RGB", (16, 16), RED), 16, 1)[0, 0, 0] == 76  # .299 of 255


# --- size, channels, digest -------------------------------------------------------------------------------------------


def test_automatic_size() -> None:
    assert automatic_size([(28, 28)] * 3) == 28
    assert automatic_size([(256, 256)]) == 256
    assert automatic_size([(28, 28), (32, 32)]) == 64
    assert automatic_size([(32, 48)]) == 64
    for side in (12, 30, 260):
        assert automatic_size([(side, side)]) == 64


@pytest.mark.parametrize("image_size", [0, 12, 30, 260, -16])
def test_wrong_image_size(image_size: int) -> None:
    message = refusal(lambda: load_dataset("digits", image_size=image_size))
    assert message == f"image_size={image_size} is not a multiple of 4 from 16 to 256."


def test_wrong_channels() -> None:
    assert refusal(lambda: load_dataset("digits", channels=4)) == "channels=4 is neither 1 (gray) nor 3 (RGB)."


def test_digest_changes_with_any_pixel_label_name_or_shape() -> None:
    images = torch.arange(2 * 16 * 16, dtype=torch.int64).to(torch.uint8).reshape(2, 1, 16, 16)
    labels = torch.tensor([0, 1])
    original = digest(images, labels, ("a", "b"))
    assert original == "8ee7aa047952ceb5d34d59f2d8c8c95d"  # the same in every run and on every machine
    brighter = images.clone()
    brighter[1, 0, 15, 15] += 1
    others = [
        digest(brighter, labels, ("a", "b")),
        digest(images, torch.tensor([1, 1]), ("a", "b")),
        digest(images, labels, ("a", "c")),
        digest(images, None, ()),
        digest(images.reshape(2, 1, 8, 32), labels, ("a", "b")),
    ]
    assert len({original, *others}) == 6
    assert digest(images.transpose(2, 3).contiguous().transpose(2, 3), labels, ("a", "b")) == original


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits() -> None:
    dataset = load_dataset("digits")
    assert dataset.samples.shape == (1438, 1, 28, 28)
    assert dataset.samples.dtype == torch.uint8
    assert (len(dataset), dataset.size, dataset.spec.channels) == (1438, 28, 1)
    assert dataset.labels is not None
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels[:12].tolist() == [0, 1, 2, 3, 7, 8, 0, 1, 2, 3, 5, 6]
    assert dataset.class_names == tuple("0123456789")
    assert (dataset.name, dataset.source, dataset.split) == ("digits", "sklearn.datasets.load_digits", "train")
    assert dataset.notes == ("The digits were 8x8 pixels and are enlarged to 28x28 (bicubic).",)
    # The first image is a nought: dark outside and in the middle, bright on its ring.
    nought = dataset.samples[0, 0]
    assert nought[:, 0].max() == 0
    assert nought[12:16, 13:15].max() < 20
    assert nought[4:24, 8:20].float().mean() > 100
    assert dataset.samples.max() == 255


def test_digits_in_another_size_and_three_channels() -> None:
    small = load_dataset("digits", image_size=16, channels=3)
    assert small.samples.shape == (1438, 3, 16, 16)
    assert torch.equal(small.samples[:, 0], small.samples[:, 2])
    # Averaged back to 8x8 the digits are those of scikit-learn.
    back = torch.nn.functional.avg_pool2d(small.samples[:, 0].float(), 2) * (16 / 255)
    kept = ~held_out(1797)
    assert (back - torch.from_numpy(load_digits().images[kept])).abs().mean() < 0.8  # of 16


def test_a_fifth_of_the_digits_is_held_out() -> None:
    """No digit is in both splits, none in neither, and which is which never changes: published figures depend on it."""
    train, test = load_dataset("digits"), load_dataset("digits", split="test")
    assert (len(train), len(test)) == (1438, 359)
    both = torch.cat([train.samples, test.samples]).flatten(1)
    whole = torch.from_numpy(load_digits().images).flatten(1)
    assert len(both) == len(whole) == 1797
    assert len(both.unique(dim=0)) == len(whole.unique(dim=0))
    assert test.labels is not None
    assert test.labels.bincount().tolist() == [27, 35, 36, 29, 30, 40, 44, 39, 38, 41]
    first = np.flatnonzero(held_out(1797))[:8].tolist()
    assert first == [4, 5, 6, 9, 14, 17, 18, 19]


def test_digits_have_no_other_split() -> None:
    for call in (lambda: load_dataset("digits", split="dev"), lambda: check_data_argument("digits", "dev")):
        assert refusal(call) == "data='digits' has no split 'dev': its splits are 'train' and 'test'."


# --- IDX --------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def gray_images(count: int = 6, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width), dtype=np.uint8)


def write_idx(folder: Path, images: np.ndarray, labels: np.ndarray | None, prefix: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
    if labels is not None:
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


LABELS = np.array([0, 2, 1, 0, 2, 2], dtype=np.uint8)


def test_idx_images_labels_and_splits(tmp_path: Path) -> None:
    train, test = gray_images(6), gray_images(4)
    folder = write_idx(tmp_path / "shapes", train, LABELS)
    write_idx(folder, test, LABELS[:4], "t10k")
    dataset = load_dataset(str(folder))
    assert torch.equal(dataset.samples, torch.from_numpy(train)[:, None])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.class_names == ("0", "1", "2")
    assert (dataset.name, dataset.source) == ("shapes", str(folder))
    assert dataset.notes == ("The images are 16x16 pixels and keep that size.",)
    assert torch.equal(load_dataset(str(folder), split="test").samples, torch.from_numpy(test)[:, None])
    message = refusal(lambda: load_dataset(str(folder), split="validation"))
    assert message.endswith("no images of split 'validation' in IDX format: the splits there are 'train', 'test'.")
    assert refusal(lambda: check_data_argument(str(folder), "validation")) == message


@pytest.mark.parametrize("spelling", ["{}-idx{}-ubyte.gz", "{}.idx{}-ubyte", "{}.idx{}-ubyte.gz"])
def test_idx_spellings(spelling: str, tmp_path: Path) -> None:
    images = gray_images()
    pack = gzip.compress if spelling.endswith(".gz") else bytes
    (tmp_path / spelling.format("train-images", 3)).write_bytes(pack(idx(images)))
    (tmp_path / spelling.format("train-labels", 1)).write_bytes(pack(idx(LABELS)))
    dataset = load_dataset(str(tmp_path))
    assert torch.equal(dataset.samples[:, 0], torch.from_numpy(images))
    assert dataset.labels is not None
    assert dataset.labels.tolist() == LABELS.tolist()


def test_idx_without_labels_resized_in_three_channels(tmp_path: Path) -> None:
    images = gray_images(3, 20, 30)
    dataset = load_dataset(str(write_idx(tmp_path, images, None)), image_size=16, channels=3)
    assert dataset.labels is None
    assert dataset.class_names == ()
    middle = Image.fromarray(images[1][:, 5:25]).resize((16, 16), Image.Resampling.LANCZOS)
    assert torch.equal(dataset.samples[1], torch.from_numpy(np.array(middle)).expand(3, 16, 16))
    assert dataset.notes == (
        "The images were 30x20 pixels and are resized to 16x16 (Lanczos), since image_size=16.",
        "3 of 3 images were not square: the square in their middle was cut out.",
        "There is no file of labels, so the images have no classes.",
    )


def test_idx_class_names(tmp_path: Path) -> None:
    folder = write_idx(tmp_path, gray_images(), LABELS)
    (folder / "classes.txt").write_text("circle\nsquare\nstar shape\n", "utf-8")
    assert load_dataset(str(folder)).spec.class_names == ("circle", "square", "star shape")
    (folder / "classes.txt").write_text("circle\nsquare\n", "utf-8")
    message = refusal(lambda: load_dataset(str(folder)))
    assert message == f"{folder}/classes.txt names 2 classes and the largest label is 2: name 3."
    (folder / "classes.txt").write_bytes(b"\xff\xfe\xff")
    assert "classes.txt is not UTF-8 text" in refusal(lambda: load_dataset(str(folder)))


def damaged(content: bytes) -> dict[str, tuple[bytes, str]]:
    return {
        "truncated": (
            content[:-1],
            "is truncated or has extra data: after its header there are 1,535 bytes, not the 1,5",
        ),
        "longer": (content + b"\0", "there are 1,537 bytes, not the 1,536 of 6x16x16 values."),
        "header": (content[:9], "does not begin with the header of an IDX file of 3 dimensions"),
        "empty": (b"", "its first bytes are '', not '00000803'"),
        "labels": (idx(LABELS), "its first bytes are '00000801', not '00000803'"),
        "gzip": (gzip.compress(content)[:-20], "cannot be read: "),
        "no pixels": (idx(np.zeros((6, 0, 16), np.uint8)), "holds no pixels: its header says 6 images of 16x0"),
    }


@pytest.mark.parametrize("damage", damaged(b""))
def test_damaged_idx(damage: str, tmp_path: Path) -> None:
    content, expected = damaged(idx(gray_images()))[damage]
    folder = write_idx(tmp_path, gray_images(), LABELS)
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    message = refusal(lambda: load_dataset(str(folder)))
    assert message.startswith(f"{folder}/train-images-idx3-ubyte ")
    assert expected in message


def test_idx_counts_that_differ(tmp_path: Path) -> None:
    folder = write_idx(tmp_path, gray_images(), LABELS[:5])
    message = refusal(lambda: load_dataset(str(folder)))
    assert message == f"{folder}/train-labels-idx1-ubyte holds 5 labels for 6 images: give one for each."


def test_idx_with_one_image_or_labels_only(tmp_path: Path) -> None:
    folder = write_idx(tmp_path, gray_images(1), None)
    assert refusal(lambda: load_dataset(str(folder))).endswith("has 1 readable images: training needs at least 2.")
    (folder / "train-images-idx3-ubyte").rename(folder / "train-labels-idx1-ubyte")
    assert "the files with the images are missing" in refusal(lambda: check_data_argument(str(folder)))


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason=f"Fashion-MNIST is not installed at {FASHION_MNIST}")
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_fashion_mnist(split: str, count: int) -> None:
    dataset = load_dataset(str(FASHION_MNIST), split=split)
    assert dataset.samples.shape == (count, 1, 28, 28)
    assert dataset.labels is not None
    assert torch.bincount(dataset.labels).tolist() == [count // 10] * 10
    assert dataset.class_names == tuple("0123456789")
    assert dataset.name == "fashion-mnist"
    if split == "train":
        assert dataset.labels[:4].tolist() == [9, 0, 0, 3]  # an ankle boot, two T-shirts, a dress
        assert round(dataset.samples.float().mean().item(), 2) == 72.94  # .2860 of 255, as is published


# --- folders of image files -----------------------------------------------------------------------------------------


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Five images in two classes, one of them nested deeper."""
    root = tmp_path / "pets"
    for seed, name in enumerate(["dog/b.png", "dog/a.png", "cat/x.png", "cat/deeper/still/y.PNG", "cat/z.png"]):
        save(noise(seed), root / name)
    return root


def test_folder_of_classes(classes: Path) -> None:
    dataset = load_dataset(str(classes))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels is not None
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    order = [3, 2, 4, 1, 0]  # cat/deeper/still/y, cat/x, cat/z, dog/a, dog/b
    assert torch.equal(dataset.samples, torch.stack([chw(noise(seed)) for seed in order]))
    assert (dataset.name, dataset.source, dataset.split) == ("pets", str(classes), "train")
    assert dataset.notes == (
        "The images are 16x16 pixels and keep that size.",
        "There are images in color, so there are 3 channels.",
    )


def test_folder_without_classes_in_one_order_whatever_was_written_first(tmp_path: Path) -> None:
    for folder, seeds in (("up", range(150)), ("down", reversed(range(150)))):
        for seed in seeds:
            save(noise(seed), tmp_path / folder / f"{seed:03}.png")
    up, down = load_dataset(str(tmp_path / "up")), load_dataset(str(tmp_path / "down"))
    assert up.labels is None
    assert up.class_names == ()
    assert torch.equal(up.samples, torch.stack([chw(noise(seed)) for seed in range(150)]))
    assert up.digest == down.digest


def test_one_changed_pixel_or_class_changes_the_digest(classes: Path) -> None:
    before = load_dataset(str(classes)).digest
    assert load_dataset(str(classes)).digest == before
    (classes / "dog").rename(classes / "wolf")
    renamed = load_dataset(str(classes)).digest
    image = noise(2)
    pixels = np.array(image)
    pixels[7, 7, 2] ^= 1
    image = Image.fromarray(pixels)
    save(image, classes / "cat/x.png")
    assert len({before, renamed, load_dataset(str(classes)).digest}) == 3


def test_relative_paths_and_links(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "farm").mkdir()
    (tmp_path / "farm/cat").symlink_to(classes / "cat")
    save(noise(9), tmp_path / "farm/cow/1.png")
    (tmp_path / "farm/cow/loop").symlink_to(tmp_path / "farm")
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset("farm")
    assert dataset.source == str(tmp_path / "farm")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 0, 1]


def test_hidden_files_are_passed_over_and_others_counted(classes: Path) -> None:
    (classes / ".DS_Store").write_bytes(b"x")
    (classes / "dog/._a.png").write_bytes(b"x")
    save(noise(8), classes / ".thumbnails/t.png")
    (classes / "cat/labels.csv").write_text("x")
    (classes / "README.md").write_text("x")
    (classes / "cat/clip.mpg").write_bytes(b"x")
    dataset = load_dataset(str(classes))
    assert len(dataset) == 5
    assert dataset.notes[0] == (
        "3 files that are not images by their suffix were left out: README.md, cat/clip.mpg, cat/labels.csv."
    )


def test_images_of_different_sizes(tmp_path: Path) -> None:
    save(noise(0, 100, 40), tmp_path / "0.png")
    save(noise(1, 64, 64), tmp_path / "1.png")
    dataset = load_dataset(str(tmp_path))
    cut = noise(0, 100, 40).crop((30, 0, 70, 40)).resize((64, 64), Image.Resampling.LANCZOS)
    assert torch.equal(dataset.samples, torch.stack([chw(cut), chw(noise(1, 64, 64))]))
    assert dataset.notes[:2] == (
        "The images were of different sizes, with sides of 40 to 100 pixels and are resized to 64x64 (Lanczos), the "
        "size taken where not all share one square size that is a multiple of 4 from 16 to 256.",
        "1 of 2 images were not square: the square in their middle was cut out.",
    )
    assert load_dataset(str(tmp_path), image_size=32).samples.shape == (2, 3, 32, 32)


def test_gray_by_content_and_forced_channels(tmp_path: Path) -> None:
    gray = [Image.new("RGB", (16, 16), (40, 40, 40)), Image.new("L", (16, 16), 50)]
    for index, image in enumerate(gray):
        save(image, tmp_path / f"{index}.png")
    dataset = load_dataset(str(tmp_path))
    assert dataset.samples.shape == (2, 1, 16, 16)
    assert dataset.samples.is_contiguous()
    assert dataset.samples[:, 0, 0, 0].tolist() == [40, 50]
    assert "Every image is gray, so there is 1 channel." in dataset.notes
    assert load_dataset(str(tmp_path), channels=3).samples.shape == (2, 3, 16, 16)
    almost = Image.new("RGB", (16, 16), (40, 40, 40))
    almost.putpixel((15, 15), (40, 40, 41))
    save(almost, tmp_path / "2.png")
    assert load_dataset(str(tmp_path)).spec.channels == 3
    assert load_dataset(str(tmp_path), channels=1).samples.shape == (3, 1, 16, 16)


def test_splits_as_sub_folders(tmp_path: Path) -> None:
    for seed in range(3):
        save(noise(seed), tmp_path / f"train/cat/{seed}.png")
        save(noise(seed + 10), tmp_path / f"val/dog/{seed}.png")
        save(noise(seed + 20), tmp_path / f"test/{seed}.png")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/about.txt").write_text("x")
    train, test = load_dataset(str(tmp_path)), load_dataset(str(tmp_path), split="test")
    assert train.class_names == ("cat",)
    assert train.notes[0] == "The images of split 'train' are those in the sub-folder 'train'."
    assert torch.equal(train.samples[1], chw(noise(1)))
    assert test.labels is None
    assert torch.equal(test.samples[1], chw(noise(21)))
    assert test.source == str(tmp_path)
    for spelling in ("val", "validation", "valid"):
        validation = load_dataset(str(tmp_path), split=spelling)
        assert validation.class_names == ("dog",)
        assert validation.split == spelling
    message = refusal(lambda: check_data_argument(str(tmp_path), "dev"))
    assert message == f"{tmp_path} has no sub-folder for split 'dev': the splits there are 'test', 'train', 'val'."


def test_classes_may_be_called_like_splits_when_not_all_are(tmp_path: Path) -> None:
    save(noise(0), tmp_path / "test/0.png")
    save(noise(1), tmp_path / "exam/1.png")
    assert load_dataset(str(tmp_path)).spec.class_names == ("exam", "test")


def test_a_folder_without_splits_is_all_train(classes: Path) -> None:
    message = refusal(lambda: check_data_argument(str(classes), "test"))
    assert message.endswith("has no split 'test': without sub-folders named like splits, all of it is 'train'.")


@pytest.mark.parametrize("inside", ["", "train"])
def test_images_beside_and_inside_sub_folders(inside: str, tmp_path: Path) -> None:
    save(noise(0), tmp_path / inside / "cat/0.png")
    save(noise(1), tmp_path / inside / "1.png")
    message = refusal(lambda: check_data_argument(str(tmp_path)))
    assert "has images both beside sub-folders (1.png) and inside them (cat/0.png): " in message


@pytest.fixture
def unreadable(classes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Beside the good images: truncated, empty, no image at all, too large, out of range; each of another size."""
    encoded = io.BytesIO()
    noise(0, 80, 60).save(encoded, "JPEG", quality=95)
    (classes / "cat/cut.jpg").write_bytes(encoded.getvalue()[: len(encoded.getvalue()) // 2])
    png = io.BytesIO()
    noise(0, 50, 60).save(png, "PNG")
    (classes / "dog/cut.png").write_bytes(png.getvalue()[:-2000])
    (classes / "cat/empty.png").write_bytes(b"")
    (classes / "cat/text.jpg").write_text("not an image")
    (classes / "dog/script.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    save(Image.new("L", (200, 200)), classes / "fox/bomb.png")
    save(Image.fromarray(np.full((16, 16), 2.5, np.float32)), classes / "fox/float.tif")
    return classes


def test_unreadable_images_are_refused_by_name(unreadable: Path) -> None:
    message = refusal(lambda: load_dataset(str(unreadable)))
    assert message.startswith(f"7 of 12 images in {unreadable} cannot be read: cat/cut.jpg (image file is truncated (")
    assert "cat/empty.png (not an image), cat/text.jpg (not an image)" in message
    assert "dog/cut.png (image file is truncated" in message
    assert "dog/script.jpg (not an image)" in message
    assert "fox/bomb.png (Image size (40000 pixels) exceeds limit of 20000 pixels" in message
    assert "fox/float.tif (gray values from 2.5 to 2.5, outside 0 to 1)" in message
    assert message.endswith("; repair or remove them, or set skip_unreadable to leave them out.")


def test_unreadable_images_are_left_out_and_counted(unreadable: Path, classes: Path) -> None:
    dataset = load_dataset(str(unreadable), skip_unreadable=True)
    # The size is that of the readable images, though others had readable headers.
    assert dataset.samples.shape == (5, 3, 16, 16)
    assert torch.equal(dataset.samples[0], chw(noise(3)))
    assert torch.equal(dataset.samples[4], chw(noise(0)))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert any(note.startswith("7 unreadable images were left out: cat/cut.jpg (") for note in dataset.notes)
    assert dataset.notes[-1] == "No readable image is left in fox, so those are not classes."
    asked = load_dataset(str(unreadable), skip_unreadable=True, image_size=16)
    assert asked.digest == dataset.digest


def test_at_most_ten_unreadable_images_are_named(classes: Path) -> None:
    for index in range(13):
        (classes / f"cat/bad{index:02}.png").write_bytes(b"")
    message = refusal(lambda: load_dataset(str(classes)))
    assert message.startswith("13 of 18 images")
    assert message.count("not an image") == 10
    assert "cat/bad09.png (not an image) and 3 more; repair" in message


def test_too_few_readable_images(tmp_path: Path) -> None:
    save(noise(0), tmp_path / "0.png")
    message = f"{tmp_path} has 1 readable images: training needs at least 2."
    assert refusal(lambda: load_dataset(str(tmp_path))) == message
    (tmp_path / "1.png").write_bytes(b"")
    assert refusal(lambda: load_dataset(str(tmp_path), skip_unreadable=True)) == message
    (tmp_path / "0.png").write_bytes(b"")
    message = refusal(lambda: load_dataset(str(tmp_path), skip_unreadable=True))
    assert message.startswith(f"None of the 2 images in {tmp_path} can be read: 0.png (not an image)")


# --- parquet and the hub ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables go to a cache of the test's own, not to the person's."""
    if importlib.util.find_spec("datasets") is not None:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_table(path: Path, columns: dict[str, list[Any]], features: dict[str, Any] | None = None) -> Path:
    """A parquet file as ``datasets`` writes it with these features, or with plain types where there are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if features is None:
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pytest.importorskip("pyarrow").table(columns), path)
    else:
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)
    return path


def noises(count: int = 4, start: int = 0) -> list[Any]:
    return [encoded(noise(seed)) for seed in range(start, start + count)]


def stacked(*seeds: int) -> torch.Tensor:
    return torch.stack([chw(noise(seed)) for seed in seeds])


def test_parquet_with_declared_columns(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = write_table(
        tmp_path / "pets [1].parquet",
        {"id": [7, 8, 9, 10], "animal": [1, 0, 1, 1], "image": noises()},
        {
            "id": datasets.Value("int64"),
            "animal": datasets.ClassLabel(names=["cat", "dog", "fox"]),
            "image": datasets.Image(),
        },
    )
    dataset = load_dataset(str(path))
    assert torch.equal(dataset.samples, stacked(0, 1, 2, 3))
    assert dataset.labels is not None
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == [1, 0, 1, 1]
    assert dataset.class_names == ("cat", "dog", "fox")
    assert (dataset.name, dataset.source, dataset.split) == ("pets [1]", str(path), "train")
    assert dataset.notes[:2] == (
        "The images are those in column 'image'.",
        "The labels are those in column 'animal'.",
    )


def test_parquet_with_raw_bytes_and_integer_labels(tmp_path: Path) -> None:
    path = write_table(tmp_path / "raw.parquet", {"image": noises(), "label": [30, 5, 30, 7]})
    dataset = load_dataset(str(path))
    assert torch.equal(dataset.samples, stacked(0, 1, 2, 3))
    assert dataset.class_names == ("5", "7", "30")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 0, 2, 1]


def test_parquet_with_structs_of_bytes_or_path(tmp_path: Path) -> None:
    file = save(noise(1), tmp_path / "files/1.png")
    cells: list[Any] = [{"bytes": encoded(noise(0)), "path": "0.png"}, {"bytes": None, "path": str(file)}]
    path = write_table(tmp_path / "structs.parquet", {"thumb": [b"1", b"2"], "image": cells, "label": [0.5, 1.5]})
    dataset = load_dataset(str(path))
    assert torch.equal(dataset.samples, stacked(0, 1))
    assert dataset.labels is None
    assert "There is no column of labels, so the images have no classes." in dataset.notes


@pytest.mark.parametrize("missing", [-1, None])
def test_parquet_with_missing_labels(missing: int | None, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    path = write_table(tmp_path / "x.parquet", {"image": noises(3), "label": [0, missing, 1]}, features)
    dataset = load_dataset(str(path))
    assert dataset.labels is None
    assert dataset.class_names == ()
    assert "Column 'label' has no label for 1 images, so the labels are not used." in dataset.notes


def test_parquet_rows_are_converted_as_files_are(tmp_path: Path) -> None:
    deep = encoded(Image.fromarray(ramp_of_16_bits()))
    clear = encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 0)))
    dataset = load_dataset(str(write_table(tmp_path / "x.parquet", {"image": [deep, clear]})))
    assert dataset.channels == 1
    assert dataset.samples[0, 0].flatten().tolist() == list(range(256))
    assert dataset.samples[1].min() == 255


def test_unreadable_rows(tmp_path: Path) -> None:
    cells: list[Any] = [encoded(noise(0)), b"", encoded(noise(2, 40, 40))[:-900], None, encoded(noise(4))]
    path = write_table(tmp_path / "x.parquet", {"image": cells, "label": [3, 9, 9, 9, 1]})
    message = refusal(lambda: load_dataset(str(path)))
    assert message.startswith(f"3 of 5 images in {path} cannot be read: row 1 (not an image), row 2 (image file is tr")
    assert "row 3 (empty cell); repair" in message
    dataset = load_dataset(str(path), skip_unreadable=True)
    assert torch.equal(dataset.samples, stacked(0, 4))
    assert dataset.class_names == ("1", "3")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.notes[-1].startswith("3 unreadable images were left out: row 1 (not an image), ")


def test_splits_of_a_folder_of_parquet(tmp_path: Path) -> None:
    root = tmp_path / "table"
    write_table(root / "data/train-00000-of-00002.parquet", {"image": noises(2, 0)})
    write_table(root / "data/train-00001-of-00002.parquet", {"image": noises(2, 2)})
    write_table(root / "data/test-00000-of-00001.parquet", {"image": noises(3, 10)})
    (root / "README.md").write_text("x")
    train = load_dataset(str(root))
    assert torch.equal(train.samples, stacked(0, 1, 2, 3))
    assert train.notes[0] == "Split 'train' is read from 2 of 3 parquet files."
    assert (train.name, train.source) == ("table", str(root))
    assert torch.equal(load_dataset(str(root), split="test").samples, stacked(10, 11, 12))
    message = refusal(lambda: check_data_argument(str(root), "validation"))
    assert message == f"{root} has no split 'validation': the splits there are 'test', 'train'."
    one = root / "data/test-00000-of-00001.parquet"
    assert len(load_dataset(str(one), split="test")) == 3
    assert refusal(lambda: load_dataset(str(one))) == f"{one} has no split 'train': the splits there are 'test'."


def test_parquet_files_without_splits_in_their_names(tmp_path: Path) -> None:
    write_table(tmp_path / "b.parquet", {"image": noises(2, 2)})
    write_table(tmp_path / "a.parquet", {"image": noises(2, 0)})
    assert torch.equal(load_dataset(str(tmp_path)).samples, stacked(0, 1, 2, 3))
    message = refusal(lambda: load_dataset(str(tmp_path), split="test"))
    assert message.endswith("has no split 'test': the splits there are 'train', as no file is named after a split.")


def test_split_in_name() -> None:
    names = [
        "train-00000-of-00001.parquet",
        "data/val-00000-of-00003-abc.parquet",
        "c/test/0000.parquet",
        "x/Valid.parquet",
    ]
    assert [split_in_name(name) for name in names] == ["train", "val", "test", "Valid"]
    assert split_in_name("trained.parquet") is None
    pytest.importorskip("datasets")
    assert find_parquet_files(Path("/t"), names, "validation").files == (Path("/t", names[1]), Path("/t", names[3]))


def test_a_changed_parquet_file_is_read_anew(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", {"image": noises(2, 0)})
    assert torch.equal(load_dataset(str(path)).samples, stacked(0, 1))
    write_table(path, {"image": noises(2, 5)})
    assert torch.equal(load_dataset(str(path)).samples, stacked(5, 6))


def test_parquet_without_images_or_no_parquet(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", {"text": ["a", "b"], "label": [0, 1]})
    message = refusal(lambda: load_dataset(str(path)))
    assert message == (
        f"{path} has no column of images among text, label: "
        "it should be of type Image, a struct of bytes and path, or bytes."
    )
    path.write_text("text")
    assert refusal(lambda: load_dataset(str(path))).startswith(f"{path} cannot be read as parquet: ")


def test_parquet_and_hub_without_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_text("x")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for data in (str(tmp_path), str(tmp_path / "x.parquet"), "hub:owner/name"):
        assert 'pip install "gan-plugin[hub]"' in refusal(partial(check_data_argument, data))


def test_hub_repository_laid_out_in_a_local_folder(tmp_path: Path) -> None:
    """The library takes a folder for a repository, so the code for the hub runs with no network."""
    pytest.importorskip("datasets")
    for split, start in (("train", 0), ("test", 10)):
        write_table(tmp_path / f"data/{split}-00000-of-00001.parquet", {"image": noises(2, start), "label": [1, 0]})
    images = HubDataset("hub:owner/pets", str(tmp_path), None, "test").load(None, None, False)
    assert torch.equal(images.images, stacked(10, 11))
    assert images.class_names == ("0", "1")
    assert (images.source, images.split) == ("hub:owner/pets", "test")
    message = refusal(lambda: HubDataset("hub:owner/pets", str(tmp_path), None, "dev").load(None, None, False))
    assert message == "data='hub:owner/pets' has no split 'dev': its splits are 'train', 'test'."


def test_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    program = (
        "from gan_plugin.data import check_data_argument, load_dataset\n"
        "check_data_argument('hub:owner/name:small')  # the form is right, and the hub is not asked\n"
        "load_dataset('hub:owner/name:small')\n"
    )
    # The library reads the variable when it is imported, so it takes a process of its own.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("gan_plugin.errors.UserError: data='hub:owner/name:small' cannot be loaded from the Hugging")
    assert "Couldn't reach" in last


# --- what data names --------------------------------------------------------------------------------------------------


def test_data_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (lambda: load_dataset("digit"), lambda: check_data_argument("digit")):
        assert refusal(call) == (
            "data='digit' is neither 'digits', a folder or parquet file that exists "
            f"(looked for {tmp_path}/digit) nor 'hub:owner/name'."
        )
    assert refusal(lambda: check_data_argument("")).startswith("data='' is neither 'digits', ")
    for wrong in ("hub:mnist", "hub:", "hub:a/b/c"):
        message = refusal(partial(check_data_argument, wrong))
        assert message == f"data={wrong!r} is neither 'hub:owner/name' nor 'hub:owner/name:config'."


def test_files_and_folders_that_are_no_data(tmp_path: Path) -> None:
    path = save(noise(0), tmp_path / "images/0.png")
    assert "is a file that is not parquet" in refusal(lambda: check_data_argument(str(path)))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(lambda: check_data_argument(str(empty))).startswith(f"{empty} holds nothing: give a folder of ")
    (empty / "a.zip").write_bytes(b"x")
    assert refusal(lambda: check_data_argument(str(empty))).startswith(f"{empty} holds only a.zip: give a folder of ")


def test_check_opens_no_image(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    check_data_argument(str(classes))
    check_data_argument("digits")


def test_images_cannot_be_reassigned() -> None:
    dataset = load_dataset("digits", image_size=16)
    with pytest.raises(AttributeError):
        dataset.split = "test"  # type: ignore[misc]
    assert isinstance(dataset, Dataset)
