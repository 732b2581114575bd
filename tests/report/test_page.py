"""The report's page: what it contains, and that it needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from report_helpers import MEASUREMENTS, WARNINGS_ARE_ERRORS, Page, evaluation, noise, projected, ten_classes

from gan_plugin.evaluation.results import ClassRow, Evaluation, Measurement, Neighbors
from gan_plugin.metrics.catalog import EVALUATION_METRICS, METRICS
from gan_plugin.report import write_report
from gan_plugin.report.canvas import DARK, LIGHT
from gan_plugin.report.numbers import DASH, number
from gan_plugin.report.tables import measurement_row

pytestmark = WARNINGS_ARE_ERRORS


# ---- content -------------------------------------------------------------------------------------------------------


def test_every_metric_has_a_row_with_its_meaning_and_its_note(page: Page) -> None:
    for measurement in MEASUREMENTS:
        metric = METRICS.get(measurement.name)
        start = measurement.name + (metric.description if metric else "")  # fid is not fid_ratio
        if measurement.network.startswith("critic"):
            start += f"By the network “{measurement.network}”."
        cells = page.row(start)
        expected = {"lower": "↓ lower", "higher": "↑ higher", "real": ""}[metric.direction] if metric else ""
        assert cells[-2:] == [expected, measurement.note]
    assert page.row("cas")[0].endswith("By the network “another”.")
    assert page.text.count("By the network") == 3  # those of the critics, too; a spectrum needs none
    assert [row[0].split(" ")[0] for row in page.rows if "lower" in str(row)][:2] == ["fidFréchet", "fid_ratiofid"]
    assert set(EVALUATION_METRICS) == {measurement.name for measurement in MEASUREMENTS} - {"own_metric"}


@pytest.mark.parametrize(
    ("name", "value", "real"),
    [
        ("fidF", "12.3", "4.57"),
        ("fid_ratio", "2.70", DASH),
        ("kid", "0.00123± 0.00034", "−0.000045"),
        ("inception_score", "8.91± 0.12", "9.44"),
        ("recall", "0.090", "0.893"),
        ("modes", "10", "10"),
        ("label_kl", "0.0213", "0.00080"),
        ("accuracy", DASH, DASH),
        ("spectrum_distance", "12.3", "0.1"),
        ("high_frequencies", "−13.3", "0.0"),
        ("own_metric", "123,457", DASH),
    ],
)
def test_numbers_in_the_table_of_metrics(page: Page, name: str, value: str, real: str) -> None:
    assert page.row(name)[1:3] == [value, real]


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


def test_a_value_smaller_than_its_std_has_no_more_places_than_it() -> None:
    row = measurement_row(Measurement("kid", -0.00001, std=0.00215))
    assert (row["value"], row["std"]) == ("−0.00001", "0.00215")
    row = measurement_row(Measurement("kid", 0.0000012, std=0.0000345))
    assert (row["value"], row["std"]) == ("0.12×10⁻⁵", "3.45×10⁻⁵")
    row = measurement_row(Measurement("kid", -0.000001, std=0.00215))
    assert row["value"] == "0.00000"  # a zero has no sign


def test_headline_has_the_telling_numbers_and_their_baselines(page: Page) -> None:
    start = page.text.index("Generated beside")
    summary = page.text[start : page.text.index("Metrics", start)]
    assert "fid 12.3 real images 4.57 fid_ratio 2.70 precision 0.812 real images 0.901 recall 0.090" in summary
    assert "coverage 0.721 real images 0.955" in summary
    assert "kid" not in summary
    assert summary.count("critic_auroc") == 1
    assert "critic_auroc 0.971 real images 0.508" in summary  # that of the full size


def test_the_verdict_is_the_first_line(page: Page) -> None:
    assert "gan, version 3 A critic tells them from real images. Generated beside" in page.text


def test_sections_stand_in_order(page: Page) -> None:
    headings = ["Metrics", "Samples", "Nearest training images", "Precision and coverage", "Classes"]
    headings += ["Protocol", "Notes"]
    assert page.headings == headings
    assert "Authenticity is 0.543" in page.text


def test_every_class_note_and_line_of_the_protocol_is_there(page: Page) -> None:
    heading = ["class", "share generated", "share real", "fid", "fid real", "accuracy", "note"]
    assert heading in page.rows
    assert page.row("kind 3") == ["kind 3", "8.0 %", "10.0 %", "23.0", "3.3", "93.0 %", ""]
    missing = ["kind 8", "0.0 %", "10.0 %", DASH, "3.8", DASH, "No image of it was generated."]
    assert page.row("kind 8") == missing
    assert [row[0] for row in page.rows if row[0].startswith("kind ")] == [f"kind {i}" for i in range(10)]
    assert "1 of 10 classes was never generated." in page.text
    assert page.row("reference") == ["reference", "898 digits"]
    assert page.row("seeds") == ["seeds", "0 to 9,999"]
    assert "Held-out images are few. Features are of this data." in page.text


def test_nothing_missing_is_written_as_nan_none_or_inf(page: Page) -> None:
    assert not re.search(r"\b(nan|none|inf|infinity)\b", page.text.lower().replace("none picked", ""))


@pytest.mark.usefixtures("no_charts")
def test_unlabeled_data_have_no_section_of_classes(tmp_path: Path) -> None:
    measurements = tuple(dataclasses.replace(measurement, note="") for measurement in MEASUREMENTS)
    files = write_report(evaluation(4, 16, measurements=measurements), "title", tmp_path)
    page = Page(files[0])
    assert "per_class.png" not in [file.name for file in files]
    assert "Classes" not in page.headings
    assert "share" not in str(page.rows[0])
    assert page.rows[0][-1] == "better"  # nor an empty column of notes


@pytest.mark.usefixtures("no_charts")
def test_an_evaluation_of_nearly_nothing(tmp_path: Path) -> None:
    """No headline, no authenticity, no protocol, no notes: no empty boxes, no headings over nothing."""
    bare = dataclasses.replace(
        evaluation(4, 16, measurements=(Measurement("fid", math.nan), Measurement("authenticity", math.nan))),
        protocol={},
        notes=(),
        network="pixels",
    )
    page = Page(write_report(bare, "title", tmp_path)[0])
    assert "dl" not in [name for name, _ in page.tags]
    assert page.headings == ["Metrics", "Samples", "Nearest training images", "Precision and coverage"]
    assert "Authenticity is" not in page.text


# ---- a page that needs nothing else ---------------------------------------------------------------------------------


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


def test_the_page_requests_nothing(page: Page) -> None:
    assert_self_contained(page)


def test_the_page_has_no_policy_of_its_own(page: Page) -> None:
    """MLflow's view of artifacts shows a page with a Content-Security-Policy as an empty frame."""
    assert "content-security-policy" not in page.text.lower()


def test_what_a_user_wrote_stays_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;</style>"
    hostile = Evaluation(
        network=bad,
        protocol={bad: bad},
        measurements=(Measurement(bad, 1.0, note=bad, network=bad),),
        classes=(ClassRow(bad, generated=0.5, reference=0.5, note=bad), ClassRow("b", generated=0.5, reference=0.5)),
        notes=(bad,),
        samples=noise(2, 16, 3),
        reference_samples=noise(2, 16, 3),
        neighbors=Neighbors(noise(1, 16, 3), noise(1, 16, 3), np.ones(1)),
        projection=projected(5, 5),
    )
    page = Page(write_report(hostile, bad, tmp_path)[0])
    assert_self_contained(page)
    # title twice, network twice, metric's name and note, class and note, protocol twice, note
    assert page.text.count(bad) == 11


def test_light_and_dark_have_their_own_charts_and_colors(page: Page) -> None:
    charts = page.images("Scatter") + page.images("Bars")
    dark = [tag["srcset"] for name, tag in page.tags if name == "source" and "dark" in tag["media"]]
    darks = [base64.b64decode(source.split(",", 1)[1]) for source in dark]
    assert len(charts) == len(darks) == 2
    for images, theme in ((charts, LIGHT), (darks, DARK)):
        for image in images:
            corner = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))[0, 0] / 255
            assert to_hex(corner) == theme.page  # no box around it on the page
        assert f"--page: {theme.page};" in page.styles


def test_equal_evaluations_give_equal_bytes_from_any_thread(tmp_path: Path) -> None:
    def write(name: str) -> list[bytes]:
        small = evaluation(count=4, pairs=2, points=20, classes=ten_classes())
        return [file.read_bytes() for file in write_report(small, "title", tmp_path / name)]

    with ThreadPoolExecutor(1) as thread:
        elsewhere = thread.submit(write, "elsewhere")
        assert write("here") == elsewhere.result()


def test_neither_torch_nor_mlflow_nor_pyplot_is_loaded() -> None:
    heavy = ("torch", "mlflow", "matplotlib.pyplot")
    code = f"import sys, gan_plugin.report; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
