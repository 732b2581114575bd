"""Watches a game for the ways in which GANs fail, and says when it is lost.

Four signals, each also a metric of the run:

- a value that is not a finite number;
- ``guard/discriminator_loss``: the discriminators' loss as a share of what it is where they cannot tell real from fake.
  Near 0 they win outright and the generator learns nothing from them; far above 1 they lose outright;
- ``guard/diversity``: the mean distance between pictures of fixed seeds, as a share of that between real ones;
- the judge's distance, as a multiple of the best so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gan_plugin.objectives import Objective

WINS, LOSES = 0.01, 4.0  # of the loss of a discriminator that cannot tell
READS = 20  # in a row, each a mean over many steps, until that is an alarm
VARIED, COLLAPSED = 0.5, 0.25  # of the real pictures' diversity
LATEST_START = 3_000  # steps after which even a generator that was never varied has collapsed
WORSE = 4.0  # times the best distance so far
LOOKS = 2  # in a row, until diversity or distance is an alarm


class Alarm(RuntimeError):
    """The game is lost, for the reason in the message; going on would not mend it."""


@dataclass
class Guard:
    """The signals' state: how long each has been bad. A fresh one begins after every return to a checkpoint."""

    undecided: float | None  # the discriminators' loss where they cannot tell; None where no such value means anything
    real_spread: float  # of the data, see ``spread``
    decided: int = 0  # reads in a row in which the discriminators won or lost outright
    uniform: int = 0  # looks in a row
    worse: int = 0
    was_varied: bool = False
    best: float = math.inf

    @property
    def suspicious(self) -> bool:
        """Whether any signal is bad already, if not for long enough: no moment for a checkpoint to go back to."""
        return any((self.decided, self.uniform, self.worse))

    def read(self, values: Mapping[str, float], step: int) -> dict[str, float]:
        """Take in a step's values; returns the signal to log.

        Raises:
            Alarm: a value is not finite, or the discriminators have won or lost outright for READS reads.
        """
        check_finite(values, step)
        if self.undecided is None:
            return {}
        share = values["loss/discriminator"] / self.undecided
        # One count for both: a game that is beyond control swings from one to the other.
        self.decided = self.decided + 1 if not WINS <= share <= LOSES else 0
        if self.decided >= READS:
            if share < WINS:
                raise Alarm(f"the discriminator has won: its loss is {share:.2g} of that of one that cannot tell")
            raise Alarm(f"the discriminator has lost: its loss is {share:.2g} times that of one that guesses")
        return {"guard/discriminator_loss": share}

    def look(self, pictures: Tensor, step: int) -> dict[str, float]:
        """Take in pictures uint8 [N, H, W, C] of fixed seeds; returns the signal to log.

        Raises:
            Alarm: their diversity has been too small for LOOKS looks, after it was not or after LATEST_START steps.
        """
        diversity = spread(pictures) / self.real_spread if self.real_spread else 1.0
        self.was_varied |= diversity >= VARIED
        expected = self.was_varied or step > LATEST_START
        self.uniform = self.uniform + 1 if expected and diversity < COLLAPSED else 0
        if self.uniform >= LOOKS:
            raise Alarm(f"the pictures have collapsed: their diversity is {diversity:.2g} of that of real ones")
        return {"guard/diversity": diversity}

    def judged(self, distance: float) -> None:
        """Take in the judge's figure.

        Raises:
            Alarm: it has been WORSE times the best for LOOKS looks.
        """
        self.best = min(self.best, distance)
        self.worse = self.worse + 1 if distance > WORSE * self.best else 0
        if self.worse >= LOOKS:
            raise Alarm(f"the distance to real pictures is {distance:.4g}, and was {self.best:.4g}")


def check_finite(values: Mapping[str, float], step: int) -> None:
    """
    Raises:
        Alarm: one of the values is not finite.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise Alarm(f"{name} became {value} in step {step}")


def undecided_loss(objective: Objective) -> float | None:
    """The loss of a discriminator that gives real and fake pictures the same, undecided logit.

    >>> from gan_plugin.objectives import OBJECTIVES
    >>> undecided_loss(OBJECTIVES["non-saturating"])  # log 4
    1.3862943649291992
    """
    logits = torch.full((1,), objective.boundary or 0.0)
    loss = objective.discriminator(logits, logits).item()
    return loss if loss > 0 else None


def spread(pictures: Tensor) -> float:
    """The mean distance between any two of N pictures uint8 [N, …], root mean square of grey levels, 0…255."""
    flat = pictures.flatten(1).float()
    mean: Tensor = torch.pdist(flat).mean()
    return mean.item() / math.sqrt(flat.shape[1])
