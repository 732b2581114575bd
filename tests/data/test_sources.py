"""What the text `data` names, and every refusal."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from data_helpers import noise, save
from helpers import refusal
from PIL import Image

from gan_plugin.data import check_data_argument, load_dataset


def test_data_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (lambda: load_dataset("digit"), lambda: check_data_argument("digit")):
        assert refusal(call) == (
            "data='digit' is neither 'digits', a folder or parquet file that exists "
            f"(looked for {tmp_path}/digit) nor 'hub:owner/name'."
        )
    assert refusal(lambda: check_data_argument("")).startswith("data='' is neither 'digits', ")
    for wrong in ("hub:mnist", "hub:", "hub:a/b/c"):
        message = refusal(partial(check_data_argument, wrong))
        assert message == f"data={wrong!r} is neither 'hub:owner/name' nor 'hub:owner/name:config'."


def test_files_and_folders_that_are_no_data(tmp_path: Path) -> None:
    path = save(noise(0), tmp_path / "images/0.png")
    assert "is a file that is not parquet" in refusal(lambda: check_data_argument(str(path)))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(lambda: check_data_argument(str(empty))).startswith(f"{empty} holds nothing: give a folder of ")
    (empty / "a.zip").write_bytes(b"x")
    assert refusal(lambda: check_data_argument(str(empty))).startswith(f"{empty} holds only a.zip: give a folder of ")


def test_check_opens_no_image(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    check_data_argument(str(classes))
    check_data_argument("digits")
