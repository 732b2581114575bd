"""The critic tells apart what differs, at the scale at which it differs, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from evaluation_helpers import CPU

from gan_plugin.data import Dataset
from gan_plugin.data.stored import SampleFile, StoredSamples, pixels_of
from gan_plugin.evaluation import critic
from gan_plugin.evaluation.critic import critic_measurements, reduce, separation
from gan_plugin.evaluation.reference import Reference, as_pixels
from gan_plugin.media.image import Images


def textures(count: int, shape: tuple[int, ...], seed: int) -> Images:
    """Images of random gray with a little noise: alike but for what a test adds."""
    random = np.random.default_rng(seed)
    gray = random.uniform(60, 190, (count, 1, 1, shape[2]))
    return (gray + random.normal(0, 8, (count, *shape))).round().astype(np.uint8)


@pytest.mark.parametrize("shape", [(16, 16, 1), (24, 16, 3)])
def test_equal_images_cannot_be_told_apart_and_a_checkerboard_can_in_full_size_only(shape: tuple[int, ...]) -> None:
    real, other = textures(120, shape, 0), textures(120, shape, 1)
    checkered = (other + (np.indices(shape[:2]).sum(0) % 2 * 24 - 12)[:, :, None]).astype(np.uint8)

    def auroc(images: Images, side: int) -> float:
        return separation(images, real, side=side, count=120, device=CPU).auroc

    full = max(shape)
    assert auroc(other, full) == pytest.approx(0.5, abs=0.15)
    assert auroc(checkered, full) > 0.95
    assert auroc(checkered, 8) == pytest.approx(0.5, abs=0.15)  # it is gone where images are averaged


def test_what_nobody_sees_is_not_told_apart() -> None:
    """Black that is 1 gray level bright: a network without noise would know them all."""
    black = np.zeros((100, 16, 16, 1), np.uint8)
    assert separation(black + np.uint8(1), black, side=16, count=100, device=CPU).auroc < 0.8


def test_equal_seeds_give_equal_numbers_and_leave_the_random_state() -> None:
    real, other = textures(40, (16, 16, 1), 0), textures(40, (16, 16, 1), 1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = separation(other, real, side=8, count=40, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert separation(other, real, side=8, count=40, device=CPU) == first
    assert separation(other, real, side=8, count=40, device=CPU, seed=1) != first


def test_reduced_images_are_averages() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 16, 3), dtype=np.uint8)
    small = reduce(images, 8, count=3, device=CPU)
    assert small.shape == (3, 3, 8, 4)
    assert small[1, 2, 0, 1].item() == round(images[1, :4, 4:8, 2].mean())
    assert torch.equal(reduce(images, 32, count=3, device=CPU), torch.from_numpy(images).permute(0, 3, 1, 2))


def test_of_large_images_only_some_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = torch.randint(0, 256, (50, 3, 32, 16), dtype=torch.uint8)
    (tmp_path / "samples").write_bytes(samples.numpy().tobytes())
    stored = StoredSamples(SampleFile(tmp_path / "samples", tuple(samples.shape)))
    expected = reduce(pixels_of(samples), 8, count=20, device=CPU)
    read = StoredSamples.read
    counts: list[int] = []

    def counted(self: StoredSamples, rows: npt.NDArray[np.int64], out: torch.Tensor) -> None:
        counts.append(len(rows))
        read(self, rows, out)

    monkeypatch.setattr(StoredSamples, "read", counted)
    monkeypatch.setattr(critic, "VALUES_AT_ONCE", 7 * samples[0].numel())
    assert torch.equal(reduce(pixels_of(stored), 8, count=20, device=CPU), expected)
    assert counts == [7, 7, 6]


def test_the_measurements_and_their_baseline(digits: Dataset, reference: Reference) -> None:
    static = np.random.default_rng(0).integers(0, 256, (100, 16, 16, 1), dtype=np.uint8)
    full, small = critic_measurements(static, reference, CPU)
    assert (full.name, full.network, small.network) == ("critic_auroc", "critic-16", "critic-8")
    assert full.value > 0.95
    assert full.std is not None
    assert full.real == pytest.approx(0.5, abs=0.15)
    assert full.note.startswith("From 100 images of each kind. The baseline has ± 0.")
    assert small.note.startswith("From 100 images of each kind, reduced from a longer side of 16 pixels to 8.")
    again, _ = critic_measurements(as_pixels(digits)[:100], reference, CPU)
    assert again.real == full.real  # from the cache
    assert critic_measurements(static, dataclasses.replace(reference, held_out=None), CPU) == []
