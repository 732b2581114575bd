"""Time and memory of one whole evaluation: python benchmarks/evaluation.py --data /usr/share/datasets/fashion-mnist

Each stage runs once with an empty cache and once with the cache that it left, each time in a fresh process, from
images on disk to all metrics. The generator is an untrained one of the recipe's size: it costs the same. The last line
is JSON with the seconds of each stage and, within the last but one, of each part of the metrics. ``--quick`` shows
within seconds that all of it runs, with few images, few steps of every training and once.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORKER = "--worker"
QUICK_IMAGES, QUICK_REAL, QUICK_STEPS = 200, 300, 3
# What evaluate_generator calls, by the metrics that it computes.
PARTS = {
    "generate": "generating and features",
    "critic_measurements": "critics",
    "spectrum_measurements": "spectra",
    "feature_distances": "fid, kid",
    "neighborhood_measurements": "neighbors",
    "label_measurements": "labels, cas",
    "second_measurements": "second network",
    "class_rows": "classes",
    "pixel_statistics": "pixels",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="Data, with a split train and a split test.")
    parser.add_argument("--images", type=int, default=10_000, help="How many images to generate, such as 50000.")
    parser.add_argument("--features", default="classifier", help="Feature network; auto for those of an evaluation.")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto.")
    parser.add_argument("--quick", action="store_true", help="Few images and steps, once: shows that it runs.")
    parser.add_argument(WORKER, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GAN_PLUGIN_CACHE": f"{folder}/cache"}
        words = [sys.executable, __file__, *sys.argv[1:], WORKER, folder]
        results = {
            name: json.loads(
                subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]
            )
            for name in (("empty cache",) if options.quick else ("empty cache", "again"))
        }
    print_table(results)
    print(json.dumps(results))


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Print the seconds of each stage, one column for each process."""
    first, *_ = results.values()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {first['torch']}, {first['device']}")
    print(f"{first['images']:,} generated against {first['reference']:,} images, {first['held_out']:,} held out\n")
    print(f"{'seconds':28}", *(f"{name:>12}" for name in results))
    for kind, indent in (("seconds", ""), ("parts", "  ")):
        for stage in first[kind]:
            print(f"{indent + stage:28}", *(f"{result[kind][stage]:12.1f}" for result in results.values()))
        if kind == "seconds":
            print(f"{'together':28}", *(f"{sum(result[kind].values()):12.1f}" for result in results.values()))
            print(f"{'peak memory, GiB':28}", *(f"{result['gib']:12.2f}" for result in results.values()))
            print("\nof generating, all metrics:")


def work(options: argparse.Namespace) -> None:
    """Evaluate once and print the times as JSON."""
    import torch

    from gan_plugin.config.recipe import load_recipe
    from gan_plugin.data import load_divided, load_held_out
    from gan_plugin.device import choose_device
    from gan_plugin.evaluation import evaluate
    from gan_plugin.evaluation.reference import gaussian_of, manifold_of, prepare_reference
    from gan_plugin.export import export_generator
    from gan_plugin.networks import new_generator
    from gan_plugin.report import write_report
    from gan_plugin.serving.description import Description
    from gan_plugin.serving.generator import OnnxGenerator

    device = choose_device(options.device)
    laps = Laps(device)
    division = load_divided(options.data)
    images, held_out = division.dataset, load_held_out(options.data, division)
    if options.quick:
        shorten_trainings()
        images = images.take(torch.arange(min(len(images), QUICK_REAL)))
        held_out = None if held_out is None else held_out.take(torch.arange(min(len(held_out), QUICK_REAL // 2)))
    laps.end("reading images")
    features = None if options.features == "auto" else options.features
    reference = prepare_reference(images, held_out, features, device=device)
    laps.end("feature network")
    gaussian_of(reference.network, images, device)
    laps.end("features of the data")
    manifold_of(reference.network, images, device)
    laps.end("neighbors in the data")
    recipe = load_recipe("dcgan")
    torch.manual_seed(0)
    network = new_generator(recipe, images.spec.unlabeled())
    description = Description(recipe.latent_size, images.spec.unlabeled())
    export_generator(network.eval(), description, options.worker / "generator.onnx")
    generator = OnnxGenerator(options.worker / "generator.onnx", device=options.device)
    parts = time_parts(evaluate, device)
    count = min(options.images, QUICK_IMAGES) if options.quick else options.images
    laps.began = time.perf_counter()  # exporting is not evaluating
    evaluation = evaluate.evaluate_generator(generator, reference, count=count, first_seed=0, device=device)
    laps.end("generating, all metrics")
    write_report(evaluation, "Benchmark", options.worker / "report")
    laps.end("report")
    results = {
        "seconds": laps.seconds,
        "parts": parts,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "gpu_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0,
        "generator": generator.provider,
        "torch": torch.__version__,
        "images": count,
        "reference": len(images),
        "held_out": 0 if held_out is None else len(held_out),
    }
    print(json.dumps(results))


class Laps:
    """The seconds of consecutive stages, each until the device has done what it was given."""

    def __init__(self, device: Any) -> None:
        self.device, self.seconds, self.began = device, dict[str, float](), time.perf_counter()

    def end(self, stage: str) -> None:
        """End a stage, with which the next one begins."""
        wait_for(self.device)
        self.seconds[stage] = time.perf_counter() - self.began
        self.began = time.perf_counter()


def wait_for(device: Any) -> None:
    """Wait until a GPU has computed everything that it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def time_parts(module: Any, device: Any) -> dict[str, float]:
    """Time the parts of an evaluation whenever the module calls them; returns where the seconds will be."""
    seconds: dict[str, float] = {}

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **named)
            wait_for(device)
            seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - began
            return result

        return wrapper

    for name, part in PARTS.items():
        setattr(module, name, timed(getattr(module, name), part))
    return seconds


def shorten_trainings() -> None:
    """Let every network of an evaluation learn for a few steps only, in this process."""
    from gan_plugin.evaluation import critic, measures
    from gan_plugin.features import classifier_training, self_supervised_training

    for module in (critic, classifier_training):
        for name in ("MIN_STEPS", "MAX_STEPS"):
            setattr(module, name, QUICK_STEPS)
    self_supervised_training.STEPS = QUICK_STEPS
    measures.SUBSETS = QUICK_STEPS


if __name__ == "__main__":
    main()
