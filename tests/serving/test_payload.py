"""The JSON of a request: what each form means, and that whatever else comes is refused in one sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import refusal

from gan_plugin.serving.bodies import Limits
from gan_plugin.serving.payload import read_payload
from gan_plugin.serving.requests import COLUMNS

LIMITS = Limits.of(rows=4, latent_size=3)


def read(body: Any) -> Any:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_payload(text, COLUMNS, limits=LIMITS, latent_size=3)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"seed": 1, "label": 2}, {"seed": 3}]},
        {"dataframe_split": {"columns": ["seed", "label"], "data": [[1, 2], [3, None]], "index": [7, 8]}},
        {"instances": [{"seed": 1, "label": 2}, {"seed": 3}]},
        {"inputs": [{"seed": 1, "label": 2}, {"seed": 3}]},
        {"inputs": {"seed": [1, 3], "label": [2, None]}},
    ],
)
def test_every_form_says_the_same(body: dict[str, Any]) -> None:
    assert read(body).columns == {"seed": [1, 3], "label": [2, None]}


def test_a_single_value_holds_for_all_rows() -> None:
    assert read({"inputs": {"seed": [1, 3], "label": 2}}).columns == {"seed": [1, 3], "label": [2, 2]}
    assert read({"inputs": {"seed": 1}}).columns == {"seed": [1]}


def test_parameters() -> None:
    assert read({"inputs": {"seed": 1}}).params is None
    assert read({"inputs": {"seed": 1}, "params": {"grid": 2.0}}).params == {"grid": 2}


LIST = "The request has lists or objects in each other, too deep to read."
FORMS = "dataframe_records, dataframe_split, instances, inputs: give one of them."
Z = "Row 0 has a z that does not fit: this generator takes a list of 3 finite numbers."


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body of the request is empty: send {"),
        (b"\xff{}", "The body of the request is no text in UTF-8 from byte 0 on."),
        (b"{", "The body of the request is no JSON from character 1 on: Expecting property name"),
        (b'{"inputs": {"seed": ' + b"1" * 5000 + b"}}", "The request has a number with thousands of digits."),
        (b"[" * 500, "The request has more than 408 values"),
        ([], "The body of the request is a list, and should be an object: send {"),
        (None, "The body of the request is null, and"),
        ({"prompt": "x"}, f"The body of the request has none of {FORMS}"),
        ({"inputs": {"seed": 1}, "instances": []}, f"The body of the request has 2 of {FORMS}"),
        ({"dataframe_records": {"seed": 1}}, "dataframe_records is an object, and should be a list of rows: send {"),
        ({"dataframe_records": [None]}, "Row 0 is null, and should be an object with the columns as keys."),
        ({"dataframe_records": [{"sede": 1}]}, "Unknown column sede: a row may have seed, "),
        ({"inputs": {"a\nb": 1}}, "Unknown column 'a\\nb': a row may have seed, "),
        ({"inputs": {f"c{i}": 1 for i in range(100)}}, "Unknown column c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, "),
        ({"dataframe_split": {"columns": ["seed"] * 2, "data": [[1, 2]]}}, "dataframe_split has a column twice: it "),
        ({"dataframe_split": {"columns": [["seed"]], "data": []}}, "dataframe_split has columns whose names are no te"),
        ({"dataframe_split": {"columns": ["seed"], "data": [[1, 2]]}}, "Row 0 is 2 values, and should be a list of "),
        ({"dataframe_split": [1]}, 'dataframe_split should be like {"columns": ["seed"], "data": [[0], [1]]}.'),
        ({"inputs": {"seed": [1, 2], "label": [1]}}, "Column label has 1 values and another one 2: give one for each"),
        ({"inputs": {"seed": []}}, "The request has no rows: send one row with a seed for each image."),
        ({"inputs": {"seed": [1] * 5}}, "The request has 5 rows and 4 is the limit: send several smaller requests."),
        ({"inputs": {"seed": [[1]]}}, "Row 0 has a list in the column seed: give a single value."),
        ({"inputs": {"z": [[[1], 2, 3]]}}, Z),
        ({"inputs": {"z": [["1", "2", "3"]]}}, Z),
        ({"inputs": {"z": [[True, False, True]]}}, Z),
        ({"inputs": {"seed": 1}, "params": []}, 'params is a list, and should be an object like {"format": "png"}.'),
        ({"inputs": {"seed": 1}, "params": {"format": []}}, "format is a list: give a single value."),
        ({"inputs": {"seed": 1}, "params": {"fromat": []}}, "Unknown parameter fromat: there is format, grid."),
    ],
)
def test_what_is_refused(body: Any, sentence: str) -> None:
    message = refusal(lambda: read(body))
    assert message.startswith(sentence)
    assert len(message) < 400


def test_depth_is_bounded_before_python_is_at_its_end() -> None:
    large = Limits.of(rows=1024, latent_size=64)
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    assert refusal(lambda: read_payload(deep, COLUMNS, limits=large, latent_size=64)) == LIST
    nested = b'{"inputs": {"seed": 1}, "params": {"grid": ' + b"[" * 900 + b"]" * 900 + b"}}"
    sentence = refusal(lambda: read_payload(nested, COLUMNS, limits=large, latent_size=64))
    assert sentence in (LIST, "grid is a list: give a single value.")


def test_numbers_that_no_float_holds_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    from gan_plugin.serving.description import Description
    from gan_plugin.serving.requests import read_request
    from gan_plugin.spec import image_spec

    description = Description(3, image_spec(16, 16, 1))
    for columns, problem in (
        ({"seed": [1], "truncation": [10**400]}, "Row 0 has truncation=1000"),
        ({"z": [[10**400, 0, 0]]}, "Row 0 has a z that does not fit"),
        ({"z": [[1e300, 0, 0]]}, "Row 0 has a z that does not fit"),
        ({"seed": [10**400]}, "Row 0 has seed=1000"),
    ):
        rows = pd.DataFrame(columns, dtype=object)
        assert refusal(lambda rows=rows: read_request(rows, description, 4)).startswith(problem)
    assert capfd.readouterr().err == ""
