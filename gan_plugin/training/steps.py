"""The training step of each method."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from gan_plugin.config.recipe import Recipe
from gan_plugin.data.loader import Batch
from gan_plugin.distributed import ALONE, Ranks
from gan_plugin.objectives import OBJECTIVES
from gan_plugin.training.autoencoder import AutoencoderStep, autoencoder_metrics
from gan_plugin.training.capture import Capture, as_it_is
from gan_plugin.training.gan import GanStep, gan_metrics
from gan_plugin.training.guard import chance_loss
from gan_plugin.training.state import TrainingState


class Step(Protocol):
    """Moves a state's networks by a batch; where a method needs a second one, ``needs_two_batches`` says so."""

    def __call__(self, batch: Batch, second_batch: Batch, /) -> dict[str, Tensor]:
        """Return the step's metrics, scalars on the device, under the names in ``metric_names``."""


def new_step(
    state: TrainingState,
    recipe: Recipe,
    precision: torch.dtype,
    *,
    capture: Capture = as_it_is,
    ranks: Ranks = ALONE,
) -> Step:
    """Return what moves a state by the recipe's method."""
    kind = GanStep if recipe.method == "gan" else AutoencoderStep
    return kind(state, recipe, precision, capture=capture, ranks=ranks)


def metric_names(recipe: Recipe) -> list[str]:
    """Return the names of the metrics that a step of this recipe reports."""
    return gan_metrics(recipe) if recipe.method == "gan" else autoencoder_metrics(recipe)


def balanced_loss(recipe: Recipe) -> float | None:
    """Return the discriminator's loss by which the guard judges the balance of two networks; None without one."""
    return chance_loss(OBJECTIVES[recipe.objective]) if recipe.method == "gan" else None
