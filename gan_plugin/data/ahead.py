"""Batches of samples that are not on the device: read by a thread, a few of them before they are needed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import torch
from torch import Tensor

from gan_plugin.data.stored import BLOCK_BYTES, Samples, StoredSamples

AHEAD = 3  # batches that are read before they are needed: one reads slowly now and then


class HostPart(NamedTuple):
    """What of a batch comes from the host.

    Attributes:
        rows: of the whole batch, int64 [B].
        samples: those that are not on the device, uint8 [K, C, H, W].
        places: theirs in the batch, int64 [K].
    """

    rows: Tensor
    samples: Tensor
    places: Tensor


class Slot:
    """Memory for what comes from the host in a batch: pinned, so that a GPU fetches it while the program goes on."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.samples = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.rows, self.places = torch.empty((2, shape[0]), dtype=torch.int64, pin_memory=True)


class AheadBatches:
    """Batches of samples of which the first are on the device, as many as fit, and the others on the host.

    A thread reads the others; it queues nothing on a GPU, whose copies this object's caller begins. The memory that a
    batch was copied from is filled again when that copy is done.

    Args:
        samples: all of them, uint8 [N, C, H, W].
        resident: how many of them are to be on the device.
        device: where the batches are wanted.
        rows_of: gives the rows int64 [B] of a batch, by the order of its epoch and its number.
        steps: number of batches in an epoch.
    """

    def __init__(
        self,
        samples: Samples,
        resident: int,
        device: torch.device,
        *,
        rows_of: Callable[[Tensor, int], Tensor],
        steps: int,
    ) -> None:
        self.samples, self.device, self.rows_of, self.steps = samples, device, rows_of, steps
        self.resident = copy_samples(samples, resident, device)
        self.slots: dict[tuple[int, int], Slot] = {}
        self.copied: dict[int, torch.cuda.Event] = {}
        self.pool = ThreadPoolExecutor(1)
        self.pending: deque[Future[list[HostPart]]] = deque()
        self.orders: list[Tensor] = []
        self.index = 0

    def prepare(self, order: Tensor) -> Tensor:
        """Return an epoch's order int64 [N] where batches are looked up: on the host."""
        return order

    def batches(self, orders: list[Tensor], index: int) -> list[tuple[Tensor, Tensor]]:
        """Return a batch of each order: its samples uint8 [B, C, H, W] and its rows int64 [B], on the device."""
        if orders is not self.orders or index != self.index:
            for future in self.pending:
                future.cancel()
            wait(self.pending)
            self.pending.clear()
            self.orders, self.index = orders, index
        while len(self.pending) <= AHEAD and (number := self.index + len(self.pending)) < max(self.steps, index + 1):
            if (event := self.copied.pop(number % (AHEAD + 2), None)) is not None:
                event.synchronize()
            self.pending.append(self.pool.submit(self.read, orders, number))
        parts = self.pending.popleft().result()
        self.index += 1
        batches = [self.assemble(part) for part in parts]
        if self.device.type == "cuda":
            self.copied[index % (AHEAD + 2)] = event = torch.cuda.Event()
            event.record()
        return batches

    def read(self, orders: list[Tensor], index: int) -> list[HostPart]:
        """Read what of a batch of each order comes from the host; runs in the thread."""
        parts = []
        for number, order in enumerate(orders):
            rows = self.rows_of(order, index)
            places = (rows >= len(self.resident)).nonzero().flatten()
            part = self.memory_for(len(places), key=(number, index % (AHEAD + 2)), size=len(rows))
            part.rows.copy_(rows)
            part.places.copy_(places)
            read_rows(self.samples, rows[places], part.samples)
            parts.append(part)
        return parts

    def memory_for(self, count: int, *, key: tuple[int, int], size: int) -> HostPart:
        """Return memory for ``count`` of the samples in a batch of this size."""
        shape = self.samples.shape[1:]
        if self.device.type != "cuda":  # what is returned belongs to the caller
            rows, places = (torch.empty(of, dtype=torch.int64) for of in (size, count))
            return HostPart(rows, torch.empty((count, *shape), dtype=torch.uint8), places)
        if (slot := self.slots.get(key)) is None or len(slot.samples) < size:
            slot = self.slots[key] = Slot((size, *shape))
        return HostPart(slot.rows[:size], slot.samples[:count], slot.places[:count])

    def assemble(self, part: HostPart) -> tuple[Tensor, Tensor]:
        """Return samples and rows of a batch on the device, from what is there and what comes from the host."""
        rows = part.rows.to(self.device, non_blocking=True)
        samples = part.samples.to(self.device, non_blocking=True)
        if len(samples) == len(rows):  # all in their places
            return samples, rows
        batch = self.resident[rows.clamp(max=len(self.resident) - 1)]
        return batch.index_copy_(0, part.places.to(self.device, non_blocking=True), samples), rows


def read_rows(samples: Samples, rows: Tensor, out: Tensor) -> None:
    """Read samples of rows int64 [B] on the CPU into a contiguous tensor uint8 [B, C, H, W]."""
    if isinstance(samples, StoredSamples):
        samples.read(rows.numpy(), out)
    else:
        torch.index_select(samples, 0, rows, out=out)


def copy_samples(samples: Samples, count: int, device: torch.device) -> Tensor:
    """Copy the first ``count`` samples to the device, some of them at a time."""
    copy = torch.empty((count, *samples.shape[1:]), dtype=torch.uint8, device=device)
    size = max(1, BLOCK_BYTES // math.prod(samples.shape[1:]))
    for start in range(0, count, size):
        stop = min(start + size, count)
        copy[start:stop] = samples[start:stop].to(device)
    return copy
