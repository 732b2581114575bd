"""Samples of fixed seeds from the averaged generator, as it would be exported."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gan_plugin.config.recipe import Recipe
from gan_plugin.data import Dataset
from gan_plugin.media.image import Image, Images, image_grid
from gan_plugin.networks.autoencoder import Autoencoder
from gan_plugin.networks.wrappers import Quantized, generator_inputs
from gan_plugin.training.ema import update_batch_norm
from gan_plugin.training.mixture import fit_prior
from gan_plugin.training.state import TrainingState

GRID_COLUMNS = 8
GRID_SEEDS = range(GRID_COLUMNS**2)


def exported_generator(state: TrainingState, recipe: Recipe, dataset: Dataset) -> nn.Module:
    """Return a copy of the averaged generator with batch norm's statistics measured anew, and an autoencoder's mixture.

    A copy, because what is measured for export must not change what is trained.
    """
    generator = copy.deepcopy(state.ema)
    if isinstance(generator, Autoencoder):
        fit_prior(generator, dataset)
    update_batch_norm(generator, recipe.latent_size, state.spec.classes)
    return generator


def generator_with(state: TrainingState, buffers: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of the averaged generator with these buffers: that of rank 0, whose weights are equal."""
    generator = copy.deepcopy(state.ema)
    for name, buffer in generator.named_buffers():
        buffer.copy_(buffers[name])
    return generator


@torch.no_grad()
def generate_images(generator: nn.Module, seeds: Sequence[int], *, latent_size: int, classes: int) -> Images:
    """Return images uint8 [N, H, W, C] of N seeds, each of the seed's own class where there are classes."""
    device = next(generator.parameters()).device
    inputs = generator_inputs(seeds, latent_size=latent_size, classes=classes, device=device)
    images: Images = Quantized(generator)(*inputs).cpu().numpy()
    return images


def sample_grid(generator: nn.Module, *, latent_size: int, classes: int) -> Image:
    """Return one image with the samples of GRID_SEEDS, GRID_COLUMNS in a row."""
    return image_grid(generate_images(generator, GRID_SEEDS, latent_size=latent_size, classes=classes), GRID_COLUMNS)
