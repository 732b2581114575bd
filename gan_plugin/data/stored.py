"""Samples in a file: what is asked for is read, and nothing else is in memory."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_plugin.media.image import CHANNELS_LAST, ImageRows, Images
from gan_plugin.storage import write_atomically

if sys.platform != "win32":
    import fcntl

Rows: TypeAlias = npt.NDArray[np.int64]

BLOCK_BYTES = 2**24  # that are read at a time where all samples pass by

_seeking = threading.Lock()  # where a descriptor's position has to be moved first


class SampleFile:
    """An open file of uint8 [N, C, H, W], one sample after the other; it may be deleted and stays readable.

    Args:
        path: its path.
        shape: (N, C, H, W).

    Raises:
        OSError: it cannot be opened, or has another size.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, tuple(shape)
        self.sample_bytes = math.prod(shape[1:])
        self._file = path.open("rb", buffering=0)  # closed with this object
        if os.fstat(self.descriptor).st_size != math.prod(shape):
            self._file.close()
            raise OSError(f"{path} has not the size of {shape}")
        if sys.platform != "win32":  # which deletes no open file
            fcntl.flock(self.descriptor, fcntl.LOCK_SH)  # until it is closed, by whatever end of the process

    @property
    def descriptor(self) -> int:
        """The file's descriptor."""
        return self._file.fileno()

    def __reduce__(self) -> tuple[type[SampleFile], tuple[Path, tuple[int, ...]]]:
        return SampleFile, (self.path, self.shape)  # another process opens it anew

    def read_into(self, buffer: memoryview, sample: int) -> None:
        """Fill a buffer of whole samples, beginning with this one.

        Raises:
            OSError: the file cannot be read, or ends before.
        """
        offset = sample * self.sample_bytes
        while buffer.nbytes:
            count = read_at(self._file.fileno(), buffer, offset)
            if count == 0:
                raise OSError(f"{self.path} ends too early: it was changed while it was in use")
            buffer, offset = buffer[count:], offset + count


def is_in_use(path: Path) -> bool:
    """Return whether a process has the samples in a file open."""
    if sys.platform == "win32":
        return False  # and it cannot be deleted
    mode = "rb+" if os.access(path, os.W_OK) else "rb"  # NFS locks for one alone only what is open to be written
    with path.open(mode) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Read from this offset of a file into a buffer; returns how many bytes, 0 at the file's end."""
    if sys.platform == "win32":
        with _seeking:
            os.lseek(descriptor, offset, os.SEEK_SET)
            data = os.read(descriptor, buffer.nbytes)
        buffer[: len(data)] = data
        return len(data)
    else:  # mypy takes what follows for unreachable otherwise
        return os.preadv(descriptor, [buffer], offset)


class StoredSamples:
    """Samples uint8 [N, C, H, W] in a file, or of some of its rows; indexing reads them as a tensor.

    They are read and not mapped: pages of a mapping count as the memory of the process, and a disk reads around each
    of them what a random order does not need. What was read stays in the system's own cache of files, which gives way
    to what needs memory.

    Args:
        file: the samples.
        rows: int64 [N], which of them these are; None for all.
    """

    def __init__(self, file: SampleFile, rows: Rows | None = None) -> None:
        self.file, self.rows = file, rows

    def __len__(self) -> int:
        return self.file.shape[0] if self.rows is None else len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """The shape as a tensor of these samples has it, (N, C, H, W)."""
        return torch.Size((len(self), *self.file.shape[1:]))

    @property
    def device(self) -> torch.device:
        """Where they are read to, the CPU."""
        return torch.device("cpu")

    @property
    def size(self) -> int:
        """Number of values, each of which is a byte."""
        return self.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all samples, as a tensor of them would take."""
        return len(self) * self.file.sample_bytes

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Read samples uint8 [B, C, H, W] of rows int64 [B], or of a slice."""
        indices = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows.cpu().numpy()
        samples = torch.empty((len(indices), *self.file.shape[1:]), dtype=torch.uint8)
        self.read(indices, samples)
        return samples

    def read(self, rows: Rows, samples: Tensor) -> None:
        """Read the samples of rows int64 [B] into a contiguous tensor uint8 [B, C, H, W].

        Raises:
            IndexError: a row is not from 0 to N − 1.
            OSError: the file cannot be read.
        """
        if not len(rows):
            return
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} samples")
        places = rows if self.rows is None else self.rows[rows]
        buffer = memoryview(samples.numpy().reshape(-1))  # type: ignore[arg-type]  # an array is a buffer
        size = self.file.sample_bytes
        starts = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]  # of neighbors in the file
        for start, stop in pairwise(starts):
            self.file.read_into(buffer[start * size : stop * size], int(places[start]))

    def take(self, rows: Tensor) -> StoredSamples:
        """Return the samples of these rows, int64 [M] or bool [N]; nothing is read."""
        indices = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        chosen = indices.cpu().numpy()
        return StoredSamples(self.file, chosen if self.rows is None else self.rows[chosen])

    def remembered(self, name: str, depends_on: bytes, compute: Callable[[], bytes]) -> bytes:
        """Return what takes a look at every sample, computed once and kept in a file beside the samples.

        Args:
            name: of what is computed.
            depends_on: whatever it depends on besides the samples.
            compute: computes it.
        """
        hasher = hashlib.sha256(depends_on)
        if self.rows is not None:
            hasher.update(self.rows.astype("<i8").data)
        path = self.file.path.with_suffix(f".{name}-{hasher.hexdigest()[:32]}")
        with suppress(OSError):
            return path.read_bytes()
        value = compute()
        with suppress(OSError):  # a full disk costs time and nothing else
            write_atomically(path, lambda partial: write_bytes(partial, value))
        return value


def write_bytes(path: Path, value: bytes) -> None:
    """Write a file."""
    path.write_bytes(value)


Samples: TypeAlias = Tensor | StoredSamples


class StoredPixels:
    """Stored samples as feature networks take images, uint8 [N, H, W, C]; indexing reads them as an array."""

    def __init__(self, samples: StoredSamples) -> None:
        self.samples = samples

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (N, H, W, C)."""
        return tuple(self.samples.shape[axis] for axis in CHANNELS_LAST)

    @property
    def ndim(self) -> int:
        """Four."""
        return 4

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Unsigned bytes."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: slice | Rows) -> Images:
        samples = self.samples[rows if isinstance(rows, slice) else torch.as_tensor(rows)]
        images: Images = samples.permute(CHANNELS_LAST).numpy()
        return images


def take(samples: Samples, rows: Tensor) -> Samples:
    """Return the samples of these rows, int64 [M] or bool [N]: a copy of a tensor, a view of stored ones."""
    return samples.take(rows) if isinstance(samples, StoredSamples) else samples[rows]


def blocks_of(samples: Samples) -> Iterator[Tensor]:
    """Yield all samples in their order, some of them at a time."""
    size = max(1, BLOCK_BYTES // max(1, math.prod(samples.shape[1:])))
    return (samples[start : start + size] for start in range(0, len(samples), size))


def pixels_of(samples: Samples) -> ImageRows:
    """Return samples uint8 [N, C, H, W] as images uint8 [N, H, W, C]; a view."""
    if isinstance(samples, StoredSamples):
        return StoredPixels(samples)
    pixels: Images = samples.permute(CHANNELS_LAST).numpy()
    return pixels
