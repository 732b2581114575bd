"""A line for a wait that takes longer than a moment, where a person sees it."""

from __future__ import annotations

import time

import pytest

from gan_plugin import waiting
from gan_plugin.waiting import announced


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
