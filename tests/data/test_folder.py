"""Folders of image files: classes, splits, order, color."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import chw, noise, save
from helpers import refusal
from PIL import Image

from gan_plugin.data import check_data_argument, load_dataset


def test_folder_of_classes(classes: Path) -> None:
    dataset = load_dataset(str(classes))
    assert dataset.spec.class_names == ("cat", "dog")
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
    assert up.spec.class_names == ()
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
        "The images were of different sizes, with sides of 40 to 100 pixels, and are resized to 64x64 (Lanczos), the "
        "size taken where the images do not share one with sides of 16 to 1,024 pixels.",
        "1 of 2 images had another aspect ratio and were cropped around their center.",
    )
    assert load_dataset(str(tmp_path), image_size=32).samples.shape == (2, 3, 32, 32)
    wide = load_dataset(str(tmp_path), image_size=(20, 50))
    cut = noise(1, 64, 64).crop((0, 19, 64, 45)).resize((50, 20), Image.Resampling.LANCZOS)
    assert torch.equal(wide.samples[1], chw(cut))
    assert wide.spec.shape == (20, 50, 3)


def test_images_of_one_size_keep_it(tmp_path: Path) -> None:
    for seed in range(3):
        save(noise(seed, 30, 51), tmp_path / f"{seed}.png")
    dataset = load_dataset(str(tmp_path))
    assert torch.equal(dataset.samples, torch.stack([chw(noise(seed, 30, 51)) for seed in range(3)]))
    assert dataset.spec.shape == (51, 30, 3)
    assert dataset.notes[0] == "The images are 51x30 pixels (height x width) and keep that size."
    assert load_dataset(str(tmp_path), image_size=(51, 30)).digest == dataset.digest


@pytest.mark.parametrize("suffix", [".png", ".tif"])  # a PNG may hold its EXIF after its pixels
@pytest.mark.parametrize(("orientations", "size"), [((6, 6), (30, 20)), ((6, 1), (64, 64)), ((3, 1), (20, 30))])
def test_images_that_exif_turns_have_the_size_that_people_see(
    orientations: tuple[int, int], size: tuple[int, int], suffix: str, tmp_path: Path
) -> None:
    for seed, orientation in enumerate(orientations):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(noise(seed, 30, 20), tmp_path / f"{seed}{suffix}", exif=exif)
    dataset = load_dataset(str(tmp_path))
    assert dataset.spec.size == size
    if size == (30, 20):
        upright = noise(0, 30, 20).transpose(Image.Transpose.ROTATE_270)
        assert torch.equal(dataset.samples[0], chw(upright))


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
    assert train.spec.class_names == ("cat",)
    assert train.notes[0] == "The images of split 'train' are those in the sub-folder 'train'."
    assert torch.equal(train.samples[1], chw(noise(1)))
    assert test.labels is None
    assert torch.equal(test.samples[1], chw(noise(21)))
    assert test.source == str(tmp_path)
    for spelling in ("val", "validation", "valid"):
        validation = load_dataset(str(tmp_path), split=spelling)
        assert validation.spec.class_names == ("dog",)
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
