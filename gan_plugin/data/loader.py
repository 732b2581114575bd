"""Batches of real samples, in an order that seed and epoch decide alone, from wherever the data lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gan_plugin.data.ahead import AheadBatches, copy_samples
from gan_plugin.data.dataset import Dataset
from gan_plugin.data.stored import Samples
from gan_plugin.device import to_device

SECOND_ORDER = 2**31  # what is added to the seed for the second order of an epoch


class Batch(NamedTuple):
    """Real samples uint8 [B, C, H, W] and their labels int64 [B], None where the generator takes none."""

    samples: Tensor
    labels: Tensor | None = None


class BatchLoader:
    """Batches of one dataset, equally often of each of its samples.

    Args:
        dataset: on a GPU its samples are kept there, as many as half of the free memory holds; the others stay where
            they are, in memory or in a file, and come ahead of their time.
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
        self.count, self.batch_size = len(dataset), batch_size
        self.share = slice(rank, None, world_size)
        self.labels = dataset.labels.to(device) if labeled and dataset.labels is not None else None
        self.seeds = [seed, seed + SECOND_ORDER] if paired else [seed]
        samples, resident = dataset.samples, resident_count(dataset.samples, device)
        self.source: DeviceBatches | AheadBatches
        if isinstance(samples, Tensor) and device.type == "cpu":
            self.source = DeviceBatches(samples, rows_of=self.rows)
        elif resident == self.count:
            self.source = DeviceBatches(copy_samples(samples, resident, device), rows_of=self.rows)
        else:
            self.source = AheadBatches(samples, resident, device, rows_of=self.rows, steps=self.steps_per_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the rest of the samples is left out."""
        return self.count // self.batch_size

    def orders(self, epoch: int) -> list[Tensor]:
        """Return the epoch's order int64 [N] and, where batches are paired, a second one."""
        return [self.source.prepare(epoch_order(self.count, seed, epoch)) for seed in self.seeds]

    def rows(self, order: Tensor, index: int) -> Tensor:
        """Return the rows int64 [B] of an epoch's batch that are for this process."""
        start = index * self.batch_size
        return order[start : start + self.batch_size][self.share]

    def batches(self, orders: list[Tensor], index: int) -> tuple[Batch, Batch]:
        """Return the discriminator's batch and the generator's, one and the same where batches are not paired."""
        batches = [
            Batch(samples, None if self.labels is None else self.labels[rows])
            for samples, rows in self.source.batches(orders, index)
        ]
        return batches[0], batches[-1]


class DeviceBatches:
    """Batches of samples that are all on the device.

    Args:
        samples: uint8 [N, C, H, W].
        rows_of: gives the rows int64 [B] of a batch, by the order of its epoch and its number.
    """

    def __init__(self, samples: Tensor, *, rows_of: Callable[[Tensor, int], Tensor]) -> None:
        self.samples, self.rows_of = samples, rows_of

    def prepare(self, order: Tensor) -> Tensor:
        """Return an epoch's order int64 [N] on the device."""
        return to_device(order, self.samples.device)

    def batches(self, orders: list[Tensor], index: int) -> list[tuple[Tensor, Tensor]]:
        """Return a batch of each order: its samples uint8 [B, C, H, W] and its rows int64 [B]."""
        rows = [self.rows_of(order, index) for order in orders]
        return [(self.samples[of_batch], of_batch) for of_batch in rows]


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Return a permutation int64 [count] from seed and epoch alone, so that a resumed run finds its place."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def resident_count(samples: Samples, device: torch.device) -> int:
    """Return how many of the samples are kept on a GPU: what half of its free memory holds; 0 on other devices."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return min(len(samples), free // 2 // max(1, samples.nbytes // len(samples)))


def move_samples(samples: Samples, device: torch.device) -> Samples:
    """Move the samples to a GPU if half of its free memory holds all; else leave them where they are, on the host."""
    count = len(samples)
    return copy_samples(samples, count, device) if resident_count(samples, device) == count else samples


def gather(samples: Samples, rows: Tensor, device: torch.device) -> Tensor:
    """Return samples uint8 [B, C, H, W] of ``rows`` int64 [B] on ``device``, wherever the data lives.

    A GPU does not wait for them, and nobody for a GPU, where the rows are on ``samples.device``.
    """
    batch = samples[rows.to(samples.device)]
    if batch.device.type == device.type:
        return batch
    return to_device(batch, device)
