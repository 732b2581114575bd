"""The parts that a recipe may lack, and whose hyperparameters then mean nothing. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """A part that a recipe may lack; hyperparameters that belong to it mean nothing then.

    Attributes:
        phrase: what to give to have it.
        is_in: whether a recipe has it.
    """

    phrase: str
    is_in: Callable[[Any], bool]


GAN = Part("method=gan", lambda recipe: recipe.method == "gan")
AUTOENCODER = Part("method=autoencoder, vae or rae", lambda recipe: recipe.method != "gan")
RAE = Part("method=rae", lambda recipe: recipe.method == "rae")
DCGAN = Part("family=dcgan", lambda recipe: recipe.family == "dcgan")
R3GAN = Part("family=r3gan", lambda recipe: recipe.family == "r3gan")
SIZED = Part("family=subpixel or r3gan", lambda recipe: recipe.family != "dcgan")
PENALTY = Part("a penalty", lambda recipe: recipe.penalty != "none")
SCHEDULED = Part("augment=scheduled", lambda recipe: recipe.augment == "scheduled")
MULTIPLE = Part("discriminators=2 or more", lambda recipe: recipe.discriminators > 1)
MOMENTUM = Part("optimizer=adam or sgd", lambda recipe: recipe.optimizer != "rmsprop")
SQUARES = Part("optimizer=adam or rmsprop", lambda recipe: recipe.optimizer != "sgd")
RAMP = Part("a value A..B", lambda recipe: recipe.is_annealed)
