"""Which parts of a recipe go together. Whatever does not is refused before training, in one sentence."""

from __future__ import annotations

from collections.abc import Collection

from gan_plugin.data import Pictures
from gan_plugin.errors import UserError
from gan_plugin.networks import r3gan
from gan_plugin.objectives import OBJECTIVES
from gan_plugin.recipes import RAMPS, Recipe


def check_combination(recipe: Recipe, pictures: Pictures) -> None:
    """
    Raises:
        UserError: two parts of the recipe contradict each other, or the family has no network for such pictures.
    """
    if recipe.family == "r3gan":
        check_r3gan(recipe, pictures.size)
    elif recipe.width or recipe.blocks:
        given = "width" if recipe.width else "blocks"
        raise UserError(f"{given} belongs to family=r3gan, and the recipe's is {recipe.family}: leave it out.")
    check_game(recipe)
    check_groups(recipe)
    if recipe.anneal == 0 and (moving := moving_values(recipe)):
        raise UserError(f"{moving[0]} goes from one value to another in no pictures: give anneal, for example 200000.")


def check_effect(recipe: Recipe, given: Collection[str]) -> None:
    """
    Args:
        given: the fields of the recipe that were overridden.

    Raises:
        UserError: one of them is a part of something that the recipe does not have, and would change nothing.
    """
    needs = {
        "full_stages": ("family=r3gan", recipe.family == "r3gan"),
        "penalty_weight": ("a penalty", recipe.penalty != "none"),
        "penalty_every": ("a penalty", recipe.penalty != "none"),
        "augment_p": ("augment=scheduled", recipe.augment == "scheduled"),
        "beta1": ("optimizer=adam or sgd", recipe.optimizer != "rmsprop"),
        "beta2": ("optimizer=adam or rmsprop", recipe.optimizer != "sgd"),
        "anneal": ("a value A..B", bool(moving_values(recipe))),
    }
    for name, (what, there) in needs.items():
        if name in given and not there:
            raise UserError(f"{name} changes nothing without {what}: give that, too, or leave {name} out.")


def moving_values(recipe: Recipe) -> list[str]:
    """The fields whose value changes while training goes on."""
    return [name for name in sorted(RAMPS) if getattr(recipe, name).start != getattr(recipe, name).end]


def check_r3gan(recipe: Recipe, image_size: int) -> None:
    if not (recipe.width and recipe.blocks):
        raise UserError("family=r3gan needs width and blocks: give both, for example width=64 and blocks=1.")
    if recipe.dropout or recipe.spectral_norm:
        given = "dropout" if recipe.dropout else "spectral_norm"
        raise UserError(f"{given} is not possible with family=r3gan: its discriminator is held by its penalty alone.")
    r3gan.stage_widths(image_size, recipe.width, recipe.full_stages)


def check_game(recipe: Recipe) -> None:
    """Objective, penalty, turns and augmentation."""
    if recipe.augment == "ada" and OBJECTIVES[recipe.objective].boundary is None:
        raise UserError(
            f"augment=ada is not possible with objective={recipe.objective}: its logits have no absolute meaning to "
            "adapt to; give augment=diffaugment or scheduled, or an absolute objective such as non-saturating."
        )
    if recipe.augment == "scheduled" and recipe.augment_p.end == 0 == recipe.augment_p.start:
        raise UserError("augment=scheduled needs a probability: give augment_p, for example 0..0.3 or 0.2.")
    if recipe.penalty != "none" and recipe.penalty_weight.start == 0 == recipe.penalty_weight.end:
        raise UserError(f"penalty={recipe.penalty} needs a weight: give penalty_weight, for example 1 or 10.")
    if recipe.discriminator_steps > 1 and recipe.turns != "alternating":
        raise UserError(
            f"discriminator_steps={recipe.discriminator_steps} is not possible with turns={recipe.turns}, where both "
            "players learn from one batch of fakes: give turns=alternating."
        )


def check_groups(recipe: Recipe) -> None:
    """Packs, several discriminators and codes."""
    if recipe.batch_size % recipe.pack:
        raise UserError(f"batch_size={recipe.batch_size} is not a multiple of pack={recipe.pack}: give one that is.")
    if (recipe.code_classes or recipe.code_values) and recipe.pack > 1:
        raise UserError(f"codes are shown by single pictures, and pack={recipe.pack} packs them: give pack=1.")
    if recipe.code_classes + recipe.code_values >= recipe.latent_size:
        codes = recipe.code_classes + recipe.code_values
        raise UserError(f"latent_size={recipe.latent_size} leaves nothing beside {codes} codes: give more.")
    if recipe.discriminators == 1 and (recipe.discriminator_dropout or recipe.softness):
        given = "discriminator_dropout" if recipe.discriminator_dropout else "softness"
        raise UserError(f"{given} chooses among several discriminators: give discriminators of at least 2.")
