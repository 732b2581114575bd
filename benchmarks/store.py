"""Training on images that do not fit into memory: speed and memory beside the same images in memory, in one run.

    python benchmarks/store.py FOLDER [--images 200000] [--side 128] [--recipe subpixel] [--rounds 5] [--steps 8]

FOLDER gets the images (JPEG, once) and the cache. Three processes: one decodes the images into the store, and two
train on them, from the store and from memory, which take turns. Printed is JSON: images/s of decoding, of the batches
alone and of training, the median over rounds of the ratio, by the clock and by the CPU time of all threads, which busy
neighbors disturb less, and what memory each process has taken at most, in GiB.
``anonymous`` is its own memory, ``file`` pages of files that it has mapped, such as the code of torch; ``resident`` is
all of that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

BLOCK = 1000  # files in a folder
KINDS = {"anonymous": "RssAnon", "file": "RssFile", "resident": "VmRSS"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--recipe", default="subpixel")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="a round")
    parser.add_argument("--where", choices=["decode", "store", "memory"], help="be one of the processes")
    options = parser.parse_args()
    images = options.folder / f"images-{options.images}-{options.side}"
    os.environ["GAN_PLUGIN_CACHE"] = str(options.folder.absolute() / "cache")
    if options.where == "decode":
        decode(images)
    elif options.where:
        train(images, options.where, options.recipe)
    else:
        generate(images, options.images, options.side)
        compare(options)


def generate(folder: Path, count: int, side: int) -> None:
    """Write the images, unless they are there."""
    if (folder / "complete.txt").exists():
        return
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(write_block, [(folder, first, count, side) for first in range(0, count, BLOCK)]):
            pass
    (folder / "complete.txt").touch()


def write_block(block: tuple[Path, int, int, int]) -> None:
    """Write some images: smooth color and an edge, whose files are as large as those of small photos."""
    root, first, count, side = block
    random = np.random.default_rng(first)
    folder = root / f"{first // BLOCK:05}"
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(first, min(first + BLOCK, count)):
        coarse = random.integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
        pair = [Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC) for c in coarse]
        mask = Image.fromarray(random.integers(0, 256, (4, 4), dtype=np.uint8)).resize((side, side))
        Image.composite(*pair, mask.point(lambda level: 255 * (level > 127))).save(folder / f"{index}.jpg", quality=90)


def load(folder: Path) -> Any:
    """Load the images as data that does not fit into memory."""
    from gan_plugin.data import limits, load_divided

    limits.MEMORY_SHARE = 0.0
    return load_divided(str(folder), channels=3)


class Peaks:
    """The most memory that this process was seen to have, and that it has with those that it started, in GiB."""

    def __init__(self) -> None:
        self.values = dict.fromkeys(KINDS, 0.0)

    def look(self) -> None:
        lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        for kind, name in KINDS.items():
            self.values[kind] = max(self.values[kind], int(lines[name].split()[0]) / 2**20)

    def rounded(self) -> dict[str, float]:
        return {kind: round(value, 2) for kind, value in self.values.items()}


def decode(folder: Path) -> None:
    """Decode the images into the store, and say how fast."""
    import threading

    from gan_plugin.data import encoded

    stop, of_all = threading.Event(), [0.0]

    def watch() -> None:
        own = psutil.Process()
        while not stop.wait(0.5):
            for process in (own, *own.children()):
                try:
                    uss = process.memory_info().rss - process.memory_info().shared
                except psutil.Error:
                    continue
                of_all.append(uss)

    peaks = Peaks()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    real, seconds = encoded.store.find_or_make, [0.0]

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        stored = real(*arguments)
        seconds[0] = time.perf_counter() - start
        return stored

    encoded.store.find_or_make = timed
    start = time.perf_counter()
    count = len(load(folder).dataset)
    total = time.perf_counter() - start
    stop.set()
    peaks.look()
    high = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())["VmHWM"]
    print(
        json.dumps(
            {
                "training_images": count,
                "decode_s": round(seconds[0], 1),
                "with_digests_s": round(total, 1),
                "resident": round(int(high.split()[0]) / 2**20, 2),
                "own_memory_of_the_largest_process": round(max(of_all) / 2**30, 2),
            }
        )
    )


def train(folder: Path, where: str, recipe_name: str) -> None:
    """Take steps: a line with a number of them goes in, images/s come out."""
    import dataclasses

    import torch

    from gan_plugin.config.fitting import limit_batch
    from gan_plugin.config.recipe import load_recipe
    from gan_plugin.data.loader import BatchLoader
    from gan_plugin.device import choose_device, choose_precision
    from gan_plugin.training.gan import GanStep, needs_two_batches
    from gan_plugin.training.plan import spec_of
    from gan_plugin.training.state import new_state

    dataset = load(folder).dataset
    if where == "memory":
        dataset = dataclasses.replace(dataset, samples=dataset.samples[:])
    device = choose_device("auto")
    recipe = limit_batch(load_recipe(recipe_name), load_recipe(recipe_name).batch_size, len(dataset))
    loader = BatchLoader(
        dataset, recipe.batch_size, device, seed=0, labeled=recipe.conditional, paired=needs_two_batches(recipe)
    )
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # as in a training
    step = GanStep(new_state(recipe, spec_of(dataset, recipe), device), recipe, choose_precision("auto", device))
    orders, done, peaks = loader.orders(0), 0, Peaks()
    for done in range(1, 3):
        step(*loader.batches(orders, done - 1))
    first = loader.batches(loader.orders(1), 0)[0].samples.float().mean().item()
    print(json.dumps({"batch": recipe.batch_size, "device": device.type, "first_batch": first}), flush=True)
    for line in sys.stdin:
        kind, steps = line.split()
        start, used = time.perf_counter(), time.process_time()
        for _ in range(int(steps)):
            batches = loader.batches(orders, done % loader.steps_per_epoch)
            done += 1
            if kind == "train":
                metrics = step(*batches)
                metrics["loss/discriminator"].item()
            peaks.look()
        images = int(steps) * recipe.batch_size
        rates = {"rate": images / (time.perf_counter() - start), "cpu_rate": images / (time.process_time() - used)}
        print(json.dumps({**rates, **peaks.rounded()}), flush=True)


class Contender:
    """A process that trains."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.rates: dict[str, list[float]] = {"train": [], "load": []}
        self.cpu_rates: dict[str, list[float]] = {"train": [], "load": []}
        self.peaks: dict[str, float] = {}

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"a process ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, kind: str, steps: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{kind} {steps}\n")
        answer = self.answer()
        self.rates[kind].append(answer.pop("rate"))
        self.cpu_rates[kind].append(answer.pop("cpu_rate"))
        self.peaks = answer


def compare(options: argparse.Namespace) -> None:
    """Decode, then let both train in turns, and print what came of it."""
    command = [sys.executable, __file__, *sys.argv[1:], "--where"]
    done = subprocess.run([*command, "decode"], stdout=subprocess.PIPE, text=True, check=True)
    decoding = json.loads(done.stdout)
    was_decoded = decoding["decode_s"] > 0  # and not by an earlier call of this program
    contenders = {where: Contender([*command, where]) for where in ("store", "memory")}
    answers = [contender.answer() for contender in contenders.values()]
    assert answers[0] == answers[1], answers  # the same batch first
    for number in range(options.rounds):
        for where in sorted(contenders, reverse=number % 2 == 0):
            contenders[where].run("train", options.steps)
    for number in range(options.rounds):
        for where in sorted(contenders, reverse=number % 2 == 0):
            contenders[where].run("load", 20)
    store, memory = contenders.values()
    result = {
        "images": options.images,
        "side": options.side,
        "recipe": options.recipe,
        "batch": answers[0]["batch"],
        "device": answers[0]["device"],
        "decoding": decoding | {"images_s": round(options.images / decoding["decode_s"])} if was_decoded else decoding,
    }
    for kind in ("train", "load"):
        pairs = list(zip(store.rates[kind], memory.rates[kind]))
        result[kind] = {
            "store_images_s": round(statistics.median(store.rates[kind]), 1),
            "memory_images_s": round(statistics.median(memory.rates[kind]), 1),
            "ratio": round(statistics.median(a / b for a, b in pairs), 3),
            "ratios": [round(a / b, 2) for a, b in pairs],
            "ratio_by_cpu_time": round(
                statistics.median(a / b for a, b in zip(store.cpu_rates[kind], memory.cpu_rates[kind])), 3
            ),
        }
    result["memory_gib"] = {where: contender.peaks for where, contender in contenders.items()}
    print(json.dumps(result, indent=1))
    for contender in contenders.values():
        assert contender.process.stdin is not None
        contender.process.stdin.close()
        contender.process.wait()


if __name__ == "__main__":
    main()
