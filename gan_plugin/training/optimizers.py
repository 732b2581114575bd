"""Both players' optimizers, and the recipe's ramps that they follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from gan_plugin.config.recipe import Recipe
from gan_plugin.config.schedule import lazy

if TYPE_CHECKING:
    from gan_plugin.training.gan import TrainingState


def new_optimizers(
    recipe: Recipe, generator: nn.Module, discriminator: nn.Module
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """The generator's and the discriminators', with the values that the ramps begin with."""
    every = recipe.penalty_every if recipe.penalty != "none" else 1
    return (
        new_optimizer(recipe, generator, recipe.generator_lr.at(0, recipe.anneal), 1.0),
        new_optimizer(recipe, discriminator, recipe.discriminator_lr.at(0, recipe.anneal), lazy(every)),
    )


def new_optimizer(recipe: Recipe, network: nn.Module, lr: float, share: float) -> torch.optim.Optimizer:
    """``share`` corrects for a penalty at every k-th step only: lr·c and β^c with c = k/(k + 1), Karras et al. 2020."""
    beta2 = recipe.beta2.at(0, recipe.anneal)
    weights = network.parameters()
    match recipe.optimizer:
        case "adam":
            return torch.optim.Adam(weights, lr * share, betas=(recipe.beta1**share, beta2**share), fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(weights, lr * share, alpha=beta2**share)
        case "sgd":
            return torch.optim.SGD(weights, lr * share, momentum=recipe.beta1**share)
    raise ValueError(recipe.optimizer)


def follow_ramps(state: TrainingState, recipe: Recipe) -> None:
    """Give both optimizers this step's learning rates and β₂."""
    if recipe.anneal == 0:
        return
    images = state.steps * recipe.batch_size
    share = lazy(recipe.penalty_every if recipe.penalty != "none" else 1)
    beta2 = recipe.beta2.at(images, recipe.anneal)
    set_rates(state.generator_optimizer, recipe.generator_lr.at(images, recipe.anneal), beta2)
    set_rates(state.discriminator_optimizer, recipe.discriminator_lr.at(images, recipe.anneal) * share, beta2**share)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, beta2: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (group["betas"][0], beta2)
        elif "alpha" in group:
            group["alpha"] = beta2
