"""The time of each recipe's step in this code and in another checkout of it, in one run.

    git worktree add ../earlier 901dcdf7
    python benchmarks/steps.py ../earlier [RECIPE …] [--side 16 --batch-size 16]

Both are processes of one thread that take turns, in the precision that ``auto`` chooses, so that a noisy machine
disturbs both alike. Printed as Markdown: the CPU time of a step at its best, the median over rounds of the ratio within
the same round, and the lowest and the highest of these.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import click
import torch

from gan_plugin.config.recipe import load_recipe, override, recipe_names
from gan_plugin.data.loader import Batch
from gan_plugin.device import choose_precision
from gan_plugin.spec import image_spec
from gan_plugin.training.state import new_state
from gan_plugin.training.steps import new_step

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SIZES = {"r3gan": (32, 28, 1), "r3gan-cifar10": (32, 32, 3), "r3gan-ffhq64": (8, 64, 3)}  # batch, side, channels
SMALL = (64, 28, 1)
NARROW = {"r3gan-cifar10": {"width": 64, "blocks": 1}, "r3gan-ffhq64": {"width": 64, "blocks": 1}}
CYCLE = 4  # steps after which the penalty and the generator are due again


class Contender:
    """A process that takes a recipe's steps, with the code of a checkout."""

    def __init__(self, checkout: Path, recipe: str, *, side: int, batch_size: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, __file__, "--work", recipe, f"--side={side}", f"--batch-size={batch_size}"]
        self.process = subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.seconds(CYCLE)  # to warm up

    def seconds(self, steps: int) -> float:
        """Return the CPU time of a step, over so many of them."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(steps, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline()) / steps

    def end(self) -> None:
        """Let the process end."""
        self.process.communicate()


def work(name: str, side: int, batch_size: int) -> None:
    """Take as many steps as each line of the input says, and print their CPU seconds."""
    torch.manual_seed(0)
    channels = SIZES.get(name, SMALL)[2]
    recipe = override(load_recipe(name), batch_size=batch_size, **NARROW.get(name, {}))
    names = [str(label) for label in range(10)] if recipe.conditional else []
    state = new_state(recipe, image_spec(side, side, channels, class_names=names), CPU)
    state.progress = 0.3
    state.ada.p.fill_(0.2)  # or there would be nothing to augment yet
    step = new_step(state, recipe, choose_precision("auto", CPU))
    images = torch.randint(0, 256, (batch_size, channels, side, side), dtype=torch.uint8)
    batch = Batch(images, torch.randint(0, 10, (batch_size,)) if names else None)
    for line in sys.stdin:
        start = time.process_time()
        for _ in range(int(line)):
            step(batch, batch)
        print(time.process_time() - start, flush=True)


def compare(contenders: list[Contender], rounds: int, round_s: float) -> str:
    """Return a row of the table, but for the recipe: of another checkout and of this one."""
    steps = CYCLE * max(1, round(round_s / CYCLE / contenders[0].seconds(CYCLE)))
    pairs = []
    for i in range(rounds):
        order = contenders[:: 1 if i % 2 else -1]
        seconds = {contender: contender.seconds(steps) for contender in order}
        pairs.append([seconds[contender] for contender in contenders])
    for contender in contenders:
        contender.end()
    (before, now), ratios = map(min, zip(*pairs)), [old / new for old, new in pairs]
    return f"{1e3 * before:,.0f} | {1e3 * now:,.0f} | {median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"


@click.command()
@click.argument("other", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.argument("recipes", nargs=-1, type=click.Choice(recipe_names()))
@click.option("--rounds", default=8, show_default=True)
@click.option("--round-s", default=3.0, show_default=True, help="Seconds of each in a round.")
@click.option("--side", type=int, help="Of the images, in place of the recipe's.")
@click.option("--batch-size", type=int, help="In place of the recipe's.")
@click.option("--work", "worker", hidden=True, help="A recipe: be one of the processes.")
def main(
    other: Path | None,
    recipes: tuple[str, ...],
    *,
    rounds: int,
    round_s: float,
    side: int | None,
    batch_size: int | None,
    worker: str | None,
) -> None:
    """Print the table of the recipes, or of all."""
    if worker is not None:
        assert side is not None
        assert batch_size is not None
        work(worker, side, batch_size)
        return
    if other is None:
        raise click.UsageError("Give the folder of another checkout.")
    print("| recipe | ms there | ms here | there / here | in a round |\n|---|---|---|---|---|")
    for recipe in recipes or recipe_names():
        own_batch_size, own_side, _ = SIZES.get(recipe, SMALL)
        sizes = {"side": side or own_side, "batch_size": batch_size or own_batch_size}
        contenders = [Contender(checkout, recipe, **sizes) for checkout in (other.resolve(), ROOT)]
        print(f"| `{recipe}` | {compare(contenders, rounds, round_s)}", flush=True)


if __name__ == "__main__":
    main()
