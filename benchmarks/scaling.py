"""What several GPUs may bring: a written model, of assumptions and no measurement but the number of parameters.

    python benchmarks/scaling.py

A step takes T on one GPU, and on n of them T + R where each has a batch as large as one had, or T / n + R where they
share it. R is what the averages of gradients cost, of which there are A a step, with B bytes in all, and which nothing
overlaps:

    R = 2 (n - 1) / n * B / W + A * L + 6 * B / M

W is the bandwidth of a ring, L the latency of an all-reduce, M the bandwidth of a GPU's memory; gradients are copied
together, divided and taken apart, which reads and writes them three times. Efficiency is T / (T + R), or T / (T + n R).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from gan_plugin.config.recipe import load_recipe, override
from gan_plugin.spec import image_spec
from gan_plugin.training.state import new_state

MEMORY = 3.0e12  # bytes/s


class Links(NamedTuple):
    """What connects GPUs, assumed.

    Attributes:
        gpus: how many there are.
        bandwidth: bytes/s of a ring through all of them.
        latency: seconds of an all-reduce of nothing.
    """

    gpus: int
    bandwidth: float
    latency: float


LINKS = (
    Links(8, 360e9, 30e-6),  # NVLink: 80 % of 450 GB/s in each direction
    Links(64, 40e9, 150e-6),  # eight such machines: 80 % of 400 Gbit/s each
)


class Step(NamedTuple):
    """A recipe's step on one GPU.

    Attributes:
        shape: height, width and channels of the images.
        seconds: that it takes, assumed.
    """

    shape: tuple[int, int, int]
    seconds: float


STEPS = {
    "dcgan": Step((28, 28, 1), 1e-3),  # 200 kernels, 5 µs each to start
    "subpixel": Step((28, 28, 1), 5e-3),  # 1,000 of them, with augmentation
    "r3gan-cifar10": Step((32, 32, 3), 345e-3),  # 137 TFLOP at 40 % of 990 TFLOP/s
}


def parameters(recipe: str, shape: tuple[int, int, int]) -> int:
    """Return how many parameters both networks have, without labels."""
    state = new_state(override(load_recipe(recipe), conditional=False), image_spec(*shape), torch.device("cpu"))
    return sum(p.numel() for network in (state.generator, state.discriminator) for p in network.parameters())


def seconds_of_averages(size: float, count: int, links: Links) -> float:
    """Return R for ``size`` bytes in ``count`` all-reduces."""
    ring = 2 * (links.gpus - 1) / links.gpus * size / links.bandwidth
    return ring + count * links.latency + 6 * size / MEMORY


def main() -> None:
    """Print the table."""
    print("| recipe | MB a step | all-reduces | T, ms | GPUs | R, ms | a batch each | a batch shared |")
    print("|---|---|---|---|---|---|---|---|")
    for name, step in STEPS.items():
        count = 1 if load_recipe(name).updates == "simultaneous" else 2
        size = 4 * parameters(name, step.shape)
        for links in LINKS:
            averages = seconds_of_averages(size, count, links)
            row = [name, f"{size / 1e6:.1f}", count, f"{1e3 * step.seconds:.0f}", links.gpus, f"{1e3 * averages:.2f}"]
            row += [f"{step.seconds / (step.seconds + n * averages):.1%}" for n in (1, links.gpus)]
            print("|", " | ".join(map(str, row)), "|")


if __name__ == "__main__":
    main()
