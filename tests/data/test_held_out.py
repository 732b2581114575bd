"""What is held out of training where the data has no split for that: how much, which images, and what is said of it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from data_helpers import noise, save
from helpers import refusal

from gan_plugin.data import Dataset, Division, held_out, limits, load_dataset, load_divided, load_held_out, parquet
from gan_plugin.data.dataset import make_dataset
from gan_plugin.data.held_out import divide, draw, held_out_count

COUNT = 50  # of which a fifth is held out


def random_images(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 16, 16), generator=generator).to(torch.uint8)


def dataset_of(samples: torch.Tensor, labels: torch.Tensor | None = None) -> Dataset:
    names = [] if labels is None else [f"class {label}" for label in range(int(labels.max()) + 1)]
    return make_dataset(samples, labels, names, name="n", source="s", split="train", notes=["as they were"])


def images_of(dataset: Dataset | None) -> set[bytes]:
    assert dataset is not None
    return {image.tobytes() for image in dataset.samples.numpy()}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder of two classes, without splits."""
    for seed in range(COUNT):
        save(noise(seed), tmp_path / "pets" / ("cat" if seed < 20 else "dog") / f"{seed:02}.png")
    return str(tmp_path / "pets")


def test_a_tenth_or_more_of_little_and_at_most_10_000() -> None:
    counts = {0: 0, 29: 5, 30: 6, 500: 100, 1_000: 200, 1_601: 200, 2_000: 200, 60_000: 6_000, 1_000_000: 10_000}
    assert {images: held_out_count(images) for images in counts} == counts


def test_a_folder_without_splits_is_divided(folder: str) -> None:
    division = load_divided(folder)
    everything = load_dataset(folder)
    training, drawn = images_of(division.dataset), images_of(division.drawn)
    assert (len(training), len(drawn), training | drawn, training & drawn) == (40, 10, images_of(everything), set())
    assert load_held_out(folder, division) is division.drawn
    note = "Held out of training: 10 of 50 images, drawn by their digests; held_out=none trains on all."
    assert division.drawn is not None
    assert division.dataset.notes[-1] == division.drawn.notes[-1] == note
    assert (division.dataset.split, division.drawn.split) == ("train", "drawn by digest")
    assert division.dataset.drawn_from == division.drawn.drawn_from == everything.digest
    assert load_divided(folder).dataset.digest == division.dataset.digest != everything.digest
    undivided = load_divided(folder, held_out="none")
    assert (undivided.dataset.digest, undivided.drawn, undivided.held_out_split) == (everything.digest, None, None)


def test_the_draw_is_the_same_for_other_names_in_another_order(folder: str, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    for file in Path(folder).rglob("*.png"):
        name = f"{99 - int(file.stem)}.png"
        (renamed / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, renamed / file.parent.name / name)
    assert images_of(load_divided(str(renamed)).drawn) == images_of(load_divided(folder).drawn)


def test_the_draw_goes_by_the_sha_256_of_the_pixels() -> None:
    """And never changes: models name the digest of what they were trained on, which another draw would make strange."""
    samples = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 1, 16, 16)
    by_digest = sorted(range(40), key=lambda gray: hashlib.sha256(bytes([gray]) * 256).digest())
    drawn = draw(samples, None).nonzero().flatten().tolist()
    assert drawn == sorted(by_digest[:8]) == [1, 8, 12, 16, 19, 30, 35, 39]


def test_equal_images_are_on_one_side() -> None:
    """However many there are of them, and in whichever class; as many are held out as there should be."""
    once = random_images(400)
    copies = [image[None].expand(count, -1, -1, -1) for image, count in zip(random_images(60, 1), range(2, 62))]
    samples = torch.cat([once, *copies])
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (len(samples),), generator=torch.Generator().manual_seed(0))
    division = divide(dataset_of(samples[order], labels))
    training, drawn = images_of(division.dataset), images_of(division.drawn)
    assert not training & drawn
    assert division.drawn is not None
    assert len(division.drawn) == held_out_count(len(samples))
    assert len(drawn) < len(division.drawn)  # there are copies among them, too


def test_an_image_that_is_most_of_the_data_stays() -> None:
    black = torch.zeros(900, 1, 16, 16, dtype=torch.uint8)
    division = divide(dataset_of(torch.cat([black, random_images(100)])))
    assert black[0].numpy().tobytes() in images_of(division.dataset)
    assert division.drawn is not None
    assert len(division.drawn) == 100  # all others: no more can be had
    nothing = divide(dataset_of(black))
    assert (len(nothing.dataset), nothing.drawn, nothing.held_out_split) == (900, None, None)


def test_no_class_loses_its_last_image() -> None:
    samples, labels = random_images(120), torch.arange(120) % 100  # 80 classes of one image, 20 of two
    division = divide(dataset_of(samples, labels))
    assert division.dataset.labels is not None
    assert division.dataset.labels.unique().tolist() == list(range(100))
    assert division.drawn is not None
    assert len(division.drawn) == 20
    assert division.drawn.spec == division.dataset.spec
    assert divide(dataset_of(samples, torch.arange(120))).drawn is None


def test_too_little_data_is_left_alone_and_that_is_a_note() -> None:
    division = divide(dataset_of(random_images(29)))
    assert (len(division.dataset), division.drawn, division.held_out_split) == (29, None, None)
    sentence = "Nothing is held out of training: of 29 images no 6 can be spared, the fewest that an evaluation needs."
    assert division.dataset.notes == ("as they were", sentence)
    assert division.dataset.drawn_from is None
    assert divide(dataset_of(random_images(30))).drawn is not None


def test_there_has_to_be_memory_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: 1000)
    message = refusal(lambda: divide(dataset_of(random_images(50))))
    assert message.startswith("Holding out images of n (held_out=none does not) would take 0.0 GB of memory and ")


def test_images_are_not_copied_to_be_ranked() -> None:
    """Nor where they do not lie in memory one after the other; ranks are those of the pixels either way."""
    samples = random_images(50).repeat(1, 3, 1, 1)
    across = samples.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not across.is_contiguous()
    assert held_out.pixel_ranks(across).tolist() == held_out.pixel_ranks(samples).tolist()


@pytest.mark.parametrize("own", ["test", "validation"])
def test_the_hub_is_asked_which_splits_it_has(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder, which the library takes for a repository."""
    datasets = pytest.importorskip("datasets")
    images = datasets.Dataset.from_dict(
        {"image": [noise(seed) for seed in range(40)]}, features=datasets.Features(image=datasets.Image())
    )
    images.to_parquet(str(tmp_path / "data/train-00000-of-00001.parquet"))
    find = parquet.find_hub_dataset

    def find_here(data: str, split: str) -> parquet.HubDataset:
        found_there = find(data, split)
        return parquet.HubDataset(data, str(tmp_path), found_there.config, split=split)

    for module in ("gan_plugin.data.parquet", "gan_plugin.data.sources"):
        monkeypatch.setattr(f"{module}.find_hub_dataset", find_here)

    def divided(**options: str) -> Division:
        return load_divided("hub:owner/pets", **options)

    assert len(images_of(divided().drawn)) == 8
    assert refusal(lambda: divided(held_out=own)).startswith(f"data='hub:owner/pets' has no split '{own}': its splits")
    images.select(range(7)).to_parquet(str(tmp_path / f"data/{own}-00000-of-00001.parquet"))
    assert (divided().held_out_split, len(divided().dataset), divided().drawn) == (own, 40, None)
