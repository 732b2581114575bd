"""The report's page as a browser's parser sees it, its images as files, its charts as Matplotlib's objects."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from gan_plugin.evaluation.results import ClassRow, Evaluation, Figure, Neighbors, Projection
from gan_plugin.media.image import Images
from gan_plugin.report import DASH, EXPLANATIONS, MAX_PAIRS, MAX_SAMPLES, figure_row, number, plots, write_report

pytestmark = pytest.mark.filterwarnings("error")

FIGURES = (
    Figure("fid", 12.3456, 4.5678, None, "lower", "2,000 images are few: biased upwards."),
    Figure("fid_ratio", 2.7026, None, None, "lower"),
    Figure("kid", 0.00123, -0.000045, 0.00034, "lower"),
    Figure("inception_score", 8.912, 9.44, 0.12, "higher"),
    Figure("precision", 0.8123, 0.9012, None, "higher"),
    Figure("recall", 0.09, 0.8934, None, "higher"),
    Figure("density", 0.7712, 1.023, None, "higher"),
    Figure("coverage", 0.7214, 0.9551, None, "higher"),
    Figure("authenticity", 0.543, 0.561, None, "higher"),
    Figure("cas", 0.8812, 0.971, None, "higher", "One classifier, one seed.", network="another"),
    Figure("modes", 10, 10, None, "higher"),
    Figure("label_kl", 0.0213, 0.0008, None, "lower"),
    Figure("accuracy", float("nan"), float("inf"), float("nan"), "higher", "This generator takes no label."),
    Figure("own_figure", 123456.7, None, None, ""),
)


def noise(count: int, side: int, channels: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def projected(reference: int, generated: int) -> Projection:
    """Half of the real images are covered, and every fourth generated one is precise."""
    random = np.random.default_rng(0)
    return Projection(
        random.normal(size=(reference, 2)),
        random.normal(size=(generated, 2)) + 1,
        np.arange(reference) % 2 == 0,
        np.arange(generated) % 4 == 0,
    )


def ten_classes() -> tuple[ClassRow, ...]:
    rows = [ClassRow(f"kind {i}", 0.05 + 0.01 * i, 0.1, 20.0 + i, 3.0 + i / 10, 0.9 + i / 100) for i in range(10)]
    rows[8] = ClassRow("kind 8", 0.0, 0.1, None, 3.8, None, "No image of it was generated.")
    return tuple(rows)


def evaluation(
    count: int = 64,
    side: int = 28,
    channels: int = 1,
    pairs: int = 12,
    points: int = 300,
    classes: tuple[ClassRow, ...] = (),
    figures: tuple[Figure, ...] = FIGURES,
) -> Evaluation:
    return Evaluation(
        network="classifier",
        protocol={"reference": "898 digits", "seeds": "0 to 9,999"},
        figures=figures,
        classes=classes,
        notes=("Held-out images are few.", "Features are of this data."),
        samples=noise(count, side, channels, 1),
        reference_samples=noise(count, side, channels, 2),
        neighbors=Neighbors(
            noise(pairs, side, channels, 3), noise(pairs, side, channels, 4), np.linspace(1.5, 4, pairs)
        ),
        projection=projected(points, points),
    )


class Page(HTMLParser):
    """What a page shows and what it asks for.

    Attributes:
        tags: (name, attributes) in order.
        text: all text, styles left out.
        rows: the cells' texts of every table row.
        headings: of the sections.
        open: tags that are not closed yet.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.styles = ""
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("img", "meta", "br", "source"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag  # everything is closed, in order

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.styles += data
            return
        self.words.append(data)
        if "h2" in self.open:
            self.headings.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def row(self, start: str) -> list[str]:
        (found,) = [row for row in self.rows if row[0].startswith(start)]
        return found

    def images(self, alt: str) -> list[bytes]:
        """The files in the page whose description starts like this."""
        sources = [tag["src"] for name, tag in self.tags if name == "img" and tag["alt"].startswith(alt)]
        return [base64.b64decode(source.split(",", 1)[1], validate=True) for source in sources]


def pixels(content: bytes | Path) -> Images:
    image = np.asarray(Image.open(io.BytesIO(content) if isinstance(content, bytes) else content))
    return image if image.ndim == 3 else image[:, :, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of everything that a report can have."""
    folder = tmp_path_factory.mktemp("report") / "made" / "here"
    files = write_report(evaluation(classes=ten_classes()), "gan, version 3", folder)
    expected = ["report.html", "samples.png", "neighbors.png", "precision_recall.png", "per_class.png"]
    assert files == [folder / name for name in expected]
    assert sorted(folder.iterdir()) == sorted(files)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(folder / "report.html")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """Charts made from now on are put here, and drawn as well."""
    made: list[matplotlib.figure.Figure] = []
    draw = plots.chart_png

    def kept(figure: matplotlib.figure.Figure) -> bytes:
        made.append(figure)
        return draw(figure)

    monkeypatch.setattr(plots, "chart_png", kept)
    return made


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the time goes into them; here only words matter."""
    monkeypatch.setattr(plots, "chart_png", lambda figure: b"")


# — what the page says —


def test_every_figure_has_a_row_with_its_meaning_and_its_note(page: Page) -> None:
    for figure in FIGURES:
        cells = page.row(figure.name + EXPLANATIONS.get(figure.name, ""))  # fid is not fid_ratio
        expected = {"lower": "↓ lower", "higher": "↑ higher", "": ""}[figure.better]
        assert cells[-2:] == [expected, figure.note]
    assert page.row("cas")[0].endswith("As the network “another” sees them.")
    assert page.text.count("As the network") == 1
    assert [row[0].split(" ")[0] for row in page.rows if "lower" in str(row)][:2] == ["fidFréchet", "fid_ratiofid"]
    assert set(EXPLANATIONS) == {figure.name for figure in FIGURES} - {"own_figure"}


@pytest.mark.parametrize(
    ("name", "value", "floor"),
    [
        ("fidF", "12.3", "4.57"),
        ("fid_ratio", "2.70", DASH),
        ("kid", "0.00123± 0.00034", "−0.000045"),
        ("inception_score", "8.91± 0.12", "9.44"),
        ("recall", "0.090", "0.893"),
        ("modes", "10", "10"),
        ("label_kl", "0.0213", "0.00080"),
        ("accuracy", DASH, DASH),
        ("own_figure", "123,457", DASH),
    ],
)
def test_numbers_in_the_table_of_figures(page: Page, name: str, value: str, floor: str) -> None:
    assert page.row(name)[1:3] == [value, floor]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (-0.0, "0.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (-12.345, "−12.3"),
        (1.2345e-5, "1.23×10⁻⁵"),
        (-4e8, "−4.00×10⁸"),
        (float("inf"), DASH),
        (float("nan"), DASH),
        (None, DASH),
    ],
)
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_value_smaller_than_its_spread_has_no_more_places_than_it() -> None:
    row = figure_row(Figure("kid", -0.00001, None, 0.00215))
    assert (row["value"], row["spread"]) == ("−0.00001", "0.00215")
    row = figure_row(Figure("kid", 0.0000012, None, 0.0000345))
    assert (row["value"], row["spread"]) == ("0.12×10⁻⁵", "3.45×10⁻⁵")
    row = figure_row(Figure("kid", -0.000001, None, 0.00215))
    assert row["value"] == "0.00000"  # a zero has no sign


def test_summary_has_the_telling_numbers_and_their_floors(page: Page) -> None:
    start = page.text.index("gan, version 3 Generated beside")
    summary = page.text[start : page.text.index("Figures", start)]
    assert "fid 12.3 real images 4.57 fid_ratio 2.70 precision 0.812 real images 0.901 recall 0.090" in summary
    assert "coverage 0.721 real images 0.955" in summary
    assert "kid" not in summary


def test_sections_stand_in_order(page: Page) -> None:
    headings = ["Figures", "Samples", "Nearest training images", "Precision and coverage", "Classes"]
    headings += ["Protocol", "Notes"]
    assert page.headings == headings
    assert "Authenticity is 0.543" in page.text


def test_every_class_note_and_line_of_the_protocol_is_there(page: Page) -> None:
    heading = ["class", "share generated", "share real", "fid", "floor", "accuracy", "note"]
    assert heading in page.rows
    assert page.row("kind 3") == ["kind 3", "8.0 %", "10.0 %", "23.0", "3.3", "93.0 %", ""]
    lost = ["kind 8", "0.0 %", "10.0 %", DASH, "3.8", DASH, "No image of it was generated."]
    assert page.row("kind 8") == lost
    assert [row[0] for row in page.rows if row[0].startswith("kind ")] == [f"kind {i}" for i in range(10)]
    assert "1 of 10 classes was not generated at all." in page.text
    assert page.row("reference") == ["reference", "898 digits"]
    assert page.row("seeds") == ["seeds", "0 to 9,999"]
    assert "Held-out images are few. Features are of this data." in page.text


def test_nothing_missing_is_written_as_nan_none_or_inf(page: Page) -> None:
    assert not re.search(r"\b(nan|none|inf|infinity)\b", page.text.lower().replace("none picked", ""))


@pytest.mark.usefixtures("no_charts")
def test_unlabeled_data_have_no_section_of_classes(tmp_path: Path) -> None:
    figures = tuple(dataclasses.replace(figure, note="") for figure in FIGURES)
    files = write_report(evaluation(4, 16, figures=figures), "title", tmp_path)
    page = Page(files[0])
    assert "per_class.png" not in [file.name for file in files]
    assert "Classes" not in page.headings
    assert "share" not in str(page.rows[0])
    assert page.rows[0][-1] == "better"  # nor an empty column of notes


@pytest.mark.usefixtures("no_charts")
def test_an_evaluation_of_nearly_nothing(tmp_path: Path) -> None:
    """Nothing to sum up, no authenticity, no protocol, no notes: no empty boxes, no headings over nothing."""
    bare = dataclasses.replace(
        evaluation(4, 16, figures=(Figure("fid", float("nan")), Figure("authenticity", float("nan")))),
        protocol={},
        notes=(),
        network="pixels",
    )
    page = Page(write_report(bare, "title", tmp_path)[0])
    assert "dl" not in [name for name, _ in page.tags]
    assert page.headings == ["Figures", "Samples", "Nearest training images", "Precision and coverage"]
    assert "Authenticity is" not in page.text


# — what the page asks for —


def assert_self_contained(page: Page) -> None:
    sources = [tag[key] for _, tag in page.tags for key in ("src", "srcset") if key in tag]
    assert sources
    assert all(re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", source) for source in sources)
    assert {name for name, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "form", "a"})
    assert not [key for _, tag in page.tags for key in tag if key.startswith("on") or key in ("href", "style")]
    assert "url(" not in page.styles
    assert "@import" not in page.styles
    assert "://" not in page.source
    assert page.open == []


def test_the_page_asks_for_nothing(page: Page) -> None:
    assert_self_contained(page)


def test_the_page_has_no_policy_of_its_own(page: Page) -> None:
    """MLflow's view of artifacts shows a page with a Content-Security-Policy as an empty frame."""
    assert "content-security-policy" not in page.text.lower()


def test_what_a_user_wrote_stays_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;</style>"
    hostile = Evaluation(
        network=bad,
        protocol={bad: bad},
        figures=(Figure(bad, 1.0, better=bad, note=bad, network=bad),),
        classes=(ClassRow(bad, 0.5, 0.5, note=bad), ClassRow("b", 0.5, 0.5)),
        notes=(bad,),
        samples=noise(2, 16, 3),
        reference_samples=noise(2, 16, 3),
        neighbors=Neighbors(noise(1, 16, 3), noise(1, 16, 3), np.ones(1)),
        projection=projected(5, 5),
    )
    page = Page(write_report(hostile, bad, tmp_path)[0])
    assert_self_contained(page)
    # title twice, network twice, figure's name, direction and note, class and note, protocol twice, note
    assert page.text.count(bad) == 12


def test_light_and_dark_have_their_own_charts_and_colors(page: Page) -> None:
    charts = page.images("Scatter") + page.images("Bars")
    dark = [tag["srcset"] for name, tag in page.tags if name == "source" and "dark" in tag["media"]]
    darks = [base64.b64decode(source.split(",", 1)[1]) for source in dark]
    assert len(charts) == len(darks) == 2
    for images, theme in ((charts, plots.LIGHT), (darks, plots.DARK)):
        for image in images:
            corner = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))[0, 0] / 255
            assert to_hex(corner) == theme.page  # no box around it on the page
        assert f"--page: {theme.page};" in page.styles


# — the images —


def test_small_images_are_in_the_page_as_they_are_and_enlarged_sharply(page: Page) -> None:
    given = evaluation(classes=ten_classes())
    shown = {
        "generated image ": given.samples,
        "real image ": given.reference_samples,
        "nearest training image": given.neighbors.nearest,
    }
    for alt, images in shown.items():
        assert np.array_equal([pixels(content) for content in page.images(alt)], images)
    assert len(page.images("generated image")) == 64 + 12
    assert ".enlarged img { image-rendering: pixelated; }" in page.styles
    assert [tag["class"] for _, tag in page.tags if "enlarged" in tag.get("class", "")] == [
        "samples enlarged",
        "pairs enlarged",
    ]
    assert "28 × 28 pixels" in page.text


def test_distances_stand_below_their_pairs(page: Page) -> None:
    assert re.search(r"1\.50 1\.73 1\.95 .* 4\.00 ", page.text)


def test_files_are_pngs_of_sizes_to_look_at(folder: Path) -> None:
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert image.format == "PNG"
            image.verify()
            assert all(300 <= side <= 2500 for side in image.size)
        assert 2_000 < path.stat().st_size < 1_000_000


def test_sheet_has_generated_left_and_real_right_under_their_words(folder: Path) -> None:
    sheet, given = pixels(folder / "samples.png"), evaluation()
    real = sheet.shape[1] // 2 + plots.MARGIN // 2
    for left, image in ((plots.MARGIN, given.samples[0]), (real, given.reference_samples[0])):
        top, inside = plots.HEADING + 2, left + 2  # beside the gaps
        block = sheet[top : top + 56, inside : inside + 56]
        assert np.array_equal(block, np.broadcast_to(image.repeat(2, 0).repeat(2, 1), (56, 56, 3)))
        assert sheet[: plots.HEADING, left : left + 60].min() < 100  # letters


def test_sheet_of_neighbors_has_pairs_and_distances(folder: Path) -> None:
    sheet, pairs = pixels(folder / "neighbors.png"), evaluation().neighbors
    top, left = plots.HEADING + 2, plots.MARGIN + 2
    for image, x in ((pairs.generated[0], left), (pairs.nearest[0], left + 58)):
        assert np.array_equal(sheet[top : top + 56, x : x + 56, 0], image.repeat(2, 0).repeat(2, 1)[:, :, 0])
    assert sheet[top + 60 : top + 80, left : left + 56].min() < 100


def test_large_images_are_shrunk_and_the_page_stays_small(tmp_path: Path) -> None:
    """Noise is the hardest to make small; photographs take half of it."""
    files = write_report(evaluation(side=256, channels=3, pairs=16, classes=ten_classes()), "title", tmp_path)
    page = Page(files[0])
    assert files[0].stat().st_size < 3_000_000
    assert len(page.images("generated image")) == 64 + 16
    assert pixels(page.images("real image")[0]).shape == (128, 128, 3)
    assert "256 × 256 pixels and is shown smaller" in page.text
    assert not [tag for _, tag in page.tags if "enlarged" in tag.get("class", "")]  # large ones are drawn smoothly
    assert pixels(files[1]).shape[1] < 2500


@pytest.mark.usefixtures("no_charts")
def test_images_need_not_be_square(tmp_path: Path) -> None:
    assert plots.shrunk(np.zeros((300, 150, 1), np.uint8)).shape == (128, 64, 1)
    assert plots.on_a_sheet(np.zeros((2, 20, 10, 1), np.uint8)).shape == (2, 60, 30, 3)
    oblong = noise(3, 64, 3)[:, :40]
    given = dataclasses.replace(evaluation(), samples=oblong, reference_samples=oblong)
    page = Page(write_report(given, "title", tmp_path)[0])
    assert pixels(page.images("generated image 3")[0]).shape == (40, 64, 3)
    assert "64 × 40 pixels" in page.text


@pytest.mark.parametrize(("count", "pairs", "points"), [(1, 0, 1), (2, 1, 2), (100, 40, 5)])
def test_any_number_of_images(tmp_path: Path, count: int, pairs: int, points: int) -> None:
    files = write_report(evaluation(count, 16, 1, pairs, points, classes=ten_classes()[:2]), "title", tmp_path)
    page = Page(files[0])
    assert ("neighbors.png" in [file.name for file in files]) == (pairs > 0)
    assert ("Nearest training images" in page.headings) == (pairs > 0)
    assert len(page.images("real image")) == min(count, MAX_SAMPLES)
    assert len(page.images("nearest")) == min(pairs, MAX_PAIRS)


def test_equal_evaluations_give_equal_bytes_from_any_thread(tmp_path: Path) -> None:
    def write(name: str) -> list[bytes]:
        few = evaluation(count=4, pairs=2, points=20, classes=ten_classes())
        return [file.read_bytes() for file in write_report(few, "title", tmp_path / name)]

    with ThreadPoolExecutor(1) as thread:
        there = thread.submit(write, "there")
        assert write("here") == there.result()


def test_neither_torch_nor_mlflow_nor_pyplot_is_loaded() -> None:
    heavy = ("torch", "mlflow", "matplotlib.pyplot")
    code = f"import sys, gan_plugin.report; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# — the charts —


def words(figure: matplotlib.figure.Figure) -> list[str]:
    """What legends say, panel by panel."""
    legends = [panel.get_legend() for panel in figure.axes]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def test_scatter_marks_what_is_not_precise_and_what_is_not_covered(figures: list[matplotlib.figure.Figure]) -> None:
    given = projected(5001, 401)
    plots.precision_recall_chart(given, plots.LIGHT)
    precision, coverage = figures[0].axes
    behind, near, far = (np.asarray(layer.get_offsets()) for layer in precision.collections)
    assert len(behind) == plots.POINTS
    assert np.array_equal(near, given.generated[given.inside])
    assert np.array_equal(far, given.generated[~given.inside])
    behind, near, far = (np.asarray(layer.get_offsets()) for layer in coverage.collections)
    assert np.array_equal(behind, given.generated)
    assert len(near) + len(far) == plots.POINTS
    assert set(map(tuple, far)) <= set(map(tuple, given.reference[~given.covered]))
    assert words(figures[0]) == [
        "real images",
        "generated, near a real one: 25.2 %",  # 101 of 401
        "generated, near none: 74.8 %",
        "generated images",
        "real, with a generated one near: 50.0 %",
        "real, with none near: 50.0 %",
    ]
    everything = np.concatenate([given.reference, given.generated])
    for panel in figures[0].axes:
        assert (everything > [panel.get_xlim()[0], panel.get_ylim()[0]]).all()
        assert (everything < [panel.get_xlim()[1], panel.get_ylim()[1]]).all()
        assert np.ptp(panel.get_xlim()) / panel.bbox.width == pytest.approx(
            np.ptp(panel.get_ylim()) / panel.bbox.height
        )


def test_equal_points_are_drawn_as_well(figures: list[matplotlib.figure.Figure]) -> None:
    """A collapsed generator on data of one image: there is no distance to fit the window to."""
    one = Projection(np.ones((3, 2)), np.ones((2, 2)), np.ones(3, bool), np.ones(2, bool))
    plots.precision_recall_chart(one, plots.LIGHT)
    assert figures[0].axes[0].get_xlim() == (0, 2)


@pytest.mark.usefixtures("no_charts")
def test_points_are_thinned_evenly_and_the_page_says_so(tmp_path: Path) -> None:
    chosen = plots.evenly(10_000, 2000)
    assert len(chosen) == 2000
    assert set(np.diff(chosen)) <= {5, 6}
    assert (chosen[0], chosen[-1]) == (0, 9999)
    given = dataclasses.replace(evaluation(), projection=projected(898, 10_000))
    page = Page(write_report(given, "title", tmp_path)[0])
    assert "Drawn are 2,000 of 10,000 generated and all 898 real images" in page.text


def test_nothing_in_a_chart_is_cut_off_or_on_top_of_something(figures: list[matplotlib.figure.Figure]) -> None:
    names = ["a", "W" * 90, "b", "c"]
    rows = [(i, ClassRow(name, 0.001, 0.001, 1e5, 1e4)) for i, name in enumerate(names)]
    plots.per_class_chart(rows, "The 4 of 1,000 classes with the largest Fréchet distance", plots.LIGHT)
    plots.precision_recall_chart(projected(9, 9), plots.LIGHT)
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
    plots.per_class_chart(rows, "", plots.LIGHT)
    distance, share = figures[0].axes
    widths = [bar.get_width() for bar in distance.patches]  # type: ignore[attr-defined]
    assert widths == [row.fid or 0 for _, row in rows] + [row.floor for _, row in rows]
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
    rows = tuple(ClassRow(name, 0.5, 0.5, note="Too few.") for name in ("class a", "class b"))
    page = Page(write_report(evaluation(4, 16, classes=rows), "title", tmp_path)[0])
    assert words(figures[-1]) == ["generated", "real"]
    assert page.row("class a") == ["class a", "50.0 %", "50.0 %", "Too few."]
    assert ["class", "share generated", "share real", "note"] in page.rows


def test_names_that_the_font_lacks_are_numbers_in_the_chart_and_names_in_the_table(
    figures: list[matplotlib.figure.Figure], tmp_path: Path
) -> None:
    names = ["日本", "ключ", "$\\frac{1}{2}$", "bell\x07", "two\nlines", "🙂", "lost\udcff", " ", "x" * 50]
    rows = tuple(ClassRow(name, 0.1, 0.1, 2.0, 1.0) for name in names)
    page = Page(write_report(evaluation(4, 16, classes=rows), "title", tmp_path)[0])
    chart = figures[-1]
    labels = chart.axes[0].get_yticklabels()
    shown = ["#0", "ключ", "$\\frac{1}{2}$", "#3", "two lines", "#5", "#6", "#7", "x" * 23 + "…"]
    assert [label.get_text() for label in labels] == shown
    assert not any(label.get_parse_math() for label in labels)
    table = page.rows[page.rows.index(["#", "class", "share generated", "share real", "fid", "floor"]) + 1 :]
    assert [row[:2] for row in table[:3]] == [["0", "日本"], ["1", "ключ"], ["2", "$\\frac{1}{2}$"]]
    assert table[8][1] == "x" * 50


def test_a_thousand_classes_come_worst_first(figures: list[matplotlib.figure.Figure], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [ClassRow(f"kind {i}", 0.001, 0.001, d, 1.0) for i, d in enumerate(random.permutation(1000) + 10.0)]
    rows[500] = ClassRow("kind 500", 0.0, 0.001, None, 1.0, None, "None was generated.")
    rows[501] = ClassRow("kind 501", 0.0, 0.003, float("nan"), 1.0)
    started = time.monotonic()
    page = Page(write_report(evaluation(4, 16, classes=tuple(rows)), "title", tmp_path)[0])
    assert time.monotonic() - started < 10
    table = page.rows[page.rows.index(["#", "class", "share generated", "share real", "fid", "floor", "note"]) + 1 :]
    table = table[:1000]
    expected = sorted((row for row in rows if row.fid and row.fid > 0), key=lambda row: -(row.fid or 0))
    assert [row[1] for row in table] == [row.name for row in expected] + ["kind 501", "kind 500"]
    assert all(row[1] == f"kind {row[0]}" for row in table)
    assert table[-2][4] == table[-1][4] == DASH
    chart = figures[-1]
    assert chart.get_suptitle() == "The 40 of 1,000 classes with the largest Fréchet distance"
    labels = [label.get_text() for label in chart.axes[0].get_yticklabels()]
    assert labels == [row.name for row in expected[: plots.BARS]]
    assert "2 of 1,000 classes were not generated at all. The worst come first." in page.text
    assert "scroll" in [tag.get("class") for _, tag in page.tags]
