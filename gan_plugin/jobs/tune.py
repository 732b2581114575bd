"""Tune: search a recipe's hyperparameters within a total time, and write the best ones as a recipe."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from gan_plugin.config.parsing import explicit_texts
from gan_plugin.config.recipe import load_recipe
from gan_plugin.config.settings import TuneSettings
from gan_plugin.config.space import check_space, default_space, own_values, parse_space
from gan_plugin.data import Dataset, check_data_argument
from gan_plugin.device import choose_device, choose_precision, precision_name
from gan_plugin.errors import UserError
from gan_plugin.jobs import study as studies
from gan_plugin.jobs.resume import adopted, run_of, unfinished_runs
from gan_plugin.jobs.search import Search, SearchClock
from gan_plugin.jobs.search_plan import MIN_TRIALS, SearchPlan, check_out, make_search_plan, minutes_of_trials
from gan_plugin.jobs.train import Undelivered
from gan_plugin.jobs.training_data import load_training_data
from gan_plugin.jobs.trial import Stopped
from gan_plugin.jobs.tuned import write_results
from gan_plugin.signals import StopSignals
from gan_plugin.spec import size_text
from gan_plugin.tracking.run import RUN_NOTE
from gan_plugin.tracking.spool import RunRecord
from gan_plugin.tracking.training_run import TrainingRun, make_folder, training_run, undelivered

FITTED = ("batch_size",)  # to the time, where it is not searched; a search that goes on keeps its own


class NothingFound(RuntimeError):
    """No training of the search ended with a generator."""


def run_tune(settings: TuneSettings, *, started: float | None = None) -> Path:
    """Search, train the best hyperparameters with further seeds, and write them as a recipe; returns its path.

    A search of the same settings in the same folder that did not end goes on.

    Args:
        started: since when minutes count, by ``time.monotonic``; None is now.

    Raises:
        UserError: a setting, the space, the data or the device is wrong, or there is too little time.
        NothingFound: no training ended with a generator.
        TrialFailed: a training failed, for a reason that has nothing to do with its hyperparameters.
        Undelivered: all is done and on disk, and MLflow does not have all of it.
        SystemExit: SIGTERM, SIGHUP or Ctrl-C came; the best hyperparameters so far are written.
    """
    started = time.monotonic() if started is None else started
    recipe = load_recipe(settings.recipe)
    space_text = default_space(recipe) if settings.space is None else settings.space
    space = parse_space(space_text)
    check_space(space, recipe)
    trial_minutes = minutes_of_trials(settings)
    check_out(settings)
    choose_precision(settings.precision, choose_device(settings.device))  # refused before the data is read
    check_data_argument(settings.data, settings.split, settings.held_out)
    division = load_training_data(settings)
    dataset = division.dataset
    plan = make_search_plan(settings, recipe, space, dataset=dataset, trial_minutes=trial_minutes)
    clock = SearchClock(started + 60 * settings.minutes, 60 * trial_minutes)
    identity = plan.identity(dataset, space_text)
    output_dir = make_folder(Path(settings.output_dir).resolve(), settings.output_dir)
    continued = find_unfinished_search(output_dir, identity)
    if continued is None:
        check_time_left(settings, clock, trial_minutes, ready_s=time.monotonic() - started)
    else:
        identity = adopted(identity, continued, FITTED)
        plan = replace(plan, fixed={name: str(identity[name]) for name in plan.fixed})
    name = f"tune-{recipe.name}-{dataset.name}"
    with training_run(name, output_dir, identity=identity, continued=continued) as run:
        log_start(run, settings, plan, dataset=dataset, space_text=space_text)
        del dataset, division  # the trainings read their own
        search_and_write(run, settings, plan, clock=clock)
    if not run.delivered:
        raise Undelivered(f"The search is done. {undelivered(run.folder)}")
    return Path(settings.out)


def check_time_left(settings: TuneSettings, clock: SearchClock, trial_minutes: float, *, ready_s: float) -> None:
    """Refuse a search of which getting ready, once for all trainings, has left no time for a trial.

    Raises:
        UserError: says how many minutes it needs.
    """
    if clock.trainings() <= settings.seeds:
        needed = ready_s / 60 + (MIN_TRIALS + settings.seeds) * trial_minutes
        raise UserError(
            f"minutes={settings.minutes:g} leaves no time for a trial of {trial_minutes:g} minutes and "
            f"{settings.seeds} more for the best one's seeds, since getting ready took {ready_s:.0f} s: give at least "
            f"minutes={math.ceil(needed)}."
        )


def find_unfinished_search(output_dir: Path, identity: dict[str, Any]) -> RunRecord | None:
    """Find the newest search of these settings that was cut off, and say so; None where there is none."""
    for folder, record in unfinished_runs(output_dir, identity, FITTED):
        if record.status != "FINISHED":
            print(f"Going on with the search {record.id}, which did not end.", flush=True)
            return run_of(folder)
    return None


def log_start(run: TrainingRun, settings: TuneSettings, plan: SearchPlan, *, dataset: Dataset, space_text: str) -> None:
    """Log the search's parameters, each as it is used, and its data; print what is about to happen."""
    spec, training = dataset.spec, plan.training
    run.parameters(
        {
            **explicit_texts(settings),
            **plan.fixed,
            "space": space_text,
            "trial_minutes": plan.trial_minutes,
            "features": plan.features,
            "image_size": size_text(spec.size),
            "channels": spec.channels,
            "device": training.device.type,
            "precision": precision_name(training.precision),
        }
    )
    run.dataset(dataset, context="training")
    run.spool.note(RUN_NOTE, f"A search from the recipe **{plan.recipe.name}** on **{dataset.name}**: `{space_text}`.")
    for note in dataset.notes:
        print(note)
    print(f"{len(dataset):,} images of {spec} from {dataset.name}, recipe {plan.recipe.name}, ", end="")
    print(f"on {training.device.type} in {precision_name(training.precision)}.")
    print(f"{plan.metric} is minimized over {space_text}, ", end="")
    print(f"in trainings of {plan.trial_minutes:g} minutes, within {settings.minutes:g} minutes.", flush=True)


def search_and_write(run: TrainingRun, settings: TuneSettings, plan: SearchPlan, *, clock: SearchClock) -> None:
    """Search in a run that has begun, and write what was found, also where a signal came; raises as ``run_tune``."""
    study = studies.open_study(run.folder, seed=settings.seed, own=own_values(plan.space, plan.recipe))
    clock.end -= studies.spent(study)  # before it was cut off
    stop = StopSignals("ending the training that goes on, then writing what was found")
    search = Search(
        run,
        settings,
        plan,
        study=study,
        clock=clock,
        stop_requested=stop.requested,
    )
    with stop.installed():
        try:
            search.run_trials()
            search.run_repeats()
        except Stopped:
            print("The search stopped as asked; the same command goes on with it.", file=sys.stderr)
        has_result = write_results(search, is_over=not stop.requested())
    if stop.requested():
        raise SystemExit(stop.exit_status())
    if not has_result:
        run.diverged = True  # so that the same command would begin another search
        reasons = sorted({trial.user_attrs[studies.REASON] for trial in studies.ended(study)})
        raise NothingFound(f"No training ended with a generator: {' '.join(reasons)}")
