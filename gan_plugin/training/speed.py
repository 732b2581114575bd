"""How fast a step is on this machine, and the batch that a training of so many minutes has time for."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import torch

from gan_plugin.config.fitting import MIN_BATCH, STEPS, limit_batch
from gan_plugin.config.recipe import Recipe
from gan_plugin.data import Dataset
from gan_plugin.data.loader import Batch
from gan_plugin.device import release_memory, without_tf32
from gan_plugin.spec import SampleSpec
from gan_plugin.training.capture import WARM_UP_CALLS, Capture, as_it_is
from gan_plugin.training.gan import work_cycle
from gan_plugin.training.state import new_state
from gan_plugin.training.steps import new_step

TRIAL_S = 1.0  # of steps, after one cycle that only warms up
CHEAPER = 0.75  # what half a batch has to take of a whole one's time to be worth it


def fit_batch_to_time(
    recipe: Recipe,
    dataset: Dataset,
    spec: SampleSpec,
    *,
    device: torch.device,
    precision: torch.dtype,
    seconds: float,
    world_size: int = 1,
    capture: Capture = as_it_is,
) -> Recipe:
    """Return the recipe with the largest batch, at most its own, that makes about STEPS steps in so many seconds.

    On a device where half a batch takes as long as a whole one, the larger batch stays. The smallest is timed first,
    and the largest next where its steps are short: those of large batches may take a good part of a few minutes.

    Args:
        recipe: whose batch the data has enough images for.
        spec: of what the generator makes.
        seconds: of training.
        world_size: the processes that share each batch.
    """
    sizes = [recipe]  # the largest first
    while sizes[-1].batch_size > max(MIN_BATCH, recipe.pack):
        sizes.append(limit_batch(recipe, sizes[-1].batch_size // 2, len(dataset)))
    if len(sizes) == 1:
        return recipe

    def timed(candidate: Recipe) -> float:
        share = share_of(candidate, world_size)
        return seconds_per_step(share, dataset, spec, device=device, precision=precision, capture=capture)

    *larger, fitted = sizes
    step_s, longest = timed(fitted), seconds / (STEPS / math.sqrt(2))
    at_most = step_s * recipe.batch_size / fitted.batch_size  # a step of the largest
    if at_most <= longest or (work_cycle(recipe) * at_most <= TRIAL_S and timed(recipe) <= longest):
        return recipe
    for candidate in reversed(larger):
        candidate_s = timed(candidate)
        if candidate_s > longest and step_s <= CHEAPER * candidate_s:
            break
        fitted, step_s = candidate, candidate_s
    return fitted


def grow_batch(
    recipe: Recipe,
    data: int,
    step_seconds: Callable[[Recipe], float | None],
    *,
    images: int | None,
    seconds: float | None,
) -> tuple[Recipe, str]:
    """Return the recipe with a batch as often doubled as possible, and why it is no larger.

    Args:
        data: images of the data.
        step_seconds: of a recipe's step; None where memory does not suffice for it.
        images: that the training sees; None where that follows from its time.
        seconds: that the training takes; None where it sees so many images.
    """
    grown = recipe
    while True:
        larger = dataclasses.replace(grown, batch_size=2 * grown.batch_size)
        if larger.batch_size > data:
            return grown, "the data has no more images"
        if images is not None and images / larger.batch_size < STEPS:
            return grown, f"twice as many would leave fewer than {STEPS:,} steps"
        step_s = step_seconds(larger)
        if step_s is None:
            return grown, "for twice as many the memory does not suffice"
        if seconds is not None and seconds / step_s < STEPS:
            return grown, f"twice as many would leave time for fewer than {STEPS:,} steps"
        grown = larger


def share_of(recipe: Recipe, world_size: int) -> Recipe:
    """Return the recipe with a process's share of its batch, at least a pack."""
    packs = recipe.batch_size // (world_size * recipe.pack)
    return dataclasses.replace(recipe, batch_size=max(1, packs) * recipe.pack)


def seconds_per_step(
    recipe: Recipe,
    dataset: Dataset,
    spec: SampleSpec,
    *,
    device: torch.device,
    precision: torch.dtype,
    capture: Capture = as_it_is,
) -> float:
    """Time steps of fresh networks, which are thrown away; torch's random state on the CPU stays as it was."""
    if device.type == "cuda":
        release_memory()  # of steps that were timed before
    with torch.random.fork_rng(devices=[]), without_tf32():
        step = new_step(new_state(recipe, spec, device), recipe, precision, capture=capture)
        labels = None if dataset.labels is None or not recipe.conditional else dataset.labels[: recipe.batch_size]
        batch = Batch(dataset.samples[: recipe.batch_size].to(device), None if labels is None else labels.to(device))

        def run_cycle() -> None:
            for _ in range(work_cycle(recipe)):
                metrics = step(batch, batch)
            next(iter(metrics.values())).item()  # waits for the device

        for _ in range(1 if device.type == "cpu" else WARM_UP_CALLS + 1):  # then a GPU's steps are captured
            run_cycle()
        cycles, start = 0, time.perf_counter()
        while cycles == 0 or time.perf_counter() < start + TRIAL_S:
            run_cycle()
            cycles += 1
        return (time.perf_counter() - start) / (cycles * work_cycle(recipe))
