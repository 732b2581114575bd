"""An evaluation as a page for people: one HTML file that needs nothing else, and its images beside it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np

from gan_plugin.evaluation.results import ClassRow, Evaluation, Figure, Neighbors, Projection
from gan_plugin.media.image import Image, Images, png_base64, to_pil
from gan_plugin.report import plots
from gan_plugin.report.plots import known

MAX_SAMPLES = 64  # shown of each kind
MAX_PAIRS = 16
MAX_EXACT = 64  # pixels; images up to this side are in the page as PNG, larger ones as JPEG
ENLARGED = 40  # pixels; images up to this side are shown larger than they are, a pixel a sharp block
DASH = "—"
WHOLE = {"modes"}  # figures that count something: no decimal places
SHARES = {"precision", "recall", "coverage", "authenticity", "cas", "accuracy"}  # 0…1: three decimal places

EXPLANATIONS = {
    "fid": "Fréchet distance between two Gaussians, one fitted to the features of generated, one to those of real "
    "images. 0 is equal.",
    "fid_ratio": "fid divided by its floor, both at the same number of images. At 1.0 generated images are as "
    "close to the real ones as real images are to each other.",
    "kid": "Kernel distance between the features of generated and real images. Unbiased, so it may be slightly "
    "negative. 0 is equal.",
    "inception_score": "How surely each image is recognized, and how many kinds there are. Never looks at real "
    "images, so it misses a lot.",
    "precision": "Share of the generated images that look like some real one.",
    "recall": "Share of the real images that look like some generated one, from no more generated images than "
    "there are real ones.",
    "density": "How many real images’ neighborhoods a generated one lies in, beside what is expected. About 1 for "
    "real images; may exceed 1.",
    "coverage": "Share of the real images that have a generated one in their neighborhood.",
    "authenticity": "Share of the generated images that are not closer to a training image than that image’s "
    "own nearest neighbor is. Low means memorized.",
    "cas": "Accuracy, on real images, of a classifier trained on generated ones only.",
    "modes": "Number of classes found among the generated images.",
    "label_kl": "How far the classes’ shares are from the real ones, as a Kullback–Leibler divergence. 0 is equal.",
    "accuracy": "Share of the images that are seen as the class that was asked for.",
}
SUMMARY = ("fid", "fid_ratio", "precision", "recall", "coverage")

NumberedClasses = list[tuple[int, ClassRow]]  # with their place in the evaluation


def write_report(evaluation: Evaluation, title: str, folder: Path) -> list[Path]:
    """Write ``report.html`` and its images as PNG files.

    The page is one file with all images inline: it asks for nothing else, runs no script, and follows the reader's
    light or dark mode. Equal evaluations give equal bytes.

    Args:
        evaluation: at least one sample of each kind and one point of each kind in the projection. There may be no
            pair of neighbors, which leaves out that section and ``neighbors.png``; no classes leave out theirs and
            ``per_class.png``.
        title: plain text.
        folder: made where it is missing. Files of these names in it are overwritten.

    Returns:
        The files written, ``report.html`` first.

    Raises:
        OSError: the folder can't be made or written.
    """
    rows = worst_first(evaluation.classes)
    pairs = closest(evaluation.neighbors)
    distances = column(pairs.distances.tolist(), like=pairs.distances.tolist())
    samples = evaluation.samples[:MAX_SAMPLES], evaluation.reference_samples[:MAX_SAMPLES]
    charts = {"precision_recall": in_both_modes(plots.precision_recall_chart, evaluation.projection)}
    if rows:
        charts["per_class"] = in_both_modes(plots.per_class_chart, rows[: plots.BARS], chart_title(rows))
    files = {"samples.png": plots.samples_sheet(*samples)}
    if distances:
        files["neighbors.png"] = plots.neighbors_sheet(pairs, distances)
    files |= {f"{name}.png": light for name, (light, _) in charts.items()}
    columns = class_columns(rows) if rows else []
    figures = [figure_row(figure) for figure in evaluation.figures]
    page = template().render(
        title=title,
        evaluation=evaluation,
        summary=summary(figures),
        figures=figures,
        authenticity=[row["value"] for row in figures if row["name"] == "authenticity" and row["value"] != DASH],
        size=size_sentence(evaluation.samples),
        sharp=max(evaluation.samples.shape[1:3]) <= ENLARGED,
        generated=[data_uri(image) for image in samples[0]],
        reference=[data_uri(image) for image in samples[1]],
        pairs=[(data_uri(a), data_uri(b), text) for a, b, text in zip(pairs.generated, pairs.nearest, distances)],
        drawn=drawn_sentence(evaluation.projection),
        charts={name: [png_uri(content) for content in both] for name, both in charts.items()},
        class_sentence=class_sentence(rows),
        class_columns=columns,
        class_rows=list(zip(*(cells for _, _, cells in columns))),
        themes={"light": plots.LIGHT, "dark": plots.DARK},
    )
    folder.mkdir(parents=True, exist_ok=True)
    # a class named after a folder may hold half of a surrogate pair, which UTF-8 has no bytes for
    (folder / "report.html").write_text(page, "utf-8", errors="xmlcharrefreplace", newline="\n")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / "report.html", *(folder / name for name in files)]


def in_both_modes(chart: Callable[..., bytes], *of: object) -> tuple[bytes, bytes]:
    """A chart for light and for dark pages."""
    return chart(*of, plots.LIGHT), chart(*of, plots.DARK)


def template() -> jinja2.Template:
    source = resources.files("gan_plugin.report").joinpath("report.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)


def closest(of: Neighbors) -> Neighbors:
    """The first MAX_PAIRS pairs."""
    return Neighbors(of.generated[:MAX_PAIRS], of.nearest[:MAX_PAIRS], of.distances[:MAX_PAIRS])


def data_uri(image: Image) -> str:
    """An image for the page: exact where it is small, else shrunk and as JPEG: 64 photographs would be megabytes."""
    if max(image.shape[:2]) <= MAX_EXACT:
        return f"data:image/png;base64,{png_base64(image)}"
    buffer = io.BytesIO()
    to_pil(plots.shrunk(image)).save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def png_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


# — numbers as people read them —


def number(value: float | None, like: float | None = None) -> str:
    """With three significant digits, or as many decimal places as ``like`` has then; a dash for what is missing.

    >>> number(12.345), number(0.012345), number(12345.6), number(0.000012345), number(-0.5, like=12.3), number(None)
    ('12.3', '0.0123', '12,346', '1.23×10⁻⁵', '−0.5', '—')
    """
    if not known(value):
        return DASH
    size = abs(value) if like is None else like
    if size and not 1e-4 <= size < 1e6:
        exponent = math.floor(math.log10(size))
        return f"{fixed(value / 10.0**exponent, 2)}×10{str(exponent).translate(SUPERSCRIPTS)}"
    return fixed(value, places(size))


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def fixed(value: float, decimals: int) -> str:
    """With a minus sign as wide as a digit, and none before a zero."""
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "−" if any(digit in text for digit in "123456789") else "")


def places(size: float) -> int:
    """Decimal places that show three significant digits of ``size``, 2 for 0.

    >>> places(123), places(9.996), places(9.99), places(0.05)
    (0, 1, 2, 4)
    """
    return max(0, 2 - int(f"{size:.2e}".split("e")[1]))


def column(values: Sequence[float | None], like: Sequence[float | None]) -> list[str]:
    """Numbers that stand below one another, with the decimal places that the middle one of ``like`` needs."""
    decimals = places(middle(like))
    return [fixed(value, decimals) if known(value) else DASH for value in values]


def middle(values: Sequence[float | None]) -> float:
    """Median magnitude of the numbers other than 0, no smaller than what four decimal places show; 0 without any."""
    sizes = [abs(value) for value in values if known(value) and value]
    return max(float(np.median(sizes)), 0.01) if sizes else 0.0


def percent(shares: Sequence[float | None], like: Sequence[float | None]) -> list[str]:
    """A column of shares 0…1 as percentages."""
    values, sizes = ([100 * share if known(share) else None for share in each] for each in (shares, like))
    return [text if text == DASH else f"{text} %" for text in column(values, sizes)]


# — what the page's tables hold —


def figure_row(figure: Figure) -> dict[str, str]:
    """Value and spread have the same decimal places, the floor at most one more."""
    if figure.name in SHARES | WHOLE:
        size = floor_size = 0.1 if figure.name in SHARES else 100.0
    else:
        size = max((abs(value) for value in (figure.value, figure.spread) if known(value)), default=0.0)
        floor_size = max(abs(figure.floor), size / 10) if known(figure.floor) else 0.0
    return {
        "name": figure.name,
        "explanation": EXPLANATIONS.get(figure.name, ""),
        "network": figure.network,
        "value": number(figure.value, size),
        "spread": number(figure.spread, size) if known(figure.spread) else "",
        "floor": number(figure.floor, floor_size),
        "better": {"lower": "↓ lower", "higher": "↑ higher"}.get(figure.better, figure.better),
        "note": figure.note,
    }


def summary(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of the most telling figures, those without a value left out."""
    by_name = {row["name"]: row for row in rows if row["value"] != DASH}
    return [by_name[name] for name in SUMMARY if name in by_name]


# — sentences —


def size_sentence(samples: Images) -> str:
    height, width = samples.shape[1:3]
    if max(height, width) <= plots.MAX_SIDE:
        return f"Each has {width} × {height} pixels."
    return f"Each has {width} × {height} pixels and is shown smaller."


def drawn_sentence(projection: Projection) -> str:
    """What the scatter leaves out, or ""."""
    counts = len(projection.generated), len(projection.reference)
    if max(counts) <= plots.POINTS:
        return ""
    generated, real = (f"{plots.POINTS:,} of {n:,}" if n > plots.POINTS else f"all {n:,}" for n in counts)
    return f"Drawn are {generated} generated and {real} real images, spread evenly; the shares are over all of them."


def class_sentence(rows: NumberedClasses) -> str:
    never = sum(row.generated == 0 for _, row in rows)
    sentences = [
        "Distance between generated and real images within each class, and each class’s share of the images.",
        f"{never} of {len(rows):,} classes {'was' if never == 1 else 'were'} not generated at all." if never else "",
        "The worst come first." if len(rows) > plots.BARS else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


# — the table of classes —


def worst_first(classes: Sequence[ClassRow]) -> NumberedClasses:
    """Few classes in their order; many by Fréchet distance, then those without one by how far their share is off."""
    rows = list(enumerate(classes))
    if len(rows) <= plots.BARS:
        return rows
    return sorted(
        rows,
        key=lambda row: (0, -row[1].fid) if known(row[1].fid) else (1, -abs(row[1].generated - row[1].reference)),
    )


def chart_title(rows: NumberedClasses) -> str:
    if len(rows) <= plots.BARS:
        return ""
    what = "largest Fréchet distance" if known(rows[0][1].fid) else "share furthest from the real one"
    return f"The {plots.BARS} of {len(rows):,} classes with the {what}"


def class_columns(numbered: NumberedClasses) -> list[tuple[str, str, list[str]]]:
    """(heading, "text" or "number", cells) of each column; one that says nothing in any row is left out."""
    rows = [row for _, row in numbered]
    real, distances, accuracies = [r.reference for r in rows], [r.fid for r in rows], [r.accuracy for r in rows]
    columns = [
        ("class", "text", [row.name for row in rows]),
        ("share generated", "number", percent([row.generated for row in rows], like=real)),
        ("share real", "number", percent(real, like=real)),
    ]
    if len(rows) > plots.BARS or not all(plots.writable(row.name) for row in rows):  # the chart has numbers, too
        columns.insert(0, ("#", "number", [str(number) for number, _ in numbered]))
    for heading, values in (("fid", distances), ("floor", [row.floor for row in rows])):
        if any(known(value) for value in values):
            columns.append((heading, "number", column(values, like=distances)))
    if any(known(accuracy) for accuracy in accuracies):
        columns.append(("accuracy", "number", percent(accuracies, like=accuracies)))
    if any(row.note for row in rows):
        columns.append(("note", "text note", [row.note for row in rows]))
    return columns
