"""What a table beside the images says of each: ``metadata.csv`` or ``metadata.jsonl``, as Hugging Face's.

Its column ``file_name`` names an image, relative to the table's own folder; the others are attributes of it. Numbers
are taken as they are, truth values as 0 and 1, and of a column of texts each value is an attribute that an image has or
has not.
"""

from __future__ import annotations

import csv
import json
import math
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_plugin.data.files import check_text
from gan_plugin.errors import UserError

TABLES = ("metadata.csv", "metadata.jsonl")
NAME = "file_name"
MAX_VALUES = 20  # of a column of texts; one of more is no attribute, but a caption or a name
MAX_ATTRIBUTES = 200
MISSING = ("", "na", "n/a", "nan", "null", "none")
TRUTH = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}

Row = Mapping[str, Any]


def is_table(path: str) -> bool:
    """Return whether a file is a table of attributes by its name."""
    return posixpath.basename(path) in TABLES


def read_attributes(root: Path, tables: Sequence[str], images: Sequence[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Return attributes by name, float32 [N], of images, and the columns that are none, for all their texts.

    An attribute is NaN for an image of which a table says nothing.

    Args:
        root: the folder of both.
        tables: paths of tables, relative to it.
        images: paths of N images, likewise.

    Raises:
        UserError: a table cannot be read, names an image that is not there, or has too many attributes.
    """
    index = {name: row for row, name in enumerate(images)}
    cells: dict[str, dict[int, Any]] = {}
    for table in tables:
        folder = posixpath.dirname(table)
        for number, entry in enumerate(read_table(root / table), start=1):
            name = posixpath.normpath(posixpath.join(folder, str(entry.get(NAME))))
            if name not in index:
                raise UserError(
                    f"In {root / table} row {number} has {NAME}={str(entry.get(NAME))!r}, and there is no such image "
                    "among those that are read: name one relative to the table's folder."
                )
            for column, value in entry.items():
                if column != NAME and not is_missing(value):
                    cells.setdefault(str(column), {})[index[name]] = value
    attributes: dict[str, Tensor] = {}
    texts = [column for column, values in cells.items() if is_of_texts(values)]
    for column, values in cells.items():
        attributes |= attributes_of(column, values, len(images))
    if len(attributes) > MAX_ATTRIBUTES:
        raise UserError(
            f"{root} has {len(attributes):,} attributes: leave at most {MAX_ATTRIBUTES} columns in its tables."
        )
    return attributes, texts


def is_of_texts(values: Mapping[int, Any]) -> bool:
    """Return whether a column holds more than MAX_VALUES different cells, not all of which are numbers."""
    return len(set(map(str, values.values()))) > MAX_VALUES and None in map(number_of, values.values())


def is_missing(value: Any) -> bool:
    """Return whether a cell says nothing.

    >>> [is_missing(value) for value in (None, " ", "N/A", float("nan"), 0, "no")]
    [True, True, True, True, False, False]
    """
    is_nan = isinstance(value, float) and not math.isfinite(value)
    return value is None or is_nan or str(value).strip().lower() in MISSING


def read_table(path: Path) -> Iterable[Row]:
    """Return the rows of a table.

    Raises:
        UserError: it cannot be read, or has no column ``file_name``.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # which may begin with a mark of its encoding
            rows: list[Row] = (
                list(csv.DictReader(file))
                if path.suffix == ".csv"
                else [json.loads(line) for line in file if line.strip()]
            )
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table: {error}.") from None
    if any(isinstance(row, dict) and None in row for row in rows):
        raise UserError(f"{path} has a row with more cells than there are columns: give each row as many.")
    if not all(isinstance(row, dict) and NAME in row for row in rows):
        raise UserError(f"{path} has no column {NAME} in every row: give each image's, relative to the table's folder.")
    return rows


def attributes_of(column: str, values: Mapping[int, Any], count: int) -> dict[str, Tensor]:
    """Return the attributes of a column, float32 [count]; none for one of texts, or of a single value.

    >>> attributes_of("color", {0: "red", 1: "blue"}, 3)["color=red"]
    tensor([1., 0., nan])
    """
    check_text(column, "The column")
    if is_of_texts(values):
        return {}
    numbers = {row: number_of(value) for row, value in values.items()}
    if None not in numbers.values():
        named = {column: numbers}
    else:
        texts = sorted({str(value) for value in values.values()})
        for text in texts:
            check_text(text, f"In the column {column} the value")
        named = {f"{column}={text}": {row: float(str(v) == text) for row, v in values.items()} for text in texts}
    attributes = {}
    for name, of_rows in named.items():
        if len(set(of_rows.values())) < 2:
            continue
        attribute = torch.full((count,), math.nan)
        attribute[list(of_rows)] = torch.tensor(list(of_rows.values()), dtype=torch.float32)
        attributes[name] = attribute
    return attributes


def number_of(value: Any) -> float | None:
    """Return a cell as a number, of a truth value 0 or 1; None where it is none."""
    if isinstance(value, (bool, int, float)):
        number = float(value)
    else:
        text = str(value).strip().lower()
        if text in TRUTH:
            return TRUTH[text]
        try:
            number = float(text)
        except ValueError:
            return None
    return number if math.isfinite(number) else None
