"""Decoding in processes of its own: what Pillow and Python do for each image keeps one core busy in any one process.

They are started as programs, not by ``multiprocessing``: that would import the user's script once more in each of them.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import NamedTuple

from gan_plugin.cores import cores
from gan_plugin.errors import UserError
from gan_plugin.spec import Size

PROGRAM = "import sys; sys.path[:] = {path!r}; from gan_plugin.data.decode_worker import serve; serve()"


class Unreadable(NamedTuple):
    """An image that is known to be unreadable, and why."""

    reason: str


class Task(NamedTuple):
    """Images to be decoded into a file.

    Attributes:
        path: the file.
        place: of the first of the images in the file, counted in images.
        images: paths, or the content of files.
        size: (height, width) that they get.
        channels: 1 or 3.
        limit: bytes that decoding one of them may take.
    """

    path: str
    place: int
    images: Sequence[str | bytes | Unreadable]
    size: Size
    channels: int
    limit: int


class Block(NamedTuple):
    """What became of a task.

    Attributes:
        results: for each image its own upright (height, width); the reason why it is unreadable; or None for one that
            takes more memory than the limit, and was not decoded.
        is_gray: whether red, green and blue are equal in all that were decoded.
    """

    results: list[Size | str | None]
    is_gray: bool


class Worker:
    """A process that decodes one task at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, task: Task) -> Block:
        """Decode a task.

        Raises:
            OSError: the file cannot be written.
            UserError: the process has ended, as one does that the system ends for want of memory.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            pickle.dump(task, self.process.stdin)
            self.process.stdin.flush()
            block: Block | OSError = pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            status = self.process.wait()
            raise UserError(
                f"A process that decodes images ended with status {status}: free some memory, or leave out images that "
                "are damaged."
            ) from None
        if isinstance(block, OSError):
            raise block
        return block

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):  # it has not read all that it was sent
                pipe.close()


def process_count(images: int, block: int) -> int:
    """Return how many processes decode so many images in blocks."""
    return max(1, min(cores(), -(-images // block)))


def in_processes(tasks: Iterator[Task], count: int, handle: Callable[[Task, Block], None]) -> None:
    """Have tasks decoded by ``count`` processes, and each one's results handled, one at a time and in any order.

    Raises:
        UserError: a process has ended before its time.
    """
    lock = threading.Lock()
    workers = [Worker() for _ in range(count)]

    def decode_all(worker: Worker) -> None:
        while True:
            with lock:
                if (task := next(tasks, None)) is None:
                    return
            block = worker.run(task)
            with lock:
                handle(task, block)

    with ThreadPoolExecutor(count) as pool:
        try:
            futures = [pool.submit(decode_all, worker) for worker in workers]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for worker in workers:  # also those in the middle of a task, whose threads then end
                worker.close()
        for future in done:
            future.result()
