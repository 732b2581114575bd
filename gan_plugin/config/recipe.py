"""A training method by name: one TOML file beside this module."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

from gan_plugin.config.schedule import Ramp, parse_ramp
from gan_plugin.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


RECIPES = resources.files("gan_plugin.config") / "recipes"
STEPS_AN_EPOCH = 100
MIN_BATCH = 16


@dataclass(frozen=True)
class Recipe:
    """What a method consists of. Settings of the same name override a field; TOML files name what is not usual.

    A :class:`~gan_plugin.config.schedule.Ramp` is a number, or ``A..B``: from A to B along half a cosine.
    """

    name: str
    summary: str
    # the networks
    family: str  # see gan_plugin.networks.FAMILIES
    latent_size: int  # length of z
    width: int = 0  # r3gan: feature maps of the coarsest stages, …
    full_stages: int = 4  # … of that many; each finer one has half of those before
    blocks: int = 0  # r3gan: residual blocks a stage
    dropout: float = 0.0  # dcgan: share of the discriminator's features that are dropped
    conditional: bool = False  # whether the generator takes a class, where the data has classes
    spectral_norm: bool = False  # on every weight of the discriminators
    discriminators: int = 1
    discriminator_dropout: float = 0.0  # probability with which the generator does not hear one of them in a step
    softmax_temperature: float = 0.0  # λ of the softmax that weighs several discriminators; 0 is their mean
    pack: int = 1  # images that a discriminator judges at once
    categorical_codes: int = 0  # InfoGAN: choices of the code that is one, …
    continuous_codes: int = 0  # … and how many codes are numbers
    # the game
    objective: str = "non-saturating"  # see gan_plugin.objectives.OBJECTIVES
    penalty: str = "none"  # on the discriminators' gradients, see gan_plugin.penalties.PENALTIES
    penalty_weight: Ramp = Ramp(0, 0)
    penalty_every: int = 1  # steps
    updates: str = "simultaneous"  # both players from one batch of fakes, or "alternating": first the discriminators
    discriminator_steps: int = 1  # for each of the generator's
    augment: str = "none"  # of what the discriminators see: none, diffaugment, ada or scheduled
    augment_p: Ramp = Ramp(0, 0)  # scheduled: probability of each augmentation
    augment_below: int = 30_000  # images; with more, nothing is augmented unless that is asked for
    # the optimizers
    batch_size: int = 64  # images a step
    optimizer: str = "adam"  # or rmsprop, or sgd
    generator_lr: Ramp = Ramp(2e-4, 2e-4)  # learning rates
    discriminator_lr: Ramp = Ramp(2e-4, 2e-4)
    beta1: float = 0.5  # Adam: decay of the gradient's mean; SGD: momentum
    beta2: Ramp = Ramp(0.999, 0.999)  # Adam and RMSprop: decay of the gradient's square
    ema_half_life: Ramp = Ramp(2_000, 2_000)  # images after which half of an old weight is left in the average
    anneal: int = 0  # images until every ramp has come to its end

    def at(self, images: float) -> Hyperparameters:
        return Hyperparameters(*(getattr(self, name).at(images, self.anneal) for name in Hyperparameters._fields))


class Hyperparameters(NamedTuple):
    penalty_weight: float
    augment_p: float
    generator_lr: float
    discriminator_lr: float
    beta2: float
    ema_half_life: float


RAMPS = frozenset(f.name for f in dataclasses.fields(Recipe) if f.type == "Ramp")


def recipe_names() -> list[str]:
    files = RECIPES.iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_recipe(name: str) -> Recipe:
    """
    Raises:
        UserError: there is no recipe of this name.
    """
    if name not in recipe_names():
        raise UserError(f"recipe={name!r} is unknown: give one of {', '.join(recipe_names())}.")
    found = tomllib.loads((RECIPES / f"{name}.toml").read_text("utf-8"))
    fields: dict[str, Any] = {k: parse_ramp(v) if k in RAMPS else v for k, v in found.items()}
    return Recipe(name=name, **fields)


def override(recipe: Recipe, **values: object) -> Recipe:
    """The recipe with every value that is not None put in the place of its own; a number may stand for a ramp."""
    given: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
    ramps = {k: parse_ramp(v) for k, v in given.items() if k in RAMPS and not isinstance(v, Ramp)}
    return dataclasses.replace(recipe, **given | ramps)


def fit_batch(recipe: Recipe, images: int) -> Recipe:
    """The recipe with a batch small enough for little data: about a hundred steps an epoch, but at least 16 images.

    In 50 epochs over 1,438 digits a batch of 64 makes 1,100 steps, which is too few; one of 16 makes 4,450. The 512 of
    CIFAR-10's 50,000 images stays.
    """
    few = max(2 ** round(math.log2(max(images / STEPS_AN_EPOCH, 1))), MIN_BATCH)
    fitting = min(recipe.batch_size, few, images)
    return dataclasses.replace(recipe, batch_size=fitting - fitting % recipe.pack)


def fit_augmentation(recipe: Recipe, images: int) -> Recipe:
    """The recipe without augmentation where there are images enough without."""
    return recipe if images < recipe.augment_below else dataclasses.replace(recipe, augment="none")


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Every field that decides what training does, as plain values that JSON and people read."""
    values = {k: getattr(recipe, k) for k in vars(recipe) if k not in ("name", "summary")}
    return {k: (v.start if v.start == v.end else str(v)) if isinstance(v, Ramp) else v for k, v in values.items()}
