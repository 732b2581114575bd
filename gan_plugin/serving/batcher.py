"""Requests of several threads → one run on the GPU. A GPU makes 64 images in little more time than one."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gan_plugin.media.image import Image

Latents = npt.NDArray[np.float32]  # [N, latent_size]
Labels = npt.NDArray[np.int64] | None  # [N], None for an unconditional generator
Run = Callable[[Latents, Labels], Image]


@dataclass(frozen=True)
class _Asked:
    z: Latents
    labels: Labels
    answer: Future[Image] = field(default_factory=Future)


class MicroBatcher:
    """Merges what is waiting while the device is busy, and waits for nothing itself.

    A request that finds the device idle runs at once and alone. Those that come in meanwhile run together as soon as
    it is free: in their order, whole, and never more than ``largest`` rows at once. Each gets back its own rows. If a
    merged run fails, its requests run one by one, so that only the one that fails is told so.

    Args:
        run: images uint8 [N, H, W, C] of latents [N, latent_size] and labels [N]; called by one thread only.
        largest: the most rows that ``run`` is given.
    """

    def __init__(self, run: Run, largest: int) -> None:
        self._run, self._largest = run, largest
        self._waiting: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        # the thread keeps nothing alive: when nobody has the batcher any more, None ends it
        weakref.finalize(self, self._waiting.put, None)
        arguments = (weakref.ref(self), self._waiting)
        threading.Thread(target=_work, args=arguments, name="gan-batcher", daemon=True).start()

    def __call__(self, z: Latents, labels: Labels) -> Image:
        """The images of one request of at most ``largest`` rows; raises what ``run`` raised for it."""
        assert len(z) <= self._largest
        asked = _Asked(z, labels)
        self._waiting.put(asked)
        return asked.answer.result()

    def fill(self, together: list[_Asked]) -> _Asked | None:
        """Add what is waiting already; returns the first one that no longer fits."""
        rows = len(together[0].z)
        while True:
            try:
                asked = self._waiting.get_nowait()
            except queue.Empty:
                return None
            if asked is None:  # cannot be while somebody waits; and if it could, nothing would be lost
                continue
            rows += len(asked.z)
            if rows > self._largest:
                return asked
            together.append(asked)

    def answer(self, together: list[_Asked]) -> None:
        """Run requests as one, and give each its own rows."""
        try:
            z = np.concatenate([asked.z for asked in together])
            labels = [asked.labels for asked in together if asked.labels is not None]
            images = self._run(z, np.concatenate(labels) if labels else None)
            ends = np.cumsum([len(asked.z) for asked in together])
            parts = np.split(images, ends[:-1])
        except Exception as error:  # of any kind: it belongs to the request, and the thread must live on
            if len(together) == 1:
                together[0].answer.set_exception(error)
            else:
                for asked in together:
                    self.answer([asked])
            return
        for asked, part in zip(together, parts, strict=True):
            asked.answer.set_result(part)


def _work(batcher: weakref.ref[MicroBatcher], waiting: queue.SimpleQueue[_Asked | None]) -> None:
    left_over: _Asked | None = None
    while (first := left_over or waiting.get()) is not None:
        alive = batcher()
        if alive is None:  # who asked has been interrupted, and nobody is left
            return
        together = [first]
        left_over = alive.fill(together)
        alive.answer(together)
        del alive, together, first  # while it waits, the thread has no part in the batcher
