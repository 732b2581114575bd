"""What a search does: settled and checked once, before its first training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Any

from gan_plugin.config.recipe import Recipe, override, parse_hyperparameters
from gan_plugin.config.settings import TrainSettings, TuneSettings
from gan_plugin.config.space import Space, own_values, texts_at
from gan_plugin.data import Dataset
from gan_plugin.errors import UserError
from gan_plugin.evaluation.quick import make_quick_fid
from gan_plugin.evaluation.reference import has_classes
from gan_plugin.features import choose_quick_features
from gan_plugin.training.plan import TrainingPlan, make_plan, spec_of

SHARE = 12  # of the time that one training takes, where nobody says
MIN_TRIALS = 3
OWN = ("minutes", "seed", "features", "output_dir")  # settings of train that a search sets itself


@dataclass(frozen=True)
class SearchPlan:
    """What a search does, with nothing left open.

    Attributes:
        recipe: from which the search begins, as it ships or as its file has it.
        space: which hyperparameters are searched.
        fixed: hyperparameters of every training that are not searched, as text.
        training: the training of the recipe's own values, or of those of the space that are nearest to them.
        trial_minutes: of one training.
        metric: name of the metric to minimize.
        features: the network that it is computed with.
        digest: of that network; under another the metrics of two trainings cannot be compared.
    """

    recipe: Recipe
    space: Space
    _: KW_ONLY
    fixed: Mapping[str, str]
    training: TrainingPlan
    trial_minutes: float
    metric: str
    features: str
    digest: str

    def identity(self, dataset: Dataset, space_text: str) -> dict[str, Any]:
        """Return what a search that goes on must agree on; more minutes are welcome."""
        return {
            **self.training.identity(dataset),
            "space": space_text,
            "trial_minutes": self.trial_minutes,
            "features_digest": self.digest,
            "device": self.training.device.type,
        }


def minutes_of_trials(settings: TuneSettings) -> float:
    """Return the minutes of one training.

    Raises:
        UserError: there is no time for MIN_TRIALS of them beside those of the best one over seeds; the sentence says
            how many minutes there must be.
    """
    minutes = settings.minutes / SHARE if settings.trial_minutes is None else settings.trial_minutes
    needed = (MIN_TRIALS + settings.seeds) * minutes
    if settings.minutes < needed:
        raise UserError(
            f"minutes={settings.minutes:g} is too little for {MIN_TRIALS} trials of {minutes:g} minutes and "
            f"{settings.seeds} more for the best one's seeds: give at least minutes={needed:g}, fewer seeds, or a "
            "smaller trial_minutes."
        )
    return minutes


def check_out(settings: TuneSettings) -> None:
    """Refuse a file that cannot be written, or that is the recipe from which the search begins.

    Raises:
        UserError: names the file.
    """
    out = Path(settings.out)
    if not out.resolve().parent.is_dir():
        raise UserError(f"out={settings.out!r} cannot be written: there is no folder {str(out.resolve().parent)!r}.")
    if out.exists() and Path(settings.recipe).exists() and out.samefile(settings.recipe):
        raise UserError(f"out={settings.out!r} is the recipe that the search begins with: give another file.")


def make_search_plan(
    settings: TuneSettings, recipe: Recipe, space: Space, *, dataset: Dataset, trial_minutes: float
) -> SearchPlan:
    """Settle what user and recipe left open, once for all trainings, and get ready what they share.

    The batch is fitted to the time here, or two trainings of equal hyperparameters might differ in it. The network
    whose features are compared, and those of the real images, are in the cache then: no training spends its time on
    them.

    Raises:
        UserError: the recipe's own values contradict the data or the device, or nothing can be measured.
    """
    features = choose_quick_features(settings.features, has_classes(dataset))
    own = parse_hyperparameters(texts_at(space, own_values(space, recipe)))
    training = make_plan(
        override(recipe, **own),
        training_settings(settings, trial_minutes),
        overrides={name: value for name, value in own.items() if name == "batch_size"},  # any other batch is fitted
        dataset=dataset,
    )
    evaluator = make_quick_fid(
        dataset,
        features,
        latent_size=training.recipe.latent_size,
        classes=spec_of(dataset, training.recipe).classes,
        device=training.device,
        weights=None if settings.inception_weights is None else Path(settings.inception_weights),
    )
    return SearchPlan(
        recipe,
        space,
        fixed={} if "batch_size" in space else {"batch_size": str(training.recipe.batch_size)},
        training=training,
        trial_minutes=trial_minutes,
        metric=evaluator.metric,
        features=features,
        digest=evaluator.digest,
    )


def training_settings(settings: TuneSettings, trial_minutes: float) -> TrainSettings:
    """Return the settings of the search's trainings, but for those of OWN that differ between them."""
    shared: dict[str, Any] = {name: getattr(settings, name) for name in shared_names()}
    return TrainSettings(**shared, minutes=trial_minutes, seed=settings.seed)


def shared_names() -> list[str]:
    """Return the settings that a search passes on to its trainings as they are."""
    searched = {field.name for field in fields(TuneSettings)} - set(OWN)
    return [field.name for field in fields(TrainSettings) if field.name in searched]
