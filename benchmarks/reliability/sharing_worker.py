"""Worker of sharing.py: argv = ``torch`` or ``gan_plugin``, recipe, batch size.

A line with seconds on its input makes it train for so long, and a cycle of steps at least; it answers with images/s.
"""

import contextlib
import itertools
import logging
import sys
import time
from collections.abc import Iterator

import torch

from gan_plugin.config.recipe import load_recipe, override
from gan_plugin.data.loader import Batch
from gan_plugin.device import cpu_threads, tuned
from gan_plugin.spec import image_spec
from gan_plugin.training.gan import GanStep, work_cycle
from gan_plugin.training.state import new_state


def steps_until(end: float, cycle: int) -> Iterator[int]:
    number = 0
    while number % cycle or not number or time.perf_counter() < end:
        yield number
        number += 1


def main() -> None:
    kind, batch_size = sys.argv[1], int(sys.argv[3])
    device = torch.device("cpu")
    recipe = override(load_recipe(sys.argv[2]), batch_size=batch_size, conditional=False)
    torch.manual_seed(0)
    step = GanStep(new_state(recipe, image_spec(28, 28, 1), device), recipe, torch.float32)
    images = torch.randint(0, 256, (batch_size, 1, 28, 28), dtype=torch.uint8)
    cycle = work_cycle(recipe)
    for _ in range(cycle):
        step(Batch(images), Batch(images))
    logging.basicConfig(level=logging.INFO, format="    %(message)s")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    first = sys.stdin.readline()  # by then the load is there, in which the number of threads is chosen
    with cpu_threads(device) if kind == "gan_plugin" else contextlib.nullcontext():
        for line in itertools.chain([first], sys.stdin):
            start, count = time.perf_counter(), 0
            for _ in tuned(steps_until(start + float(line), cycle), "training", cycle=cycle):
                step(Batch(images), Batch(images))
                count += 1
            rate = count * batch_size / (time.perf_counter() - start)
            print(rate, torch.get_num_threads(), flush=True)


main()
