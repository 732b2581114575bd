"""Folders in the IDX format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gan_plugin.data.convert import gray_to_channels, resize_gray
from gan_plugin.data.dataset import Dataset, SplitNotFoundError, make_dataset
from gan_plugin.data.sizes import automatic_size, size_notes
from gan_plugin.errors import UserError
from gan_plugin.spec import Size

PREFIXES = {"train": "train", "test": "t10k"}  # split → how its files' names begin
UINT8_CODE = 8  # the IDX type code
GZIP_MAGIC = b"\x1f\x8b"


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
            labels = torch.from_numpy(values.astype(np.int64))
        images = resize_gray(gray, size, Image.Resampling.LANCZOS)
        return make_dataset(
            gray_to_channels(images, channels),
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
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read the array of unsigned bytes in an IDX file, plain or gzipped.

    Raises:
        UserError: the file is damaged, or is not IDX with this many dimensions.
    """
    try:
        content = path.read_bytes()
        if content.startswith(GZIP_MAGIC):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    magic = bytes([0, 0, UINT8_CODE, dimensions])
    start = len(magic) + 4 * dimensions
    if not content.startswith(magic) or len(content) < start:
        raise UserError(
            f"{path} does not begin with the header of an IDX file of {dimensions} dimensions: "
            f"its first bytes are {content[:4].hex()!r}, not {magic.hex()!r}."
        )
    shape = struct.unpack(f">{dimensions}I", content[len(magic) : start])
    if len(content) != start + math.prod(shape):
        raise UserError(
            f"{path} is truncated or has extra data: after its header there are {len(content) - start:,} bytes, "
            f"not the {math.prod(shape):,} of {'x'.join(map(str, shape))} values."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()  # writable, as torch requires


def read_class_names(folder: Path, largest: int) -> list[str]:
    """Read the class names from the lines of ``classes.txt``; without that file they are "0", "1", … up to ``largest``.

    Raises:
        UserError: the file is not UTF-8 or names fewer classes than there are.
    """
    path = folder / "classes.txt"
    if not path.is_file():
        return [str(label) for label in range(largest + 1)]
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: write one class name per line.") from error
    if len(names) <= largest:
        raise UserError(f"{path} names {len(names)} classes and the largest label is {largest}: name {largest + 1}.")
    return names
