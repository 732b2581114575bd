"""A line for a wait that takes longer than a moment, where a person sees it."""

from __future__ import annotations

import time

import pytest

from gan_plugin import waiting
from gan_plugin.waiting import announced, counted


def test_a_long_wait_is_announced_while_it_lasts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "MOMENT", 0.05)
    with announced("Reading 60,000 images of flowers."):
        time.sleep(0.5)
        shown_by_then = capsys.readouterr().err  # what MLflow's own messages look like
    assert "INFO mlflow.gan_plugin.waiting: Reading 60,000 images of flowers." in shown_by_then


def test_a_short_one_is_not_nor_one_that_fails_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "MOMENT", 0.2)
    with announced("Reading one image."):
        pass
    with pytest.raises(ZeroDivisionError), announced("Dividing."):
        1 / 0  # noqa: B018
    time.sleep(0.4)
    assert capsys.readouterr().err == ""


def test_what_can_be_counted_has_a_line_now_and_then_and_one_at_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting.time, "monotonic", iter([0.0, 10.0, 40.0, 69.0, 80.0]).__next__)
    with counted("Decoding the images of pets", 4000, "images") as advance:
        for count in (1000, 1000, 2000):
            advance(count)
    lines = [line.partition("waiting: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "Decoding the images of pets: 2,000 of 4,000, 50 images/s.",
        "Decoding the images of pets: 4,000 in 80 s, 50 images/s.",
    ]


def test_on_a_terminal_it_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(waiting.sys.stderr, "isatty", lambda: True)
    with counted("Decoding the images of pets", 4000, "images") as advance:
        advance(4000)
    bar = capsys.readouterr().err
    assert "Decoding the images of pets: 100%" in bar
    assert "4000/4000" in bar
    assert " images/s" in bar
