"""The images that do not fit into memory: decoded once into a file of the cache, which every process shares.

A file is named by what decides its content: the sources and how they are converted. ``KEY.pixels`` holds the samples,
``KEY.json`` what else loading needs, and further files what was computed from all of them. It is written under a lock,
atomically, and deleted when others need its space and no process has it open.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import psutil
from filelock import FileLock

from gan_plugin.data.limits import in_gigabytes
from gan_plugin.data.stored import SampleFile, StoredSamples, is_in_use
from gan_plugin.errors import first_line
from gan_plugin.storage import cache_folder, remove_leftovers, write_atomically
from gan_plugin.waiting import announced

VARIABLE = "GAN_PLUGIN_STORE_GB"
DEFAULT_LIMIT = 300 * 10**9  # bytes; a million color images of 256x256 take 197 GB
SPARE = 10**9  # bytes of the disk that are left to others
SUFFIX = ".pixels"
ROOM_LOCK = "room.lock"

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


class StoreError(Exception):
    """The store cannot take what it was to hold; the message is the reason, without a full stop."""


@dataclass(frozen=True)
class About:
    """What is kept beside samples.

    Attributes:
        shape: (N, C, H, W).
        left_out: indices of the images that could not be read.
        notes: sentences on size, channels and images left out.
    """

    shape: tuple[int, int, int, int]
    left_out: list[int]
    notes: list[str]


class Stored(NamedTuple):
    """Samples in the store, and what is kept beside them."""

    samples: StoredSamples
    about: About


def store_folder() -> Path:
    """Return the folder of the store, which may not exist yet."""
    return cache_folder() / "images"


def find(key: str) -> Stored | None:
    """Open what the store holds under a key; None where that is nothing whole."""
    path = store_folder() / f"{key}{SUFFIX}"
    try:
        about = About(**json.loads(path.with_suffix(".json").read_text("utf-8")))
        samples = StoredSamples(SampleFile(path, about.shape))
    except (OSError, ValueError, TypeError):
        return None
    with suppress(OSError):  # another user's
        os.utime(path)  # its latest use
    return Stored(samples, about)


def find_or_make(key: str, needed: int, write: Callable[[Path], About]) -> Stored:
    """Open what the store holds under a key, written now where there is nothing; other processes wait meanwhile.

    Args:
        key: names the content.
        needed: bytes that the file takes, at most.
        write: fills a file of that size, which may become shorter.

    Raises:
        StoreError: the folder cannot be written, or has no room.
    """
    folder = store_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{key}.lock"):
            if (stored := find(key)) is not None:
                return stored
            for partial in folder.glob(f"{key}{SUFFIX}.*.partial"):  # whoever wrote it has lost the lock
                with suppress(OSError):  # another user's
                    partial.unlink()
            write_atomically(folder / f"{key}{SUFFIX}", lambda partial: fill(partial, needed, key=key, write=write))
            stored = find(key)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror or first_line(error)})") from error
    if stored is None:
        raise StoreError(f"what was written into {folder} is not there any more")
    return stored


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock for the length of a block; a line says that another process has it for longer than a moment."""
    lock = FileLock(path, mode=0o664)
    with announced("Waiting for another process, which decodes the same images."):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fill(partial: Path, needed: int, *, key: str, write: Callable[[Path], About]) -> None:
    """Write the samples into a temporary file, and what is kept beside them under its own name."""
    with FileLock(store_folder() / ROOM_LOCK, mode=0o664):  # or two would take the same room
        make_room(store_folder(), needed)
        reserve(partial, needed)
    text = json.dumps(asdict(write(partial)))
    write_atomically(store_folder() / f"{key}.json", lambda path: write_text(path, text))


def reserve(path: Path, count: int) -> None:
    """Give a file so many bytes of the disk: one that others fill meanwhile is full now, and not in an hour.

    Raises:
        OSError: the disk is full.
    """
    with path.open("rb+") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                return os.posix_fallocate(file.fileno(), 0, count)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # of a file system that cannot
                    raise
        file.truncate(count)
    return None


def write_text(path: Path, text: str) -> None:
    """Write a file of text."""
    path.write_text(text, "utf-8")


def limit() -> int:
    """Return how many bytes the store may take.

    Raises:
        StoreError: the variable holds no number.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return DEFAULT_LIMIT
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise StoreError(f"{VARIABLE}={text!r} is not a number of gigabytes") from None


def make_room(folder: Path, needed: int) -> None:
    """Delete what was not used for the longest time until there is room for so many bytes.

    Raises:
        StoreError: there is none, with all deleted that no process uses.
    """
    bound = limit()
    if needed > bound:
        raise StoreError(f"{VARIABLE} allows {in_gigabytes(bound)} there")
    remove_leftovers(folder)
    files = sorted(folder.glob(f"*{SUFFIX}"), key=last_use)
    while not fits(folder, needed, bound):
        if not files:
            free = psutil.disk_usage(str(folder)).free
            raise StoreError(
                f"{in_gigabytes(taken(folder))} of the {in_gigabytes(bound)} that {VARIABLE} allows there are in use, "
                f"and {in_gigabytes(free)} of its disk are free"
            )
        remove_unused(files.pop(0))


def fits(folder: Path, needed: int, bound: int) -> bool:
    """Return whether so many bytes more keep to the bound and to the disk."""
    return taken(folder) + needed <= bound and psutil.disk_usage(str(folder)).free >= needed + SPARE


def taken(folder: Path) -> int:
    """Return the bytes of all files in the store, those that are being written among them."""
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                count += entry.stat().st_size
    return count


def last_use(path: Path) -> float:
    """Return when a file was used last, in seconds since 1970."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def remove_unused(path: Path) -> None:
    """Delete samples and what is kept beside them, unless a process has them open."""
    try:
        if is_in_use(path):
            return
        path.unlink()
    except OSError as error:  # another process was faster, or the file is another user's
        if error.errno != errno.ENOENT:
            return
    for beside in path.parent.glob(f"{path.stem}.*"):
        if beside.suffix != ".lock":  # deleted, it would be two locks for those who wait and those who come
            with suppress(OSError):
                beside.unlink()
    logger.info("Deleted %s, images that were decoded and not used for the longest time.", path)
