"""Watch a training run for the ways in which GANs fail, and raise an error when it is lost.

Four signals, each also a metric of the run:

- a value that is not a finite number;
- ``guard/discriminator_loss``: the discriminators' loss as a share of its chance level, where they cannot tell real
  from fake. Near 0 they have won and the generator learns nothing from them; far above 1 they have lost. A Wasserstein
  critic's loss has no chance level;
- ``guard/diversity``: the mean distance between samples of fixed seeds, as a share of that between real samples; within
  classes where the generator takes those, because a generator with one sample per class looks diverse otherwise;
- the quick evaluation's distance, as a multiple of the lowest so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from gan_plugin.data.dataset import Dataset
from gan_plugin.data.loader import epoch_order
from gan_plugin.objectives import Objective

MIN_LOSS, MAX_LOSS = 0.01, 4.0  # of the chance loss
LOSS_PATIENCE = 1_000  # without a loss between the two, until that is an error
DIVERSE, COLLAPSED = 0.5, 0.25  # of the real samples' diversity
CONSTANT = 0.02  # of it: less than any generator begins with
MIN_STEPS = 500  # before, diversity is an untrained network's, and the first samples learned are much alike
MAX_STEPS = 3_000  # after which even a generator that was never diverse has collapsed
WORSE = 4.0  # times the lowest distance so far
CHECKS = 2  # in a row, until diversity or distance is an error
GUARD_SAMPLES, GUARD_CLASSES = 64, 8  # how many samples diversity is measured on, and of how many classes at most


class GuardError(RuntimeError):
    """Training is lost, for the reason in the message; continuing would not fix it."""


@dataclass(kw_only=True)
class GuardState:
    """What a guard remembers of a training run: a part of the state that a checkpoint keeps.

    Attributes:
        last_balanced_step: the last step in which the discriminators had neither won nor lost.
        was_diverse: whether the samples have ever been.
        lowest_distance: of all evaluations.
        collapsed_checks: the latest checks in a row that found collapsed samples.
        worse_checks: the latest evaluations in a row that were far above the lowest.
    """

    last_balanced_step: int = 0
    was_diverse: bool = False
    lowest_distance: float | None = None
    collapsed_checks: int = 0
    worse_checks: int = 0


@dataclass
class Guard:
    """Observes a run and answers with the signals to log; ``check`` raises the error, once they are logged.

    Args:
        chance_loss: the discriminators' loss where they cannot tell real from fake; None where there is no such value.
        real_diversity: of the data, see ``pairwise_distance``; 0 where there is nothing to compare with.
        state: what is remembered from earlier steps; it is changed in place.
    """

    chance_loss: float | None
    real_diversity: float
    _: KW_ONLY
    state: GuardState = field(default_factory=GuardState)
    loss_warning: str = ""  # what is wrong with the discriminators' loss, or ""
    diversity: float = 1.0
    distance: float = 0.0

    @property
    def has_warning(self) -> bool:
        """Whether a signal is bad already, if not for long enough: no moment for a checkpoint to go back to."""
        return bool(self.loss_warning or self.state.collapsed_checks or self.state.worse_checks)

    def add_loss(self, discriminator_loss: float, step: int) -> dict[str, float]:
        """Take in the discriminators' loss, a mean over the steps up to this one."""
        if self.chance_loss is None:
            return {}
        ratio = discriminator_loss / self.chance_loss
        if ratio < MIN_LOSS:
            self.loss_warning = f"the discriminator has won: its loss is {ratio:.2g} of the loss at chance level"
        elif ratio > MAX_LOSS:
            self.loss_warning = f"the discriminator has lost: its loss is {ratio:.2g} times the loss at chance level"
        else:
            # One clock for both: a run that is out of control swings from one to the other.
            self.loss_warning, self.state.last_balanced_step = "", step
        return {"guard/discriminator_loss": ratio}

    def add_samples(self, samples: Tensor, groups: Tensor, step: int) -> dict[str, float]:
        """Take in samples uint8 [N, …] of fixed seeds, in ``groups`` as in ``pairwise_distance``."""
        if not self.real_diversity:
            return {}
        self.diversity = pairwise_distance(samples, groups) / self.real_diversity
        self.state.was_diverse |= step >= MIN_STEPS and self.diversity >= DIVERSE
        is_expected = self.state.was_diverse or step > MAX_STEPS
        is_collapsed = is_expected and self.diversity < COLLAPSED
        self.state.collapsed_checks = self.state.collapsed_checks + 1 if is_collapsed else 0
        return {"guard/diversity": self.diversity}

    def add_fid(self, distance: float) -> None:
        """Take in a quick evaluation's Fréchet distance."""
        state, self.distance = self.state, distance
        lowest = distance if state.lowest_distance is None else min(state.lowest_distance, distance)
        state.lowest_distance = lowest
        state.worse_checks = state.worse_checks + 1 if distance > WORSE * lowest else 0

    def check(self, step: int) -> None:
        """Raise the error where a signal has been bad for long enough.

        Raises:
            GuardError: the discriminators have won or lost for LOSS_PATIENCE, or the last CHECKS found collapsed
                samples, which had been diverse or are late, or a distance of WORSE times the lowest.
        """
        if self.loss_warning and step - self.state.last_balanced_step >= LOSS_PATIENCE:
            raise GuardError(self.loss_warning)
        if self.state.collapsed_checks >= CHECKS:
            raise GuardError(self.collapse())
        if self.state.worse_checks >= CHECKS:
            lowest = self.state.lowest_distance
            raise GuardError(f"the distance from the data is {self.distance:.4g}, and was {lowest:.4g}")

    def final_check(self) -> None:
        """Raise an error if the final samples have collapsed.

        One check that found them so is enough here, and constant samples need no time to become diverse.

        Raises:
            GuardError: the samples have collapsed.
        """
        if self.state.collapsed_checks or self.diversity < CONSTANT:
            raise GuardError(self.collapse())

    def collapse(self) -> str:
        """Return the sentence about a collapse."""
        return f"the samples have collapsed: their diversity is {self.diversity:.2g} of that of real samples"


def check_finite(values: Mapping[str, float]) -> None:
    """Raise an error for a value that is not finite.

    Raises:
        GuardError: names the first such value.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise GuardError(f"{name} became {value}")


def chance_loss(objective: Objective) -> float | None:
    """Return the loss of a discriminator that gives real and fake samples the same logit, on its decision boundary.

    >>> from gan_plugin.objectives import OBJECTIVES
    >>> chance_loss(OBJECTIVES["non-saturating"])  # log 4
    1.3862943649291992
    """
    logits = torch.full((1,), objective.boundary or 0.0)
    loss = objective.discriminator(logits, logits).item()
    return loss if loss > 0 else None


def guard_seeds(classes: int) -> tuple[Sequence[int], Tensor]:
    """Return the seeds of the guarded samples, and their groups int64 [N]: the classes, where there are such.

    A seed's class is its remainder (see ``default_labels``).

    >>> guard_seeds(20)[0][:9]
    [0, 20, 40, 60, 80, 100, 120, 140, 1]
    """
    if classes == 0:
        return range(GUARD_SAMPLES), torch.zeros(GUARD_SAMPLES, dtype=torch.int64)
    class_count = min(classes, GUARD_CLASSES)
    per_class = GUARD_SAMPLES // class_count
    seeds = [label + classes * i for label in range(class_count) for i in range(per_class)]
    return seeds, torch.arange(class_count).repeat_interleave(per_class)


def real_diversity(dataset: Dataset, classes: int) -> float:
    """Return the pairwise distance of as many real samples as the guard looks at, of the same classes."""
    order = epoch_order(len(dataset), 0, 0)
    if classes == 0 or dataset.labels is None:
        rows = order[:GUARD_SAMPLES]
        return pairwise_distance(dataset.samples[rows], torch.zeros_like(rows))
    labels, (_, groups) = dataset.labels[order], guard_seeds(classes)
    places = [(labels == label).nonzero()[: (groups == label).sum(), 0] for label in groups.unique()]
    rows = order[torch.cat(places)]
    return pairwise_distance(dataset.samples[rows], dataset.labels[rows])


def pairwise_distance(samples: Tensor, groups: Tensor) -> float:
    """Return the mean distance between two samples of the same group, root mean square over their values, 0…255.

    Samples are uint8 [N, …] and groups int64 [N]; each group counts equally, and without any pair the distance is 0.
    """
    flat = samples.flatten(1).float()
    members = [flat[groups == group] for group in groups.unique()]
    means = [torch.pdist(rows).mean() for rows in members if len(rows) > 1]
    return torch.stack(means).mean().item() / math.sqrt(flat.shape[1]) if means else 0.0
