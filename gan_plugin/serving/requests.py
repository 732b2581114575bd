"""Parse a request, rows that ask for images, into the generator's inputs, or say in one sentence what is wrong with it.

A row has ``seed``, or ``z`` itself as a list of numbers. A seed may come with ``to_seed`` and ``position`` 0…1, for an
image between two seeds, and with ``truncation``; any row may have a ``label``, a class by name or index. The
parameters ``format`` and ``grid`` hold for all rows.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gan_plugin.errors import UserError
from gan_plugin.media.image import ENCODERS
from gan_plugin.seeds import MIN_TRUNCATION, between, default_labels, latents
from gan_plugin.serving.description import Description
from gan_plugin.spec import MAX_SEED

COLUMNS = ("seed", "to_seed", "position", "z", "label", "truncation")
DEFAULTS = {"format": "png", "grid": 0}  # the parameters of a request
MAX_GRID = 1024
MAX_NAME = 40  # characters of a name in a sentence


@dataclass(frozen=True)
class Request:
    """The inputs of N images."""

    seeds: list[int | None]  # None where the row brought its own z
    z: npt.NDArray[np.float32]  # [N, latent_size]
    labels: npt.NDArray[np.int64] | None  # [N], None for an unconditional generator


def check_columns(names: Iterable[Any], known: Sequence[str] = COLUMNS) -> None:
    """Check that a row may have each of these columns.

    Raises:
        UserError: one is unknown; the message lists the known ones.
    """
    if unknown := [str(name) for name in names if name not in known]:
        raise UserError(f"Unknown column {join_names(unknown)}: a row may have {join_names(known)}.")


def check_params(params: Mapping[Any, Any], known: Sequence[str] = tuple(DEFAULTS)) -> None:
    """Check the parameters of a request: ``format``, and ``grid``, the images in a row of one large image, or 0.

    Raises:
        UserError: one is unknown, or its value is not possible.
    """
    if unknown := [str(name) for name in params if name not in known]:
        raise UserError(f"Unknown parameter {join_names(unknown)}: there is {join_names(known)}.")
    image_format, grid = ({**DEFAULTS, **params}[name] for name in ("format", "grid"))
    if not isinstance(image_format, str) or image_format not in ENCODERS:
        raise UserError(f"format={quoted(image_format)} is unknown: give one of {', '.join(ENCODERS)}.")
    if not _is_int(grid) or not 0 <= grid <= MAX_GRID:
        raise UserError(
            f"grid={quoted(grid)} is not possible: give how many images stand in a row of one large image, at most "
            f"{MAX_GRID}, or 0 for separate images."
        )


def check_row_count(rows: int, max_rows: int) -> None:
    """Check that a request has rows, and at most ``max_rows``.

    Raises:
        UserError: it has none, or more.
    """
    if rows == 0:
        raise UserError("The request has no rows: send one row with a seed for each image.")
    if rows > max_rows:
        raise UserError(f"The request has {rows} rows and {max_rows} is the limit: send several smaller requests.")


def read_request(rows: pd.DataFrame, description: Description, max_rows: int) -> Request:
    """Parse the rows of a request for a generator.

    Raises:
        UserError: one sentence naming the row, the column, its value and what would be right.
    """
    check_columns(list(rows.columns))
    check_row_count(len(rows), max_rows)
    columns = {name: _cells(rows, name) for name in rows.columns}
    absent: list[Any] = [None] * len(rows)
    seeds = [_seed(value, "seed", row) for row, value in enumerate(columns.get("seed", absent))]
    own_z = [_z(value, row, description.latent_size) for row, value in enumerate(columns.get("z", absent))]
    bounds = [_truncation(value, row) for row, value in enumerate(columns.get("truncation", absent))]
    for row, (seed, values, bound) in enumerate(zip(seeds, own_z, bounds)):
        if (seed is None) == (values is None):
            raise UserError(
                f"Row {row} has {'neither seed nor z' if values is None else 'both seed and z'}: give one of them."
            )
        if values is not None and not math.isnan(bound):
            raise UserError(f"Row {row} has both z and truncation: truncation applies to seeds only.")
    truncation = bounds if "truncation" in columns else None
    z = latents([seed or 0 for seed in seeds], description.latent_size, truncation)  # [N, latent_size]
    if "to_seed" in columns or "position" in columns:
        ends, positions = _interpolation(columns.get("to_seed", absent), columns.get("position", absent), seeds)
        between_seeds = [row for row, end in enumerate(ends) if end is not None]
        if between_seeds:
            end_seeds = [end for end in ends if end is not None]
            end_z = latents(end_seeds, description.latent_size, np.take(bounds, between_seeds))
            z[between_seeds] = between(z[between_seeds], end_z, np.take(positions, between_seeds))
    for row, values in enumerate(own_z):
        if values is not None:
            z[row] = values
    return Request(seeds, z, _labels(columns.get("label", absent), seeds, description))


def _cells(rows: pd.DataFrame, name: str) -> list[Any]:
    """Return the column's values with every kind of missing value as None."""
    return [None if _is_missing(value) else value for value in rows[name].tolist()]


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _seed(value: Any, column: str, row: int) -> int | None:
    if value is None:
        return None
    if not _is_int(value) or not 0 <= value <= MAX_SEED:
        raise UserError(f"Row {row} has {column}={quoted(value)}: a seed is a whole number from 0 to {MAX_SEED}.")
    return int(value)


def _interpolation(
    to_seeds: list[Any], positions: list[Any], seeds: list[int | None]
) -> tuple[list[int | None], list[float]]:
    """Return each row's second seed, None where it has none, and the position between the two."""
    ends = [_seed(value, "to_seed", row) for row, value in enumerate(to_seeds)]
    for row, (end, position) in enumerate(zip(ends, positions)):
        if (end is None) != (position is None):
            present, missing = ("position", "to_seed") if end is None else ("to_seed", "position")
            raise UserError(f"Row {row} has {present} and no {missing}: an image between two seeds needs both.")
        if end is not None and seeds[row] is None:
            raise UserError(f"Row {row} has both z and to_seed: an image between two seeds starts from a seed.")
        if position is not None and not (_is_number(position) and 0 <= position <= 1):
            raise UserError(f"Row {row} has position={quoted(position)}: give a number from 0 (seed) to 1 (to_seed).")
    return ends, [0.0 if position is None else float(position) for position in positions]


def _z(value: Any, row: int, latent_size: int) -> npt.NDArray[np.float32] | None:
    if value is None:
        return None
    z = np.empty(0, np.float32)
    if not isinstance(value, list) or is_list_of_numbers(value):  # of text and of bools numpy would make numbers
        with contextlib.suppress(TypeError, ValueError, OverflowError), np.errstate(over="ignore"):
            z = np.asarray(value, np.float32)
    if z.shape != (latent_size,) or not np.isfinite(z).all():
        raise misfit(row, latent_size)
    return z


def misfit(row: int, latent_size: int) -> UserError:
    """Return the refusal of a row whose z is not one of the generator's."""
    return UserError(
        f"Row {row} has a z that does not fit: this generator takes a list of {latent_size} finite numbers."
    )


def is_list_of_numbers(values: list[Any]) -> bool:
    """Return whether all values are numbers, and none is a list, a text or a bool."""
    return all(issubclass(kind, numbers.Real) and not issubclass(kind, bool) for kind in set(map(type, values)))


def _truncation(value: Any, row: int) -> float:
    """Return the bound, NaN where there is none."""
    if value is None:
        return math.nan
    if not _is_number(value) or not MIN_TRUNCATION <= value <= sys.float_info.max:
        raise UserError(
            f"Row {row} has truncation={quoted(value)}: truncation is a number of at least {MIN_TRUNCATION}, "
            "in standard deviations."
        )
    return float(value)


def _labels(values: list[Any], seeds: list[int | None], description: Description) -> npt.NDArray[np.int64] | None:
    """Return class indices [N]; a row with a seed and no label gets the seed's own."""
    names = description.spec.class_names
    if not names:
        if any(value is not None for value in values):
            raise UserError("This generator was trained without classes: leave out the column label.")
        return None
    index = {name: i for i, name in enumerate(names)}
    labels = [
        int(default_labels(seed, len(names))) if value is None and seed is not None else _label(value, row, index)
        for row, (value, seed) in enumerate(zip(values, seeds))
    ]
    return np.array(labels, np.int64)


def _label(value: Any, row: int, index: dict[str, int]) -> int:
    if isinstance(value, str) and value in index:
        return index[value]
    if _is_int(value) and 0 <= value < len(index):
        return int(value)
    problem = "z and no label" if value is None else f"label={quoted(value)}"
    raise UserError(f"Row {row} has {problem}: give a class, {join_names(list(index))}, or its index from 0.")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_int(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, numbers.Integral) or float(value).is_integer())


def quoted(value: Any) -> str:
    """Return a value as it was written, cut where it is too long for a sentence.

    >>> quoted("cat"), quoted("c" * 100) == repr("c" * 40) + "…"
    ("'cat'", True)
    """
    if isinstance(value, str) and len(value) > MAX_NAME:
        return f"{value[:MAX_NAME]!r}…"
    text = repr(value)
    return text if isinstance(value, str) or len(text) <= MAX_NAME else f"{text[:MAX_NAME]}…"


def join_names(names: Sequence[str], most: int = 20) -> str:
    """Return the first names, and how many there are if those are not all; long names are cut.

    >>> join_names(["a", "b", "c"]), join_names(["a", "b", "c"], most=2)
    ('a, b, c', 'a, b, … (3 in all)')
    """
    printable = [name if name.isprintable() else ascii(name) for name in names[:most]]
    text = ", ".join(name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…" for name in printable)
    return text if len(names) <= most else f"{text}, … ({len(names):,} in all)"
