"""The report's images as files in memory: sheets of images with words on them, and charts.

Matplotlib's objects and its Agg canvas only, never pyplot: no state of the process is touched, any thread may draw.
The same input gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator

from gan_plugin.evaluation.results import ClassRow, Neighbors, Projection, evenly
from gan_plugin.media.image import Image, Images, contact_sheet, png, to_pil

MAX_SIDE = 128  # pixels; larger images are shown shrunk to this
MIN_SIDE = 56  # pixels; smaller images are enlarged on sheets by a whole number of times, to at least this
POINTS = 2000  # of each kind in the scatter: more only hide one another
BARS = 40  # classes in one chart
MAX_NAME_LENGTH = 24  # characters of a class's name beside its bars
SHEET_DPI = 128  # a power of two: a size in pixels survives division and multiplication exactly
MARGIN = 16  # pixels around and between the parts of a sheet
HEADING = 32  # pixels of height for a line of words
CHART_DPI = 160  # 1.6 times the 860 pixels at which a page shows it: sharp on a dense screen
CHART_WIDTH = 8.6  # inches


@dataclass(frozen=True)
class Theme:
    """Colors of the page and its charts, as CSS writes them."""

    page: str
    panel: str
    line: str
    text: str
    muted: str
    generated: str
    real: str
    missed: str  # neither precise nor covered


LIGHT = Theme("#ffffff", "#f6f8fa", "#d9dee3", "#1f2328", "#59636e", "#2f6fb0", "#98a3ae", "#c8501e")
DARK = Theme("#15181c", "#1d2126", "#343b43", "#e6e8eb", "#9aa4ae", "#6aa9e6", "#75808b", "#f08a4b")


def shrunk(image: Image) -> Image:
    """Fitted into MAX_SIDE × MAX_SIDE, its proportions kept; what fits already is returned as it is."""
    height, width = image.shape[:2]
    scale = MAX_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(to_pil(image).resize(size)).reshape(size[1], size[0], image.shape[2])


def on_a_sheet(images: Images) -> Images:
    """Dataset [N, H, W, C] → [N, h, w, 3], shrunk or enlarged to a size that an eye can judge."""
    fitted = np.stack([shrunk(image) for image in images])
    times = max(1, -(-MIN_SIDE // max(fitted.shape[1:3])))
    enlarged = fitted.repeat(times, axis=1).repeat(times, axis=2)
    return np.broadcast_to(enlarged, (*enlarged.shape[:3], 3))


def samples_sheet(generated: Images, reference: Images) -> bytes:
    """Generated beside real images, each [N, H, W, C] with N ≥ 1, as a PNG with headings."""
    sheets = [contact_sheet(on_a_sheet(p), columns=int(np.ceil(np.sqrt(len(p))))) for p in (generated, reference)]
    column = max(140, *(sheet.shape[1] for sheet in sheets))  # a heading's width at the least
    height = HEADING + max(sheet.shape[0] for sheet in sheets) + MARGIN
    lefts = (MARGIN, MARGIN + column + MARGIN)
    words = [(left, HEADING / 2, text) for left, text in zip(lefts, ("Generated", "Real (reference)"))]
    return _lettered(height, lefts[1] + column + MARGIN, list(zip(lefts, (HEADING, HEADING), sheets)), words)


def neighbors_sheet(neighbors: Neighbors, distances: Sequence[str]) -> bytes:
    """Pairs, P ≥ 1, with their distances below, as a PNG: generated to the left, nearest training image to the right.

    Args:
        distances: [P], as they are to be written.
    """
    both = on_a_sheet(np.concatenate([neighbors.generated, neighbors.nearest]))
    pairs = [contact_sheet(np.stack(pair), columns=2) for pair in zip(both[: len(distances)], both[len(distances) :])]
    high, wide, _ = pairs[0].shape
    columns = min(4, len(pairs))
    rows = -(-len(pairs) // columns)
    places = [
        (MARGIN + i % columns * (wide + MARGIN), HEADING + i // columns * (high + HEADING), pair)
        for i, pair in enumerate(pairs)
    ]
    words = [(left + 2, top + high + HEADING * 0.4, text) for (left, top, _), text in zip(places, distances)]
    words.append((MARGIN, HEADING / 2, "Generated | nearest training image, distance below"))
    return _lettered(HEADING + rows * (high + HEADING), max(440, MARGIN + columns * (wide + MARGIN)), places, words)


def _lettered(
    height: int, width: int, parts: Sequence[tuple[int, int, Image]], words: Sequence[tuple[float, float, str]]
) -> bytes:
    """A white sheet of height × width pixels with images at (left, top) and words from (left, middle), as a PNG."""
    sheet = np.full((height, width, 3), 255, np.uint8)
    for left, top, part in parts:
        sheet[top : top + part.shape[0], left : left + part.shape[1]] = part
    figure = Figure((width / SHEET_DPI, height / SHEET_DPI), SHEET_DPI)
    figure.figimage(sheet)
    for x, y, text in words:
        figure.text(x / width, 1 - y / height, text, size=8, va="center", color=LIGHT.text)
    return png(drawn(figure))


def drawn(figure: Figure) -> Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib annotates neither of these two
    return np.asarray(canvas.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]  # the same


def chart_png(figure: Figure) -> bytes:
    """With a palette of 256 colors, for a third of the size and hardly a visible difference."""
    buffer = io.BytesIO()
    to_pil(drawn(figure)).quantize(method=PIL.Image.Quantize.MAXCOVERAGE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def precision_recall_chart(projection: Projection, theme: Theme) -> bytes:
    """Which generated images look like a real one, and which real images a generated one looks like.

    Shares are over all points, also where not all are drawn. Needs one point of each kind at the least.
    """
    figure, panels = _chart(theme, 5.3, columns=2)
    for panel, left in zip(panels, (0.3, 4.5)):  # in inches: square, with room for the legends
        panel.set_position((left / CHART_WIDTH, 0.95 / 5.3, 4.0 / CHART_WIDTH, 4.0 / 5.3))
    real, generated = projection.reference, projection.generated
    _scatter(panels[0], theme, real, generated, projection.inside, (theme.real, theme.generated))
    _scatter(panels[1], theme, generated, real, projection.covered, (theme.generated, theme.real))
    panels[0].set_title("Precision: generated images", loc="left", size=10, color=theme.text)
    panels[1].set_title("Coverage: real images", loc="left", size=10, color=theme.text)
    _legend(
        panels[0],
        theme,
        "real images",
        f"generated, near a real one: {_share(projection.inside)}",
        f"generated, near none: {_share(~projection.inside)}",
    )
    _legend(
        panels[1],
        theme,
        "generated images",
        f"real, with a generated one near: {_share(projection.covered)}",
        f"real, with none near: {_share(~projection.covered)}",
    )
    # one square window for both panels: distances read the same in each direction
    low = np.minimum(real.min(axis=0), generated.min(axis=0))
    high = np.maximum(real.max(axis=0), generated.max(axis=0))
    half = (high - low).max() * 0.54 or 1.0
    for panel in panels:
        panel.set(
            xlim=(low + high)[0] / 2 + half * np.array([-1, 1]), ylim=(low + high)[1] / 2 + half * np.array([-1, 1])
        )
        panel.set(xticks=[], yticks=[])
        panel.set_xlabel("1st principal component", size=9, color=theme.muted)
        panel.set_ylabel("2nd principal component", size=9, color=theme.muted)
    return chart_png(figure)


def _scatter(
    panel: Axes,
    theme: Theme,
    background: npt.NDArray[np.float64],
    points: npt.NDArray[np.float64],
    good: npt.NDArray[np.bool_],
    colors: tuple[str, str],
) -> None:
    """Other images [N, 2] behind, then the good ones of [M, 2] as dots and the others as crosses."""
    behind, front = background[evenly(len(background), POINTS)], evenly(len(points), POINTS)
    near, far = points[front[good[front]]], points[front[~good[front]]]
    panel.scatter(behind[:, 0], behind[:, 1], s=7, color=colors[0], alpha=0.4, linewidths=0)
    panel.scatter(near[:, 0], near[:, 1], s=9, color=colors[1], alpha=0.8, linewidths=0)
    panel.scatter(far[:, 0], far[:, 1], s=13, color=theme.missed, alpha=0.9, linewidths=0.8, marker="x")


def _legend(panel: Axes, theme: Theme, *labels: str) -> None:
    panel.legend(
        labels,
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.07),
        borderaxespad=0,
        frameon=False,
        fontsize=9,
        labelcolor=theme.text,
        handletextpad=0.2,
        borderpad=0,
        markerscale=1.8,
    )


def _share(of: npt.NDArray[np.bool_]) -> str:
    return f"{of.mean() * 100:.1f} %"


def per_class_chart(rows: Sequence[tuple[int, ClassRow]], title: str, theme: Theme) -> bytes:
    """Bars of each class's Fréchet distance, where any has one, and of its share of the images.

    Args:
        rows: at least one (number, class), the top one first. The number stands for a name that the font can't write.
        title: above all, or "".
    """
    distances = any(known(row.fid) for _, row in rows)
    figure, panels = _chart(theme, 1.2 + 0.3 * len(rows), columns=2 if distances else 1)
    if title:
        figure.suptitle(title, x=0.01, ha="left", size=10, color=theme.text)
    if distances:
        generated, real = [row.fid for _, row in rows], [row.floor for _, row in rows]
        _bars(panels[0], theme, "Fréchet distance", generated, real, "held-out real")
    shares = [100 * row.generated for _, row in rows], [100 * row.reference for _, row in rows]
    _bars(panels[-1], theme, "Share of the images, %", *shares, "real")
    panels[0].set_yticks(range(len(rows)), [_label(*row) for row in rows], parse_math=False, color=theme.text)
    return chart_png(figure)


def _bars(
    panel: Axes,
    theme: Theme,
    title: str,
    generated: Sequence[float | None],
    real: Sequence[float | None],
    real_label: str,
) -> None:
    """A pair of bars a row, top down; a dash where a number is missing."""
    places = np.arange(len(generated))
    for values, offset, color, label in zip(
        (generated, real), (-0.2, 0.2), (theme.generated, theme.real), ("generated", real_label)
    ):
        panel.barh(places + offset, [v if known(v) else 0 for v in values], 0.36, color=color, label=label)
    for place, value in zip(places, generated):
        if not known(value):
            panel.text(0, place - 0.2, " —", va="center", size=8, color=theme.muted)
    panel.set_ylim(len(generated) - 0.4, -0.6)
    panel.set_yticks([])
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.spines["left"].set_visible(False)
    panel.grid(axis="x", color=theme.line, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.set_title(title, loc="left", size=10, pad=24, color=theme.text)
    panel.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1),
        frameon=False,
        fontsize=9,
        labelcolor=theme.text,
        ncols=2,
        borderpad=0,
        borderaxespad=0.3,
        handlelength=1,
        columnspacing=1.4,
    )


def _chart(theme: Theme, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """``columns`` bare panels in a row; height in inches."""
    figure = Figure((CHART_WIDTH, height), CHART_DPI, facecolor=theme.page, layout="constrained")
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for panel in panels:
        panel.set_facecolor(theme.page)
        panel.tick_params(length=0, labelsize=9, labelcolor=theme.text)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            panel.spines[side].set_color(theme.line)
    return figure, panels


def writable(name: str) -> bool:
    """Whether the charts' font has every letter; for others Matplotlib would draw boxes and warn."""
    font = get_font(findfont(FontProperties()))
    letters = "".join(name.split())
    return bool(letters) and all(font.get_char_index(ord(letter)) for letter in letters)


def _label(number: int, row: ClassRow) -> str:
    if not writable(row.name):
        return f"#{number}"
    name = " ".join(row.name.split())
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1].rstrip()}…"


def known(value: float | None) -> TypeGuard[float]:
    """Neither missing nor the result of a division by zero."""
    return value is not None and bool(np.isfinite(value))
