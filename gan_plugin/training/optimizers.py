"""The networks' optimizers, and the ramps of the recipe that they follow."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from gan_plugin.config.recipe import Hyperparameters, Recipe
from gan_plugin.config.schedule import lazy


def new_optimizer(recipe: Recipe, network: nn.Module, *, lr: float, factor: float) -> torch.optim.Optimizer:
    """Make the optimizer of one network, at the values that the ramps begin with.

    ``factor`` corrects for a penalty at every k-th step only: lr·c and β^c with c = k/(k + 1), Karras et al. 2020,
    arXiv:1912.04958, appendix B.
    """
    beta2 = recipe.at(0).beta2
    weights = network.parameters()
    match recipe.optimizer:
        case "adam":
            return torch.optim.Adam(weights, lr * factor, betas=(recipe.beta1**factor, beta2**factor), fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(weights, lr * factor, alpha=beta2**factor)
        case "sgd":
            return torch.optim.SGD(weights, lr * factor, momentum=recipe.beta1**factor)
    raise ValueError(recipe.optimizer)


def step_factor(recipe: Recipe) -> float:
    """Return the discriminators' c = k/(k + 1) of a penalty at every k-th step; 1 without one, or at every step."""
    return lazy(recipe.penalty_every if recipe.penalty != "none" else 1)


def follow_ramps(optimizers: Mapping[str, torch.optim.Optimizer], recipe: Recipe, values: Hyperparameters) -> None:
    """Give the optimizers this step's learning rates and β₂."""
    set_rates(optimizers["generator"], values.generator_lr, values.beta2)
    if "discriminator" in optimizers:
        factor = step_factor(recipe)
        set_rates(optimizers["discriminator"], values.discriminator_lr * factor, values.beta2**factor)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, beta2: float) -> None:
    """Set the learning rate, and Adam's β₂ or RMSprop's α."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (group["betas"][0], beta2)
        elif "alpha" in group:
            group["alpha"] = beta2
