"""Which parts of a recipe go together. Whatever does not is refused before training, in one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from gan_plugin.config.recipe import RAMPS, Recipe
from gan_plugin.data import Dataset
from gan_plugin.errors import UserError
from gan_plugin.networks import FAMILIES
from gan_plugin.objectives import OBJECTIVES


def check_effect(recipe: Recipe, given: Collection[str]) -> None:
    """
    Args:
        recipe: without leftovers.
        given: the fields of the recipe that were overridden.

    Raises:
        UserError: one of them is a part of something that the recipe does not have, and would change nothing.
    """
    for name, (what, there) in parts(recipe).items():
        if name in given and not there:
            raise UserError(f"{name} changes nothing without {what}: give that, too, or leave {name} out.")


def without_leftovers(recipe: Recipe) -> Recipe:
    """The recipe less what belongs to a part that an override took away, so that it says what is done and no more."""
    usual: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Recipe)}
    gone = {name: usual[name] for name, (_, there) in parts(recipe).items() if not there}
    left = dataclasses.replace(recipe, **gone)
    return left if moving_values(left) else dataclasses.replace(left, anneal=0)


def parts(recipe: Recipe) -> dict[str, tuple[str, bool]]:
    """Fields that are a part of something: of what, and whether the recipe has it."""
    r3gan_ = ("family=r3gan", recipe.family == "r3gan")
    penalty = ("a penalty", recipe.penalty != "none")
    several = ("discriminators of at least 2", recipe.discriminators > 1)
    return {
        "width": r3gan_,
        "full_stages": r3gan_,
        "blocks": r3gan_,
        "dropout": ("family=dcgan", recipe.family == "dcgan"),
        "penalty_weight": penalty,
        "penalty_every": penalty,
        "augment_p": ("augment=scheduled", recipe.augment == "scheduled"),
        "discriminator_dropout": several,
        "softmax_temperature": several,
        "beta1": ("optimizer=adam or sgd", recipe.optimizer != "rmsprop"),
        "beta2": ("optimizer=adam or rmsprop", recipe.optimizer != "sgd"),
        "anneal": ("a value A..B", bool(moving_values(recipe))),
    }


def moving_values(recipe: Recipe) -> list[str]:
    """The fields whose value changes while training goes on."""
    return [name for name in sorted(RAMPS) if getattr(recipe, name).start != getattr(recipe, name).end]


def check_combination(recipe: Recipe, dataset: Dataset) -> None:
    """
    Raises:
        UserError: two parts of the recipe contradict each other, or the family has no network for such images.
    """
    FAMILIES[recipe.family].check(recipe, dataset.spec)
    check_game(recipe)
    check_groups(recipe, len(dataset))
    if recipe.anneal == 0 and (moving := moving_values(recipe)):
        raise UserError(f"{moving[0]} goes from one value to another in no images: give anneal, for example 200000.")


def check_game(recipe: Recipe) -> None:
    """Objective, penalty, turns and augmentation."""
    if recipe.augment == "ada" and OBJECTIVES[recipe.objective].boundary is None:
        raise UserError(
            f"augment=ada is not possible with objective={recipe.objective}: its logits have no absolute meaning to "
            "adapt to; give augment=diffaugment or scheduled, or an absolute objective such as non-saturating."
        )
    if recipe.augment == "scheduled" and recipe.augment_p.end == 0 == recipe.augment_p.start:
        raise UserError("augment=scheduled needs a probability: give augment_p, for example 0.2.")
    if recipe.penalty != "none" and recipe.penalty_weight.start == 0 == recipe.penalty_weight.end:
        raise UserError(
            f"penalty={recipe.penalty} needs a weight: give penalty_weight, for example 1 or 10, or penalty=none."
        )
    if recipe.objective == "wasserstein" and recipe.penalty == "none" and not recipe.spectral_norm:
        raise UserError(
            "objective=wasserstein needs a critic that is held, or its logits grow without bound: give penalty=wgan-gp "
            "with penalty_weight=10, or spectral_norm=true."
        )
    if recipe.discriminator_steps > 1 and recipe.updates != "alternating":
        raise UserError(
            f"discriminator_steps={recipe.discriminator_steps} is not possible with updates={recipe.updates}, where "
            "both networks learn from one batch of fakes: give updates=alternating, or discriminator_steps=1."
        )


def check_groups(recipe: Recipe, images: int) -> None:
    """Packs and codes."""
    if recipe.pack > images:
        raise UserError(f"pack={recipe.pack} is more than the {images} images of the data: give a smaller one.")
    if recipe.batch_size % recipe.pack:
        raise UserError(f"batch_size={recipe.batch_size} is not a multiple of pack={recipe.pack}: give one that is.")
    if (recipe.categorical_codes or recipe.continuous_codes) and recipe.pack > 1:
        raise UserError(f"codes are shown by single images, and pack={recipe.pack} packs them: give pack=1.")
    if recipe.categorical_codes == 1:
        raise UserError("categorical_codes=1 is a choice of one: give 0, or at least 2.")
    if recipe.categorical_codes + recipe.continuous_codes >= recipe.latent_size:
        codes = recipe.categorical_codes + recipe.continuous_codes
        raise UserError(f"latent_size={recipe.latent_size} leaves nothing beside {codes} codes: give more.")
