"""A report of everything that a report can have, and its page."""

from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import pytest
from report_helpers import Page, evaluation, ten_classes

from gan_plugin.report import charts, write_report


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of everything that a report can have."""
    folder = tmp_path_factory.mktemp("report") / "made" / "here"
    files = write_report(evaluation(classes=ten_classes()), "gan, version 3", folder)
    expected = ["report.html", "samples.png", "neighbors.png", "precision_recall.png", "per_class.png"]
    assert files == [folder / name for name in expected]
    assert sorted(folder.iterdir()) == sorted(files)
    return folder


@pytest.fixture(scope="session")
def page(folder: Path) -> Page:
    return Page(folder / "report.html")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """Collect the figures of charts made from now on; they are drawn as well."""
    collected: list[matplotlib.figure.Figure] = []
    draw = charts.figure_png

    def collect(figure: matplotlib.figure.Figure) -> bytes:
        collected.append(figure)
        return draw(figure)

    monkeypatch.setattr(charts, "figure_png", collect)
    return collected


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the charts, which take most of the time, where only words matter."""
    monkeypatch.setattr(charts, "figure_png", lambda figure: b"")
