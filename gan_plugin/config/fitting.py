"""Fit a recipe to the data: its batch to how much is seen of it, its augmentation to how much there is. No torch."""

from __future__ import annotations

import dataclasses
import math

from gan_plugin.config.recipe import Recipe

STEPS = 4_500  # of a training, which its batch is fitted to
MIN_BATCH = 16


def fit_batch(recipe: Recipe, data: int, seen: int) -> Recipe:
    """Return the recipe with a batch for about STEPS steps in all.

    In 50 epochs over 1,438 digits a batch of 64 makes 1,100 steps, which is too few; one of 16 makes 4,450. The 512 of
    50 epochs over CIFAR-10 stays.

    Args:
        data: images of the data.
        seen: images that the training sees, again and again the same ones.
    """
    return limit_batch(recipe, 2 ** round(math.log2(max(seen / STEPS, 1))), data)


def limit_batch(recipe: Recipe, batch_size: int, data: int) -> Recipe:
    """Return the recipe with this batch, but at least MIN_BATCH, and no more than its own and than there is data.

    It holds at least one pack, and nothing but packs.
    """
    batch_size = min(recipe.batch_size, max(batch_size, MIN_BATCH), data)
    return dataclasses.replace(recipe, batch_size=max(batch_size - batch_size % recipe.pack, recipe.pack))


def fit_augmentation(recipe: Recipe, images: int) -> Recipe:
    """Return the recipe without augmentation where the data has ``augment_below`` images or more."""
    return recipe if images < recipe.augment_below else dataclasses.replace(recipe, augment="none")
