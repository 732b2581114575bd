"""How many operations a step launches on a GPU, counted without one.

    python benchmarks/operations.py [RECIPE …]

On the accelerator that is not there of ``tests/accelerator.py``: every operation that computes counts, views and empty
tensors do not. A launch of a GPU is one or two kernels. In bfloat16, with images of 28×28×1, or as the recipe's name
says, and its own batch; printed as Markdown, without augmentation and with it, the mean over a cycle of steps in which
the penalty and the generator are due again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gan_plugin.config.recipe import Recipe, load_recipe, override, recipe_names
from gan_plugin.data.loader import Batch
from gan_plugin.spec import image_spec
from gan_plugin.training.gan import work_cycle
from gan_plugin.training.state import new_state
from gan_plugin.training.steps import new_step

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from accelerator import DEVICE, Fake  # the path comes first

SIZES = {"r3gan-cifar10": (32, 3), "r3gan-ffhq64": (64, 3)}  # side, channels
SMALL = (28, 1)
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
RECIPES = ("dcgan", "r1", "subpixel", "sngan", "wgan-gp", "r3gan", "r3gan-cifar10", "r3gan-ffhq64")


class Count(TorchDispatchMode):
    """Counts the operations within it that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func._schema.returns
        is_view = bool(results) and all(r.alias_info is not None and not r.alias_info.is_write for r in results)
        name = func._schema.name.removeprefix("aten::")
        self.count += func.namespace == "aten" and not is_view and name not in NO_KERNEL
        return func(*args, **(kwargs or {}))


def operations(recipe: Recipe) -> float:
    """Return the mean over a cycle of steps."""
    side, channels = SIZES.get(recipe.name, SMALL)
    names = [str(label) for label in range(10)] if recipe.conditional else []
    with Fake():
        step = new_step(
            new_state(recipe, image_spec(side, side, channels, class_names=names), DEVICE), recipe, torch.bfloat16
        )
        shape = (recipe.batch_size, channels, side, side)
        labels = torch.randint(0, 10, (recipe.batch_size,), device=DEVICE) if names else None
        batch = Batch(torch.randint(0, 256, shape, dtype=torch.uint8, device=DEVICE), labels)
        cycle = work_cycle(recipe)
        for _ in range(cycle):
            step(batch, batch)
        with Count() as counted:
            for _ in range(cycle):
                step(batch, batch)
    return counted.count / cycle


@click.command()
@click.argument("recipes", nargs=-1, type=click.Choice(recipe_names()))
def main(recipes: tuple[str, ...]) -> None:
    """Print the table."""
    print("| recipe | batch | operations a step | with augmentation |\n|---|---|---|---|")
    for name in recipes or RECIPES:
        recipe = load_recipe(name)
        plain = operations(override(recipe, augment="none"))
        augmented = f"{operations(recipe):,.0f}" if recipe.augment != "none" else "–"
        print(f"| `{name}` | {recipe.batch_size} | {plain:,.0f} | {augmented} |", flush=True)


if __name__ == "__main__":
    main()
