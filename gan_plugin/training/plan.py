"""Everything that decides what a training run does: settled once, and refused here or never."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch

from gan_plugin.config.fitting import fit_augmentation, fit_batch, limit_batch
from gan_plugin.config.recipe import Recipe, check_effect, override, resolved
from gan_plugin.config.settings import EPOCHS, SAMPLE_GRIDS, TrainSettings
from gan_plugin.data import Dataset
from gan_plugin.device import choose_device, choose_precision, precision_name, release_memory
from gan_plugin.errors import UserError
from gan_plugin.spec import SampleSpec
from gan_plugin.training.capture import Capture, as_it_is, make_capture
from gan_plugin.training.rules import check_combination, without_unused
from gan_plugin.training.speed import fit_batch_to_time, grow_batch, seconds_per_step, share_of

STEP_MEMORY = 0.4  # of a GPU, for a step; up to half of it is for the data, and evaluations need some

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


@dataclass(frozen=True)
class TrainingPlan:
    """What a training run does, with nothing left open.

    Attributes:
        recipe: the method, fitted to the data.
        epochs: passes over the data; None for a training that ends in time.
        minutes: that the run may take; None for a training of so many epochs.
        seed: of all that is random.
        device: where training runs.
        precision: in which autocast computes; weights are float32.
        samples_every: epochs between two sample grids; None for SAMPLE_GRIDS in a training that ends in time.
        checkpoint_every: epochs between two checkpoints.
        checkpoint_minutes: minutes from a checkpoint to the next, where that comes first.
        evaluation_budget: share of the time for evaluating the generator during training.
        guard: whether more than a value that is not finite ends training.
        retries: how often the guard may go back to a good checkpoint.
        cuda_graphs: whether gradients are captured on CUDA.
    """

    recipe: Recipe
    _: KW_ONLY
    epochs: int | None
    minutes: float | None = None
    seed: int
    device: torch.device
    precision: torch.dtype
    samples_every: int | None
    checkpoint_every: int
    checkpoint_minutes: float = 5.0
    evaluation_budget: float = 0.0
    guard: bool = True
    retries: int = 3
    cuda_graphs: bool = True

    def capture(self) -> Capture:
        """Return what captures the gradients of a step, where that is possible and asked for."""
        return make_capture(self.device) if self.cuda_graphs else as_it_is

    def identity(self, dataset: Dataset) -> dict[str, Any]:
        """Return what a resumed run must agree on. More epochs are welcome; another device is possible."""
        recipe = {"recipe": self.recipe.name, **resolved(self.recipe)}
        data = {"shape": list(dataset.spec.shape), "data": dataset.digest}
        return {**recipe, **data, "seed": self.seed, "precision": precision_name(self.precision)}


def make_plan(
    recipe: Recipe,
    settings: TrainSettings,
    *,
    overrides: Mapping[str, object],
    dataset: Dataset,
    world_size: int = 1,
) -> TrainingPlan:
    """Settle what user and recipe left open, and refuse what does not go together.

    Args:
        recipe: with the overrides in it.
        overrides: the recipe's fields that the user set.
        dataset: to train on.
        world_size: the processes that share each batch.

    Raises:
        UserError: the recipe contradicts itself, the data or the device; the sentence says what would be right.
    """
    recipe = without_unused(fit(recipe, overrides, dataset))
    check_effect(recipe, overrides.keys())
    check_combination(recipe, dataset)
    device = choose_device(settings.device)
    plan = TrainingPlan(
        recipe=recipe,
        epochs=epochs_of(settings),
        minutes=settings.minutes,
        seed=settings.seed,
        device=device,
        precision=choose_precision(settings.precision, device),
        samples_every=samples_every_of(settings),
        checkpoint_every=settings.checkpoint_every,
        checkpoint_minutes=settings.checkpoint_minutes,
        evaluation_budget=settings.evaluation_budget,
        guard=settings.guard,
        retries=settings.retries,
        cuda_graphs=settings.cuda_graphs,
    )
    if overrides.get("batch_size") is None:
        plan = replace(plan, recipe=fit_batch_to(plan, dataset, world_size))
    if "batch_size" in overrides and overrides["batch_size"] is None and device.type == "cuda":
        plan = replace(plan, recipe=grow_batch_of(plan, dataset, world_size))
    check_share(plan.recipe, world_size)
    check_updates(plan, dataset)
    return plan


def epochs_of(settings: TrainSettings) -> int | None:
    """Return the passes over the data; None for a training that ends in time.

    Raises:
        UserError: both are given.
    """
    if settings.minutes is None:
        return EPOCHS if settings.epochs is None else settings.epochs
    if settings.epochs is not None:
        raise UserError(
            f"epochs={settings.epochs} and minutes={settings.minutes:g} both say how long to train: give one of them."
        )
    return None


def samples_every_of(settings: TrainSettings) -> int | None:
    """Return the epochs from one grid of samples to the next; None where neither they nor the epochs are known."""
    epochs = epochs_of(settings)
    if settings.samples_every is not None or epochs is None:
        return settings.samples_every
    return max(1, round(epochs / SAMPLE_GRIDS))


def fit_batch_to(plan: TrainingPlan, dataset: Dataset, world_size: int) -> Recipe:
    """Fit the batch to the number of images that the training sees, which in minutes depends on the machine's speed.

    It is one that the processes can share.
    """
    if plan.epochs is not None:
        fitted = fit_batch(plan.recipe, len(dataset), plan.epochs * len(dataset))
    else:
        assert plan.minutes is not None
        fitted = fit_batch_to_time(
            plan.recipe,
            dataset,
            spec_of(dataset, plan.recipe),
            device=plan.device,
            precision=plan.precision,
            seconds=60 * plan.minutes,
            world_size=world_size,
            capture=plan.capture(),
        )
    unit = world_size * fitted.pack
    return override(fitted, batch_size=max(unit, fitted.batch_size // unit * unit))


def grow_batch_of(plan: TrainingPlan, dataset: Dataset, world_size: int) -> Recipe:
    """Return the recipe with the largest batch that a GPU's memory and the number of steps allow; log which it is."""
    spec = spec_of(dataset, plan.recipe)

    def step_seconds(recipe: Recipe) -> float | None:
        release_memory()
        torch.cuda.reset_peak_memory_stats(plan.device)
        try:
            seconds = seconds_per_step(
                share_of(recipe, world_size),
                dataset,
                spec,
                device=plan.device,
                precision=plan.precision,
                capture=plan.capture(),
            )
        except torch.OutOfMemoryError:
            return None
        _, total = torch.cuda.mem_get_info(plan.device)
        return seconds if torch.cuda.max_memory_allocated(plan.device) <= STEP_MEMORY * total else None

    grown, reason = grow_batch(
        plan.recipe,
        len(dataset),
        step_seconds,
        images=None if plan.epochs is None else plan.epochs * len(dataset),
        seconds=None if plan.minutes is None else 60 * plan.minutes,
    )
    logger.info("batch_size=%d: %s.", grown.batch_size, reason)
    return grown


def check_share(recipe: Recipe, world_size: int) -> None:
    """Refuse a batch that the processes cannot share equally.

    Raises:
        UserError: names the nearest batches that they can.
    """
    unit = world_size * recipe.pack
    if recipe.batch_size % unit:
        lower = recipe.batch_size // unit * unit
        nearest = f"{lower} or {lower + unit}" if lower else str(unit)
        packs = f" in packs of {recipe.pack}" if recipe.pack > 1 else ""
        raise UserError(
            f"batch_size={recipe.batch_size} cannot be shared equally by {world_size} processes{packs}: give {nearest}."
        )


def fit(recipe: Recipe, overrides: Mapping[str, object], dataset: Dataset) -> Recipe:
    """Fit the recipe to the data where the user left it open: augmentation, labels, and a batch that is not too large.

    Raises:
        UserError: labels were asked of data that has none, or a bound for an augmentation that is settled.
    """
    classes = dataset.spec.classes
    if overrides.get("conditional") and classes < 2:
        raise UserError(
            f"conditional=true is not possible: {dataset.name} has no classes to choose from; give conditional=false."
        )
    if "augment_below" in overrides and ("augment" in overrides or recipe.augment == "none"):
        raise UserError(
            f"augment_below changes nothing where augment={recipe.augment} is settled: leave augment_below out, or "
            "give a recipe that augments, and no augment."
        )
    if overrides.get("batch_size") is None:
        recipe = limit_batch(recipe, recipe.batch_size, len(dataset))
    if "augment" not in overrides:
        recipe = fit_augmentation(recipe, len(dataset))
    return override(recipe, conditional=recipe.conditional and classes > 1)


def spec_of(dataset: Dataset, recipe: Recipe) -> SampleSpec:
    """Return what the generator makes: the data's samples, with their labels where the recipe is conditional."""
    return dataset.spec if recipe.conditional else dataset.spec.unlabeled()


def steps_per_epoch(dataset: Dataset, recipe: Recipe) -> int:
    """Return the steps of an epoch; a last, smaller batch is left to the next epoch's order.

    Raises:
        UserError: the data is less than a batch.
    """
    if len(dataset) < recipe.batch_size:
        raise UserError(
            f"batch_size={recipe.batch_size} is more than the {len(dataset)} images of the data: give a smaller one."
        )
    return len(dataset) // recipe.batch_size


def check_updates(plan: TrainingPlan, dataset: Dataset) -> None:
    """Refuse a training in which the generator would never be updated.

    Raises:
        UserError: the data is less than a batch, or the training shorter than ``discriminator_steps``.
    """
    epoch_steps = steps_per_epoch(dataset, plan.recipe)
    if plan.epochs is not None and epoch_steps * plan.epochs < plan.recipe.discriminator_steps:
        raise UserError(
            f"discriminator_steps={plan.recipe.discriminator_steps} is more than the training's "
            f"{epoch_steps * plan.epochs} steps, in which the generator would never learn: give a smaller one, more "
            "epochs, or a smaller batch_size."
        )


def check_resumed(header: Mapping[str, Any], plan: TrainingPlan, *, steps_per_epoch: int) -> None:
    """Refuse less training than a checkpoint has behind it. Equally much is fine: an export may have failed before.

    Args:
        header: of the checkpoint.
        plan: of the training that goes on from it.
        steps_per_epoch: of that training.

    Raises:
        UserError: names both numbers.
    """
    steps, seconds = header["steps"], header["seconds"]
    if plan.epochs is not None and steps > plan.epochs * steps_per_epoch:
        raise UserError(
            f"epochs={plan.epochs} is less than the {steps / steps_per_epoch:.4g} epochs behind the checkpoint: give "
            "more."
        )
    if plan.minutes is not None and seconds > 60 * plan.minutes:
        raise UserError(
            f"minutes={plan.minutes:g} is less than the {seconds / 60:.4g} minutes behind the checkpoint: give more."
        )
