"""Sheets of images with words on them, as PNG files in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from gan_plugin.evaluation.results import Neighbors
from gan_plugin.media.image import Image, Images, contact_sheet, png, to_pil
from gan_plugin.report.canvas import LIGHT, draw

MAX_SIDE = 128  # pixels; larger images are shrunk to this
MIN_SIDE = 56  # pixels; smaller images are enlarged on sheets by a whole number of times, to at least this
SHEET_DPI = 128  # a power of two: a size in pixels survives division and multiplication exactly
MARGIN = 16  # pixels around and between the parts of a sheet
HEADING = 32  # pixels of height for a line of words
MIN_COLUMN, MIN_SHEET = 140, 440  # pixels; the width of a heading


def shrink(image: Image) -> Image:
    """Fit an image [H, W, C] into MAX_SIDE × MAX_SIDE, its proportions kept; a smaller one is returned as it is."""
    height, width = image.shape[:2]
    scale = MAX_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(to_pil(image).resize(size)).reshape(size[1], size[0], image.shape[2])


def fit_for_sheet(images: Images) -> Images:
    """Shrink or enlarge images [N, H, W, C] to a size that an eye can see: [N, h, w, 3]."""
    fitted = np.stack([shrink(image) for image in images])
    times = max(1, -(-MIN_SIDE // max(fitted.shape[1:3])))
    enlarged = fitted.repeat(times, axis=1).repeat(times, axis=2)
    return np.broadcast_to(enlarged, (*enlarged.shape[:3], 3))


def samples_sheet(generated: Images, reference: Images) -> bytes:
    """Return generated beside real images, each [N, H, W, C] with N ≥ 1, as a PNG with headings."""
    grids = [
        contact_sheet(fit_for_sheet(images), columns=int(np.ceil(np.sqrt(len(images)))))
        for images in (generated, reference)
    ]
    column = max(MIN_COLUMN, *(grid.shape[1] for grid in grids))
    height = HEADING + max(grid.shape[0] for grid in grids) + MARGIN
    lefts = (MARGIN, MARGIN + column + MARGIN)
    words = [(left, HEADING / 2, text) for left, text in zip(lefts, ("Generated", "Real (reference)"))]
    parts = list(zip(lefts, (HEADING, HEADING), grids))
    return _lettered_png(height, lefts[1] + column + MARGIN, parts, words)


def neighbors_sheet(neighbors: Neighbors, distances: Sequence[str]) -> bytes:
    """Return pairs, P ≥ 1, with their distances below, as a PNG: generated left, nearest training image right.

    Args:
        neighbors: the pairs.
        distances: [P], as text.
    """
    both = fit_for_sheet(np.concatenate([neighbors.generated, neighbors.nearest]))
    pairs = [contact_sheet(np.stack(pair), columns=2) for pair in zip(both[: len(distances)], both[len(distances) :])]
    height, width, _ = pairs[0].shape
    columns = min(4, len(pairs))
    rows = -(-len(pairs) // columns)
    parts = [
        (MARGIN + i % columns * (width + MARGIN), HEADING + i // columns * (height + HEADING), pair)
        for i, pair in enumerate(pairs)
    ]
    words = [(left + 2, top + height + HEADING * 0.4, text) for (left, top, _), text in zip(parts, distances)]
    words.append((MARGIN, HEADING / 2, "Generated | nearest training image, distance below"))
    sheet_width = max(MIN_SHEET, MARGIN + columns * (width + MARGIN))
    return _lettered_png(HEADING + rows * (height + HEADING), sheet_width, parts, words)


def _lettered_png(
    height: int, width: int, parts: Sequence[tuple[int, int, Image]], words: Sequence[tuple[float, float, str]]
) -> bytes:
    """Return a white sheet with images at (left, top) and words from (left, middle), all in pixels, as a PNG."""
    sheet = np.full((height, width, 3), 255, np.uint8)
    for left, top, part in parts:
        sheet[top : top + part.shape[0], left : left + part.shape[1]] = part
    figure = Figure((width / SHEET_DPI, height / SHEET_DPI), SHEET_DPI)
    figure.figimage(sheet)
    for x, y, text in words:
        figure.text(x / width, 1 - y / height, text, size=8, va="center", color=LIGHT.text)
    return png(draw(figure))
