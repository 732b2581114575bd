"""Which hyperparameters go together. What does not is refused before training, in one sentence."""

from __future__ import annotations

import dataclasses
from typing import Any

from gan_plugin.config.recipe import HYPERPARAMETERS, Recipe, without_effect
from gan_plugin.data import Dataset
from gan_plugin.errors import UserError
from gan_plugin.networks import FAMILIES


def without_unused(recipe: Recipe) -> Recipe:
    """Return the recipe with defaults for what belongs to a part that an override took away.

    So its hyperparameters say what is done and no more.
    """
    defaults: dict[str, Any] = {name: HYPERPARAMETERS[name].default for name in without_effect(recipe)}
    left = dataclasses.replace(recipe, **defaults)
    return left if left.is_annealed else dataclasses.replace(left, anneal=Recipe.anneal)


def check_combination(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse a recipe that cannot be trained on this data.

    Raises:
        UserError: two parts of the recipe contradict each other, or the family has no network for such images.
    """
    FAMILIES[recipe.family].check(recipe, dataset.spec)
    check_training(recipe)
    check_groups(recipe, len(dataset))


def check_training(recipe: Recipe) -> None:
    """Refuse combinations of objective, penalty and updates, and an augmentation without a probability."""
    if recipe.augment == "scheduled" and recipe.augment_p == (0, 0):
        raise UserError("augment=scheduled needs a probability: give augment_p, for example 0.2.")
    if recipe.penalty != "none" and recipe.penalty_weight == (0, 0):
        raise UserError(
            f"penalty={recipe.penalty} needs a weight: give penalty_weight, for example 1 or 10, or penalty=none."
        )
    if recipe.objective == "wasserstein" and recipe.penalty == "none" and not recipe.spectral_norm:
        raise UserError(
            "objective=wasserstein needs a Lipschitz-bound critic, or its logits grow without limit: give "
            "penalty=wgan-gp with penalty_weight=10, or spectral_norm=true."
        )
    if recipe.discriminator_steps > 1 and recipe.updates != "alternating":
        raise UserError(
            f"discriminator_steps={recipe.discriminator_steps} is not possible with updates={recipe.updates}, where "
            "both networks learn from one batch of fakes: give updates=alternating, or discriminator_steps=1."
        )


def check_groups(recipe: Recipe, images: int) -> None:
    """Refuse packs and codes that the batch, the data or z have no room for."""
    if recipe.pack > images:
        raise UserError(f"pack={recipe.pack} is more than the {images} images of the data: give a smaller one.")
    if recipe.batch_size % recipe.pack:
        raise UserError(f"batch_size={recipe.batch_size} is not a multiple of pack={recipe.pack}: give one that is.")
    if (recipe.categorical_codes or recipe.continuous_codes) and recipe.pack > 1:
        raise UserError(f"codes are predicted from single images, and pack={recipe.pack} packs them: give pack=1.")
    if recipe.categorical_codes == 1:
        raise UserError("categorical_codes=1 is a choice of one: give 0, or at least 2.")
    if recipe.categorical_codes + recipe.continuous_codes >= recipe.latent_size:
        codes = recipe.categorical_codes + recipe.continuous_codes
        raise UserError(f"latent_size={recipe.latent_size} leaves nothing beside {codes} codes: give more.")
