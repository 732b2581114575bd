"""One request: rows that ask for pictures → what the generator is fed, or one sentence that says what is wrong."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gan_plugin.errors import UserError
from gan_plugin.serving.generator import Description, default_labels
from gan_plugin.serving.latents import LARGEST_SEED, SMALLEST_TRUNCATION, latents

COLUMNS = ("seed", "z", "label", "truncation")
FORMATS = ("png", "array")


@dataclass(frozen=True)
class Request:
    """N pictures to make."""

    seeds: list[int | None]  # None where the row brought its own z
    z: npt.NDArray[np.float32]  # [N, latent_size]
    labels: npt.NDArray[np.int64] | None  # [N], None for an unconditional generator


def check_columns(names: Sequence[Any]) -> None:
    if unknown := [str(name) for name in names if name not in COLUMNS]:
        raise UserError(f"Unknown column {listed(unknown)}: a row may have {listed(COLUMNS)}.")


def read_request(rows: pd.DataFrame, description: Description, max_rows: int) -> Request:
    """
    Raises:
        UserError: one sentence naming the row, the column, what was given and what would be right.
    """
    check_columns(list(rows.columns))
    if len(rows) == 0:
        raise UserError("The request has no rows: send one row with a seed for each picture.")
    if len(rows) > max_rows:
        raise UserError(f"The request has {len(rows)} rows and {max_rows} is the limit: send several smaller requests.")
    columns = {name: _cells(rows, name) for name in COLUMNS}
    seeds = [_seed(value, row) for row, value in enumerate(columns["seed"])]
    own = [_z(value, row, description.latent_size) for row, value in enumerate(columns["z"])]
    bounds = [_truncation(value, row) for row, value in enumerate(columns["truncation"])]
    for row, (seed, z, bound) in enumerate(zip(seeds, own, bounds)):
        if (seed is None) == (z is None):
            raise UserError(
                f"Row {row} has {'neither seed nor z' if z is None else 'both seed and z'}: give one of them."
            )
        if z is not None and not math.isnan(bound):
            raise UserError(f"Row {row} has both z and truncation: truncation applies to seeds only.")
    from_seeds = latents([seed or 0 for seed in seeds], description.latent_size, bounds)  # [N, latent_size]
    z = np.stack([seeded if given is None else given for seeded, given in zip(from_seeds, own)])
    return Request(seeds, z, _labels(columns["label"], seeds, description))


def _cells(rows: pd.DataFrame, name: str) -> list[Any]:
    """The column's values with every kind of missing value as None; all None where the column is absent."""
    if name not in rows:
        return [None] * len(rows)
    return [None if pd.api.types.is_scalar(value) and pd.isna(value) else value for value in rows[name].tolist()]


def _seed(value: Any, row: int) -> int | None:
    if value is None:
        return None
    if not _is_whole(value) or not 0 <= value <= LARGEST_SEED:
        raise UserError(f"Row {row} has seed={value!r}: a seed is a whole number from 0 to {LARGEST_SEED}.")
    return int(value)


def _z(value: Any, row: int, latent_size: int) -> npt.NDArray[np.float32] | None:
    if value is None:
        return None
    try:
        z = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        z = np.empty(0, np.float32)
    if z.shape != (latent_size,) or not np.isfinite(z).all():
        raise UserError(
            f"Row {row} has a z that does not fit: this generator takes a list of {latent_size} finite numbers."
        )
    return z


def _truncation(value: Any, row: int) -> float:
    """The bound, NaN where there is none."""
    if value is None:
        return math.nan
    if not _is_number(value) or not SMALLEST_TRUNCATION <= value < math.inf:
        raise UserError(
            f"Row {row} has truncation={value!r}: truncation is a number of at least {SMALLEST_TRUNCATION}, "
            "in standard deviations."
        )
    return float(value)


def _labels(values: list[Any], seeds: list[int | None], description: Description) -> npt.NDArray[np.int64] | None:
    """Class indices [N]; a row with a seed and no label gets the seed's own."""
    names = description.class_names
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
    if _is_whole(value) and 0 <= value < len(index):
        return int(value)
    given = "z and no label" if value is None else f"label={value!r}"
    raise UserError(f"Row {row} has {given}: give a class, {listed(list(index))}, or its index from 0.")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, numbers.Integral) or float(value).is_integer())


def listed(names: Sequence[str], most: int = 20) -> str:
    """The first names, and how many there are where those are not all."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
