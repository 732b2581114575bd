"""Bounds on what reading data takes: bytes of a file, memory of a dataset, memory of images decoded at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from PIL import Image

from gan_plugin.errors import UserError

MAX_FILE_BYTES = 2**29  # of one encoded image: several of Pillow's decoders read the whole file
MIN_BUDGET = 2**30  # bytes of images that are decoded at the same time
CGROUP = Path("/sys/fs/cgroup")


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


def available_memory(cgroup: Path = CGROUP) -> int:
    """Return how many bytes of memory are free for this process: of the machine's, and of its container's."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        reclaimable = int(statistics["inactive_file"])
    except (OSError, ValueError, KeyError):  # there is no limit, or no such group
        return free
    return min(free, limit - used + reclaimable)


def in_gigabytes(count: int) -> str:
    """Format a number of bytes for people.

    >>> in_gigabytes(2_250_000_000)
    '2.2 GB'
    """
    return f"{count / 1e9:,.1f} GB"
