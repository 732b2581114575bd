"""What the page's tables hold: metrics beside real images, and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gan_plugin.evaluation.results import ClassRow, Measurement
from gan_plugin.metrics.catalog import MAIN_METRICS, METRICS
from gan_plugin.report.charts import MAX_BARS, needs_number
from gan_plugin.report.numbers import DASH, column, is_known, number, percent

DIRECTIONS = {"lower": "↓ lower", "higher": "↑ higher"}
FIXED_SIZES = {"share": 0.1, "count": 100.0, "decibels": 10.0}  # by a metric's kind: three decimal places, none, one

IndexedClasses = list[tuple[int, ClassRow]]  # with their place in the evaluation


class Column(NamedTuple):
    """A column of the table of classes; ``style`` is "text", "number" or "text note"."""

    heading: str
    style: str
    cells: list[str]


def measurement_row(measurement: Measurement) -> dict[str, str]:
    """Return the cells of a metric. Value and std have the same decimal places, the real one at most one more."""
    metric = METRICS.get(measurement.name)  # None for one of another program's
    if metric is not None and metric.kind in FIXED_SIZES:
        size = real_size = FIXED_SIZES[metric.kind]
    else:
        size = max((abs(value) for value in (measurement.value, measurement.std) if is_known(value)), default=0.0)
        real_size = max(abs(measurement.real), size / 10) if is_known(measurement.real) else 0.0
    return {
        "name": measurement.name,
        "explanation": "" if metric is None else metric.description,
        "network": measurement.network,
        "value": number(measurement.value, size),
        "std": number(measurement.std, size) if is_known(measurement.std) else "",
        "real": number(measurement.real, real_size),
        "better": "" if metric is None else DIRECTIONS.get(metric.direction, ""),
        "note": measurement.note,
    }


def main_rows(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows of the most telling metrics, those without a value left out; of several networks', the first."""
    by_name = {row["name"]: row for row in reversed(rows) if row["value"] != DASH}
    return [by_name[name] for name in MAIN_METRICS if name in by_name]


def worst_first(classes: Sequence[ClassRow]) -> IndexedClasses:
    """Sort many classes by Fréchet distance, then those without one by the error of their share; few stay in order."""
    rows = list(enumerate(classes))
    if len(rows) <= MAX_BARS:
        return rows
    return sorted(
        rows,
        key=lambda row: (0, -row[1].fid) if is_known(row[1].fid) else (1, -abs(row[1].generated - row[1].reference)),
    )


def class_columns(indexed: IndexedClasses) -> list[Column]:
    """Return the columns of the table of classes; one that is empty in every row is left out."""
    rows = [row for _, row in indexed]
    real, distances, accuracy_values = [r.reference for r in rows], [r.fid for r in rows], [r.accuracy for r in rows]
    columns = [
        Column("class", "text", [row.name for row in rows]),
        Column("share generated", "number", percent([row.generated for row in rows], like=real)),
        Column("share real", "number", percent(real, like=real)),
    ]
    if len(rows) > MAX_BARS or any(needs_number(row.name) for row in rows):  # the chart has numbers, too
        columns.insert(0, Column("#", "number", [str(number) for number, _ in indexed]))
    for heading, values in (("fid", distances), ("fid real", [row.fid_real for row in rows])):
        if any(is_known(value) for value in values):
            columns.append(Column(heading, "number", column(values, like=distances)))
    if any(is_known(accuracy) for accuracy in accuracy_values):
        columns.append(Column("accuracy", "number", percent(accuracy_values, like=accuracy_values)))
    if any(row.note for row in rows):
        columns.append(Column("note", "text note", [row.note for row in rows]))
    return columns
