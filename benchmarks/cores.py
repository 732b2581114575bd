"""Images/s of the default recipe's step by how it uses two cores, in one run.

    python benchmarks/cores.py [--rounds 7] [--steps 16]

The contenders take turns, so that a noisy machine disturbs all alike: one thread, two threads, and two processes of one
thread each that train together, with half of the batch each and with a whole one each. Printed as Markdown: the median
of each, and the median over rounds of its ratio to one thread within the same round.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
import torch
from torch import distributed

from gan_plugin.config.recipe import load_recipe, override
from gan_plugin.config.settings import TrainSettings
from gan_plugin.data.loader import Batch
from gan_plugin.device import choose_precision
from gan_plugin.distributed import Ranks
from gan_plugin.spec import image_spec
from gan_plugin.training.gan import GanStep
from gan_plugin.training.state import new_state

CPU = torch.device("cpu")
SHAPES = {"28×28×1": (28, 28, 1, 64), "64×64×3": (64, 64, 3, 16)}  # height, width, channels, batch


class Use(NamedTuple):
    """A way to use the cores.

    Attributes:
        processes: that train together.
        threads: of each.
        share: of the batch that each process gets.
    """

    processes: int
    threads: int
    share: float


USES = {
    "one thread": Use(1, 1, 1),
    "two threads": Use(1, 2, 1),
    "two processes, half a batch each": Use(2, 1, 0.5),
    "two processes, a batch each": Use(2, 1, 1),
}


class Contender:
    """Processes that take steps together when they are told how many."""

    def __init__(self, use: Use, shape: tuple[int, int, int, int], meeting: Path) -> None:
        self.images = int(shape[3] * use.share) * use.processes  # a step
        context = multiprocessing.get_context("spawn")
        self.ends: list[Connection] = []
        for rank in range(use.processes):
            end, other = context.Pipe()
            options = {"use": use, "shape": shape, "meeting": meeting}
            context.Process(target=work, args=(other, rank), kwargs=options, daemon=True).start()
            self.ends.append(end)

    def rate(self, steps: int) -> float:
        """Return images/s of so many steps."""
        for end in self.ends:
            end.send(steps)
        seconds: float = max(end.recv() for end in self.ends)
        return self.images * steps / seconds

    def end(self) -> None:
        """Let the processes end."""
        for end in self.ends:
            end.send(0)


def work(end: Connection, rank: int, *, use: Use, shape: tuple[int, int, int, int], meeting: Path) -> None:
    """Take as many steps as each message says, and answer with their seconds; 0 ends it."""
    torch.set_num_threads(use.threads)
    height, width, channels, batch = shape
    recipe = override(load_recipe(TrainSettings().recipe), batch_size=int(batch * use.share), conditional=False)
    state = new_state(recipe, image_spec(height, width, channels), CPU)
    if use.processes > 1:
        distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=use.processes)
    step = GanStep(state, recipe, choose_precision("auto", CPU), ranks=Ranks(rank, use.processes, rank))
    images = torch.randint(0, 256, (recipe.batch_size, channels, height, width), dtype=torch.uint8)
    while steps := end.recv():
        start = time.perf_counter()
        for _ in range(steps):
            step(Batch(images), Batch(images))
        end.send(time.perf_counter() - start)


@click.command()
@click.option("--rounds", default=7, show_default=True)
@click.option("--steps", default=16, show_default=True, help="A round; a multiple of 4 is fair to the penalty.")
def main(rounds: int, steps: int) -> None:
    """Print the table."""
    print("| images | batch | | images/s | ratio |\n|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            contenders = {use: Contender(USES[use], shape, Path(folder) / str(i)) for i, use in enumerate(USES)}
            for contender in contenders.values():
                contender.rate(steps)  # to warm up
            rates = [{use: contender.rate(steps) for use, contender in contenders.items()} for _ in range(rounds)]
            for contender in contenders.values():
                contender.end()
        for use in USES:
            ratio = median(rate[use] / rate["one thread"] for rate in rates)
            print(f"| {name} | {shape[3]} | {use} | {median(r[use] for r in rates):,.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
