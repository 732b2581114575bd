"""What pixels alone can say honestly: whether brightness, contrast and variety are those of the real pictures.

Equal figures do not mean good pictures; unequal ones mean that something is wrong. A variety far below the real one is
what mode collapse looks like.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # [N, H, W, C]


def blocks(pictures: Pixels, size: int = 1024) -> Iterator[Pixels]:
    """Pictures a thousand at a time: a whole data set in floating point may not fit."""
    return (pictures[first : first + size] for first in range(0, len(pictures), size))


def brightness(pictures: Pixels) -> float:
    """Mean grey level, 0…255."""
    return float(pictures.mean(dtype=np.float64))


def contrast(pictures: Pixels) -> float:
    """Standard deviation of the grey levels within a picture, averaged over pictures."""
    return float(np.mean([picture.std(dtype=np.float64) for picture in pictures]))


def variety(pictures: Pixels) -> float:
    """Root mean square difference, in grey levels, between two different pictures drawn at random.

    Over all N(N − 1) ordered pairs E (x − y)² is 2N/(N − 1) times the variance over pictures, so no pair is formed.

    Raises:
        ValueError: fewer than two pictures.

    >>> variety(np.array([0, 200], np.uint8).reshape(2, 1, 1, 1))
    200.0
    """
    count = len(pictures)
    if count < 2:
        raise ValueError("variety needs at least two pictures")
    squares = sum(np.square(block, dtype=np.float64).sum(axis=0) for block in blocks(pictures)) / count
    variance = np.mean(squares - np.square(pictures.mean(axis=0, dtype=np.float64)))
    return float(np.sqrt(2 * count / (count - 1) * variance))


def mean_picture_difference(generated: Pixels, reference: Pixels) -> float:
    """Root mean square difference, in grey levels, between the mean generated and the mean real picture."""
    difference = generated.mean(axis=0, dtype=np.float64) - reference.mean(axis=0, dtype=np.float64)
    return float(np.sqrt(np.square(difference).mean()))


def pixel_statistics(generated: Pixels, reference: Pixels) -> dict[str, float]:
    """All of the above under the names that the run in MLflow shows."""
    return {
        "pixels/brightness_generated": brightness(generated),
        "pixels/brightness_reference": brightness(reference),
        "pixels/contrast_generated": contrast(generated),
        "pixels/contrast_reference": contrast(reference),
        "pixels/variety_generated": variety(generated),
        "pixels/variety_reference": variety(reference),
        "pixels/mean_picture_difference": mean_picture_difference(generated, reference),
    }
