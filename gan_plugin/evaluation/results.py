"""What an evaluation found: figures beside those of held-out real images, and the images that explain them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gan_plugin.media.image import Images

MAX_NAME_LENGTH = 120  # MLflow takes 250 characters for a metric's whole name


@dataclass(frozen=True)
class Figure:
    """One figure of merit in the features of one network.

    Attributes:
        name: as in the metric's name, such as "fid".
        value: the generator's.
        floor: the same figure for held-out real images; None where there are none or it has no meaning.
        spread: one standard deviation of ``value`` where the figure is a mean over subsets, else None.
        better: "lower", "higher" or "".
        note: a sentence on how far the number can be trusted, or "".
        network: whose features or classes it depends on, where that is not the evaluation's network, else "".
    """

    name: str
    value: float
    floor: float | None = None
    spread: float | None = None
    better: str = ""
    note: str = ""
    network: str = ""


@dataclass(frozen=True)
class ClassRow:
    """How one class fares.

    Attributes:
        name: the class.
        generated: share of the generated images that are of this class, 0…1.
        reference: share of the reference images.
        fid: Fréchet distance between the class's generated and reference images; None where there are too few.
        floor: the same for the class's held-out images.
        accuracy: share of the images asked of this class that the data's classifier takes for it; None for a
            generator that takes no label.
        note: why a number is missing or doubtful, or "".
    """

    name: str
    generated: float
    reference: float
    fid: float | None = None
    floor: float | None = None
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Evaluation:
    """Everything that one evaluation found.

    Attributes:
        network: the feature network's name, the last part of every metric's name.
        protocol: what the figures depend on, in words: counts, splits, seeds, resize, digests.
        figures: in the order in which they are shown.
        classes: one row a class; () for unlabeled data.
        notes: sentences on the whole evaluation.
        samples: generated images, of consecutive seeds.
        reference_samples: as many reference images.
        pixels: brightness, contrast and variety under their metrics' names.
    """

    network: str
    protocol: dict[str, str]
    figures: tuple[Figure, ...]
    classes: tuple[ClassRow, ...]
    notes: tuple[str, ...]
    samples: Images
    reference_samples: Images
    neighbors: Neighbors
    projection: Projection
    pixels: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Every figure under the name that MLflow shows, such as ``fid/classifier`` and ``fid_floor/classifier``."""
        values = dict(self.pixels)
        for figure in self.figures:
            network = figure.network or self.network
            values[f"{figure.name}/{network}"] = float(figure.value)
            if figure.spread is not None:
                values[f"{figure.name}_std/{network}"] = float(figure.spread)
            if figure.floor is not None:
                values[f"{figure.name}_floor/{network}"] = float(figure.floor)
        names = metric_names([row.name for row in self.classes])
        for name, row in zip(names, self.classes):
            if row.fid is not None:
                values[f"fid_of_class/{self.network}/{name}"] = row.fid
        return values


def metric_names(classes: Sequence[str]) -> list[str]:
    """Class names as MLflow takes them at the end of a metric's name, each different from the others.

    Other characters become ``_``, a slash too, since it would look like another level. Where that, or shortening,
    makes two alike or leaves nothing that can be a name, the class's index is added.

    >>> metric_names(["T-shirt/top", "a!b", "a?b", ".."])
    ['T-shirt_top', 'a_b class 1', 'a_b class 2', '.. class 3']
    """
    safe = [re.sub(r"[^\w.\- :]", "_", name)[:MAX_NAME_LENGTH].strip() for name in classes]
    doubtful = {name for name in safe if safe.count(name) > 1 or not name.strip(". ")}
    return [f"{name} class {i}" if name in doubtful else name for i, name in enumerate(safe)]


def evenly(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most ``most`` indices spread evenly over 0 … count − 1: images may lie in order of class.

    >>> evenly(9, 3).tolist()
    [0, 4, 8]
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
