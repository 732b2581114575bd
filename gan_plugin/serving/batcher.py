"""Merge requests of several threads into one run on the GPU, which takes little longer for 64 images than for one."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gan_plugin.media.image import Images

Latents = npt.NDArray[np.float32]  # [N, latent_size]
Labels = npt.NDArray[np.int64] | None  # [N], None for an unconditional generator
Run = Callable[[Latents, Labels], Images]


@dataclass(frozen=True)
class _Request:
    z: Latents
    labels: Labels
    answer: Future[Images] = field(default_factory=Future)


class MicroBatcher:
    """Merge requests that arrive while the device is busy, without ever waiting for more of them.

    A request that finds the device idle runs at once and alone. Those that arrive meanwhile run together as soon as it
    is idle again: in their order, whole, and never more than ``max_rows`` at once. Each gets back its own rows. If a
    merged run fails, its requests run one by one, so that only the one at fault gets the error; on a broken device all
    get it at once.

    Args:
        run: images uint8 [N, H, W, C] of latents [N, latent_size] and labels [N]; called by one thread only.
        max_rows: the most rows that ``run`` is given.
        is_broken: asked after a run that failed: whether the device is at fault, on which no other run can succeed.
    """

    def __init__(self, run: Run, max_rows: int, *, is_broken: Callable[[], bool]) -> None:
        self._run, self._max_rows, self._is_broken = run, max_rows, is_broken
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        # the thread has only a weak reference: once the batcher is garbage, None ends the thread
        weakref.finalize(self, self._waiting.put, None)
        arguments = (weakref.ref(self), self._waiting)
        threading.Thread(target=_work, args=arguments, name="gan-batcher", daemon=True).start()

    def __call__(self, z: Latents, labels: Labels) -> Images:
        """Return the images of one request of at most ``max_rows`` rows.

        Raises:
            Exception: what ``run`` raised for this request.
        """
        assert len(z) <= self._max_rows
        request = _Request(z, labels)
        self._waiting.put(request)
        return request.answer.result()

    def fill(self, batch: list[_Request]) -> _Request | None:
        """Add the waiting requests to ``batch`` and return the first one that no longer fits."""
        rows = len(batch[0].z)
        while True:
            try:
                request = self._waiting.get_nowait()
            except queue.Empty:
                return None
            if request is None:  # cannot be while a caller waits; and if it could, nothing would be lost
                continue
            rows += len(request.z)
            if rows > self._max_rows:
                return request
            batch.append(request)

    def answer(self, batch: list[_Request]) -> None:
        """Run the requests as one, and give each its own rows."""
        try:
            z = np.concatenate([request.z for request in batch])
            labels = [request.labels for request in batch if request.labels is not None]
            images = self._run(z, np.concatenate(labels) if labels else None)
            ends = np.cumsum([len(request.z) for request in batch])
            parts = np.split(images, ends[:-1])
        except Exception as error:  # of any kind: it belongs to the request, and the thread must live on
            if len(batch) == 1 or self._is_broken():
                for request in batch:
                    request.answer.set_exception(error)
            else:
                for request in batch:
                    self.answer([request])
            return
        for request, part in zip(batch, parts, strict=True):
            request.answer.set_result(part)


def _work(batcher: weakref.ref[MicroBatcher], waiting: queue.SimpleQueue[_Request | None]) -> None:
    left_over: _Request | None = None
    while (first := left_over or waiting.get()) is not None:
        alive = batcher()
        if alive is None:  # the caller was interrupted, and nobody else holds the batcher
            return
        batch = [first]
        left_over = alive.fill(batch)
        alive.answer(batch)
        del alive, batch, first  # no reference to the batcher while this thread waits
