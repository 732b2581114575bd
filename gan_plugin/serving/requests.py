"""Parse a request, rows that ask for images, into the generator's inputs, or say in one sentence what is wrong with it.

A row has ``seed``, ``z`` itself as a list of numbers, or an ``image`` whose z is to be found. A seed or an image may
come with ``to_seed`` and ``position`` 0…1, for an image on the way to another seed, and a seed with ``truncation``; any
row may have a ``label``, a class by name or index, and an ``edit``, steps along named directions. The parameters
``format`` and ``grid`` hold for all rows.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gan_plugin.errors import UserError, join_names, quoted
from gan_plugin.media.image import ENCODERS, Image
from gan_plugin.seeds import MIN_TRUNCATION, between, default_labels, latents
from gan_plugin.serving.description import Description
from gan_plugin.serving.editing import read_edit
from gan_plugin.serving.images import read_image
from gan_plugin.spec import MAX_SEED

COLUMNS = ("seed", "to_seed", "position", "z", "label", "truncation", "image", "edit")
DEFAULTS = {"format": "png", "grid": 0}  # the parameters of a request
MAX_GRID = 1024


@dataclass(frozen=True)
class Request:
    """The inputs of N images.

    Attributes:
        seeds: N, None where the row brought its own z or an image.
        z: float32 [N, latent_size], of rows without an image.
        labels: N classes; None for an image whose class is to be found, and for an unconditional generator.
        images: uint8 [H, W, C] by row, whose z is to be found.
        ends: by row, the z [latent_size] on the way to which the answer lies, and how far, 0…1.
        edits: by row, the step in z [latent_size] that follows.
    """

    seeds: list[int | None]
    z: npt.NDArray[np.float32]
    labels: list[int | None]
    images: dict[int, Image]
    ends: dict[int, tuple[npt.NDArray[np.float32], float]]
    edits: dict[int, npt.NDArray[np.float32]]

    def answered_z(self) -> npt.NDArray[np.float32]:
        """Return the z float32 [N, latent_size] of the answers."""
        if not self.ends and not self.edits:
            return self.z
        z, rows = self.z.copy(), list(self.ends)
        if rows:
            ends, positions = zip(*self.ends.values())
            z[rows] = between(z[rows], np.stack(ends), positions)
        for row, step in self.edits.items():
            z[row] += step
        return z

    def label_array(self) -> npt.NDArray[np.int64] | None:
        """Return the classes int64 [N], once all are known; None for an unconditional generator."""
        return None if None in self.labels else np.array(self.labels, np.int64)


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


def read_request(rows: pd.DataFrame, description: Description, max_rows: int, *, max_images: int = 1) -> Request:
    """Parse the rows of a request for a generator.

    Args:
        max_rows: the most rows.
        max_images: the most of them that bring an image.

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
    sent = {row: value for row, value in enumerate(columns.get("image", absent)) if value is not None}
    for row, (seed, values, bound) in enumerate(zip(seeds, own_z, bounds)):
        if (seed is not None) + (values is not None) + (row in sent) != 1:
            named = {"seed": seed, "z": values, "image": sent.get(row)}
            sources = [name for name, value in named.items() if value is not None]
            problem = f"both {' and '.join(sources[:2])}" if sources else "none of seed, z and image"
            raise UserError(f"Row {row} has {problem}: give one of them.")
        if seed is None and not math.isnan(bound):
            source = "z" if values is not None else "image"
            raise UserError(f"Row {row} has both {source} and truncation: truncation applies to seeds only.")
    if len(sent) > max_images:
        raise UserError(f"The request has {len(sent)} images and {max_images} is the limit: send several requests.")
    truncation = bounds if "truncation" in columns else None
    z = latents([seed or 0 for seed in seeds], description.latent_size, truncation)  # [N, latent_size]
    ends: dict[int, tuple[npt.NDArray[np.float32], float]] = {}
    if "to_seed" in columns or "position" in columns:
        end_seeds, positions = _interpolation(columns.get("to_seed", absent), columns.get("position", absent), own_z)
        every_end = latents([end or 0 for end in end_seeds], description.latent_size, truncation)
        ends = {row: (every_end[row], positions[row]) for row, end in enumerate(end_seeds) if end is not None}
    for row, values in enumerate(own_z):
        if values is not None:
            z[row] = values
    labels = _labels(columns.get("label", absent), seeds, sent, description=description)
    images = {row: read_image(value, row, description.spec) for row, value in sent.items()}
    edits = {
        row: read_edit(value, f"Row {row} has", description)
        for row, value in enumerate(columns.get("edit", absent))
        if value is not None
    }
    return Request(seeds, z, labels, images=images, ends=ends, edits=edits)


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
    to_seeds: list[Any], positions: list[Any], own_z: list[npt.NDArray[np.float32] | None]
) -> tuple[list[int | None], list[float]]:
    """Return each row's second seed, None where it has none, and the position between the two."""
    ends = [_seed(value, "to_seed", row) for row, value in enumerate(to_seeds)]
    for row, (end, position) in enumerate(zip(ends, positions)):
        if (end is None) != (position is None):
            present, missing = ("position", "to_seed") if end is None else ("to_seed", "position")
            raise UserError(f"Row {row} has {present} and no {missing}: an image between two seeds needs both.")
        if end is not None and own_z[row] is not None:
            raise UserError(f"Row {row} has both z and to_seed: the way to a seed starts from a seed or an image.")
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


def _labels(
    values: list[Any], seeds: list[int | None], with_image: Collection[int], *, description: Description
) -> list[int | None]:
    """Return class indices; a row with a seed and no label gets the seed's own, one with an image and no label none."""
    names = description.spec.class_names
    if not names:
        if any(value is not None for value in values):
            raise UserError("This generator was trained without classes: leave out the column label.")
        return [None] * len(values)
    index = {name: i for i, name in enumerate(names)}
    labels: list[int | None] = []
    for row, (value, seed) in enumerate(zip(values, seeds)):
        if value is None and row in with_image:
            labels.append(None)
        elif value is None and seed is not None:
            labels.append(int(default_labels(seed, len(names))))
        else:
            labels.append(_label(value, row, index))
    return labels


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
