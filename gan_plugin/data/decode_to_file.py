"""Decoding of many encoded images into one file, by several processes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gan_plugin.data.decode import EncodedImages, decode, reason
from gan_plugin.data.decode_worker import write_all
from gan_plugin.data.limits import decoding_budget
from gan_plugin.data.processes import Block, Task, Unreadable, in_processes, process_count
from gan_plugin.data.stored import SampleFile
from gan_plugin.spec import Size
from gan_plugin.waiting import counted

BLOCK = 64  # images in a task
BLOCK_BYTES = 2**24  # of decoded images in a task, and about as many of encoded ones


class FileTarget:
    """Decoded images in a file, uint8 [N, C, H, W].

    Args:
        images: what to decode.
        path: the file, which exists.
        source: what to call the images.
    """

    def __init__(self, images: EncodedImages, path: Path, *, source: str) -> None:
        self.images, self.path, self.source = images, path, source
        self.shape = (0, 0, 0, 0)
        self.gray = True

    def decode(self, rows: Sequence[int], *, size: Size, channels: int) -> list[Size | str]:
        """Decode the images of these indices, in place of what the file holds; returns what ``decode.decode`` does."""
        self.shape, self.gray = (len(rows), channels, *size), True
        os.truncate(self.path, math.prod(self.shape))
        block = max(1, min(BLOCK, BLOCK_BYTES // math.prod(self.shape[1:])))
        count = process_count(len(rows), block)
        limit = decoding_budget().limit // count
        results: list[Size | str | None] = [None] * len(rows)

        def tasks() -> Iterator[Task]:
            place = 0
            while place < len(rows):
                encoded = self.encoded(rows[place : place + block])
                yield Task(str(self.path), place, encoded, size=size, channels=channels, limit=limit)
                place += len(encoded)

        with counted(f"Decoding the images of {self.source}", len(rows), "images") as advance:

            def handle(task: Task, result: Block) -> None:
                results[task.place : task.place + len(result.results)] = result.results
                self.gray &= result.is_gray
                advance(len(result.results))

            in_processes(tasks(), count, handle)
        large = [place for place, result in enumerate(results) if result is None]
        for start in range(0, len(large), block):
            places = large[start : start + block]
            for place, result in zip(places, self.decode_here(rows, places)):
                results[place] = result
        return [result for result in results if result is not None]

    def encoded(self, rows: Sequence[int]) -> list[str | bytes | Unreadable]:
        """Return the images of these indices, or of the first of them where they are large."""
        encoded: list[str | bytes | Unreadable] = []
        count = 0
        for row in rows:
            try:
                encoded.append(image := self.images.encoded(row))
            except Exception as error:  # as in decode
                encoded.append(Unreadable(reason(error)))
                continue
            count += len(image)
            if count > BLOCK_BYTES:
                break
        return encoded

    def decode_here(self, rows: Sequence[int], places: Sequence[int]) -> list[Size | str]:
        """Decode images that take too much memory for several at once, by threads that wait for each other."""
        _, channels, height, width = self.shape
        size = height, width
        pixels, results = decode(self.images.open, [rows[place] for place in places], size=size, channels=channels)
        with self.path.open("rb+", buffering=0) as file:
            for place, image, result in zip(places, pixels, results):
                if isinstance(result, tuple):
                    file.seek(place * image.nbytes)
                    write_all(file, image)
                    self.gray &= bool((image == image[:1]).all())
        return results

    def is_gray(self) -> bool:
        """Return whether red, green and blue are equal in every image."""
        return self.gray

    def keep(self, rows: Sequence[int], channels: int) -> None:
        """Leave out what is in no row of these, and channels after these: what stays moves to the front."""
        if len(rows) == self.shape[0] and channels == self.shape[1]:
            return
        before = SampleFile(self.path, self.shape)
        _, _, height, width = self.shape
        self.shape = (len(rows), channels, height, width)
        block = max(1, BLOCK_BYTES // before.sample_bytes)
        with self.path.open("rb+", buffering=0) as file:
            for start in range(0, len(rows), block):
                places = rows[start : start + block]
                pixels = np.empty((len(places), *before.shape[1:]), np.uint8)
                for place, image in zip(places, pixels):
                    before.read_into(memoryview(image.reshape(-1)), place)
                write_all(file, pixels[:, :channels])
            file.truncate(math.prod(self.shape))
