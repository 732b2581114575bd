"""Train some steps as one of the processes that torchrun starts, and save what has become of the weights.

argv: a folder, the number of steps, float32 or float64, and for each training a recipe with hyperparameters, as
RECIPE,NAME=VALUE,…

Every process draws the same latents for the whole batch, and takes its share of them as of the images, so that several
see what one alone sees.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from gan_plugin.config.recipe import load_recipe, override, parse_hyperparameters
from gan_plugin.data import Dataset, load_dataset
from gan_plugin.data.loader import Batch, BatchLoader
from gan_plugin.distributed import Ranks, joined, ranks_of_environment
from gan_plugin.training.gan import GanStep, needs_two_batches
from gan_plugin.training.plan import spec_of
from gan_plugin.training.state import new_state

CPU = torch.device("cpu")


def main() -> None:
    folder, steps, dtype, *trainings = sys.argv[1:]
    torch.set_num_threads(1)
    if dtype == "float64":
        torch.set_default_dtype(torch.float64)
        Tensor.float = Tensor.double  # type: ignore[method-assign]  # a step takes images as float32
    dataset = load_dataset("digits", image_size=16)
    with joined(ranks_of_environment(), CPU) as ranks:
        for training in trainings:
            learned = train(training.split(","), int(steps), dataset, ranks=ranks)
            torch.save(learned, Path(folder) / f"{training.split(',')[0]}.{ranks.rank}.pt")


def train(words: list[str], steps: int, dataset: Dataset, *, ranks: Ranks) -> dict[str, object]:
    """Return the weights and the last metrics of a training."""
    name, *changes = words
    recipe = override(load_recipe(name), **parse_hyperparameters(dict(change.split("=") for change in changes)))
    shared = torch.Generator().manual_seed(5)

    class SharedLatents(GanStep):
        def sample_latents(self, batch: Batch) -> Tensor:
            latents = torch.randn(recipe.batch_size, recipe.latent_size, generator=shared)
            return latents[ranks.rank :: ranks.world_size]

    torch.manual_seed(0)
    state = new_state(recipe, spec_of(dataset, recipe), CPU)
    loader = BatchLoader(
        dataset,
        recipe.batch_size,
        CPU,
        seed=0,
        labeled=recipe.conditional,
        paired=needs_two_batches(recipe),
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    step, orders = SharedLatents(state, recipe, torch.float32, ranks=ranks), loader.orders(0)
    for index in range(steps):
        state.progress = index / steps
        metrics = step(*loader.batches(orders, index))
    weights = {
        f"{network}.{name}": weight
        for network in ("generator", "discriminator")
        for name, weight in state.networks[network].named_parameters()
    }
    return {"weights": weights, "metrics": dict(metrics)}


if __name__ == "__main__":
    main()
