"""Bounds on what reading data takes: bytes of a file, memory of a dataset, memory of images decoded at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from PIL import Image

from gan_plugin.cores import control_groups
from gan_plugin.errors import UserError

MAX_FILE_BYTES = 2**29  # of one encoded image: several of Pillow's decoders read the whole file
MIN_BUDGET = 2**30  # bytes of images that are decoded at the same time
MEMORY_SHARE = 0.5  # of the free memory that a dataset may take: to hold images out of it copies it once


class Budget:
    """A number of bytes that several threads share, each waiting until there is room for what it needs."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.changed = threading.Condition()

    @contextmanager
    def reserved(self, amount: int) -> Iterator[None]:
        """Hold ``amount`` bytes for the length of a block; more than there are in all are held alone."""
        with self.changed:
            self.changed.wait_for(lambda: self.used == 0 or self.used + amount <= self.limit)
            self.used += amount
        try:
            yield
        finally:
            with self.changed:
                self.used -= amount
                self.changed.notify_all()


def decoding_budget() -> Budget:
    """Return the budget for images that are decoded at the same time: a quarter of the free memory, or a gigabyte."""
    return Budget(max(MIN_BUDGET, available_memory() // 4))


def decoding_bytes(image: Image.Image) -> int:
    """Estimate from an image's header the memory that it takes at once to decode and convert it, in bytes."""
    if image.mode.startswith("I") or image.mode == "F":
        per_pixel = 36  # computed in float64
    elif image.has_transparency_data:
        per_pixel = 20  # decoded, as RGBA, composited on white
    else:
        per_pixel = 12
    return image.width * image.height * per_pixel


def is_small(needed: int) -> bool:
    """Return whether a dataset of so many bytes belongs into memory, also where torchrun started several processes.

    Each of them decides for itself, and would have a copy of its own.
    """
    return needed * int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= MEMORY_SHARE * available_memory()


def check_memory(needed: int, what: str) -> None:
    """Refuse what does not fit into the free memory, where the system would end the process later and say nothing.

    Args:
        needed: bytes.
        what: takes them; how the sentence begins.

    Raises:
        UserError: less memory is free.
    """
    if needed > (free := available_memory()):
        raise UserError(
            f"{what} would take {in_gigabytes(needed)} of memory and {in_gigabytes(free)} are free: give fewer or "
            "smaller images, or a machine with more memory."
        )


def available_memory(groups: Iterable[Path] | None = None) -> int:
    """Return how many bytes of memory are free for this process: of the machine's, and of its container's.

    Args:
        groups: the folders of control groups that limit it; None for those that it is in.
    """
    groups = control_groups("memory") if groups is None else groups
    of_groups = [free for group in groups if (free := free_memory_of(group)) is not None]
    return min([int(psutil.virtual_memory().available), *of_groups])


def free_memory_of(group: Path) -> int | None:
    """Return how many bytes a control group has left, what its cache would give back among it; None without a limit."""
    version_2 = ("memory.max", "memory.current", "inactive_file")
    version_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    limit_name, used_name, cache_name = version_2 if (group / version_2[0]).exists() else version_1
    try:
        limit, used = (int((group / name).read_text()) for name in (limit_name, used_name))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(statistics[cache_name])
    except (OSError, ValueError, KeyError):  # of version 2's limit "max", too
        return None


def in_gigabytes(count: int) -> str:
    """Format a number of bytes for people.

    >>> in_gigabytes(2_250_000_000)
    '2.2 GB'
    """
    return f"{count / 1e9:,.1f} GB"
