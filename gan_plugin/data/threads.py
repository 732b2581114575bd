"""Work on many images in several threads: Pillow releases the interpreter lock while it decodes and resizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gan_plugin.cores import cores

T = TypeVar("T")

BLOCK = 64  # indices per task: a task of its own for each of 200,000 images would cost more than a small image


def in_threads(function: Callable[[int], T], indices: Sequence[int]) -> list[T]:
    """Return ``[function(i) for i in indices]``, computed in blocks by a pool of threads."""

    def run_block(start: int) -> list[T]:
        return [function(index) for index in indices[start : start + BLOCK]]

    with ThreadPoolExecutor(cores()) as pool:
        return [result for block in pool.map(run_block, range(0, len(indices), BLOCK)) for result in block]
