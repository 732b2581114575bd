"""The report's charts: a scatter for precision and coverage, and bars for classes, as PNG files in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator

from gan_plugin.evaluation.results import MAX_POINTS, ClassRow, Projection, regular_indices
from gan_plugin.report.canvas import Theme, figure_png
from gan_plugin.report.numbers import is_known

MAX_BARS = 40  # classes in one chart
MAX_NAME_LENGTH = 24  # characters of a class's name beside its bars
FIGURE_DPI = 160  # 1.6 times the 860 pixels at which a page shows it: sharp on a dense screen
FIGURE_WIDTH = 8.6  # inches

Points = npt.NDArray[np.float64]  # [N, 2]
Mask = npt.NDArray[np.bool_]  # [N]


def precision_recall_plot(projection: Projection, theme: Theme) -> bytes:
    """Draw which generated images are near a real one, and which real images are near a generated one.

    Shares are over all points, also where not all are drawn. Needs at least one point of each kind.
    """
    figure, axes = _new_figure(theme, 5.3, columns=2)
    for panel, left in zip(axes, (0.3, 4.5)):  # in inches: square, with room for the legends
        panel.set_position((left / FIGURE_WIDTH, 0.95 / 5.3, 4.0 / FIGURE_WIDTH, 4.0 / 5.3))
    real, generated = projection.reference, projection.generated
    _scatter(
        axes[0], theme, background=real, points=generated, good=projection.inside, colors=(theme.real, theme.generated)
    )
    _scatter(
        axes[1], theme, background=generated, points=real, good=projection.covered, colors=(theme.generated, theme.real)
    )
    axes[0].set_title("Precision: generated images", loc="left", size=10, color=theme.text)
    axes[1].set_title("Coverage: real images", loc="left", size=10, color=theme.text)
    _legend(
        axes[0],
        theme,
        "real images",
        f"generated, near a real one: {_percentage(projection.inside)}",
        f"generated, near none: {_percentage(~projection.inside)}",
    )
    _legend(
        axes[1],
        theme,
        "generated images",
        f"real, with a generated one near: {_percentage(projection.covered)}",
        f"real, with none near: {_percentage(~projection.covered)}",
    )
    # one square window for both panels: distances read the same in each direction
    low = np.minimum(real.min(axis=0), generated.min(axis=0))
    high = np.maximum(real.max(axis=0), generated.max(axis=0))
    half = (high - low).max() * 0.54 or 1.0
    for panel in axes:
        panel.set(
            xlim=(low + high)[0] / 2 + half * np.array([-1, 1]), ylim=(low + high)[1] / 2 + half * np.array([-1, 1])
        )
        panel.set(xticks=[], yticks=[])
        panel.set_xlabel("1st principal component", size=9, color=theme.gray)
        panel.set_ylabel("2nd principal component", size=9, color=theme.gray)
    return figure_png(figure)


def _scatter(
    panel: Axes,
    theme: Theme,
    *,
    background: Points,
    points: Points,
    good: Mask,
    colors: tuple[str, str],
) -> None:
    """Draw ``background`` behind, then the good ones of ``points`` as dots and the others as crosses."""
    back, front = background[regular_indices(len(background), MAX_POINTS)], regular_indices(len(points), MAX_POINTS)
    good_points, bad_points = points[front[good[front]]], points[front[~good[front]]]
    panel.scatter(back[:, 0], back[:, 1], s=7, color=colors[0], alpha=0.4, linewidths=0)
    panel.scatter(good_points[:, 0], good_points[:, 1], s=9, color=colors[1], alpha=0.8, linewidths=0)
    panel.scatter(bad_points[:, 0], bad_points[:, 1], s=13, color=theme.bad, alpha=0.9, linewidths=0.8, marker="x")


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


def _percentage(mask: Mask) -> str:
    return f"{mask.mean() * 100:.1f} %"


def per_class_plot(rows: Sequence[tuple[int, ClassRow]], title: str, theme: Theme) -> bytes:
    """Draw bars of each class's Fréchet distance, where any has one, and of its share of the images.

    Args:
        rows: at least one (number, class), the top one first. The number stands for a name that the font can't write,
            and before one that is cut.
        title: above all, or "".
    """
    distances = any(is_known(row.fid) for _, row in rows)
    figure, axes = _new_figure(theme, 1.2 + 0.3 * len(rows), columns=2 if distances else 1)
    if title:
        figure.suptitle(title, x=0.01, ha="left", size=10, color=theme.text)
    if distances:
        generated, real = [row.fid for _, row in rows], [row.fid_real for _, row in rows]
        _bars(axes[0], theme, title="Fréchet distance", generated=generated, real=real, real_label="held-out real")
    generated, real = [100 * row.generated for _, row in rows], [100 * row.reference for _, row in rows]
    _bars(axes[-1], theme, title="Share of the images, %", generated=generated, real=real, real_label="real")
    axes[0].set_yticks(range(len(rows)), [_label(*row) for row in rows], parse_math=False, color=theme.text)
    return figure_png(figure)


def _bars(
    panel: Axes,
    theme: Theme,
    *,
    title: str,
    generated: Sequence[float | None],
    real: Sequence[float | None],
    real_label: str,
) -> None:
    """Draw a pair of bars a row, top down; a dash where a number is missing."""
    positions = np.arange(len(generated))
    for values, offset, color, label in zip(
        (generated, real), (-0.2, 0.2), (theme.generated, theme.real), ("generated", real_label)
    ):
        panel.barh(positions + offset, [v if is_known(v) else 0 for v in values], 0.36, color=color, label=label)
    for position, value in zip(positions, generated):
        if not is_known(value):
            panel.text(0, position - 0.2, " —", va="center", size=8, color=theme.gray)
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


def _new_figure(theme: Theme, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``columns`` bare panels in a row; height in inches."""
    figure = Figure((FIGURE_WIDTH, height), FIGURE_DPI, facecolor=theme.page, layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for panel in axes:
        panel.set_facecolor(theme.page)
        panel.tick_params(length=0, labelsize=9, labelcolor=theme.text)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            panel.spines[side].set_color(theme.line)
    return figure, axes


def can_render(name: str) -> bool:
    """Return whether the charts' font has every letter; for others Matplotlib would draw boxes and warn."""
    font = get_font(findfont(FontProperties()))
    letters = "".join(name.split())
    return bool(letters) and all(font.get_char_index(ord(character)) for character in letters)


def _label(number: int, row: ClassRow) -> str:
    if not can_render(row.name):
        return f"#{number}"
    name = " ".join(row.name.split())
    if len(name) <= MAX_NAME_LENGTH:
        return name
    start = f"#{number} {name}"  # long names often begin alike
    return f"{start[: MAX_NAME_LENGTH - 1].rstrip()}…"


def needs_number(name: str) -> bool:
    """Return whether the class's number stands for its name on a chart, or beside its beginning."""
    return not can_render(name) or len(" ".join(name.split())) > MAX_NAME_LENGTH
