"""Many encoded images as samples: in memory where they are small, else in a file of the store."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import PIL
import torch

from gan_plugin.data import store
from gan_plugin.data.dataset import list_first
from gan_plugin.data.decode import EncodedImages, decode, header_sizes
from gan_plugin.data.decode_to_file import FileTarget
from gan_plugin.data.limits import available_memory, check_memory, in_gigabytes, is_small
from gan_plugin.data.sizes import automatic_size, size_notes
from gan_plugin.data.stored import Samples
from gan_plugin.errors import UserError
from gan_plugin.spec import Size
from gan_plugin.waiting import announced

VERSION = 1  # of the conversion: another one gives other pixels of the same files

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


@dataclass(frozen=True)
class Decoded:
    """Images decoded from files or rows.

    Attributes:
        images: uint8 [M, C, H, W], the readable images in their order.
        rows: [M], the index of each among all images, readable or not.
        notes: sentences on size, channels and images left out.
    """

    images: Samples
    rows: list[int]
    notes: list[str]


class Target(Protocol):
    """Where decoded images go."""

    def decode(self, rows: Sequence[int], *, size: Size, channels: int) -> list[Size | str]:
        """Decode the images of these indices, in place of those before.

        Returns:
            For each its own upright (height, width), or the reason why it is unreadable.
        """

    def is_gray(self) -> bool:
        """Return whether red, green and blue are equal in every image."""

    def keep(self, rows: Sequence[int], channels: int) -> None:
        """Leave out what is in no row of these, and channels after these."""


class MemoryTarget:
    """Decoded images in memory, uint8 [N, C, H, W]."""

    def __init__(self, images: EncodedImages, *, source: str) -> None:
        self.images, self.source = images, source
        self.pixels: npt.NDArray[np.uint8] = np.empty((0, 0, 0, 0), np.uint8)

    def decode(self, rows: Sequence[int], *, size: Size, channels: int) -> list[Size | str]:
        """Decode the images of these indices, by threads."""
        self.pixels = np.empty((0, 0, 0, 0), np.uint8)  # before as many are allocated again
        check_memory(len(rows) * channels * math.prod(size), f"{self.source} with its {len(rows):,} images")
        self.pixels, results = decode(self.images.open, rows, size=size, channels=channels)
        return results

    def is_gray(self) -> bool:
        """Return whether red, green and blue are equal in every image."""
        return is_gray(torch.from_numpy(self.pixels))

    def keep(self, rows: Sequence[int], channels: int) -> None:
        """Leave out what is in no row of these, and channels after these."""
        if len(rows) < len(self.pixels):
            self.pixels = self.pixels[rows]
        self.pixels = np.ascontiguousarray(self.pixels[:, :channels])


def is_gray(images: torch.Tensor) -> bool:
    """Return whether red, green and blue are equal in every pixel of uint8 [N, 3, H, W]."""
    red, green, blue = images.unbind(1)
    return torch.equal(red, green) and torch.equal(green, blue)


@dataclass(frozen=True)
class Conversion:
    """How images become samples.

    Attributes:
        source: what to call all of them.
        image_size: (height, width) of the result; None chooses as ``automatic_size`` does.
        channels: 1 or 3; None gives 1 where every image is gray, else 3.
        skip_unreadable: leave unreadable images out, and say so in the notes.
    """

    source: str
    image_size: Size | None
    channels: int | None
    skip_unreadable: bool


def decode_images(images: EncodedImages, conversion: Conversion) -> Decoded:
    """Decode images to one size: into memory, or where they would take half of what is free, into the store.

    Only headers are read to choose an automatic size; then every image is decoded once, straight to its place in
    the result, so that no more full-size images are in memory than there are threads or processes.

    Raises:
        UserError: an image cannot be read and ``skip_unreadable`` is False, none can be read, or all of them together
            fit neither into memory nor into the store.
    """
    key = store_key(images, conversion) if store.store_folder().is_dir() else None
    if key is not None and (stored := store.find(key)) is not None:
        return from_store(stored, len(images.names))
    with announced(f"Reading {len(images.names):,} images of {conversion.source}."):
        size = conversion.image_size or automatic_size(header_sizes(images.open, len(images.names)))
        needed = len(images.names) * (conversion.channels or 3) * math.prod(size)
        if is_small(needed):
            return decode_to_memory(images, conversion, size)
    what = f"{conversion.source} with its {len(images.names):,} images"

    def write(path: Path) -> store.About:
        return write_samples(images, conversion, path=path, size=size)

    try:
        stored = store.find_or_make(key or store_key(images, conversion), needed, write)
    except store.StoreError as error:
        if needed > (free := available_memory()):
            raise UserError(
                f"{what} would take {in_gigabytes(needed)} of memory, of which {in_gigabytes(free)} are free, or of "
                f"the disk, and {error}: give fewer or smaller images, or set GAN_PLUGIN_CACHE to a folder with more "
                f"room, and {store.VARIABLE} to what it may take."
            ) from None
        logger.warning("%s take %s of memory, since %s.", what, in_gigabytes(needed), error)
        return decode_to_memory(images, conversion, size)
    return from_store(stored, len(images.names))


def decode_to_memory(images: EncodedImages, conversion: Conversion, size: Size) -> Decoded:
    """Decode images into a tensor; raises as ``decode_images``."""
    target = MemoryTarget(images, source=conversion.source)
    rows, notes = decode_into(target, images, conversion, size=size)
    return Decoded(torch.from_numpy(target.pixels), rows, notes)


def write_samples(images: EncodedImages, conversion: Conversion, *, path: Path, size: Size) -> store.About:
    """Decode images into a file; raises as ``decode_images``."""
    target = FileTarget(images, path, source=conversion.source)
    rows, notes = decode_into(target, images, conversion, size=size)
    return store.About(target.shape, sorted(set(range(len(images.names))) - set(rows)), notes)


def from_store(stored: store.Stored, count: int) -> Decoded:
    """Return what the store holds of ``count`` images."""
    left_out = set(stored.about.left_out)
    rows = [row for row in range(count) if row not in left_out]
    return Decoded(stored.samples, rows, stored.about.notes)


def decode_into(
    target: Target, images: EncodedImages, conversion: Conversion, *, size: Size
) -> tuple[list[int], list[str]]:
    """Decode images; returns the indices of the readable ones, and sentences on all.

    Args:
        target: where they go.
        images: what to decode.
        conversion: how.
        size: (height, width) by their headers.

    Raises:
        UserError: as ``decode_images``.
    """
    names, source, requested = images.names, conversion.source, conversion.image_size
    channels = conversion.channels or 3
    results = target.decode(range(len(names)), size=size, channels=channels)
    sizes = [result for result in results if isinstance(result, tuple)]
    rows = [index for index, result in enumerate(results) if isinstance(result, tuple)]
    unreadable = [f"{names[i]} ({result})" for i, result in enumerate(results) if isinstance(result, str)]
    if unreadable and not conversion.skip_unreadable:
        raise UserError(
            f"{len(unreadable):,} of {len(names):,} images in {source} cannot be read: {list_first(unreadable)}; "
            "repair or remove them, or set skip_unreadable to leave them out."
        )
    if not rows:
        raise UserError(f"None of the {len(names):,} images in {source} can be read: {list_first(unreadable)}.")
    final_size, places = requested or automatic_size(sizes), rows
    if final_size != size:
        # The headers misled: one of an unreadable image counted, or EXIF turns images that are not square.
        with announced(f"Reading {len(rows):,} images of {source} again, in their common size."):
            target.decode(rows, size=final_size, channels=channels)
        places = list(range(len(rows)))
    notes = size_notes(sizes, final_size, requested=requested is not None)
    target.keep(places, channels)
    if conversion.channels is None:
        if target.is_gray():
            target.keep(range(len(rows)), 1)
            notes.append("Every image is gray, so there is 1 channel.")
        else:
            notes.append("There are images in color, so there are 3 channels.")
    if unreadable:
        notes.append(f"{len(unreadable):,} unreadable images were left out: {list_first(unreadable)}.")
    return rows, notes


def store_key(images: EncodedImages, conversion: Conversion) -> str:
    """Return what names the samples in the store: the digest of all that decides them."""
    options = [conversion.image_size, conversion.channels, conversion.skip_unreadable]
    decides = [VERSION, PIL.__version__, options, images.identity()]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:32]
