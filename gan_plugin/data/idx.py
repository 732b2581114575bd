"""Folders in the IDX format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gan_plugin.data.convert import gray_to_channels, resize_gray
from gan_plugin.data.dataset import Dataset, SplitNotFoundError, check_class_names, make_dataset
from gan_plugin.data.limits import check_memory
from gan_plugin.data.sizes import automatic_size, size_notes
from gan_plugin.errors import UserError
from gan_plugin.spec import Size
from gan_plugin.waiting import announced

PREFIXES = {"train": "train", "test": "t10k"}  # split → how its files' names begin
UINT8_CODE = 8  # the IDX type code
GZIP_MAGIC = b"\x1f\x8b"
BLOCK = 2**20  # bytes that are read at a time


@dataclass(frozen=True)
class IdxFiles:
    """The files of one split of an IDX folder."""

    folder: Path
    split: str
    _: KW_ONLY
    images: Path
    labels: Path | None

    def load(self, image_size: Size | None, channels: int | None, skip_unreadable: bool) -> Dataset:
        """Read all images of the split; the format has no unreadable images, only damaged files, which are refused.

        Raises:
            UserError: a file is damaged, or the files do not belong together.
        """
        with announced(f"Reading {self.images}."):
            gray = read_idx(self.images, dimensions=3)  # [N, H, W]
        count, height, width = gray.shape
        if 0 in gray.shape:
            raise UserError(f"{self.images} holds no pixels: its header says {count} images of {height}x{width}.")
        size = image_size or automatic_size([(height, width)])
        labels, class_names = None, list[str]()
        notes = size_notes([(height, width)] * count, size, requested=image_size is not None)
        if self.labels is None:
            notes.append("There is no file of labels, so the images have no classes.")
        else:
            values = read_idx(self.labels, dimensions=1)  # [N]
            if len(values) != count:
                raise UserError(f"{self.labels} holds {len(values):,} labels for {count:,} images: give one for each.")
            class_names = read_class_names(self.folder, int(values.max()))
            check_class_names(class_names, str(self.folder))
            labels = torch.from_numpy(values.astype(np.int64))
        check_memory(count * (channels or 1) * math.prod(size), f"{self.images} with its {count:,} images")
        with announced(f"Resizing {count:,} images of {self.folder}."):
            images = resize_gray(gray, size, Image.Resampling.LANCZOS)
        return make_dataset(
            torch.from_numpy(gray_to_channels(images, channels)),
            labels,
            class_names,
            name=self.folder.name,
            source=str(self.folder),
            split=self.split,
            notes=notes,
        )


def is_idx_folder(folder: Path) -> bool:
    """Return whether the folder holds a file of any split under one of its usual names."""
    return any(find_file(folder, split, kind) for split in PREFIXES for kind in ("images", "labels"))


def find_idx(folder: Path, split: str) -> IdxFiles:
    """Find the files of this split in an IDX folder.

    Raises:
        UserError: the split does not exist or has no images.
    """
    available = [name for name in PREFIXES if find_file(folder, name, "images")]
    images = find_file(folder, split, "images") if split in PREFIXES else None
    if images is None:
        splits = ", ".join(map(repr, available)) or "none: the files with the images are missing"
        raise SplitNotFoundError(
            f"{folder} has no images of split {split!r} in IDX format: the splits there are {splits}."
        )
    return IdxFiles(folder, split, images=images, labels=find_file(folder, split, "labels"))


def find_file(folder: Path, split: str, kind: str) -> Path | None:
    """Find the file of ``kind`` "images" or "labels", by any of its usual names."""
    dimensions = {"images": 3, "labels": 1}[kind]
    names = [
        f"{PREFIXES[split]}-{kind}{dash}idx{dimensions}-ubyte{suffix}" for suffix in ("", ".gz") for dash in ("-", ".")
    ]
    return next((folder / name for name in names if os.path.isfile(folder / name)), None)


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read the array of unsigned bytes in an IDX file, plain or gzipped.

    No more is read, and of a gzipped file unpacked, than the header says that there is.

    Raises:
        UserError: the file is damaged, is not IDX with this many dimensions, or does not fit into memory.
    """
    try:
        with path.open("rb") as file:
            is_gzip = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            file.seek(0)
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if is_gzip else file
            return read_array(stream, path, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def read_array(stream: IO[bytes], path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read the content of an IDX file; errors as those of ``read_idx`` and of the stream."""
    magic = bytes([0, 0, UINT8_CODE, dimensions])
    header = stream.read(len(magic) + 4 * dimensions)
    if not header.startswith(magic) or len(header) < len(magic) + 4 * dimensions:
        raise UserError(
            f"{path} does not begin with the header of an IDX file of {dimensions} dimensions: "
            f"its first bytes are {header[:4].hex()!r}, not {magic.hex()!r}."
        )
    shape = struct.unpack(f">{dimensions}I", header[len(magic) :])
    expected = math.prod(shape)
    check_memory(expected, f"{path} with {'x'.join(map(str, shape))} values")
    values = np.empty(expected, np.uint8)
    count = 0
    while count < expected and (block := stream.read(min(BLOCK, expected - count))):
        values[count : count + len(block)] = np.frombuffer(block, np.uint8)
        count += len(block)
    if extra := len(stream.read(BLOCK)):
        count += extra
    if count != expected:
        raise UserError(
            f"{path} is truncated or has extra data: after its header there are {'at least ' if extra == BLOCK else ''}"
            f"{count:,} bytes, not the {expected:,} of {'x'.join(map(str, shape))} values."
        )
    return values.reshape(shape)


def read_class_names(folder: Path, largest: int) -> list[str]:
    """Read the class names from the lines of ``classes.txt``; without that file they are "0", "1", … up to ``largest``.

    Raises:
        UserError: the file is not UTF-8 or names fewer classes than there are.
    """
    path = folder / "classes.txt"
    if not os.path.isfile(path):
        return [str(label) for label in range(largest + 1)]
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: write one class name per line.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if len(names) <= largest:
        raise UserError(f"{path} names {len(names)} classes and the largest label is {largest}: name {largest + 1}.")
    return names
