"""Attributes from a table beside the images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refusal
from PIL import Image

from gan_plugin.data import load_dataset, load_divided


def images(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        level = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(level).save(folder / name)


def values(attribute: torch.Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in attribute.tolist()]


def test_a_csv_file_has_numbers_truth_values_and_texts(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "metadata.csv").write_text(
        "file_name,thickness,smiling,color,same\nc.png,2.5,true,red,1\na.png,-1,False,blue,1\n"
    )
    dataset = load_dataset(str(tmp_path))
    assert {name: values(attribute) for name, attribute in dataset.attributes.items()} == {
        "thickness": [-1, None, 2.5],
        "smiling": [0, None, 1],
        "color=blue": [1, None, 0],
        "color=red": [0, None, 1],
    }  # and not "same", which is no difference
    assert "Attributes of the images: thickness, smiling, color=blue, color=red." in dataset.notes
    assert not any("left out" in note for note in dataset.notes)


def test_json_lines_in_the_folders_of_classes(tmp_path: Path) -> None:
    images(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png")
    (tmp_path / "cat" / "metadata.jsonl").write_text(
        '{"file_name": "1.png", "age": 3}\n{"file_name": "2.png", "age": 4}\n'
    )
    (tmp_path / "dog" / "metadata.jsonl").write_text('{"file_name": "1.png", "age": 9, "good": true}\n')
    dataset = load_dataset(str(tmp_path))
    assert values(dataset.attributes["age"]) == [3, 4, 9]
    assert dataset.spec.class_names == ("cat", "dog")


def test_attributes_stay_with_their_images(tmp_path: Path) -> None:
    """Also where some cannot be read, some are held out, and rows are taken in another order."""
    names = [f"{i:02}.png" for i in range(40)]
    images(tmp_path, *names)
    (tmp_path / "03.png").write_bytes(b"no image")
    means = {name: np.asarray(Image.open(tmp_path / name)).mean() for name in names if name != "03.png"}
    rows = "".join(f"{name},{means.get(name, 0)}\n" for name in names)
    (tmp_path / "metadata.csv").write_text(f"file_name,mean\n{rows}")
    division = load_divided(str(tmp_path), skip_unreadable=True)
    assert division.drawn is not None
    for part in (division.dataset, division.drawn, division.dataset.take(torch.tensor([5, 1]))):
        measured = part.samples[:].float().mean((1, 2, 3))
        torch.testing.assert_close(part.attributes["mean"], measured, atol=1e-3, rtol=1e-5)


def test_cells_that_say_nothing_and_a_mark_of_the_encoding(tmp_path: Path) -> None:
    names = [f"{i:02}.png" for i in range(30)]
    images(tmp_path, *names)
    rows = "".join(f"{name},{'n/a' if i == 3 else '' if i == 4 else i}\n" for i, name in enumerate(names))
    (tmp_path / "metadata.csv").write_text(f"file_name,number\n{rows}", encoding="utf-8-sig")
    (number,) = load_dataset(str(tmp_path)).attributes.values()
    assert values(number)[2:6] == [2, None, None, 5]


def test_a_column_of_many_texts_is_no_attribute(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(30)]
    images(tmp_path, *names)
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(f"{n},caption {n}\n" for n in names))
    dataset = load_dataset(str(tmp_path))
    assert dataset.attributes == {}
    assert "No attribute, for all their different texts: the columns text." in dataset.notes


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            "file_name,age\nz.png,1\n",
            "row 1 has file_name='z.png', and there is no such image among",
        ),
        ("name,age\na.png,1\n", "has no column file_name in every row: give each image's"),
        (b"\xff\xfe\x00", "cannot be read as a table: "),
        ("file_name,age\na.png,1,2\n", "has a row with more cells than there are columns: give each row as many."),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(content: str | bytes, problem: str, tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    sentence = refusal(lambda: load_dataset(str(tmp_path)))
    assert problem in sentence
    assert str(tmp_path / "metadata.csv") in sentence
