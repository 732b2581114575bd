"""The report's charts, as Matplotlib's objects, and its table of classes."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from report_helpers import WARNINGS_ARE_ERRORS, Page, evaluation, projected, ten_classes

from gan_plugin.evaluation.results import ClassRow, Projection, regular_indices
from gan_plugin.report import charts, write_report
from gan_plugin.report.canvas import LIGHT
from gan_plugin.report.numbers import DASH

pytestmark = WARNINGS_ARE_ERRORS


def words(figure: matplotlib.figure.Figure) -> list[str]:
    """Return the texts of legends, panel by panel."""
    legends = [panel.get_legend() for panel in figure.axes]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def test_scatter_marks_what_is_not_precise_and_what_is_not_covered(figures: list[matplotlib.figure.Figure]) -> None:
    projection = projected(5001, 401)
    charts.precision_recall_plot(projection, LIGHT)
    precision, coverage = figures[0].axes
    behind, near, far = (np.asarray(layer.get_offsets()) for layer in precision.collections)
    assert len(behind) == charts.MAX_POINTS
    assert np.array_equal(near, projection.generated[projection.inside])
    assert np.array_equal(far, projection.generated[~projection.inside])
    behind, near, far = (np.asarray(layer.get_offsets()) for layer in coverage.collections)
    assert np.array_equal(behind, projection.generated)
    assert len(near) + len(far) == charts.MAX_POINTS
    assert set(map(tuple, far)) <= set(map(tuple, projection.reference[~projection.covered]))
    assert words(figures[0]) == [
        "real images",
        "generated, near a real one: 25.2 %",  # 101 of 401
        "generated, near none: 74.8 %",
        "generated images",
        "real, with a generated one near: 50.0 %",
        "real, with none near: 50.0 %",
    ]
    everything = np.concatenate([projection.reference, projection.generated])
    for panel in figures[0].axes:
        assert (everything > [panel.get_xlim()[0], panel.get_ylim()[0]]).all()
        assert (everything < [panel.get_xlim()[1], panel.get_ylim()[1]]).all()
        assert np.ptp(panel.get_xlim()) / panel.bbox.width == pytest.approx(
            np.ptp(panel.get_ylim()) / panel.bbox.height
        )


def test_equal_points_are_drawn_as_well(figures: list[matplotlib.figure.Figure]) -> None:
    """A collapsed generator on data of one image: there is no distance to fit the window to."""
    one = Projection(
        reference=np.ones((3, 2)), generated=np.ones((2, 2)), covered=np.ones(3, bool), inside=np.ones(2, bool)
    )
    charts.precision_recall_plot(one, LIGHT)
    assert figures[0].axes[0].get_xlim() == (0, 2)


@pytest.mark.usefixtures("no_charts")
def test_points_are_thinned_evenly_and_the_page_notes_it(tmp_path: Path) -> None:
    chosen = regular_indices(10_000, 2000)
    assert len(chosen) == 2000
    assert set(np.diff(chosen)) <= {5, 6}
    assert (chosen[0], chosen[-1]) == (0, 9999)
    many_points = dataclasses.replace(evaluation(), projection=projected(898, 10_000))
    page = Page(write_report(many_points, "title", tmp_path)[0])
    assert "Drawn are 2,000 of 10,000 generated and all 898 real images" in page.text


def test_nothing_in_a_chart_is_cut_off_or_on_top_of_something(figures: list[matplotlib.figure.Figure]) -> None:
    names = ["a", "W" * 90, "b", "c"]
    rows = [
        (i, ClassRow(name, generated=0.001, reference=0.001, fid=1e5, fid_real=1e4)) for i, name in enumerate(names)
    ]
    charts.per_class_plot(rows, "The 4 of 1,000 classes with the largest Fréchet distance", LIGHT)
    charts.precision_recall_plot(projected(9, 9), LIGHT)
    for figure in figures:
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        boxes = [box for panel in figure.axes if (box := panel.get_tightbbox(renderer))]
        assert len(boxes) == 2
        for box in boxes:
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.width
            assert box.y1 <= figure.bbox.height
        assert boxes[0].x1 <= boxes[1].x0
        for panel in figure.axes:
            labels = [label.get_window_extent(renderer) for label in panel.get_xticklabels()]
            assert all(left.x1 < right.x0 for left, right in itertools.pairwise(labels))


def test_bars_are_those_of_the_classes(figures: list[matplotlib.figure.Figure]) -> None:
    rows = list(enumerate(ten_classes()))
    charts.per_class_plot(rows, "", LIGHT)
    distance, share = figures[0].axes
    widths = [bar.get_width() for bar in distance.patches]  # type: ignore[attr-defined]
    assert widths == [row.fid or 0 for _, row in rows] + [row.fid_real for _, row in rows]
    widths = [bar.get_width() for bar in share.patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx([5, 6, 7, 8, 9, 10, 11, 12, 0, 14] + [10] * 10)
    (dash,) = distance.texts
    assert (dash.get_text(), dash.get_position()[0]) == (" —", 0)
    assert dash.get_position()[1] == pytest.approx(8, abs=0.3)
    heights = [bar.get_y() for bar in distance.patches]  # type: ignore[attr-defined]
    assert heights[0] < heights[10] < heights[1]  # generated above real, and both before the next class
    assert [label.get_text() for label in distance.get_yticklabels()] == [f"kind {i}" for i in range(10)]
    assert distance.get_ylim()[0] > distance.get_ylim()[1]  # the first class is on top
    assert words(figures[0]) == ["generated", "held-out real", "generated", "real"]


def test_classes_without_any_distance_have_bars_of_shares_only(
    figures: list[matplotlib.figure.Figure], tmp_path: Path
) -> None:
    rows = tuple(ClassRow(name, generated=0.5, reference=0.5, note="Too few.") for name in ("class a", "class b"))
    page = Page(write_report(evaluation(4, 16, classes=rows), "title", tmp_path)[0])
    assert words(figures[-1]) == ["generated", "real"]
    assert page.row("class a") == ["class a", "50.0 %", "50.0 %", "Too few."]
    assert ["class", "share generated", "share real", "note"] in page.rows


def test_names_that_the_font_lacks_are_numbers_in_the_chart_and_names_in_the_table(
    figures: list[matplotlib.figure.Figure], tmp_path: Path
) -> None:
    names = ["日本", "ключ", "$\\frac{1}{2}$", "bell\x07", "two\nlines", "🙂", "lost\udcff", " ", "x" * 50]
    rows = tuple(ClassRow(name, generated=0.1, reference=0.1, fid=2.0, fid_real=1.0) for name in names)
    page = Page(write_report(evaluation(4, 16, classes=rows), "title", tmp_path)[0])
    chart = figures[-1]
    labels = chart.axes[0].get_yticklabels()
    expected = ["#0", "ключ", "$\\frac{1}{2}$", "#3", "two lines", "#5", "#6", "#7", f"#8 {'x' * 20}…"]
    assert [label.get_text() for label in labels] == expected
    assert not any(label.get_parse_math() for label in labels)
    table = page.rows[page.rows.index(["#", "class", "share generated", "share real", "fid", "fid real"]) + 1 :]
    assert [row[:2] for row in table[:3]] == [["0", "日本"], ["1", "ключ"], ["2", "$\\frac{1}{2}$"]]
    assert table[8][1] == "x" * 50


def test_a_thousand_classes_come_worst_first(figures: list[matplotlib.figure.Figure], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        ClassRow(f"kind {i}", generated=0.001, reference=0.001, fid=d, fid_real=1.0)
        for i, d in enumerate(random.permutation(1000) + 10.0)
    ]
    rows[500] = ClassRow(
        "kind 500", generated=0.0, reference=0.001, fid=None, fid_real=1.0, accuracy=None, note="None was generated."
    )
    rows[501] = ClassRow("kind 501", generated=0.0, reference=0.003, fid=float("nan"), fid_real=1.0)
    started = time.process_time()
    page = Page(write_report(evaluation(4, 16, classes=tuple(rows)), "title", tmp_path)[0])
    assert time.process_time() - started < 10
    table = page.rows[page.rows.index(["#", "class", "share generated", "share real", "fid", "fid real", "note"]) + 1 :]
    table = table[:1000]
    expected = sorted((row for row in rows if row.fid and row.fid > 0), key=lambda row: -(row.fid or 0))
    assert [row[1] for row in table] == [row.name for row in expected] + ["kind 501", "kind 500"]
    assert all(row[1] == f"kind {row[0]}" for row in table)
    assert table[-2][4] == table[-1][4] == DASH
    chart = figures[-1]
    assert chart.get_suptitle() == "The 40 of 1,000 classes with the largest Fréchet distance"
    labels = [label.get_text() for label in chart.axes[0].get_yticklabels()]
    assert labels == [row.name for row in expected[: charts.MAX_BARS]]
    assert "2 of 1,000 classes were never generated. The worst come first." in page.text
    assert "scroll" in [tag.get("class") for _, tag in page.tags]


def test_many_classes_with_long_names_that_begin_alike_are_told_apart_by_number(
    figures: list[matplotlib.figure.Figure], tmp_path: Path
) -> None:
    rows = tuple(
        ClassRow(f"a very long name of a class, number {i:04}", generated=0.001, reference=0.001, fid=1.0)
        for i in range(1000)
    )
    page = Page(write_report(evaluation(4, 16, classes=rows), "title", tmp_path)[0])
    labels = [label.get_text() for label in figures[-1].axes[0].get_yticklabels()]
    assert len(set(labels)) == charts.MAX_BARS
    assert labels[7] == "#7 a very long name of…"
    assert ["999", "a very long name of a class, number 0999"] in [row[:2] for row in page.rows]
