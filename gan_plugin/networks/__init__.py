"""Network families by name, and the two players that a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from gan_plugin.config.recipe import Recipe
from gan_plugin.networks import dcgan, r3gan
from gan_plugin.networks.wrappers import CodedGenerator, Discriminators, normalize_spectrally
from gan_plugin.spec import SampleSpec


class Family(NamedTuple):
    """How to build the two networks of one family.

    ``generator`` maps z float32 [B, latent_size], and labels int64 [B] where there are classes, to images
    [B, channels, H, W] in about −1…1. ``discriminator`` has ``embed``, from such images to features
    [B, feature_size], and ``score``, from those to logits [B].
    """

    generator: Callable[[Recipe, SampleSpec], nn.Module]
    discriminator: Callable[[Recipe, SampleSpec], nn.Module]


def dcgan_generator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    return dcgan.Generator(recipe.latent_size, spec)


def dcgan_discriminator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    return dcgan.Discriminator(spec, recipe.dropout, recipe.pack)


def r3gan_generator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    return r3gan.Generator(recipe.latent_size, spec, recipe.width, recipe.full_stages, recipe.blocks)


def r3gan_discriminator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    return r3gan.Discriminator(spec, recipe.width, recipe.full_stages, recipe.blocks, recipe.pack)


FAMILIES: dict[str, Family] = {
    "dcgan": Family(dcgan_generator, dcgan_discriminator),
    "r3gan": Family(r3gan_generator, r3gan_discriminator),
}


def new_generator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    """A fresh generator from torch's global random state."""
    generator = FAMILIES[recipe.family].generator(recipe, spec)
    return CodedGenerator(generator, recipe.categorical_codes) if recipe.categorical_codes else generator


def new_discriminators(recipe: Recipe, spec: SampleSpec) -> Discriminators:
    """Fresh discriminators from torch's global random state."""
    members = [FAMILIES[recipe.family].discriminator(recipe, spec) for _ in range(recipe.discriminators)]
    if recipe.spectral_norm:
        members = [normalize_spectrally(member) for member in members]
    return Discriminators(members, recipe.pack, recipe.categorical_codes + recipe.continuous_codes)
