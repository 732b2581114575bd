"""Network families by name, and the two players that a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from gan_plugin.networks import dcgan, r3gan
from gan_plugin.networks.players import CodedGenerator, Discriminators, normalise_spectrally
from gan_plugin.recipes import Recipe


class Pictured(NamedTuple):
    """The pictures that a game is about: side, channels, and how many classes they are labelled with (0: none)."""

    size: int
    channels: int
    classes: int = 0


class Family(NamedTuple):
    """How to build the two networks of one family.

    ``generator`` maps z float32 [B, latent_size], and labels int64 [B] where there are classes, to pictures
    [B, channels, H, W] in about −1…1. ``discriminator`` has ``embed``, from such pictures to features
    [B, feature_size], and ``score``, from those to logits [B].
    """

    generator: Callable[[Recipe, Pictured], nn.Module]
    discriminator: Callable[[Recipe, Pictured], nn.Module]


def dcgan_generator(recipe: Recipe, pictured: Pictured) -> nn.Module:
    return dcgan.Generator(recipe.latent_size, *pictured)


def dcgan_discriminator(recipe: Recipe, pictured: Pictured) -> nn.Module:
    return dcgan.Discriminator(*pictured, recipe.dropout, recipe.pack)


def r3gan_generator(recipe: Recipe, pictured: Pictured) -> nn.Module:
    return r3gan.Generator(recipe.latent_size, *pictured, recipe.width, recipe.full_stages, recipe.blocks)


def r3gan_discriminator(recipe: Recipe, pictured: Pictured) -> nn.Module:
    return r3gan.Discriminator(*pictured, recipe.width, recipe.full_stages, recipe.blocks, recipe.pack)


FAMILIES: dict[str, Family] = {
    "dcgan": Family(dcgan_generator, dcgan_discriminator),
    "r3gan": Family(r3gan_generator, r3gan_discriminator),
}


def new_generator(recipe: Recipe, pictured: Pictured) -> nn.Module:
    """A fresh generator from torch's global random state."""
    generator = FAMILIES[recipe.family].generator(recipe, pictured)
    return CodedGenerator(generator, recipe.code_classes) if recipe.code_classes else generator


def new_discriminators(recipe: Recipe, pictured: Pictured) -> Discriminators:
    """Fresh discriminators from torch's global random state."""
    members = [FAMILIES[recipe.family].discriminator(recipe, pictured) for _ in range(recipe.discriminators)]
    if recipe.spectral_norm:
        members = [normalise_spectrally(member) for member in members]
    return Discriminators(members, recipe.pack, recipe.code_classes + recipe.code_values)
