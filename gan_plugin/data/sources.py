"""Finding and loading the data that the text ``data`` names."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from gan_plugin.config.kinds import NONE
from gan_plugin.data.dataset import Dataset, SplitNotFoundError, check_channels, list_first
from gan_plugin.data.digits import find_digits
from gan_plugin.data.files import canonical_split, check_text, list_files
from gan_plugin.data.folder import find_image_files, is_image_file
from gan_plugin.data.held_out import DRAWN, Division, divide
from gan_plugin.data.idx import find_idx, is_idx_folder
from gan_plugin.data.parquet import find_hub_dataset, find_parquet_files
from gan_plugin.data.sizes import as_size
from gan_plugin.errors import UserError, different_classes
from gan_plugin.spec import Size

HELD_OUT_SPLITS = ("test", "validation")


class Source(Protocol):
    """Data that exists, of which no image has been read yet."""

    def load(self, image_size: Size | None, channels: int | None, skip_unreadable: bool) -> Dataset:
        """Read the images; arguments as those of ``load_dataset``, the size as (height, width)."""


def load_dataset(
    data: str,
    *,
    split: str = "train",
    image_size: int | Size | None = None,
    channels: int | None = None,
    skip_unreadable: bool = False,
) -> Dataset:
    """Read all images of one split into memory.

    Images are cropped around their center to the aspect ratio of the size they get, and resized to it (Lanczos).

    Args:
        data: one of

            - "digits", scikit-learn's 1,797 handwritten digits (1,438 in "train", 359 in "test");
            - a folder in IDX format (``train-images-idx3-ubyte`` and the like, plain or ``.gz``);
            - a folder of image files, where sub-folders are classes, or splits if all are named like splits;
            - a parquet file, or a folder of such, as ``datasets`` writes them;
            - "hub:owner/name" or "hub:owner/name:config", a data set on the Hugging Face hub.
        split: "train", or another split that the data has.
        image_size: (height, width) in pixels, each from 16 to 1,024; one integer for a square. None keeps the images'
            own size where all share one in that range, and takes 64×64 otherwise (28×28 for "digits").
        channels: 1 (gray) or 3 (RGB). None gives 1 where every image is gray, whatever its file says, else 3.
        skip_unreadable: leave out images that cannot be read and count them in the notes, in place of an error.

    Returns:
        The images, in an order that is the same on every machine.

    Raises:
        UserError: an argument is wrong, an image cannot be read, or there are fewer than 2.
    """
    size = as_size(image_size)
    check_channels(channels)
    return find_source(data, split).load(size, channels, skip_unreadable)


def check_data_argument(data: str, split: str = "train", held_out: str | None = None) -> None:
    """Refuse data that does not exist, without opening an image or asking the hub; arguments as ``load_divided``.

    Raises:
        UserError: there is no such data, it holds no images, or it has no such split.
    """
    find_source(data, split)
    if held_out not in (None, NONE):
        check_named(data, split, held_out)


def find_source(data: str, split: str) -> Source:
    """Find what ``data`` names.

    Raises:
        UserError: there is no such data, it holds no images, or it has no such split.
    """
    if data == "digits":
        return find_digits(split)
    if data.startswith("hub:"):
        return find_hub_dataset(data, split)
    path = os.path.realpath(os.path.expanduser(data))
    check_text(path, "The data")  # the folder's name is that of the data set, and its path is logged
    if data and os.path.isdir(path):
        return find_in_folder(Path(path), split)
    if os.path.isfile(path):
        if path.lower().endswith(".parquet"):
            return find_parquet_files(Path(path), [os.path.basename(path)], split)
        raise UserError(f"data={data!r} is a file that is not parquet: give a folder of images or a .parquet file.")
    raise UserError(
        f"data={data!r} is neither 'digits', a folder or parquet file that exists (looked for {path}) "
        "nor 'hub:owner/name'."
    )


def find_in_folder(folder: Path, split: str) -> Source:
    """Find the data that a folder holds: IDX files, else image files, else parquet files.

    Raises:
        UserError: none of those, or not this split.
    """
    if is_idx_folder(folder):
        return find_idx(folder, split)
    listing = list_files(folder)
    files = listing.files
    # Image files first: the hub's image folders may hold a metadata.parquet beside the images.
    if any(is_image_file(file) for file in files):
        return find_image_files(folder, listing, split)
    if parquet_files := [file for file in files if file.lower().endswith(".parquet")]:
        return find_parquet_files(folder, parquet_files, split)
    content = f"only {list_first(files, 3)}" if files else "nothing"
    raise UserError(f"{folder} holds {content}: give a folder of image files, IDX files or parquet files.")


def load_divided(
    data: str,
    *,
    split: str = "train",
    held_out: str | None = None,
    image_size: int | Size | None = None,
    channels: int | None = None,
    skip_unreadable: bool = False,
) -> Division:
    """Read a split without what is held out of it; no other split is read.

    Args:
        data: as for ``load_dataset``, like the arguments that are not named here.
        split: the split to train on.
        held_out: as for ``find_held_out``.

    Raises:
        UserError: as ``load_dataset``; or the split to hold out does not exist, or is ``split``.
    """
    held_out_split = find_held_out(data, split, held_out)
    dataset = load_dataset(data, split=split, image_size=image_size, channels=channels, skip_unreadable=skip_unreadable)
    if held_out_split == DRAWN:
        return divide(dataset)
    return Division(dataset, drawn=None, held_out_split=held_out_split)


def find_held_out(data: str, split: str, held_out: str | None) -> str | None:
    """Find what is held out of training, without reading an image.

    Args:
        data: as for ``load_dataset``.
        split: the split to train on.
        held_out: a split, or "none"; None takes the data's own "test", else "validation", else a part that is drawn
            from ``split``, and nothing where that is not the one for training.

    Returns:
        A split of the data, ``DRAWN``, or None for nothing.

    Raises:
        UserError: the split does not exist, or is ``split``.
    """
    if held_out == NONE:
        return None
    if held_out is not None:
        check_named(data, split, held_out)
        if data.startswith("hub:"):
            find_hub_dataset(data, held_out).splits()
        return held_out
    if canonical_split(split) != "train":
        return None
    return find_own_split(data, split) or DRAWN


def find_own_split(data: str, split: str) -> str | None:
    """Return the split beside ``split`` that the data has to be held out, or None; no image is read.

    Raises:
        UserError: the hub is asked for its data set, which cannot be loaded or has no ``split``.
    """
    if data.startswith("hub:"):
        names = find_hub_dataset(data, split).splits()
        return next((name for name in HELD_OUT_SPLITS if name in names), None)
    for name in HELD_OUT_SPLITS:
        with suppress(SplitNotFoundError):
            find_source(data, name)
            return name
    return None


def check_named(data: str, split: str, held_out: str) -> None:
    """Refuse to hold out a split that does not exist, or that is ``split``; the hub is not asked.

    Raises:
        UserError: it is so.
    """
    if held_out == split:
        raise same_images(split, held_out)
    find_source(data, held_out)


def load_held_out(data: str, division: Division, *, skip_unreadable: bool = False) -> Dataset | None:
    """Return the images that are held out, in the size and channels of those to train on; None where none are.

    Args:
        data: as for ``load_dataset``.
        division: of the same data.
        skip_unreadable: as for ``load_dataset``.

    Raises:
        UserError: an image cannot be read, or the split holds the same images, or has other classes.
    """
    if division.drawn is not None or division.held_out_split is None:
        return division.drawn
    spec = division.dataset.spec
    dataset = load_dataset(
        data,
        split=division.held_out_split,
        image_size=spec.size,
        channels=spec.channels,
        skip_unreadable=skip_unreadable,
    )
    check_held_out(dataset, division.dataset)
    return dataset


def check_held_out(held_out: Dataset, reference: Dataset) -> None:
    """Refuse a held-out split that does not fit its reference.

    Raises:
        UserError: the two hold the same images, or number their classes differently.
    """
    if held_out.digest == reference.digest:
        raise same_images(reference.split, held_out.split)
    if held_out.spec.class_names != reference.spec.class_names:
        actual, expected = different_classes(held_out.spec.class_names, reference.spec.class_names)
        raise UserError(
            f"Split {held_out.split!r} has the classes {actual} and split {reference.split!r} has {expected}: give "
            "both the same, or held_out=none."
        )


def same_images(split: str, held_out: str) -> UserError:
    """Return the refusal of a held-out split whose images are those that are trained on."""
    return UserError(
        f"held_out={held_out!r} holds the same images as split {split!r}: give a split that nothing was trained on."
    )
