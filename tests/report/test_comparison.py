"""The page with several generators: which values are best, and that it needs nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from report_helpers import Page, evaluation, noise

from gan_plugin.evaluation.results import Measurement
from gan_plugin.report.comparison import ComparedModel, Reconstructions, metric_rows, write_comparison
from gan_plugin.report.numbers import DASH


def model(name: str, *measurements: Measurement) -> ComparedModel:
    results = dataclasses.replace(evaluation(), measurements=measurements).as_json()
    again = Reconstructions("by a search for z", noise(3, 16, 1), np.array([20.0, 21.0, 25.0]))
    return ComparedModel(
        name,
        results=results,
        facts={"recipe": "r1", "z": "64 values"},
        samples=noise(6, 16, 1, seed=4),
        walk=noise(5, 16, 1, seed=5),
        reconstructions=[again],
    )


@pytest.mark.parametrize(
    ("metric", "values", "real", "best"),
    [
        ("fid", (3.0, 2.0), 1.0, [False, True]),
        ("precision", (0.7, 0.9), 0.8, [False, True]),
        ("sharpness", (0.7, 1.4), 1.0, [True, False]),  # the nearer to real images
        ("sharpness", (0.7, 1.4), None, [False, False]),
        ("fid", (2.0, 2.0), 1.0, [False, False]),
        ("modes", (10.0, float("nan")), None, [False, False]),
    ],
)
def test_the_best_of_different_values_is_marked(
    metric: str, values: tuple[float, float], real: float | None, best: list[bool]
) -> None:
    models = [model(str(i), Measurement(metric, value, real=real)) for i, value in enumerate(values)]
    (row,) = metric_rows(models)
    assert [marked for _, marked in row.cells] == best


def test_a_metric_that_one_model_lacks_has_a_row_all_the_same() -> None:
    rows = metric_rows(
        [model("a", Measurement("fid", 2.0)), model("b", Measurement("fid", 3.0), Measurement("fid_normal", 50.0))]
    )
    assert [(row.name, [text for text, _ in row.cells]) for row in rows] == [
        ("fid", ["2.00", "3.00"]),
        ("fid_normal", [DASH, "50.0"]),
    ]


def test_a_metric_is_explained_once() -> None:
    measurements = [Measurement("fid", 2.0), Measurement("fid", 5.0, network="another")]
    rows = metric_rows([model("a", *measurements), model("b", *measurements)])
    assert [bool(row.explanation) for row in rows] == [True, False]


def test_the_page_needs_nothing_else_and_shows_every_image(tmp_path: Path) -> None:
    names = ["models:/a/1", '<script>alert("b")</script>']
    path = tmp_path / "comparison.html"
    models = [model(name, Measurement("fid", 2.0 + i)) for i, name in enumerate(names)]
    write_comparison(models, noise(3, 16, 1, seed=6), title="2 generators", real_name="held-out images", path=path)
    page, text = Page(path), path.read_text("utf-8")
    sources = [tag["src"] for name, tag in page.tags if name == "img"]
    assert len(sources) == 2 * 6 + 3 + 2 * 3 + 2 * 5
    assert all(source is not None and source.startswith("data:image/png;base64,") for source in sources)
    assert "<script>" not in text
    assert "22.0 dB" in page.text
    assert text.count("http") == 0
