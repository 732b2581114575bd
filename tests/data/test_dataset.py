"""A dataset: its digest, its subsets."""

from __future__ import annotations

import pytest
import torch

from gan_plugin.data import Dataset, load_dataset
from gan_plugin.data.dataset import compute_digest, make_dataset
from gan_plugin.spec import image_spec


def test_digest_changes_with_any_pixel_label_name_or_shape() -> None:
    images = torch.arange(2 * 16 * 16, dtype=torch.int64).to(torch.uint8).reshape(2, 1, 16, 16)
    labels = torch.tensor([0, 1])
    original = compute_digest(images, labels, ("a", "b"))
    assert original == "8ee7aa047952ceb5d34d59f2d8c8c95d"  # the same in every run and on every machine
    brighter = images.clone()
    brighter[1, 0, 15, 15] += 1
    others = [
        compute_digest(brighter, labels, ("a", "b")),
        compute_digest(images, torch.tensor([1, 1]), ("a", "b")),
        compute_digest(images, labels, ("a", "c")),
        compute_digest(images, None, ()),
        compute_digest(images.reshape(2, 1, 8, 32), labels, ("a", "b")),
    ]
    assert len({original, *others}) == 6
    assert compute_digest(images.transpose(2, 3).contiguous().transpose(2, 3), labels, ("a", "b")) == original


def test_a_dataset_cannot_be_changed() -> None:
    dataset = load_dataset("digits", image_size=16)
    with pytest.raises(AttributeError):
        dataset.split = "test"  # type: ignore[misc]
    assert isinstance(dataset, Dataset)


def test_take_is_a_subset_with_a_digest_of_its_own() -> None:
    dataset = load_dataset("digits", image_size=16)
    assert dataset.labels is not None
    rows = torch.tensor([7, 0, 3])
    subset = dataset.take(rows)
    assert torch.equal(subset.samples, dataset.samples[[7, 0, 3]])
    assert subset.labels is not None
    assert subset.labels.tolist() == dataset.labels[[7, 0, 3]].tolist()
    assert subset.digest == compute_digest(subset.samples, subset.labels, dataset.spec.class_names)
    assert subset.digest not in (dataset.digest, dataset.take(rows.flip(0)).digest)
    assert (subset.spec, subset.name, subset.source, subset.split, subset.notes) == (
        dataset.spec,
        dataset.name,
        dataset.source,
        dataset.split,
        dataset.notes,
    )
    assert dataset.take(torch.arange(len(dataset))).digest == dataset.digest
    noughts = dataset.take(dataset.labels == 0)
    assert noughts.labels is not None
    assert noughts.labels.unique().tolist() == [0]


def test_take_without_labels() -> None:
    images = torch.arange(4 * 16 * 20, dtype=torch.int64).to(torch.uint8).reshape(4, 1, 16, 20)
    dataset = make_dataset(images, None, (), name="n", source="s", split="train", notes=())
    subset = dataset.take(torch.tensor([1, 2]))
    assert subset.labels is None
    assert torch.equal(subset.samples, images[1:3])


def test_the_spec_of_images_that_are_not_square() -> None:
    dataset = make_dataset(
        torch.zeros(2, 3, 32, 48, dtype=torch.uint8), None, (), name="n", source="s", split="train", notes=()
    )
    assert dataset.spec == image_spec(32, 48, 3)
