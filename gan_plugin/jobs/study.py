"""The study of a search: what Optuna remembers of its trials, in a file, and what it proposes next."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gan_plugin.config.recipe import HYPERPARAMETERS, Recipe, override, parse_hyperparameters
from gan_plugin.config.space import Range, Space, has_effect, in_order, text_at, texts_at
from gan_plugin.errors import UserError
from gan_plugin.jobs.trial import Outcome

try:
    import optuna
    from optuna import Study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.trial import FrozenTrial, Trial, TrialState
except ModuleNotFoundError as error:
    raise UserError(f"tune needs {error.name}, which is not installed: pip install 'gan_plugin[tune]'.") from None

JOURNAL = "study.log"  # in the folder of a search
NAME = "tune"
RANDOM_TRIALS = 4  # before the sampler looks at values: Optuna's 10 would be all of a search of an hour
MAX_DRAWS = 100  # until a space counts as used up
MIN_FOR_IMPORTANCE = 4  # trials with a value
SECONDS, REASON, RUN, REPEATS = "seconds", "reason", "run_id", "repeats"  # attributes

logger = logging.getLogger(__name__)


def open_study(folder: Path, *, seed: int, own: Mapping[str, Any]) -> Study:
    """Open the study in a folder, or begin one whose first trial is the recipe's own.

    A trial that was cut off is to be run again. The sampler goes on with other random numbers than those that the
    trials so far were drawn with.

    Args:
        seed: of the sampler.
        own: the point of the space where the recipe is.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = str(folder / JOURNAL)
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    study = optuna.create_study(storage=storage, study_name=NAME, direction="minimize", load_if_exists=True)
    trials = study.get_trials(deepcopy=False)
    study.sampler = optuna.samplers.TPESampler(seed=(seed + len(trials)) % 2**32, n_startup_trials=RANDOM_TRIALS)
    if not trials:
        study.enqueue_trial(dict(own))
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            give_up(study, trial.number, trial.params)
    return study


def give_up(study: Study, number: int, params: Mapping[str, Any]) -> None:
    """Leave a trial that was cut off, and run its point of the space again next."""
    study.tell(number, state=TrialState.FAIL)
    study.enqueue_trial(dict(params))


def next_trial(study: Study, space: Space, recipe: Recipe) -> tuple[Trial, dict[str, str]] | None:
    """Return a trial and its hyperparameters, as no trial so far had them; None where the sampler finds nothing new.

    A space of few choices is soon used up, and a second training of the same would only take time.
    """
    known = [texts_at(space, trial.params) for trial in ended(study)]
    for _ in range(MAX_DRAWS):
        trial = study.ask()
        texts = propose(trial, space, recipe)
        if texts not in known:
            return trial, texts
        study.tell(trial, state=TrialState.FAIL)  # which the sampler does not count
    return None


def propose(trial: Trial, space: Space, recipe: Recipe) -> dict[str, str]:
    """Return the hyperparameters to try, as a user would type them, without those that would change nothing."""
    texts: dict[str, str] = {}
    for name in in_order(space):
        if has_effect(name, override(recipe, **parse_hyperparameters(texts))):
            values = space[name]
            texts[name] = text_at(values, draw(trial, name, values))
    return texts


def draw(trial: Trial, name: str, values: Any) -> Any:
    """Let the sampler draw one value."""
    if not isinstance(values, Range):
        return trial.suggest_categorical(name, values.texts)
    if values.is_whole:
        return trial.suggest_int(name, int(values.low), int(values.high), log=values.is_log)
    return trial.suggest_float(name, values.low, values.high, log=values.is_log)


def tell(study: Study, trial: Trial, outcome: Outcome) -> None:
    """Remember how a trial ended: with a value, or pruned."""
    trial.set_user_attr(SECONDS, outcome.seconds)
    trial.set_user_attr(RUN, outcome.run_id)
    if outcome.value is None:
        trial.set_user_attr(REASON, outcome.reason)
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, outcome.value)


# ---- what a study holds ----------------------------------------------------------------------------------------------


def ended(study: Study) -> list[FrozenTrial]:
    """Return the trials that ended with a value or were pruned, the best first."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return sorted(trials, key=lambda trial: (trial.value is None, trial.value or 0.0, trial.number))


def best(study: Study) -> FrozenTrial | None:
    """Return the trial with the lowest value; None where none has one."""
    return next((trial for trial in ended(study) if trial.value is not None), None)


def add_repeat(study: Study, number: int, seed: int, *, outcome: Outcome) -> None:
    """Remember how a trial's point of the space did with another seed."""
    entry = {
        "trial": number,
        "seed": seed,
        "value": outcome.value,
        REASON: outcome.reason,
        RUN: outcome.run_id,
        SECONDS: outcome.seconds,
    }
    study.set_user_attr(REPEATS, [*study.user_attrs.get(REPEATS, []), entry])


def repeats(study: Study, number: int) -> list[dict[str, Any]]:
    """Return what is known of a trial's point of the space with other seeds."""
    return [entry for entry in study.user_attrs.get(REPEATS, []) if entry["trial"] == number]


def spent(study: Study) -> float:
    """Return the seconds that the study's trainings have taken."""
    trainings = [trial.user_attrs for trial in study.get_trials(deepcopy=False)] + study.user_attrs.get(REPEATS, [])
    return sum(float(training.get(SECONDS, 0.0)) for training in trainings)


def importances(study: Study) -> dict[str, float]:
    """Return how much of the values' variance each hyperparameter explains; nothing where there are few values."""
    values = [trial.value for trial in ended(study) if trial.value is not None]
    if len(values) < MIN_FOR_IMPORTANCE or statistics.pvariance(values) == 0:
        return {}
    return dict(optuna.importance.get_param_importances(study))


def as_json(study: Study, space: Space) -> dict[str, Any]:
    """Return all that a study holds, for people and other programs."""
    trials = [
        {"number": trial.number, "value": trial.value, **trial.user_attrs, "params": texts_at(space, trial.params)}
        for trial in sorted(ended(study), key=lambda trial: trial.number)
    ]
    return {"trials": trials, REPEATS: study.user_attrs.get(REPEATS, [])}


def table(study: Study, space: Space) -> list[list[str]]:
    """Return a head and a row for each trial, the best first: number, value, hyperparameters.

    Of a trial without a value the place of the value says why.
    """
    names = [name for name in HYPERPARAMETERS if name in space]
    rows = [
        [str(trial.number), "pruned" if trial.value is None else f"{trial.value:.4g}", *row_of(names, space, trial)]
        for trial in ended(study)
    ]
    return [["trial", "value", *names], *rows]


def row_of(names: Iterable[str], space: Space, trial: FrozenTrial) -> list[str]:
    """Return a trial's hyperparameters as text, "" for one that it does without."""
    texts = texts_at(space, trial.params)
    return [texts.get(name, "") for name in names]
