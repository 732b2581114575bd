"""Edits along directions that a file names: what they do, at each door, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from helpers import refusal
from torch import Tensor, nn

from gan_plugin import flavor
from gan_plugin.cli import main
from gan_plugin.export import export_generator
from gan_plugin.seeds import between, latents
from gan_plugin.serving.bodies import Limits
from gan_plugin.serving.description import Description, Direction
from gan_plugin.serving.editing import read_edit
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.payload import read_payload
from gan_plugin.spec import image_spec

DIRECTIONS = (
    Direction("brightness", (0.0, 1.0, 0.0), low=-2.0, high=3.0, accuracy=0.875),
    Direction("1", (0.6, 0.0, 0.8), low=-4.0, high=4.0, share=0.5),
)


class Gray(nn.Module):
    """Shows each of three values of z as a third of the rows."""

    def forward(self, z: Tensor) -> Tensor:
        return (z / 5).repeat_interleave(6, 1)[:, None, :16, None].expand(-1, 1, 16, 16)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gray") / "gray.onnx"
    export_generator(Gray(), Description(3, image_spec(16, 16, 1), directions=DIRECTIONS), path)
    return path


def level(z: float) -> int:
    return round(z / 5 * 127.5 + 127.5)


def test_the_file_keeps_its_directions(file: Path) -> None:
    assert OnnxGenerator(file, device="cpu").description.directions == DIRECTIONS
    description = Description(3, image_spec(16, 16, 1), directions=DIRECTIONS)
    damaged = description.to_metadata() | {"gan.directions": '[{"name": "x", "normal": [1], "low": 0, "high": 1}]'}
    assert refusal(lambda: Description.from_metadata(damaged)) == (
        "This ONNX file's metadata have no possible gan.directions: it is damaged, or no generator."
    )


def test_a_step_moves_what_its_direction_names(file: Path) -> None:
    generator = OnnxGenerator(file, device="cpu")
    z = latents([5], 3)[0]
    rows = generator.sample([5], edit={"brightness": 1.5, "1": -1})[0, :, 0, 0].tolist()
    expected = [level(z[0] - 0.6), level(z[1] + 1.5), level(z[2] - 0.8)]
    assert np.abs(np.array([rows[0], rows[6], rows[12]]) - expected).max() <= 1


def test_a_request_edits_after_the_way_to_a_seed(file: Path, tmp_path: Path) -> None:
    flavor.save_model(file, tmp_path / "model")
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"device": "cpu"})
    rows = [{"seed": 5, "to_seed": 6, "position": 0.5, "edit": {"brightness": -2}}, {"seed": 5}]
    answer = model.predict(pd.DataFrame(rows), params={"format": "array"})["image"]
    z = between(latents([5], 3), latents([6], 3), [0.5])[0]
    assert abs(answer[0][6][0][0] - level(z[1] - 2)) <= 1
    assert abs(answer[1][6][0][0] - level(latents([5], 3)[0, 1])) <= 1


def test_the_command_takes_steps(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    words = ["sample", "--onnx", str(file), "--seeds", "5", "--edit", "brightness=1.5", "--edit", "1=-1"]
    main([*words, "--out", str(out), "--device", "cpu"], standalone_mode=False)
    expected = OnnxGenerator(file, device="cpu").sample([5], edit={"brightness": 1.5, "1": -1})[0, :, :, 0]
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(out))[2:18, 2:18], expected)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (1.5, 'edit=1.5: give steps by their directions, as in {"brightness": 1.0}.'),
        ({}, 'edit={}: give steps by their directions, as in {"brightness": 1.0}.'),
        ({"smile": 1}, "an edit of 'smile', which is unknown: give brightness, 1."),
        ({"brightness": 3.5}, "an edit of 'brightness' by 3.5: give a number from -2 to 3."),
        ({"brightness": "much"}, "an edit of 'brightness' by 'much': give a number from -2 to 3."),
        ({"brightness": True}, "an edit of 'brightness' by True: give a number from -2 to 3."),
        ({"1": float("nan")}, "an edit of '1' by nan: give a number from -4 to 4."),
        ({"1": 10**400}, f"an edit of '1' by {10**39}…: give a number from -4 to 4."),
    ],
)
def test_an_edit_that_cannot_be_made_is_refused(edit: object, problem: str) -> None:
    description = Description(3, image_spec(16, 16, 1), directions=DIRECTIONS)
    assert refusal(lambda: read_edit(edit, "Row 2 has", description)) == f"Row 2 has {problem}"


def test_a_file_without_directions_takes_no_edit() -> None:
    sentence = refusal(lambda: read_edit({"x": 1}, "Row 0 has", Description(3, image_spec(16, 16, 1))))
    assert sentence == "Row 0 has an edit, and this generator's file names no directions: leave edit out."


def test_json_with_an_edit_is_read_and_nothing_nested_in_it() -> None:
    def read(edit: object) -> object:
        body = json.dumps({"dataframe_records": [{"seed": 1, "edit": edit}]}).encode()
        return read_payload(body, ["seed", "edit"], limits=Limits.of(4, 3), latent_size=3).columns["edit"]

    assert read({"brightness": 1}) == [{"brightness": 1}]
    assert refusal(lambda: read({"brightness": [1]})) == (
        'Row 0 has an edit with more than a number in it: give one like {"1": 0.5}.'
    )
    assert refusal(lambda: read([1])) == "Row 0 has a list in the column edit: give a single value."
