"""An evaluation as one HTML file that needs nothing else, and its images beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import jinja2

from gan_plugin.evaluation.results import MAX_PAIRS, MAX_POINTS, MAX_SAMPLES, Evaluation, Neighbors, Projection
from gan_plugin.media.image import Image, Images, png_base64, to_pil
from gan_plugin.report import charts
from gan_plugin.report.canvas import DARK, LIGHT
from gan_plugin.report.numbers import DASH, column, is_known
from gan_plugin.report.sheets import MAX_CELL, downscale, neighbors_grid, samples_grid
from gan_plugin.report.tables import IndexedClasses, class_columns, main_rows, measurement_row, worst_first

MAX_EXACT = 64  # pixels; images up to this side are in the page as PNG, larger ones as JPEG
MAX_ENLARGED = 40  # pixels; images up to this side are shown larger than they are, a pixel a sharp block


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
    classes = worst_first(evaluation.classes)
    pairs = closest_pairs(evaluation.neighbors)
    distances = column(pairs.distances.tolist(), like=pairs.distances.tolist())
    in_page = {"precision_recall": light_and_dark(charts.precision_recall_plot, evaluation.projection)}
    if classes:
        worst = classes[: charts.MAX_BARS]
        in_page["per_class"] = light_and_dark(charts.per_class_plot, worst, plot_title(classes))
    files = {"samples.png": samples_grid(*samples(evaluation))}
    if distances:
        files["neighbors.png"] = neighbors_grid(pairs, distances)
    files |= {f"{name}.png": light for name, (light, _) in in_page.items()}
    page = render(
        evaluation,
        title=title,
        classes=classes,
        pairs=[(data_uri(a), data_uri(b), text) for a, b, text in zip(pairs.generated, pairs.nearest, distances)],
        plot_pairs={name: [png_uri(content) for content in both] for name, both in in_page.items()},
    )
    folder.mkdir(parents=True, exist_ok=True)
    # a class named after a folder may hold half of a surrogate pair, which UTF-8 has no bytes for
    (folder / "report.html").write_text(page, "utf-8", errors="xmlcharrefreplace", newline="\n")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / "report.html", *(folder / name for name in files)]


def render(
    evaluation: Evaluation,
    *,
    title: str,
    classes: IndexedClasses,
    pairs: list[tuple[str, str, str]],
    plot_pairs: dict[str, list[str]],
) -> str:
    """Return the page: the template, filled.

    Args:
        evaluation: as in :func:`write_report`.
        title: plain text.
        classes: in the order of the table.
        pairs: data URIs of a generated image and the training image nearest to it, and their distance.
        plot_pairs: by name, data URIs for light and for dark pages.
    """
    rows = [measurement_row(measurement) for measurement in evaluation.measurements]
    columns = class_columns(classes) if classes else []
    generated, reference = samples(evaluation)
    return template("report.html").render(
        title=title,
        evaluation=evaluation,
        headline=main_rows(rows),
        rows=rows,
        authenticity=[
            row["value"]
            for row in rows
            if row["name"] == "authenticity" and row["value"] != DASH and not row["network"]
        ],
        size=size_sentence(evaluation.samples),
        sharp=max(evaluation.samples.shape[1:3]) <= MAX_ENLARGED,
        generated=[data_uri(image) for image in generated],
        reference=[data_uri(image) for image in reference],
        pairs=pairs,
        thinned=subset_sentence(evaluation.projection),
        charts=plot_pairs,
        class_sentence=class_sentence(classes),
        class_columns=columns,
        class_rows=list(zip(*(cells for _, _, cells in columns))),
        themes={"light": LIGHT, "dark": DARK},
    )


def template(name: str) -> jinja2.Template:
    """Load the template of a page."""
    folder = resources.files("gan_plugin.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda file: folder.joinpath(file).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["zip"] = zip
    return environment.get_template(name)


# ---- images ----------------------------------------------------------------------------------------------------------


def light_and_dark(chart: Callable[..., bytes], *content: object) -> tuple[bytes, bytes]:
    """Draw a chart for light and for dark pages."""
    return chart(*content, LIGHT), chart(*content, DARK)


def samples(evaluation: Evaluation) -> tuple[Images, Images]:
    """Return the first MAX_SAMPLES generated images, and as many real ones."""
    return evaluation.samples[:MAX_SAMPLES], evaluation.reference_samples[:MAX_SAMPLES]


def closest_pairs(neighbors: Neighbors) -> Neighbors:
    """Return the first MAX_PAIRS pairs."""
    return Neighbors(neighbors.generated[:MAX_PAIRS], neighbors.nearest[:MAX_PAIRS], neighbors.distances[:MAX_PAIRS])


def data_uri(image: Image) -> str:
    """Return an image for the page: exact where it is small, else shrunk and as JPEG.

    64 photographs would be megabytes.
    """
    if max(image.shape[:2]) <= MAX_EXACT:
        return f"data:image/png;base64,{png_base64(image)}"
    buffer = io.BytesIO()
    to_pil(downscale(image)).save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def png_uri(content: bytes) -> str:
    """Return a PNG file for the page."""
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


# ---- sentences -------------------------------------------------------------------------------------------------------


def size_sentence(images: Images) -> str:
    """Return the size of images [N, H, W, C], and whether the page shows them smaller."""
    height, width = images.shape[1:3]
    if max(height, width) <= MAX_CELL:
        return f"Each has {width} × {height} pixels."
    return f"Each has {width} × {height} pixels and is shown smaller."


def subset_sentence(projection: Projection) -> str:
    """Return how many points the scatter leaves out, or ""."""
    counts = len(projection.generated), len(projection.reference)
    if max(counts) <= MAX_POINTS:
        return ""
    limit = MAX_POINTS
    generated, real = (f"{limit:,} of {count:,}" if count > limit else f"all {count:,}" for count in counts)
    return f"Drawn are {generated} generated and {real} real images, evenly spaced; the shares are over all of them."


def class_sentence(rows: IndexedClasses) -> str:
    """Return what the chart of classes shows and how many classes are missing."""
    missing = sum(row.generated == 0 for _, row in rows)
    sentences = [
        "Distance between generated and real images within each class, and each class’s share of the images.",
        f"{missing} of {len(rows):,} classes {'was' if missing == 1 else 'were'} never generated." if missing else "",
        "The worst come first." if len(rows) > charts.MAX_BARS else "",
    ]
    return " ".join(filter(None, sentences))


def plot_title(rows: IndexedClasses) -> str:
    """Return which of many classes the chart shows, or "" where it shows all."""
    if len(rows) <= charts.MAX_BARS:
        return ""
    order = "largest Fréchet distance" if is_known(rows[0][1].fid) else "share furthest from the real one"
    return f"The {charts.MAX_BARS} of {len(rows):,} classes with the {order}"
