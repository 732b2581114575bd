"""Read the JSON of a request in any of MLflow's forms, before MLflow does, whose parser bounds nothing.

MLflow's own reader recurses as deep as the text does, makes a column of whatever is a key, fills in rows from others
where ``instances`` differ in their columns, and answers what it cannot read with stack traces.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gan_plugin.errors import UserError, join_names, quoted
from gan_plugin.serving.answers import EXAMPLE
from gan_plugin.serving.bodies import Limits
from gan_plugin.serving.requests import (
    DEFAULTS,
    check_columns,
    check_params,
    check_row_count,
    is_list_of_numbers,
    misfit,
)

CONTENT_TYPE = "application/json"
CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
OPENERS = (b",", b"[", b"{")  # as many as there are values, lists and objects, or more: a text may have some, too

Cells = dict[str, list[Any]]  # a list of N values by the name of its column


@dataclass(frozen=True)
class Payload:
    """What a request says: columns of one length, and parameters."""

    columns: Cells
    params: dict[str, Any] | None

    def to_mlflow(self) -> dict[str, Any]:
        """Return it as MLflow takes it."""
        table = {"columns": list(self.columns), "data": [list(row) for row in zip(*self.columns.values())]}
        return {"dataframe_split": table, "params": self.params}


def is_json(content_type: str) -> bool:
    """Return whether a header ``Content-Type`` says JSON in UTF-8; other parameters mean nothing for JSON."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    pairs = dict(parameter.partition("=")[::2] for parameter in parameters)
    return kind == CONTENT_TYPE and pairs.get("charset", CHARSETS[0]).strip('"') in CHARSETS


def read_payload(text: bytes, known: Sequence[str], *, limits: Limits, latent_size: int) -> Payload:
    """Read the JSON of a request; ``known`` are the columns that a row may have.

    Raises:
        UserError: one sentence that says what is wrong with it.
    """
    content = _parse(text, limits.values)
    if not isinstance(content, dict):
        raise UserError(f"The body of the request is {_kind(content)}, and should be an object: send {EXAMPLE}.")
    forms = [form for form in FORMS if form in content]
    if len(forms) != 1:
        number = "none" if not forms else f"{len(forms)}"
        raise UserError(f"The body of the request has {number} of {', '.join(FORMS)}: give one of them.")
    columns = FORMS[forms[0]](content[forms[0]], forms[0], known)
    rows = len(next(iter(columns.values()), ()))
    check_row_count(rows, limits.rows)
    for name, cells in columns.items():
        if len(cells) != rows:
            raise UserError(f"Column {name} has {len(cells)} values and another one {rows}: give one for each row.")
        _check_cells(name, cells, latent_size)
    return Payload(columns, _params(content.get("params")))


def _parse(text: bytes, max_values: int) -> Any:
    """Parse JSON of at most ``max_values`` values, whose memory is bounded by that."""
    if not text.strip():
        raise UserError(f"The body of the request is empty: send {EXAMPLE}.")
    if sum(map(text.count, OPENERS)) > max_values:
        raise UserError(f"The request has more than {max_values:,} values: send several smaller requests.")
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise UserError(f"The body of the request is no text in UTF-8 from byte {error.start:,} on.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"The body of the request is no JSON from character {error.pos:,} on: {error.msg}.") from None
    except ValueError:
        raise UserError("The request has a number with thousands of digits.") from None
    except RecursionError:
        raise UserError("The request has lists or objects in each other, too deep to read.") from None


# ---- the four forms --------------------------------------------------------------------------------------------------


def _records(rows: Any, form: str, known: Sequence[str]) -> Cells:
    """Read a list of objects, one for each row."""
    if not isinstance(rows, list):
        raise UserError(f"{form} is {_kind(rows)}, and should be a list of rows: send {EXAMPLE}.")
    for row, cells in enumerate(rows):
        if not isinstance(cells, dict):
            raise UserError(f"Row {row} is {_kind(cells)}, and should be an object with the columns as keys.")
    names = list(dict.fromkeys(name for cells in rows for name in cells))
    check_columns(names, known)
    return {name: [cells.get(name) for cells in rows] for name in names} or {known[0]: [None] * len(rows)}


def _columns(columns: Any, form: str, known: Sequence[str]) -> Cells:
    """Read an object of columns, of which one that is a single value holds for all rows; or rows."""
    if not isinstance(columns, dict):
        return _records(columns, form, known)
    check_columns(columns, known)
    rows = max((len(cells) for cells in columns.values() if isinstance(cells, list)), default=1)
    return {name: cells if isinstance(cells, list) else [cells] * rows for name, cells in columns.items()}


def _split(table: Any, form: str, known: Sequence[str]) -> Cells:
    """Read an object with the names of the columns, and rows as lists of values."""
    names, rows = (table.get("columns"), table.get("data")) if isinstance(table, dict) else (None, None)
    if not isinstance(names, list) or not isinstance(rows, list):
        raise UserError(f'{form} should be like {{"columns": ["seed"], "data": [[0], [1]]}}.')
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{form} has columns whose names are no texts: a row may have {join_names(known)}.")
    check_columns(names, known)
    if len(set(names)) < len(names):
        raise UserError(f"{form} has a column twice: it has {join_names(names)}.")
    for row, cells in enumerate(rows):
        if not isinstance(cells, list) or len(cells) != len(names):
            actual = f"{len(cells)} values" if isinstance(cells, list) else _kind(cells)
            raise UserError(
                f"Row {row} is {actual}, and should be a list of one value for each of {join_names(names)}."
            )
    return {name: [cells[column] for cells in rows] for column, name in enumerate(names)}


FORMS: Mapping[str, Callable[[Any, str, Sequence[str]], Cells]] = {
    "dataframe_records": _records,
    "dataframe_split": _split,
    "instances": _columns,
    "inputs": _columns,
}


def _check_cells(name: str, cells: list[Any], latent_size: int) -> None:
    """Check that there is nothing nested but z, a list of numbers, and edit, an object of single values."""
    for row, value in enumerate(cells):
        if not isinstance(value, (list, dict)):
            continue
        if name == "edit" and isinstance(value, dict):
            if any(isinstance(step, (list, dict)) for step in value.values()):
                raise UserError(f'Row {row} has an edit with more than a number in it: give one like {{"1": 0.5}}.')
            continue
        if name != "z":
            raise UserError(f"Row {row} has {_kind(value)} in the column {name}: give a single value.")
        if isinstance(value, dict) or not is_list_of_numbers(value):
            raise misfit(row, latent_size)


def _params(params: Any) -> dict[str, Any] | None:
    if params is None:
        return None
    if not isinstance(params, dict):
        raise UserError(f'params is {_kind(params)}, and should be an object like {{"format": "png"}}.')
    for name in DEFAULTS.keys() & params.keys():
        if isinstance(params[name], (list, dict)):
            raise UserError(f"{name} is {_kind(params[name])}: give a single value.")
    check_params(params)
    grid = params.get("grid")
    return params | {"grid": int(grid)} if isinstance(grid, float) else params  # MLflow takes no 2.0 for 2


def _kind(value: Any) -> str:
    """Return what a JSON value is, for a sentence."""
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else "null" if value is None else str(quoted(value))
