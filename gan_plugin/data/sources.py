"""From the text a person gives as ``data`` to pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from gan_plugin.data.digits import find_digits
from gan_plugin.data.files import canonical_split, list_files
from gan_plugin.data.folder import find_picture_files, is_picture_file
from gan_plugin.data.idx import find_idx, is_idx_folder
from gan_plugin.data.parquet import find_hub_dataset, find_parquet_files
from gan_plugin.data.pictures import NoSuchSplit, Pictures, check_channels, check_image_size, list_some
from gan_plugin.errors import UserError

HELD_OUT_SPLITS = ("test", "validation")


class Source(Protocol):
    """Data that has been found, of which no picture has been read."""

    def load(self, image_size: int | None, channels: int | None, skip_unreadable: bool) -> Pictures:
        """Read the pictures; arguments as those of ``load_pictures``."""


def load_pictures(
    data: str,
    *,
    split: str = "train",
    image_size: int | None = None,
    channels: int | None = None,
    skip_unreadable: bool = False,
) -> Pictures:
    """Read all pictures of one split into memory.

    Pictures that are not square lose their longer sides' ends; pictures of another size are resized (Lanczos).

    Args:
        data: one of

            - "digits", scikit-learn's 1,797 handwritten digits (1,438 in "train", 359 in "test");
            - a folder in IDX format (``train-images-idx3-ubyte`` and the like, plain or ``.gz``);
            - a folder of picture files, where sub-folders are classes, or splits if all are named like splits;
            - a parquet file, or a folder of such, as ``datasets`` writes them;
            - "hub:owner/name" or "hub:owner/name:config", a data set on the Hugging Face hub.
        split: "train", or another split that the data has.
        image_size: height and width in pixels, a multiple of 4 from 16 to 256. None keeps the pictures' own size
            where all have the same one and it is such a number, and takes 64 otherwise (28 for "digits").
        channels: 1 (grey) or 3 (RGB). None gives 1 where every picture is grey, whatever its file says, else 3.
        skip_unreadable: leave out pictures that cannot be read and count them in the notes, in place of an error.

    Returns:
        The pictures, in an order that is the same on every machine.

    Raises:
        UserError: an argument is wrong, a picture cannot be read, or there are fewer than 2.
    """
    check_image_size(image_size)
    check_channels(channels)
    return find_source(data, split).load(image_size, channels, skip_unreadable)


def check_data_argument(data: str, split: str = "train") -> None:
    """Refuse data that does not exist, without opening a picture or asking the hub; arguments as ``load_pictures``.

    Raises:
        UserError: there is no such data, it holds no pictures, or it has no such split.
    """
    find_source(data, split)


def find_source(data: str, split: str) -> Source:
    """What ``data`` names.

    Raises:
        UserError: there is no such data, it holds no pictures, or it has no such split.
    """
    if data == "digits":
        return find_digits(split)
    if data.startswith("hub:"):
        return find_hub_dataset(data, split)
    path = os.path.realpath(os.path.expanduser(data))
    if data and os.path.isdir(path):
        return find_in_folder(Path(path), split)
    if os.path.isfile(path):
        if path.lower().endswith(".parquet"):
            return find_parquet_files(Path(path), [os.path.basename(path)], split)
        raise UserError(f"data={data!r} is a file that is not parquet: give a folder of pictures or a .parquet file.")
    raise UserError(
        f"data={data!r} is neither 'digits', a folder or parquet file that exists (looked for {path}) "
        "nor 'hub:owner/name'."
    )


def find_in_folder(folder: Path, split: str) -> Source:
    """What kind of data a folder holds: IDX files, else picture files, else parquet files.

    Raises:
        UserError: none of those, or not this split.
    """
    if is_idx_folder(folder):
        return find_idx(folder, split)
    files = list_files(folder)
    # Picture files first: the hub's picture folders may hold a metadata.parquet beside the pictures.
    if any(is_picture_file(file) for file in files):
        return find_picture_files(folder, files, split)
    if tables := [file for file in files if file.lower().endswith(".parquet")]:
        return find_parquet_files(folder, tables, split)
    held = f"only {list_some(files, 3)}" if files else "nothing"
    raise UserError(f"{folder} holds {held}: give a folder of picture files, IDX files or parquet files.")


def load_held_out(
    data: str, reference: Pictures, held_out: str | None = None, skip_unreadable: bool = False
) -> Pictures | None:
    """Real pictures that nothing was trained on, in the size and channels of ``reference``.

    Args:
        data: as for ``load_pictures``.
        reference: the pictures that they are held against.
        held_out: the split, or "none"; None takes "test", else "validation", else none where the data has neither
            or ``reference`` is itself one of them.
        skip_unreadable: as for ``load_pictures``.

    Raises:
        UserError: the split named does not exist, is the reference itself, or has other classes.
    """
    if held_out == "none":
        return None
    if held_out is not None:
        splits: tuple[str, ...] = (held_out,)
    elif canonical_split(reference.split) == "train":
        splits = HELD_OUT_SPLITS
    else:
        return None
    for split in splits:
        try:
            found = load_pictures(
                data,
                split=split,
                image_size=reference.size,
                channels=reference.channels,
                skip_unreadable=skip_unreadable,
            )
        except NoSuchSplit:
            if held_out is not None:
                raise
            continue
        check_held_out(found, reference)
        return found
    return None


def check_held_out(held_out: Pictures, reference: Pictures) -> None:
    """Raises UserError where the two hold the same pictures, or number their classes differently."""
    if held_out.digest == reference.digest:
        raise UserError(
            f"held_out={held_out.split!r} holds the same pictures as split {reference.split!r}: give a split that "
            "nothing was trained on."
        )
    if held_out.class_names != reference.class_names:
        raise UserError(
            f"Split {held_out.split!r} has the classes {list_some(held_out.class_names) or 'none'} and split "
            f"{reference.split!r} has {list_some(reference.class_names) or 'none'}: give both the same, or "
            "held_out=none."
        )
