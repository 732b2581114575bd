"""Grids of images with words on them, as PNG files in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from gan_plugin.evaluation.results import Neighbors
from gan_plugin.media.image import WHITE, Image, Images, image_grid, png, to_pil
from gan_plugin.report.canvas import LIGHT, draw

MAX_CELL = 128  # pixels; larger images are shrunk to this
MIN_CELL = 56  # pixels; smaller images are enlarged on grids by a whole number of times, to at least this
GRID_DPI = 128  # a power of two: a size in pixels survives division and multiplication exactly
MARGIN = 16  # pixels around and between the parts of a grid
HEADING = 32  # pixels of height for a line of words
MIN_COLUMN, MIN_WIDTH = 140, 440  # pixels; the width of a heading


def downscale(image: Image) -> Image:
    """Fit an image [H, W, C] into MAX_CELL × MAX_CELL, its proportions kept; a smaller one is returned as it is."""
    height, width = image.shape[:2]
    scale = MAX_CELL / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(to_pil(image).resize(size)).reshape(size[1], size[0], image.shape[2])


def fit_for_grid(images: Images) -> Images:
    """Shrink or enlarge images [N, H, W, C] to a size that an eye can see: [N, h, w, 3]."""
    resized = np.stack([downscale(image) for image in images])
    times = max(1, -(-MIN_CELL // max(resized.shape[1:3])))
    enlarged = resized.repeat(times, axis=1).repeat(times, axis=2)
    return np.broadcast_to(enlarged, (*enlarged.shape[:3], 3))


def samples_grid(generated: Images, reference: Images) -> bytes:
    """Return generated beside real images, each [N, H, W, C] with N ≥ 1, as a PNG with headings."""
    grids = [
        image_grid(fit_for_grid(images), columns=int(np.ceil(np.sqrt(len(images)))))
        for images in (generated, reference)
    ]
    column = max(MIN_COLUMN, *(grid.shape[1] for grid in grids))
    height = HEADING + max(grid.shape[0] for grid in grids) + MARGIN
    offsets = (MARGIN, MARGIN + column + MARGIN)
    words = [(left, HEADING / 2, text) for left, text in zip(offsets, ("Generated", "Real (reference)"))]
    parts = list(zip(offsets, (HEADING, HEADING), grids))
    return _render_png(height, offsets[1] + column + MARGIN, parts=parts, words=words)


def neighbors_grid(neighbors: Neighbors, distances: Sequence[str]) -> bytes:
    """Return pairs, P ≥ 1, with their distances below, as a PNG: generated left, nearest training image right.

    Args:
        neighbors: the pairs.
        distances: [P], as text.
    """
    both = fit_for_grid(np.concatenate([neighbors.generated, neighbors.nearest]))
    pairs = [image_grid(np.stack(pair), columns=2) for pair in zip(both[: len(distances)], both[len(distances) :])]
    height, width, _ = pairs[0].shape
    columns = min(4, len(pairs))
    rows = -(-len(pairs) // columns)
    parts = [
        (MARGIN + i % columns * (width + MARGIN), HEADING + i // columns * (height + HEADING), pair)
        for i, pair in enumerate(pairs)
    ]
    words = [(left + 2, top + height + HEADING * 0.4, text) for (left, top, _), text in zip(parts, distances)]
    words.append((MARGIN, HEADING / 2, "Generated | nearest training image, distance below"))
    full_width = max(MIN_WIDTH, MARGIN + columns * (width + MARGIN))
    return _render_png(HEADING + rows * (height + HEADING), full_width, parts=parts, words=words)


def _render_png(
    height: int, width: int, *, parts: Sequence[tuple[int, int, Image]], words: Sequence[tuple[float, float, str]]
) -> bytes:
    """Return a white canvas with images at (left, top) and words from (left, middle), all in pixels, as a PNG."""
    canvas = np.full((height, width, 3), WHITE, np.uint8)
    for left, top, part in parts:
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    figure = Figure((width / GRID_DPI, height / GRID_DPI), GRID_DPI)
    figure.figimage(canvas)
    for x, y, text in words:
        figure.text(x / width, 1 - y / height, text, size=8, va="center", color=LIGHT.text)
    return png(draw(figure))
