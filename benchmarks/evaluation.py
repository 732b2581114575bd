"""Time and memory of one whole evaluation: python benchmarks/evaluation.py --data /usr/share/datasets/fashion-mnist

Each stage runs once with an empty cache and once with the cache that it left, each time in a fresh process, from
images on disk to all metrics. The generator is an untrained one of the recipe's size: it costs the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKER = "--worker"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="Data, with a split train and a split test.")
    parser.add_argument("--images", type=int, default=10_000, help="How many images to generate.")
    parser.add_argument("--features", default="classifier", help="Feature network.")
    parser.add_argument("--device", default="auto")
    parser.add_argument(WORKER, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(
            options.data,
            images=options.images,
            features=options.features,
            device_name=options.device,
            folder=options.worker,
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GAN_PLUGIN_CACHE": f"{folder}/cache"}
        words = [sys.executable, __file__, *sys.argv[1:], WORKER, folder]
        cold, warm = (
            json.loads(
                subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]
            )
            for _ in range(2)
        )
    import torch

    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {cold['device']}")
    print(f"{options.images:,} generated against {cold['reference']:,} images, {cold['held_out']:,} held out\n")
    print(f"{'seconds':24} {'empty cache':>12} {'again':>12}")
    for stage in cold["seconds"]:
        print(f"{stage:24} {cold['seconds'][stage]:12.1f} {warm['seconds'][stage]:12.1f}")
    print(f"{'together':24} {sum(cold['seconds'].values()):12.1f} {sum(warm['seconds'].values()):12.1f}")
    print(f"{'peak memory, GiB':24} {cold['gib']:12.2f} {warm['gib']:12.2f}")


def work(data: str, *, images: int, features: str, device_name: str, folder: Path) -> None:
    """Evaluate once and print the times as JSON."""
    import torch

    from gan_plugin.config.recipe import load_recipe
    from gan_plugin.data import load_divided, load_held_out
    from gan_plugin.device import choose_device
    from gan_plugin.evaluation.evaluate import evaluate_generator
    from gan_plugin.evaluation.reference import gaussian_of, manifold_of, prepare_reference
    from gan_plugin.export import export_generator
    from gan_plugin.networks import new_generator
    from gan_plugin.report import write_report
    from gan_plugin.serving.generator import Description, OnnxGenerator

    device = choose_device(device_name)
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal began
        seconds[stage], began = time.perf_counter() - began, time.perf_counter()

    division = load_divided(data)
    reference_images, held_out = division.dataset, load_held_out(data, division)
    lap("reading images")
    reference = prepare_reference(reference_images, held_out, features, device=device)
    lap("feature network")
    gaussian_of(reference.network, reference_images)
    lap("features of the data")
    manifold_of(reference.network, reference_images, device)
    lap("neighbors in the data")
    recipe = load_recipe("dcgan")
    torch.manual_seed(0)
    network = new_generator(recipe, reference_images.spec.unlabeled())
    description = Description(recipe.latent_size, reference_images.spec.unlabeled())
    export_generator(network.eval(), description, folder / "generator.onnx")
    generator = OnnxGenerator(folder / "generator.onnx", device=device_name)
    began = time.perf_counter()  # exporting is not evaluating
    evaluation = evaluate_generator(generator, reference, count=images, first_seed=0, device=device)
    lap("generating, all metrics")
    write_report(evaluation, "Benchmark", folder / "report")
    lap("report")
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    results = {
        "seconds": seconds,
        "gib": gib,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "reference": len(reference_images),
        "held_out": 0 if held_out is None else len(held_out),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
