"""The results of an evaluation: metrics beside those of held-out real images, and the images that explain them."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gan_plugin.media.image import Images

MAX_SAMPLES = 64  # images of each kind
MAX_PAIRS = 16
MAX_POINTS = 2000  # of each kind in the projection: more only hide one another
MAX_NAME_LENGTH = 120  # MLflow takes 250 characters for a metric's whole name
# With more classes, none is logged. MLflow takes 1,000 values in a call, a promotion logs those of two versions in one,
# and nobody looks at a thousand charts.
MAX_CLASS_METRICS = 200


@dataclass(frozen=True)
class Measurement:
    """A metric's value for one generator, beside that of real images.

    Attributes:
        name: of the metric in :mod:`gan_plugin.metrics.catalog`, such as "fid".
        value: the generator's.
        real: the real-data baseline, the same metric of held-out real images; None without them or without a meaning.
        std: one standard deviation of ``value`` where it is a mean over subsets, else None.
        note: a sentence on how far the number can be trusted, or "".
        network: in whose features or classes it was computed, where that is not the evaluation's network, else "".
    """

    name: str
    value: float
    _: KW_ONLY
    real: float | None = None
    std: float | None = None
    note: str = ""
    network: str = ""


@dataclass(frozen=True)
class ClassRow:
    """The results of one class.

    Attributes:
        name: the class.
        generated: share of the generated images that are of this class, 0…1.
        reference: share of the reference images, 0…1.
        fid: Fréchet distance between the class's generated and reference images; None where there are too few.
        fid_real: the same for the class's held-out images.
        accuracy: share of the images requested of this class that the data's classifier recognizes as it; None for a
            generator that takes no label.
        note: why a number is missing or doubtful, or "".
    """

    name: str
    _: KW_ONLY
    generated: float
    reference: float
    fid: float | None = None
    fid_real: float | None = None
    accuracy: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Neighbors:
    """Generated images beside the training images nearest to them in the features, the closest first.

    Attributes:
        generated: uint8 [P, H, W, C].
        nearest: uint8 [P, H, W, C].
        distances: float [P], in the features.
    """

    generated: Images
    nearest: Images
    distances: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Features on the plane of the reference's two largest principal components.

    Attributes:
        reference: float [N, 2].
        generated: float [M, 2].
        covered: bool [N], real images with a generated one in their neighborhood (coverage's definition).
        inside: bool [M], generated images in a real one's neighborhood (precision's definition).
    """

    reference: npt.NDArray[np.float64]
    generated: npt.NDArray[np.float64]
    covered: npt.NDArray[np.bool_]
    inside: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that one evaluation results in.

    Attributes:
        network: the feature network's name, the last part of every metric's logged name.
        protocol: what the metrics depend on, in words: counts, splits, seeds, resize, digests.
        measurements: in the order of the report.
        classes: one row a class; () for unlabeled data.
        notes: sentences on the whole evaluation.
        samples: generated images, of consecutive seeds: uint8 [N, H, W, C].
        reference_samples: as many reference images.
        pixels: brightness, contrast and variety under their logged names.
        verdict: what the measurements say in a sentence or two.
    """

    network: str
    protocol: dict[str, str]
    measurements: tuple[Measurement, ...]
    classes: tuple[ClassRow, ...]
    notes: tuple[str, ...]
    samples: Images
    reference_samples: Images
    neighbors: Neighbors
    projection: Projection
    pixels: dict[str, float] = field(default_factory=dict)
    verdict: str = ""

    def metrics(self) -> dict[str, float]:
        """Return every number under the name that MLflow shows, such as ``fid/classifier`` and ``fid_real/classifier``.

        Those of single classes are among them where there are at most MAX_CLASS_METRICS.
        """
        values = dict(self.pixels)
        for measurement in self.measurements:
            network = measurement.network or self.network
            values[f"{measurement.name}/{network}"] = float(measurement.value)
            if measurement.std is not None:
                values[f"{measurement.name}_std/{network}"] = float(measurement.std)
            if measurement.real is not None:
                values[f"{measurement.name}_real/{network}"] = float(measurement.real)
        classes = self.classes if len(self.classes) <= MAX_CLASS_METRICS else ()
        for name, row in zip(metric_names([row.name for row in classes]), classes):
            if row.fid is not None:
                values[f"fid_of_class/{self.network}/{name}"] = row.fid
        return values

    def as_json(self) -> dict[str, Any]:
        """Return verdict, metrics, classes, notes and protocol as JSON takes them: what ``metrics.json`` holds."""
        return {
            "verdict": self.verdict,
            "network": self.network,
            "protocol": self.protocol,
            "measurements": [dataclasses.asdict(measurement) for measurement in self.measurements],
            "classes": [dataclasses.asdict(row) for row in self.classes],
            "pixels": self.pixels,
            "notes": list(self.notes),
        }


def metric_names(classes: Sequence[str]) -> list[str]:
    """Return class names as MLflow takes them at the end of a metric's name, each different from the others.

    Other characters become ``_``, a slash too, since it would look like another level. Where that, or shortening,
    makes two alike or leaves nothing that can be a name, the class's index is added.

    >>> metric_names(["T-shirt/top", "a!b", "a?b", ".."])
    ['T-shirt_top', 'a_b class 1', 'a_b class 2', '.. class 3']
    """
    safe = [re.sub(r"[^\w.\- :]", "_", name)[:MAX_NAME_LENGTH].strip() for name in classes]
    counts = Counter(safe)
    ambiguous = {name for name in safe if counts[name] > 1 or not name.strip(". ")}
    return [f"{name} class {i}" if name in ambiguous else name for i, name in enumerate(safe)]


def regular_indices(count: int, limit: int) -> npt.NDArray[np.int64]:
    """Return at most ``limit`` indices spaced evenly over 0 … count − 1: images may lie in order of class.

    >>> regular_indices(9, 3).tolist()
    [0, 4, 8]
    """
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)
