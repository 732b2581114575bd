"""Statistics of pixels alone: whether brightness, contrast and variety are those of the real images.

Equal values do not mean good images; unequal ones mean that something is wrong. A variety far below the real one is
what mode collapse looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gan_plugin.media.image import Images


def blocks(images: Images, size: int = 1024) -> Iterator[Images]:
    """Yield ``size`` images at a time: a whole data set in floating point may not fit."""
    return (images[first : first + size] for first in range(0, len(images), size))


def brightness(images: Images) -> float:
    """Return the mean gray level, 0…255."""
    return float(images.mean(dtype=np.float64))


def contrast(images: Images) -> float:
    """Return the standard deviation of the gray levels within an image, averaged over images."""
    return float(np.mean([image.std(dtype=np.float64) for image in images]))


def variety(images: Images) -> float:
    """Return the root mean square difference, in gray levels, between two different images drawn at random.

    Over all N(N − 1) ordered pairs E (x − y)² is 2N/(N − 1) times the variance over images, so no pair is formed.

    Raises:
        ValueError: fewer than two images.

    >>> variety(np.array([0, 200], np.uint8).reshape(2, 1, 1, 1))
    200.0
    """
    count = len(images)
    if count < 2:
        raise ValueError("variety needs at least two images")
    squares = sum(np.square(block, dtype=np.float64).sum(axis=0) for block in blocks(images)) / count
    variance = np.mean(squares - np.square(images.mean(axis=0, dtype=np.float64)))
    return float(np.sqrt(2 * count / (count - 1) * variance))


def mean_image_difference(generated: Images, reference: Images) -> float:
    """Return the root mean square difference, in gray levels, between the mean generated and the mean real image."""
    difference = generated.mean(axis=0, dtype=np.float64) - reference.mean(axis=0, dtype=np.float64)
    return float(np.sqrt(np.square(difference).mean()))


STATISTICS: dict[str, Callable[[Images], float]] = {"brightness": brightness, "contrast": contrast, "variety": variety}


def pixel_statistics(generated: Images, reference: Images) -> dict[str, float]:
    """Return all of the above under the names that the run in MLflow shows.

    >>> black, white = np.zeros((2, 1, 1, 1), np.uint8), np.full((2, 1, 1, 1), 255, np.uint8)
    >>> pixel_statistics(black, white)["brightness_reference/pixels"]
    255.0
    """
    statistics = {f"{name}/pixels": statistic(generated) for name, statistic in STATISTICS.items()}
    statistics |= {f"{name}_reference/pixels": statistic(reference) for name, statistic in STATISTICS.items()}
    return statistics | {"mean_image_difference/pixels": mean_image_difference(generated, reference)}
