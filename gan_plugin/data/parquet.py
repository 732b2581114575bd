"""Tables of images: local parquet files and the Hugging Face hub, both read by the ``datasets`` library."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from gan_plugin.data.cells import ImageCells
from gan_plugin.data.dataset import Dataset, SplitNotFoundError, check_class_names, make_dataset
from gan_plugin.data.encoded import Conversion, decode_images
from gan_plugin.data.files import canonical_split, check_text, is_split_name
from gan_plugin.data.hub import import_datasets, offline_if_unreachable
from gan_plugin.data.unpacked import check_unpacked
from gan_plugin.errors import UserError, first_line
from gan_plugin.spec import Size
from gan_plugin.waiting import announced

if TYPE_CHECKING:
    import datasets

HUB = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)(:(?P<config>.+))?")
SHARD = re.compile(r"(?P<split>\w+(\.\w+)*)-\d+-of-\d+")  # train-00000-of-00001, as the hub names files
LABEL_COLUMNS = ("label", "labels")
NO_LABEL = -1  # as the hub marks it

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


@dataclass(frozen=True)
class ParquetFiles:
    """The local parquet files of one split; ``path`` is the folder or the single file that the user named."""

    path: Path
    split: str
    _: KW_ONLY
    files: tuple[Path, ...]
    notes: tuple[str, ...]

    def load(self, image_size: Size | None, channels: int | None, skip_unreadable: bool) -> Dataset:
        """Decode the rows; arguments as those of ``load_dataset``.

        Raises:
            UserError: the files cannot be read, have no column of images, or hold unreadable ones.
        """
        for file in self.files:
            if not os.path.isfile(file):  # a pipe would be waited for
                raise UserError(f"{file} is not a regular file: give parquet files.")
        check_unpacked(self.files)
        patterns = [glob.escape(str(file)) for file in self.files]  # datasets reads "[1]" in a path as a pattern
        try:
            with announced(f"Reading {self.path} with its {len(self.files):,} parquet files."):
                table = import_datasets().load_dataset("parquet", data_files=patterns, split="train")
        except Exception as error:  # datasets, pyarrow and fsspec raise errors of their own, without a common base
            raise UserError(f"{self.path} cannot be read as parquet: {first_line(error)}.") from error
        return read_table(
            table,
            image_size=image_size,
            channels=channels,
            skip_unreadable=skip_unreadable,
            name=self.path.stem if self.path.is_file() else self.path.name,
            source=str(self.path),
            split=self.split,
            notes=self.notes,
        )


@dataclass(frozen=True)
class HubDataset:
    """One split of a data set on the Hugging Face hub.

    Attributes:
        data: as the user named it, "hub:owner/name" or "hub:owner/name:config".
        repo_id: "owner/name".
        config: the configuration; None for the default one.
        split: the split.
    """

    data: str
    repo_id: str
    config: str | None
    _: KW_ONLY
    split: str

    def load(self, image_size: Size | None, channels: int | None, skip_unreadable: bool) -> Dataset:
        """Download (or take from the library's cache) and decode; arguments as those of ``load_dataset``.

        Raises:
            UserError: as ``splits``; or there is no column of images, or it holds unreadable ones.
        """
        return read_table(
            self.splits()[self.split],
            image_size=image_size,
            channels=channels,
            skip_unreadable=skip_unreadable,
            name=PurePosixPath(self.repo_id).name,
            source=self.data,
            split=self.split,
            notes=(),
        )

    def splits(self) -> datasets.DatasetDict:
        """Return the tables of all splits, downloaded or from the library's cache; no image is decoded.

        Raises:
            UserError: the data set cannot be loaded, or has no such split.
        """
        logger.info("Loading %s from the Hugging Face hub, or from what was downloaded before.", self.repo_id)
        try:
            with offline_if_unreachable():
                # All splits, which costs no more: the library prepares every one before it returns any.
                splits: datasets.DatasetDict = import_datasets().load_dataset(self.repo_id, self.config)
        except Exception as error:  # as above, and every error a network knows
            raise UserError(
                f"data={self.data!r} cannot be loaded from the Hugging Face hub "
                f"({first_line(error)}): check the name and the connection, "
                "or give a folder with its parquet files."
            ) from error
        if self.split not in splits:
            names = ", ".join(map(repr, splits))
            raise SplitNotFoundError(f"data={self.data!r} has no split {self.split!r}: its splits are {names}.")
        return splits


def find_hub_dataset(data: str, split: str) -> HubDataset:
    """Parse "hub:owner/name" or "hub:owner/name:config"; nothing is requested from the hub yet.

    Raises:
        UserError: the text has another form, or ``datasets`` is not installed.
    """
    match = HUB.fullmatch(data)
    if match is None:
        raise UserError(f"data={data!r} is neither 'hub:owner/name' nor 'hub:owner/name:config'.")
    import_datasets()
    return HubDataset(data, match["repository"], match["config"], split=split)


def find_parquet_files(path: Path, files: Sequence[str], split: str) -> ParquetFiles:
    """Find the parquet files that hold this split.

    Args:
        path: a folder, or one file.
        files: relative paths of the parquet files in the folder, or the file's own name.
        split: the split; where no name tells one, all files are "train".

    Raises:
        UserError: no file holds the split, or ``datasets`` is not installed.
    """
    import_datasets()
    folder = path.parent if path.is_file() else path
    splits = {file: split_in_name(file) for file in files}
    named = sorted({name for name in splits.values() if name is not None})
    canonical = canonical_split(split)
    chosen = [file for file, name in splits.items() if name is not None and canonical_split(name) == canonical]
    if not named and canonical == "train":
        chosen = list(files)
    if not chosen:
        available = ", ".join(map(repr, named)) or "'train', as no file is named after a split"
        raise SplitNotFoundError(f"{path} has no split {split!r}: the splits there are {available}.")
    for file in chosen:
        check_text(file, f"In {folder} the file")
    notes = [f"Split {split!r} is read from {len(chosen):,} of {len(files):,} parquet files."] if named else []
    return ParquetFiles(path, split, files=tuple(folder / file for file in chosen), notes=tuple(notes))


def split_in_name(path: str) -> str | None:
    """Read the split from a parquet file's name or folder: "train" for "data/train-00000-of-00002.parquet".

    >>> split_in_name("default/test/0000.parquet")
    'test'
    >>> split_in_name("images.parquet") is None
    True
    """
    *folders, stem = PurePosixPath(path).with_suffix("").parts
    if shard := SHARD.match(stem):
        return shard["split"]
    return next((name for name in [stem, *reversed(folders)] if is_split_name(name)), None)


def read_table(
    table: datasets.Dataset,
    *,
    image_size: Size | None,
    channels: int | None,
    skip_unreadable: bool,
    name: str,
    source: str,
    split: str,
    notes: Sequence[str],
) -> Dataset:
    """Decode the images in a table's rows.

    Raises:
        UserError: there is no column of images, or rows hold unreadable ones.
    """
    column = image_column(table.features, source)
    check_labels(table, source)
    conversion = Conversion(source, image_size, channels=channels, skip_unreadable=skip_unreadable)
    decoded = decode_images(ImageCells(table, column), conversion)
    labels, class_names, label_notes = read_labels(table, decoded.rows)
    return make_dataset(
        decoded.images,
        labels,
        class_names,
        name=name,
        source=source,
        split=split,
        notes=[*notes, f"The images are those in column {column!r}.", *label_notes, *decoded.notes],
    )


def image_column(features: dict[str, Any], source: str) -> str:
    """Find the column of images: one declared as such, else of structs of bytes and path, else of bytes; the first.

    Raises:
        UserError: there is none.
    """
    import datasets

    def is_image(feature: Any) -> bool:
        return isinstance(feature, datasets.Image)

    def is_struct(feature: Any) -> bool:
        return isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()

    def is_bytes(feature: Any) -> bool:
        return getattr(feature, "dtype", None) in ("binary", "large_binary")

    for matches in (is_image, is_struct, is_bytes):
        for name, feature in features.items():
            if matches(feature):
                return name
    raise UserError(
        f"{source} has no column of images among {', '.join(features)}: "
        "it should be of type Image, a struct of bytes and path, or bytes."
    )


def label_column(features: dict[str, Any]) -> str | None:
    """Find the column of labels: the first of type ClassLabel, else of integers with the name; None without any.

    One called "label" or "labels" goes first.
    """
    import datasets

    ordered = sorted(features, key=lambda name: name not in LABEL_COLUMNS)
    declared = [name for name in ordered if isinstance(features[name], datasets.ClassLabel)]
    integers = [
        name for name in ordered if name in LABEL_COLUMNS and "int" in str(getattr(features[name], "dtype", ""))
    ]
    return next(iter(declared + integers), None)


def check_labels(table: datasets.Dataset, source: str) -> None:
    """Refuse labels that are no class of those that the column declares, before an image is decoded.

    Raises:
        UserError: names the first row with such a label, or a class whose name cannot be stored.
    """
    column = label_column(table.features)
    names = None if column is None else getattr(table.features[column], "names", None)
    if names is None:  # every integer is a class of its own
        return
    check_class_names(names, source)
    for row, value in enumerate(table.data.column(column).to_pylist()):
        if value is not None and not NO_LABEL <= value < len(names):
            raise UserError(
                f"{source} has the label {value} in column {column!r}, row {row}: the column declares {len(names)} "
                f"classes, 0 to {len(names) - 1}."
            )


def read_labels(table: datasets.Dataset, rows: list[int]) -> tuple[torch.Tensor | None, list[str], list[str]]:
    """Read the labels of these rows.

    They come from the column that ``label_column`` finds; the classes of a column of plain integers are its distinct
    values. Where a row has no label, which the hub also marks by -1, no label is used.

    Returns:
        int64 [len(rows)] or None, the class names, and sentences on where the labels come from.
    """
    features = table.features
    column = label_column(features)
    if column is None:
        others = [name for name in LABEL_COLUMNS if name in features]
        unused = f" (those in {others[0]!r} are neither integers nor of type ClassLabel)" if others else ""
        return None, [], [f"There is no column of labels{unused}, so the images have no classes."]
    names = getattr(features[column], "names", None)
    cells = table.data.column(column).to_pylist()
    values = [cells[row] for row in rows]
    missing = sum(value is None or (names is not None and value == NO_LABEL) for value in values)
    if missing:
        return None, [], [f"Column {column!r} has no label for {missing:,} images, so the labels are not used."]
    notes = [f"The labels are those in column {column!r}."]
    if names is not None:
        return torch.tensor(values, dtype=torch.int64), list(names), notes
    distinct = sorted(set(values))
    label_of = {value: label for label, value in enumerate(distinct)}
    indices = [label_of[value] for value in values]
    return torch.tensor(indices, dtype=torch.int64), [str(value) for value in distinct], notes
