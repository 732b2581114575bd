"""Several generators side by side, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gan_plugin.evaluation.results import Measurement
from gan_plugin.media.image import Images
from gan_plugin.metrics.catalog import METRICS
from gan_plugin.report.canvas import DARK, LIGHT
from gan_plugin.report.numbers import DASH, is_known, number
from gan_plugin.report.page import MAX_ENLARGED, data_uri, template
from gan_plugin.report.tables import DIRECTIONS, measurement_row

FILE = "comparison.html"
# what the numbers of all models depend on alike
PROTOCOL = ("generated", "reference", "held out", "features", "second features", "resize", "neighbors", "critic")


class Reconstructions(NamedTuple):
    """Real images as a generator makes them again.

    Attributes:
        way: by which they were made, in words.
        images: uint8 [N, H, W, C].
        psnr: decibels [N].
    """

    way: str
    images: Images
    psnr: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ComparedModel:
    """A generator in a comparison.

    Attributes:
        name: as it was given, such as "models:/gan/1".
        results: of its evaluation, as ``Evaluation.as_json`` gives them.
        facts: what else there is to say in a word, such as "parameters", in one order for all models.
        samples: images of the same seeds and classes for all models.
        walk: images on the way between two seeds, likewise.
        reconstructions: of the real images, one for each way that the generator has.
    """

    name: str
    _: KW_ONLY
    results: Mapping[str, Any]
    facts: Mapping[str, str]
    samples: Images
    walk: Images
    reconstructions: Sequence[Reconstructions]


class MetricRow(NamedTuple):
    """A metric in the table: its name, what it means, of real images, and each model's value, the best one marked."""

    name: str
    explanation: str
    network: str
    better: str
    real: str
    cells: list[tuple[str, bool]]


def write_comparison(models: Sequence[ComparedModel], real: Images, *, title: str, real_name: str, path: Path) -> None:
    """Write a comparison of two or more models.

    Args:
        real: the images uint8 [N, H, W, C] that each of them has made again.
        title: plain text.
        real_name: what these are, such as "held-out images of digits".
        path: of the file.

    Raises:
        OSError: it can't be written.
    """
    first = models[0]
    page = template("comparison.html").render(
        title=title,
        models=[model.name for model in models],
        verdicts=[model.results["verdict"] for model in models],
        protocol={k: v for k, v in first.results["protocol"].items() if k in PROTOCOL},
        facts=[(name, [model.facts.get(name, DASH) for model in models]) for name in first.facts],
        rows=metric_rows(models),
        samples=[uris(model.samples) for model in models],
        walks=[uris(model.walk) for model in models],
        real=uris(real),
        real_name=real_name,
        reconstructions=[rows_of(model) for model in models],
        sharp=max(real.shape[1:3]) <= MAX_ENLARGED,
        themes={"light": LIGHT, "dark": DARK},
    )
    path.write_text(page, "utf-8", errors="xmlcharrefreplace", newline="\n")


def uris(images: Images) -> list[str]:
    """Return images [N, H, W, C] for the page."""
    return [data_uri(image) for image in images]


def rows_of(model: ComparedModel) -> list[tuple[str, list[tuple[str, str]], str]]:
    """Return the ways in which a model made images again: in words, each image with its decibels, and their mean."""
    return [
        (way, list(zip(uris(images), map(decibels, psnr))), decibels(float(psnr.mean())))
        for way, images, psnr in model.reconstructions
    ]


def decibels(value: float) -> str:
    """Format a signal-to-noise ratio."""
    return f"{value:.1f} dB"


def metric_rows(models: Sequence[ComparedModel]) -> list[MetricRow]:
    """Return a row for each metric that any of the models has, in the order of the evaluations."""
    values = [measurements_of(model) for model in models]
    keys = dict.fromkeys(key for of_model in values for key in of_model)
    rows = [metric_row([of_model.get(key) for of_model in values]) for key in keys]
    first = {row.name: i for i, row in reversed(list(enumerate(rows)))}
    return [row if first[row.name] == i else row._replace(explanation="") for i, row in enumerate(rows)]


def measurements_of(model: ComparedModel) -> dict[tuple[str, str], Measurement]:
    """Return the measurements by name and network."""
    own = [Measurement(**measurement) for measurement in model.results["measurements"]]
    return {(measurement.name, measurement.network): measurement for measurement in own}


def metric_row(measurements: Sequence[Measurement | None]) -> MetricRow:
    """Return the row of one metric, of which at least one model has a value."""
    present = [measurement for measurement in measurements if measurement is not None]
    first = measurement_row(present[0])
    metric = METRICS.get(present[0].name)
    values = [None if measurement is None else measurement.value for measurement in measurements]
    best = best_of(values, present[0].real, "" if metric is None else metric.direction)
    texts = [DASH if measurement is None else measurement_row(measurement)["value"] for measurement in measurements]
    return MetricRow(
        first["name"],
        first["explanation"],
        first["network"],
        DIRECTIONS.get(metric.direction, "as real") if metric is not None else "",
        first["real"],
        [(text, value is not None and value == best) for text, value in zip(texts, values)],
    )


def best_of(values: Sequence[float | None], real: float | None, direction: str) -> float | None:
    """Return the best of the values, where there are at least two different ones; None where there is no best.

    >>> best_of([1.0, 2.0, None], None, "lower"), best_of([1.0, 2.0], 1.9, "real"), best_of([1.0, 1.0], 0.0, "lower")
    (1.0, 2.0, None)
    """
    known = [value for value in values if is_known(value)]
    if len(set(known)) < 2:
        return None
    match direction:
        case "lower":
            return min(known)
        case "higher":
            return max(known)
        case "real" if is_known(real):
            return min(known, key=lambda value: abs(value - real))
    return None


def fact(value: float | None, unit: str = "") -> str:
    """Format a fact; a dash for an unknown one.

    >>> fact(1234.5), fact(None)
    ('1,234', '—')
    """
    text = f"{value:,.0f}" if is_known(value) and abs(value) >= 1000 else number(value)
    return text if not unit or text == DASH else f"{text} {unit}"
