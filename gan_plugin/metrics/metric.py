"""What there is to know about a metric. Imports no torch."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

Direction = Literal["lower", "higher", "real"]  # "real": the closer to the value of real images, the better
Kind = Literal["distance", "ratio", "score", "share", "count", "gray level", "decibels"]
Need = Literal["held-out images", "labels", "logits", "conditional generator", "encoder", "autoencoder"]
Stage = Literal["evaluation", "class", "training", "pixels"]


@dataclass(frozen=True)
class Metric:
    """A metric of generated images.

    Attributes:
        name: what a metric's logged name begins with, such as "fid" of ``fid/classifier``.
        direction: which values are better.
        kind: of number, by which it is formatted: a "share" is in 0…1, a "count" is an integer.
        description: one sentence, or two, for people.
        paper: author and year, or "".
        url: of the paper, or "".
        needs: without which the metric is left out of an evaluation.
        can_promote: whether ``promote`` may choose the champion by it.
        main: whether the report shows it at the top.
        stage: where it is computed: in an evaluation, for each of its classes, while training, or from pixels alone.
        network: the pattern of the network's part of its logged name.
    """

    name: str
    _: KW_ONLY
    direction: Direction
    kind: Kind
    description: str
    paper: str = ""
    url: str = ""
    needs: tuple[Need, ...] = ()
    can_promote: bool = False
    main: bool = False
    stage: Stage = "evaluation"
    network: str = "NETWORK"

    @property
    def higher_is_better(self) -> bool:
        """Whether higher values are better; of a metric that real images set, False."""
        return self.direction == "higher"

    @property
    def logged_name(self) -> str:
        """The pattern of the names that MLflow shows.

        >>> Metric("fid", direction="lower", kind="distance", description="…").logged_name
        'fid/NETWORK'
        """
        return f"{self.name}/{self.network}/CLASS" if self.stage == "class" else f"{self.name}/{self.network}"
