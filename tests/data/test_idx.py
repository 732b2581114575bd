"""Folders in IDX format, whole and damaged."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refusal
from PIL import Image

from gan_plugin.data import check_data_argument, load_dataset

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def gray_images(count: int = 6, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width), dtype=np.uint8)


def write_idx(folder: Path, images: np.ndarray, labels: np.ndarray | None, *, prefix: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
    if labels is not None:
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


LABELS = np.array([0, 2, 1, 0, 2, 2], dtype=np.uint8)


def test_idx_images_labels_and_splits(tmp_path: Path) -> None:
    train, test = gray_images(6), gray_images(4)
    folder = write_idx(tmp_path / "shapes", train, LABELS)
    write_idx(folder, test, LABELS[:4], prefix="t10k")
    dataset = load_dataset(str(folder))
    assert torch.equal(dataset.samples, torch.from_numpy(train)[:, None])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.spec.class_names == ("0", "1", "2")
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
    assert dataset.spec.class_names == ()
    middle = Image.fromarray(images[1][:, 5:25]).resize((16, 16), Image.Resampling.LANCZOS)
    assert torch.equal(dataset.samples[1], torch.from_numpy(np.array(middle)).expand(3, 16, 16))
    assert dataset.notes == (
        "The images were 20x30 pixels (height x width) and are resized to 16x16 (Lanczos), since image_size=16.",
        "3 of 3 images had another aspect ratio and were cropped around their center.",
        "There is no file of labels, so the images have no classes.",
    )


def test_idx_images_that_are_not_square(tmp_path: Path) -> None:
    images = gray_images(3, 20, 30)
    folder = str(write_idx(tmp_path, images, None))
    dataset = load_dataset(folder)
    assert torch.equal(dataset.samples[:, 0], torch.from_numpy(images))
    assert dataset.spec.shape == (20, 30, 1)
    assert dataset.notes[0] == "The images are 20x30 pixels (height x width) and keep that size."
    portraits = load_dataset(folder, image_size=(32, 16))
    middle = Image.fromarray(images[1][:, 10:20]).resize((16, 32), Image.Resampling.LANCZOS)
    assert torch.equal(portraits.samples[1, 0], torch.from_numpy(np.array(middle)))


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
        "no pixels": (idx(np.zeros((6, 0, 16), np.uint8)), "holds no pixels: its header says 6 images of 0x16"),
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
    assert dataset.spec.class_names == tuple("0123456789")
    assert dataset.name == "fashion-mnist"
    if split == "train":
        assert dataset.labels[:4].tolist() == [9, 0, 0, 3]  # an ankle boot, two T-shirts, a dress
        assert round(dataset.samples.float().mean().item(), 2) == 72.94  # .2860 of 255, as is published
