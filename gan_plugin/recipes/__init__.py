"""A training method by name: one TOML file beside this module."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from importlib import resources

from gan_plugin.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


STEPS_AN_EPOCH = 100
SMALLEST_BATCH = 16


@dataclass(frozen=True)
class Recipe:
    """What a method consists of. Settings of the same name override a field."""

    name: str
    summary: str
    family: str  # of networks, see gan_plugin.networks.FAMILIES
    objective: str  # see gan_plugin.objectives.OBJECTIVES
    latent_size: int  # length of z
    batch_size: int  # pictures a step
    generator_lr: float  # Adam's learning rate of the generator …
    discriminator_lr: float  # … and of the discriminator
    beta1: float  # Adam's decay of the gradient's mean
    beta2: float  # Adam's decay of the gradient's square
    ema_half_life: float  # pictures after which half of an old weight is left in the averaged generator


def recipe_names() -> list[str]:
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_recipe(name: str) -> Recipe:
    """
    Raises:
        UserError: there is no recipe of this name.
    """
    if name not in recipe_names():
        raise UserError(f"recipe={name!r} is unknown: give one of {', '.join(recipe_names())}.")
    return Recipe(name=name, **tomllib.loads((resources.files(__name__) / f"{name}.toml").read_text("utf-8")))


def fit_batch(recipe: Recipe, pictures: int) -> Recipe:
    """The recipe with a batch small enough for little data: some hundred steps an epoch, but at least 16 pictures.

    In 50 epochs over 1,797 digits a batch of 64 makes 1,400 steps, which is too few; one of 16 makes 5,600.
    """
    few = max(2 ** int(math.log2(max(pictures // STEPS_AN_EPOCH, 1))), SMALLEST_BATCH)
    return dataclasses.replace(recipe, batch_size=min(recipe.batch_size, few, pictures))


def override(recipe: Recipe, **values: object) -> Recipe:
    """The recipe with every value that is not None put in the place of its own."""
    given = {name: value for name, value in values.items() if value is not None}
    return dataclasses.replace(recipe, **given)  # type: ignore[arg-type]
