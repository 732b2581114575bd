"""Batches of real samples, in an order that seed and epoch decide alone, from wherever the data lives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gan_plugin.data.dataset import Dataset

SECOND_ORDER = 2**31  # what is added to the seed for the second order of an epoch


class Batch(NamedTuple):
    """Real samples uint8 [B, C, H, W] and their labels int64 [B], None where the generator takes none."""

    samples: Tensor
    labels: Tensor | None = None


class BatchLoader:
    """Batches of one dataset, equally often of each of its samples.

    Args:
        dataset: kept on ``device`` while it takes less than half of the free memory there, else on the host.
        batch_size: samples in each batch; a last, smaller batch is left to the next epoch's order.
        device: where the batches are wanted.
        seed: of the orders.
        labeled: whether batches have labels.
        paired: whether the generator's step has real samples of its own, in a second order.
        rank, world_size: of the processes that share each batch: this one gets every ``world_size``-th sample of it.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        device: torch.device,
        *,
        seed: int,
        labeled: bool = False,
        paired: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.samples = move_samples(dataset.samples, device)
        self.labels: Tensor | None = None
        if labeled and dataset.labels is not None:
            self.labels = dataset.labels.to(self.samples.device)
        self.batch_size, self.device, self.paired = batch_size, device, paired
        self.share = slice(rank, None, world_size)
        self.seeds = [seed, seed + SECOND_ORDER] if paired else [seed]

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the rest of the samples is left out."""
        return len(self.samples) // self.batch_size

    def orders(self, epoch: int) -> list[Tensor]:
        """Return the epoch's order int64 [N] and, where batches are paired, a second one."""
        count, device = len(self.samples), self.samples.device
        return [epoch_order(count, seed, epoch).to(device) for seed in self.seeds]

    def batches(self, orders: list[Tensor], index: int) -> tuple[Batch, Batch]:
        """Return the discriminator's batch and the generator's, one and the same where batches are not paired."""
        start = index * self.batch_size
        batches = [self.batch(order[start : start + self.batch_size][self.share]) for order in orders]
        return batches[0], batches[-1]

    def batch(self, rows: Tensor) -> Batch:
        """Gather ``rows`` int64 [B] on the device."""
        labels = None if self.labels is None else self.labels[rows].to(self.device)
        return Batch(gather(self.samples, rows, self.device), labels)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Return a permutation int64 [count] from seed and epoch alone, so that a resumed run finds its place."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def move_samples(samples: Tensor, device: torch.device) -> Tensor:
    """Move the samples to the device if they take less than half of its free memory; else leave them on the host."""
    if device.type == "cpu":
        return samples
    free, _ = torch.cuda.mem_get_info(device)
    return samples.to(device) if samples.nbytes < free // 2 else samples


def gather(samples: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Return samples uint8 [B, C, H, W] of ``rows`` int64 [B] on ``device``, wherever the data lives."""
    batch = samples[rows.to(samples.device)]
    if batch.device.type == device.type:
        return batch
    return batch.pin_memory().to(device, non_blocking=True)
