"""Watches a state for the ways in which GANs fail, and says when it is lost.

Four signals, each also a metric of the run:

- a value that is not a finite number;
- ``guard/discriminator_loss``: the discriminators' loss as a share of what it is where they cannot tell real from fake.
  Near 0 they win outright and the generator learns nothing from them; far above 1 they lose outright. A Wasserstein
  critic's loss has no such value;
- ``guard/diversity``: the mean distance between images of fixed seeds, as a share of that between real ones; within
  classes where the generator takes those, because a generator with one image a class is varied otherwise;
- the judge's distance, as a multiple of the best so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gan_plugin.objectives import Objective

WINS, LOSES = 0.01, 4.0  # of the loss of a discriminator that cannot tell
OUTRIGHT_STEPS = 1_000  # without a loss between the two, until that is an alarm
VARIED, COLLAPSED = 0.5, 0.25  # of the real images' diversity
CONSTANT = 0.02  # of it: less than any generator begins with
EARLIEST_START = 500  # steps; before, variety is an untrained network's, and the first images learned are much alike
LATEST_START = 3_000  # steps after which even a generator that was never varied has collapsed
WORSE = 4.0  # times the best distance so far
LOOKS = 2  # in a row, until diversity or distance is an alarm


class Alarm(RuntimeError):
    """The state is lost, for the reason in the message; going on would not mend it."""


@dataclass
class Past:
    """What a guard knows of a state so far: a part of the state's state, which a checkpoint keeps."""

    held: int = 0  # the last step in which neither side had won or lost outright
    varied: bool = False  # whether the images have ever been
    lowest: float | None = None  # distance of all that were judged
    uniform: int = 0  # the latest looks, in a row, that found the images so
    worse: int = 0  # the latest figures of the judge, in a row, that were far above the lowest


@dataclass
class Guard:
    """Takes in what happens and answers with the signals to log; ``check`` raises the alarm, when they are logged."""

    undecided: float | None  # the discriminators' loss where they cannot tell; None where no such value means anything
    real_diversity: float  # of the data, see ``spread``; 0 where there is nothing to compare with
    past: Past = field(default_factory=Past)
    outright: str = ""  # what is wrong with the discriminators' loss, if anything is
    diversity: float = 1.0
    distance: float = 0.0

    @property
    def suspicious(self) -> bool:
        """Whether any signal is bad already, if not for long enough: no moment for a checkpoint to go back to."""
        return bool(self.outright or self.past.uniform or self.past.worse)

    def read(self, discriminator_loss: float, step: int) -> dict[str, float]:
        """Take in the discriminators' loss, a mean over the steps up to this one."""
        if self.undecided is None:
            return {}
        share = discriminator_loss / self.undecided
        if share < WINS:
            self.outright = f"the discriminator has won: its loss is {share:.2g} of that of one that cannot tell"
        elif share > LOSES:
            self.outright = f"the discriminator has lost: its loss is {share:.2g} times that of one that guesses"
        else:
            # One clock for both: a state that is beyond control swings from one to the other.
            self.outright, self.past.held = "", step
        return {"guard/discriminator_loss": share}

    def look(self, images: Tensor, groups: Tensor, step: int) -> dict[str, float]:
        """Take in images uint8 [N, …] of fixed seeds, in ``groups`` as in ``spread``."""
        if not self.real_diversity:
            return {}
        self.diversity = spread(images, groups) / self.real_diversity
        self.past.varied |= step >= EARLIEST_START and self.diversity >= VARIED
        expected = self.past.varied or step > LATEST_START
        self.past.uniform = self.past.uniform + 1 if expected and self.diversity < COLLAPSED else 0
        return {"guard/diversity": self.diversity}

    def judged(self, distance: float) -> None:
        """Take in the judge's figure."""
        past, self.distance = self.past, distance
        past.lowest = distance if past.lowest is None else min(past.lowest, distance)
        past.worse = past.worse + 1 if distance > WORSE * past.lowest else 0

    def check(self, step: int) -> None:
        """
        Raises:
            Alarm: the discriminators have won or lost outright for OUTRIGHT_STEPS, or the last LOOKS found uniform
                images, which had been varied or are late, or a distance of WORSE times the lowest.
        """
        if self.outright and step - self.past.held >= OUTRIGHT_STEPS:
            raise Alarm(self.outright)
        if self.past.uniform >= LOOKS:
            raise Alarm(self.collapse())
        if self.past.worse >= LOOKS:
            raise Alarm(f"the distance to real images is {self.distance:.4g}, and was {self.past.lowest:.4g}")

    def conclude(self) -> None:
        """Check once more when no other look will follow: one of uniform images is enough, and for constant ones it
        needs no time in which they should have become varied.

        Raises:
            Alarm: the images have collapsed.
        """
        if self.past.uniform or self.diversity < CONSTANT:
            raise Alarm(self.collapse())

    def collapse(self) -> str:
        return f"the images have collapsed: their diversity is {self.diversity:.2g} of that of real ones"


def check_finite(values: Mapping[str, float]) -> None:
    """
    Raises:
        Alarm: one of the values is not finite.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise Alarm(f"{name} became {value}")


def chance_loss(objective: Objective) -> float | None:
    """The loss of a discriminator that gives real and fake images the same, undecided logit.

    >>> from gan_plugin.objectives import OBJECTIVES
    >>> chance_loss(OBJECTIVES["non-saturating"])  # log 4
    1.3862943649291992
    """
    logits = torch.full((1,), objective.boundary or 0.0)
    loss = objective.discriminator(logits, logits).item()
    return loss if loss > 0 else None


def spread(images: Tensor, groups: Tensor) -> float:
    """The mean distance between two images of the same group, root mean square of gray levels, 0…255.

    Dataset uint8 [N, …] and groups int64 [N]; a group's pairs count as much as another's, and 0 is what there is
    without any pair.
    """
    flat = images.flatten(1).float()
    members = [flat[groups == group] for group in groups.unique()]
    means = [torch.pdist(several).mean() for several in members if len(several) > 1]
    return torch.stack(means).mean().item() / math.sqrt(flat.shape[1]) if means else 0.0
