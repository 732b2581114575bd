"""Which generator is exported: quick evaluations within a budget of the time, and the best so far.

From 2,048 images the metric is uncertain by some percent, and a training whose rates fall goes on to improve by less
than that. So of two generators that differ by no more the later one counts as the better.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import nn

from gan_plugin.config.recipe import Recipe
from gan_plugin.data import Dataset
from gan_plugin.distributed import RankLost, Ranks
from gan_plugin.tracking.tracker import Tracker
from gan_plugin.training.guard import check_finite
from gan_plugin.training.samples import exported_generator
from gan_plugin.training.state import Best, TrainingState

UNCERTAINTY = 0.05  # of the metric, as a share of it

# What a process beside rank 0 answers to a question of rank 0's evaluator about the generator of its own state.
Share = Callable[[TrainingState, Any], object]

logger = logging.getLogger(__name__)


class Evaluator(Protocol):
    """Evaluates a generator quickly, while it is trained.

    Attributes:
        metric: the name under which the result is logged; lower is better.
        digest: of what decides the result; results of evaluators with other digests cannot be compared.
        seconds: what its preparation has cost.
    """

    metric: str
    digest: str
    seconds: float

    def __call__(self, generator: nn.Module) -> float:
        """Return the metric of an averaged generator in eval mode, which is left as it is."""


class TimeShare:
    """Keeps something within a share of the time since training began.

    Args:
        fraction: the share.
        spent: seconds that it has taken before, its preparation for example; they count as time of the training, too.
        expected: seconds that it takes once more; the first time shows, where they are not known.
    """

    def __init__(self, fraction: float, *, spent: float = 0.0, expected: float = 0.0) -> None:
        self.fraction, self.spent, self.expected = fraction, spent, expected
        self.start = time.perf_counter() - spent

    def allows(self) -> bool:
        """Return whether it would be within the share once more."""
        elapsed = time.perf_counter() - self.start
        return self.spent + self.expected <= self.fraction * (elapsed + self.expected)

    def used(self) -> float:
        """Return the share of the time so far."""
        return self.spent / max(time.perf_counter() - self.start, sys.float_info.epsilon)

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time within it."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.expected = time.perf_counter() - start
            self.spent += self.expected


def update_best(state: TrainingState, evaluator: Evaluator, *, generator: nn.Module, tracker: Tracker) -> float | None:
    """Evaluate the averaged generator as it would be exported, and keep its weights where it is the best so far.

    That is compared with the lowest metric so far, which the best itself need not have, or many steps by a little would
    lead far away.

    Returns the metric; None, with a warning, where the evaluation failed: whatever goes wrong there, training goes on.

    Raises:
        GuardError: the metric is not finite.
    """
    try:
        value = evaluator(generator)
    except RankLost:
        raise
    except Exception:
        logger.warning("The evaluation failed; training goes on without any from here on.", exc_info=True)
        return None
    check_finite({evaluator.metric: value})
    tracker.metrics({evaluator.metric: value}, state.steps)
    evaluations = 1 if state.best is None else state.best.evaluations + 1
    lowest = value if state.best is None else min(value, state.best.lowest)
    if state.best is None or value <= lowest * (1 + UNCERTAINTY):
        weights = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
        state.best = Best(
            metric=evaluator.metric,
            digest=evaluator.digest,
            value=value,
            lowest=lowest,
            step=state.steps,
            evaluations=evaluations,
            weights=weights,
        )
    else:
        state.best = dataclasses.replace(state.best, evaluations=evaluations)
    return value


def reset_best(state: TrainingState, evaluator: Evaluator | None) -> None:
    """Drop, with a warning, a best generator that later evaluations cannot be compared with."""
    if state.best is not None and (evaluator is None or evaluator.digest != state.best.digest):
        reason = "nothing is evaluated" if evaluator is None else f"{evaluator.metric} is that of another network"
        logger.warning(
            "The best generator so far, %s %.4g at step %d, is no longer a candidate: now %s.",
            state.best.metric,
            state.best.value,
            state.best.step,
            reason,
        )
        state.best = None
        state.guard = dataclasses.replace(state.guard, lowest_distance=None, worse_checks=0)


def keep_best(state: TrainingState, evaluator: Evaluator | None, ranks: Ranks) -> None:
    """Keep the best generator of a checkpoint in rank 0, where it can be compared with others."""
    if ranks.is_main:
        reset_best(state, evaluator)
    else:
        state.best = None


def finish(state: TrainingState, recipe: Recipe, dataset: Dataset) -> TrainingState:
    """Put the generator to keep into ``ema``: the best that was evaluated, else the latest."""
    latest = exported_generator(state, recipe, dataset).state_dict() if state.best is None else state.best.weights
    state.ema.load_state_dict(latest)
    return state


def export_reason(state: TrainingState) -> str:
    """Return a sentence on why this generator and no other is exported."""
    best = state.best
    if best is None:
        return "It is the last one: none was evaluated during training."
    if best.evaluations == 1:
        return f"It is the last one, with {best.metric} {best.value:.4g}: no other was evaluated."
    last = " It is the last one, too." if best.step == state.steps else ""
    if best.value > best.lowest:
        return (
            f"Its {best.metric} of {best.value:.4g} is within {UNCERTAINTY:.0%} of the lowest of {best.evaluations}, "
            f"{best.lowest:.4g}, and it is the latest of these.{last}"
        )
    return f"Its {best.metric} of {best.value:.4g} was the lowest of {best.evaluations}.{last}"
