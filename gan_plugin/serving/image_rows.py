"""The rows of a request that bring an image: their z, and how well it stands for them. Imports no torch."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gan_plugin.media.image import Images
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.projection import Projected, anomaly_scores, project, reconstruct
from gan_plugin.serving.requests import Request

UNLIKE = "This image is unlike the data: of held-out images at most 5 % score so high, or are reconstructed so badly."
MAX_SEARCHES = 4  # requests with images that a server works at together: each takes as long as hundreds of others


@dataclass(frozen=True)
class Likeness:
    """How well a z stands for a given image.

    Attributes:
        psnr: of its image, in decibels.
        anomaly: the score of f-AnoGAN; None without an encoder.
        note: a sentence where the image is unlike the data; None otherwise, and where that is not known.
    """

    psnr: float
    anomaly: float | None = None
    note: str | None = None


def with_images(
    request: Request, generator: OnnxGenerator, *, evaluations: int, seconds: float
) -> tuple[Request, dict[int, Likeness]]:
    """Return a request with the z and the class of each of its images, and by row how well they stand for it.

    Args:
        request: with at least one image.
        evaluations: images that the generator makes in search of each.
        seconds: that all searches together may take.

    Raises:
        UserError: there are too many classes to search among.
    """
    rows, images = list(request.images), np.stack(list(request.images.values()))
    labels = [request.labels[row] for row in rows]
    projected = project(generator, images, labels=labels, evaluations=evaluations, seconds=seconds)
    z, all_labels = request.z.copy(), list(request.labels)
    z[rows] = projected.z
    if projected.labels is not None:
        for row, label in zip(rows, projected.labels.tolist()):
            all_labels[row] = label
    likeness = likeness_of(generator, images, projected)
    return dataclasses.replace(request, z=z, labels=all_labels), dict(zip(rows, likeness, strict=True))


def likeness_of(generator: OnnxGenerator, images: Images, projected: Projected) -> list[Likeness]:
    """Return how well each z stands for its image uint8 [N, H, W, C]."""
    encoder = generator.encoder
    if encoder is None:
        return [Likeness(decibels) for decibels in projected.psnr.tolist()]
    encoded = reconstruct(generator, encoder, images)
    scores, description = anomaly_scores(encoder, images, encoded.images), encoder.description
    low = -np.inf if description.low_psnr is None else description.low_psnr
    high = np.inf if description.high_anomaly is None else description.high_anomaly
    unlike = (encoded.psnr < low) | (scores > high)
    return [
        Likeness(decibels, score, UNLIKE if is_unlike else None)
        for decibels, score, is_unlike in zip(projected.psnr.tolist(), scores.tolist(), unlike)
    ]


def answer_columns(
    request: Request, likeness: dict[int, Likeness], class_names: tuple[str, ...]
) -> dict[str, list[Any]]:
    """Return what the answer of each row has beside its image, where a request brings images."""
    of_rows = [likeness.get(row) for row in range(len(request.seeds))]
    return {
        "z": [z.tolist() for z in request.answered_z()],
        "label": [None if label is None else class_names[label] for label in request.labels],
        "psnr": [None if of_row is None else of_row.psnr for of_row in of_rows],
        "anomaly": [None if of_row is None else of_row.anomaly for of_row in of_rows],
        "note": [None if of_row is None else of_row.note for of_row in of_rows],
    }


class Busy(RuntimeError):
    """As many searches as a server works at are under way; the message is a sentence for the client."""


class Searches:
    """Bounds the searches that are under way in a process."""

    def __init__(self) -> None:
        self.free = threading.BoundedSemaphore(MAX_SEARCHES)

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count as a search within a block.

        Raises:
            Busy: too many are under way.
        """
        if not self.free.acquire(blocking=False):
            raise Busy(f"The server works at {MAX_SEARCHES} requests with images and takes no more: try again in 1 s.")
        try:
            yield
        finally:
            self.free.release()
