"""Network families by name, and the generator and discriminators that a recipe describes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from gan_plugin.config.recipe import Recipe
from gan_plugin.networks import dcgan, r3gan, subpixel
from gan_plugin.networks.autoencoder import Autoencoder, Encoder, GaussianMixture, code_size
from gan_plugin.networks.wrappers import Discriminators, OneHotGenerator, add_spectral_norm
from gan_plugin.spec import SampleSpec


class Family(NamedTuple):
    """Functions that build the two networks of one family, and the one that refuses what it cannot build.

    Attributes:
        generator: builds a module from z float32 [B, latent_size], and labels int64 [B] where there are classes, to
            images [B, channels, H, W] in about −1…1.
        discriminator: builds a module with ``embed``, from such images to features [B, feature_size], and ``score``,
            from those to logits [B]; ``head`` names the modules that only this needs.
        check: raises :class:`~gan_plugin.errors.UserError`, in one sentence, where the family has no networks for
            this recipe and these samples; needs no networks for it.
    """

    generator: Callable[[Recipe, SampleSpec], nn.Module]
    discriminator: Callable[[Recipe, SampleSpec], nn.Module]
    check: Callable[[Recipe, SampleSpec], None]


FAMILIES: dict[str, Family] = {
    "dcgan": Family(dcgan.build_generator, dcgan.build_discriminator, dcgan.check),
    "subpixel": Family(subpixel.build_generator, subpixel.build_discriminator, subpixel.check),
    "r3gan": Family(r3gan.build_generator, r3gan.build_discriminator, r3gan.check),
}


def new_generator(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    """Return a generator, or an autoencoder as one, with initial weights from torch's global random state."""
    if recipe.method != "gan":
        return new_autoencoder(recipe, spec)
    generator = FAMILIES[recipe.family].generator(recipe, spec)
    return OneHotGenerator(generator, recipe.categorical_codes) if recipe.categorical_codes else generator


def new_discriminators(recipe: Recipe, spec: SampleSpec) -> Discriminators:
    """Return the recipe's discriminators with initial weights from torch's global random state."""
    members = [FAMILIES[recipe.family].discriminator(recipe, spec) for _ in range(recipe.discriminators)]
    if recipe.spectral_norm:
        members = [add_spectral_norm(member) for member in members]
    return Discriminators(members, recipe.pack, recipe.categorical_codes + recipe.continuous_codes)


def new_autoencoder(recipe: Recipe, spec: SampleSpec) -> Autoencoder:
    """Return an autoencoder with initial weights from torch's global random state, and a mixture that is N(0, I)."""
    family, components = FAMILIES[recipe.family], recipe.mixture_components
    size = code_size(recipe.latent_size, components)
    decoder = family.generator(dataclasses.replace(recipe, latent_size=size), spec)
    body = family.discriminator(recipe, spec.unlabeled())
    encoder = Encoder(body, size, classes=spec.classes, variational=recipe.method == "vae")
    return Autoencoder(decoder, encoder, GaussianMixture(size, components, spec.classes) if components else None)
