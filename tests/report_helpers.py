"""Helpers of the report's tests: evaluations made by hand, and the page as a browser's parser sees it."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_plugin.evaluation.results import ClassRow, Evaluation, Measurement, Neighbors, Projection
from gan_plugin.media.image import Images

# A socket that an earlier test of this process left open is collected at any time, and is not the page's fault.
WARNINGS_ARE_ERRORS = pytest.mark.filterwarnings("error", "ignore:unclosed <socket:ResourceWarning")

MEASUREMENTS = (
    Measurement("fid", 12.3456, real=4.5678, std=None, note="2,000 images are few: biased upwards."),
    Measurement("fid_ratio", 2.7026),
    Measurement("kid", 0.00123, real=-0.000045, std=0.00034),
    Measurement("inception_score", 8.912, real=9.44, std=0.12),
    Measurement("precision", 0.8123, real=0.9012),
    Measurement("recall", 0.09, real=0.8934),
    Measurement("density", 0.7712, real=1.023),
    Measurement("coverage", 0.7214, real=0.9551),
    Measurement("authenticity", 0.543, real=0.561),
    Measurement("cas", 0.8812, real=0.971, std=None, note="One classifier, one seed.", network="another"),
    Measurement("modes", 10, real=10),
    Measurement("label_kl", 0.0213, real=0.0008),
    Measurement("accuracy", float("nan"), real=float("inf"), std=float("nan"), note="This generator takes no label."),
    Measurement("critic_auroc", 0.9712, real=0.508, std=0.012, note="From 359 images.", network="critic-28"),
    Measurement("critic_auroc", 0.6123, real=0.512, std=0.034, network="critic-8"),
    Measurement("spectrum_distance", 12.345, real=0.123, network="pixels"),
    Measurement("high_frequencies", -13.26, real=0.04, network="pixels"),
    Measurement("checkerboard", 9.87, real=-0.12, network="pixels"),
    Measurement("sharpness", 0.71, real=1.02, network="pixels"),
    Measurement("reconstruction_psnr", 24.31, network="pixels"),
    Measurement("reconstruction_ssim", 0.912, network="pixels"),
    Measurement("reconstruction_distance", 0.231),
    Measurement("reconstruction_fid", 9.87, real=4.56, note="Both from 1,000 images."),
    Measurement("active_units", 31, network="encoder"),
    Measurement("fid_normal", 55.4),
    Measurement("own_metric", 123456.7),
)


def noise(count: int, side: int, channels: int, *, seed: int = 0, width: int | None = None) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, side, width or side, channels), dtype=np.uint8)


def projected(reference: int, generated: int) -> Projection:
    """Return points of which half of the real and every fourth generated one are near one of the other kind."""
    random = np.random.default_rng(0)
    return Projection(
        reference=random.normal(size=(reference, 2)),
        generated=random.normal(size=(generated, 2)) + 1,
        covered=np.arange(reference) % 2 == 0,
        inside=np.arange(generated) % 4 == 0,
    )


def ten_classes() -> tuple[ClassRow, ...]:
    rows = [
        ClassRow(
            f"kind {i}",
            generated=0.05 + 0.01 * i,
            reference=0.1,
            fid=20.0 + i,
            fid_real=3.0 + i / 10,
            accuracy=0.9 + i / 100,
        )
        for i in range(10)
    ]
    rows[8] = ClassRow(
        "kind 8",
        generated=0.0,
        reference=0.1,
        fid=None,
        fid_real=3.8,
        accuracy=None,
        note="No image of it was generated.",
    )
    return tuple(rows)


def evaluation(
    count: int = 64,
    side: int = 28,
    channels: int = 1,
    *,
    pairs: int = 12,
    points: int = 300,
    classes: tuple[ClassRow, ...] = (),
    measurements: tuple[Measurement, ...] = MEASUREMENTS,
    width: int | None = None,
) -> Evaluation:
    return Evaluation(
        network="classifier",
        protocol={"reference": "898 digits", "seeds": "0 to 9,999"},
        measurements=measurements,
        classes=classes,
        notes=("Held-out images are few.", "Features are of this data."),
        samples=noise(count, side, channels, seed=1, width=width),
        reference_samples=noise(count, side, channels, seed=2, width=width),
        neighbors=Neighbors(
            noise(pairs, side, channels, seed=3, width=width),
            noise(pairs, side, channels, seed=4, width=width),
            np.linspace(1.5, 4, pairs),
        ),
        projection=projected(points, points),
        verdict="A critic tells them from real images.",
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
        (row,) = [row for row in self.rows if row[0].startswith(start)]
        return row

    def images(self, alt: str) -> list[bytes]:
        """The files in the page whose description starts like this."""
        sources = [tag["src"] for name, tag in self.tags if name == "img" and tag["alt"].startswith(alt)]
        return [base64.b64decode(source.split(",", 1)[1], validate=True) for source in sources]


def pixels(content: bytes | Path) -> Images:
    image = np.asarray(Image.open(io.BytesIO(content) if isinstance(content, bytes) else content))
    return image if image.ndim == 3 else image[:, :, None]
