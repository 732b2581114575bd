"""How long a training goes on, in steps or in time, and how much of it is behind: what every ramp follows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from gan_plugin.training.plan import TrainingPlan
from gan_plugin.training.state import TrainingState

MIN_TRAINING = 0.1  # of the time; with less left, a training is not worth beginning


@dataclass(frozen=True)
class Clock:
    """What a run in time needs to know beside its minutes.

    Attributes:
        started: when it began, by ``time.monotonic``.
        reserve: seconds that are kept for what comes after the last step.
        evaluation: seconds that an evaluation takes.
        encoder: seconds that are kept for an encoder, before that.
    """

    started: float = field(default_factory=time.monotonic)
    reserve: float = 0.0
    evaluation: float = 0.0
    encoder: float = 0.0


class Budget(Protocol):
    """Decides how much of a training is behind, and when it ends."""

    def update(self, state: TrainingState) -> None:
        """Set ``progress`` of the state, 0…1, before each step and at the end."""

    def is_over(self, state: TrainingState) -> bool:
        """Return whether the training has come to its end."""

    def has_time_to_evaluate(self) -> bool:
        """Return whether an evaluation that begins now ends before the training does."""

    def has_time_to_begin(self) -> bool:
        """Return whether a training that begins anew now has enough time left."""


class StepBudget:
    """A training of a number of steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def update(self, state: TrainingState) -> None:
        """Set the progress to the share of the steps."""
        state.progress = min(state.steps / self.steps, 1.0)

    def is_over(self, state: TrainingState) -> bool:
        """Return whether all steps are done."""
        return state.steps >= self.steps

    def has_time_to_evaluate(self) -> bool:
        """Return that there is time: a training of so many steps ends when it ends."""
        return True

    def has_time_to_begin(self) -> bool:
        """Return that there is time."""
        return True


class TimeBudget:
    """A training that ends in time, however fast the machine is, or becomes.

    Of the training that is left, each step uses the share that its time is of the time that is left. So the progress
    follows the clock, and goes on from where a checkpoint was. It is never ahead of the time: where that has been
    prolonged, the schedules are stretched with it.

    Args:
        seconds: that the run may take in all.
        spent: seconds that it has taken until now, those before an interruption included.
        reserve: seconds that are kept for what comes after the last step.
        encoder: seconds that are kept for an encoder, before that.
    """

    def __init__(self, seconds: float, spent: float, reserve: float, *, encoder: float = 0.0) -> None:
        self.now, self.seconds, self.reserve = time.monotonic(), seconds, reserve
        self.start = self.now - spent
        self.end = self.start + seconds - reserve - encoder

    def update(self, state: TrainingState) -> None:
        """Advance the progress by the time since the last call.

        At the end what is kept counts as spent, so that a run that goes on with as many minutes trains no more.
        """
        before, self.now = self.now, time.monotonic()
        if self.now >= self.end:
            state.progress, state.seconds = 1.0, self.seconds
            return
        state.seconds = self.now - self.start
        progress = min(state.progress, (before - self.start) / (self.end - self.start))
        state.progress = progress + (1 - progress) * (self.now - before) / (self.end - before)

    def is_over(self, state: TrainingState) -> bool:
        """Return whether the time is over."""
        return state.progress >= 1

    def has_time_to_evaluate(self) -> bool:
        """Return whether there is as much time as is kept for the end, where everything is evaluated once more."""
        return time.monotonic() + self.reserve <= self.end

    def has_time_to_begin(self) -> bool:
        """Return whether MIN_TRAINING of the time is left."""
        return time.monotonic() + MIN_TRAINING * self.seconds <= self.end


def make_budget(plan: TrainingPlan, *, epoch_steps: int, spent: float, clock: Clock) -> Budget:
    """Return what ends a training: its epochs, or its minutes.

    Args:
        epoch_steps: steps of an epoch.
        spent: seconds that the run had taken before this process.
        clock: of this process.
    """
    if plan.minutes is None:
        assert plan.epochs is not None
        return StepBudget(plan.epochs * epoch_steps)
    return TimeBudget(60 * plan.minutes, spent + time.monotonic() - clock.started, clock.reserve, encoder=clock.encoder)
