"""The trainings of a search, one after the other, as long as there is time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gan_plugin.config.parsing import as_texts
from gan_plugin.config.settings import TuneSettings
from gan_plugin.config.space import texts_at
from gan_plugin.errors import UserError
from gan_plugin.jobs import study as studies
from gan_plugin.jobs.search_plan import SearchPlan, shared_names, training_settings
from gan_plugin.jobs.trial import Outcome, Stopped, nested_environment, run_trial
from gan_plugin.tracking.training_run import TrainingRun

if TYPE_CHECKING:
    from optuna import Study

FOLDER = "trials"  # in the folder of the search


class SearchClock:
    """Says whether there is time for further trainings.

    Args:
        end: when the time is over, by ``time.monotonic``.
        trial_s: seconds that a training is meant to take; one that took longer says what the next may take.
    """

    def __init__(self, end: float, trial_s: float) -> None:
        self.end, self.trial_s = end, trial_s

    def trainings(self) -> int:
        """Return how many trainings, one after the other, would end in time."""
        return max(0, int((self.end - time.monotonic()) / self.trial_s))

    def add(self, seconds: float) -> None:
        """Take in what a training took."""
        self.trial_s = max(self.trial_s, seconds)


@dataclass
class Search:
    """A search that has begun.

    Attributes:
        run: takes in what the search logs.
        settings: of the search.
        plan: what it does.
        study: what it remembers.
        clock: when it ends.
        stop_requested: whether it is to end now.
    """

    run: TrainingRun
    settings: TuneSettings
    plan: SearchPlan
    _: KW_ONLY
    study: Study
    clock: SearchClock
    stop_requested: Callable[[], bool]

    def run_trials(self) -> None:
        """Run trials as long as each leaves the time to train the best one with further seeds.

        Raises:
            UserError: the very first training is refused, which has the recipe's own values.
            TrialFailed, Stopped: as ``run_trial`` says.
        """
        while (left := self.clock.trainings() - self.settings.seeds) > 0:
            self.check_stop()
            if (proposal := studies.next_trial(self.study, self.plan.space, self.plan.training.recipe)) is None:
                print("All of the space has been tried.", flush=True)
                return
            trial, texts = proposal
            print(f"Trial {trial.number}, of {left} that there is time for: {joined(texts)}", flush=True)
            try:
                outcome = self.train(texts, self.settings.seed, f"{trial.number}")
            except Stopped:
                studies.give_up(self.study, trial.number, trial.params)
                raise
            if outcome.refused and not studies.ended(self.study):
                raise UserError(
                    f"The first trial, with trial_minutes={self.plan.trial_minutes:g}, is refused: {outcome.reason}"
                )
            studies.tell(self.study, trial, outcome)
            self.log_trial(trial.number, outcome)

    def run_repeats(self) -> None:
        """Train the best trial's hyperparameters with further seeds: the lowest of many values flatters.

        Raises:
            TrialFailed, Stopped: as ``run_trial`` says.
        """
        best = studies.best(self.study)
        if best is None:
            return
        known = {entry["seed"] for entry in studies.repeats(self.study, best.number)}
        for seed in ((self.settings.seed + 1 + i) % 2**32 for i in range(self.settings.seeds)):
            if seed in known:
                continue
            self.check_stop()
            if self.clock.trainings() < 1:
                print(f"There is no time left for seed {seed}.", flush=True)
                continue
            print(f"Trial {best.number}, the best, with seed {seed}.", flush=True)
            outcome = self.train(texts_at(self.plan.space, best.params), seed, f"{best.number}-seed-{seed}")
            studies.add_repeat(self.study, best.number, seed, outcome=outcome)
            print(f"  {self.described(outcome)}", flush=True)

    def check_stop(self) -> None:
        """Raise Stopped where the search is to end."""
        if self.stop_requested():
            raise Stopped

    def train(self, texts: Mapping[str, str], seed: int, name: str) -> Outcome:
        """Run one training; raises as ``run_trial`` does."""
        shared = as_texts(training_settings(self.settings, self.plan.trial_minutes))
        parameters = {
            **{setting: shared[setting] for setting in shared_names()},
            **self.plan.fixed,
            **texts,
            "features": self.plan.features,
            "minutes": str(self.plan.trial_minutes),
            "seed": str(seed),
            "model_name": "none",  # a search registers nothing
        }
        outcome = run_trial(
            parameters,
            new_folder(self.run.folder / FOLDER / name),
            environment=nested_environment(self.run.folder),
            stop_requested=self.stop_requested,
        )
        self.clock.add(outcome.seconds)
        return outcome

    def log_trial(self, number: int, outcome: Outcome) -> None:
        """Log a trial's value and the best one so far, and print them."""
        best, metric = studies.best(self.study), self.plan.metric
        values = {} if best is None or best.value is None else {f"best/{metric}": best.value}
        if outcome.value is not None:
            values[f"trial/{metric}"] = outcome.value
        self.run.spool.metrics(values, number)
        so_far = "" if best is None else f"; the best so far is {best.value:.4g}, of trial {best.number}"
        print(f"  {self.described(outcome)}{so_far}", flush=True)

    def described(self, outcome: Outcome) -> str:
        """Return a phrase on how a training ended."""
        return f"pruned: {outcome.reason}" if outcome.value is None else f"{self.plan.metric} {outcome.value:.4g}"


def joined(texts: Mapping[str, str]) -> str:
    """Return hyperparameters as people read them in a line."""
    return ", ".join(f"{name}={text}" for name, text in texts.items())


def new_folder(path: Path) -> Path:
    """Return a path that nothing has yet: a training that was cut off has left its own."""
    candidates = (path, *(path.with_name(f"{path.name}-again-{i}") for i in range(1, 1000)))
    return next(candidate for candidate in candidates if not candidate.exists())
