"""All that takes a GPU to be shown, in one run of ten minutes: python benchmarks/gpu.py --output gpu.jsonl

Each part is a process of its own with a limit of time, what matters most first, and none ends the others. Every case
of a part is a line of JSON, written when it is done, with the card and the versions: what was measured, or ``error``,
or ``left_out``, why there is nothing to measure here. Neither MLflow nor a network is needed.

    python benchmarks/gpu.py --parts steps,r3gan_cifar10 --data fashion-mnist
    python benchmarks/gpu.py --device cpu --quick

``--quick`` runs all parts in one process, with sizes that measure nothing: it shows that they run, also on a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil

WORKER = "--worker"
QUICK_LIMIT_S = 300
ERROR_CHARACTERS = 2000

Values = dict[str, Any]
Case = tuple[str, Callable[[], Values]]  # its name, and what measures it


class LeftOut(Exception):
    """A case has nothing to measure here; the message says why."""


class Setup(NamedTuple):
    """What all parts are told.

    Attributes:
        device: "cuda" or "cpu".
        quick: whether sizes are those that measure nothing.
        data: a folder of Fashion-MNIST's files; None for images of noise of the same shape.
        epochs: of a whole training.
    """

    device: str
    quick: bool
    data: Path | None
    epochs: int


class Part(NamedTuple):
    """A part: a function of the setup that yields its cases.

    Attributes:
        module: of this folder.
        limit_s: after which it is ended.
    """

    module: str
    limit_s: float


# By the function's name, in the order in which they run. A part is added by a line here and a function there.
PARTS = {
    "card": Part("gpu_parts", 30),
    "correctness": Part("gpu_parts", 120),
    "training": Part("gpu_runs", 120),
    "ceilings": Part("gpu_parts", 30),
    "steps": Part("gpu_parts", 120),
    "r3gan_cifar10": Part("gpu_parts", 90),
    "evaluation": Part("gpu_runs", 90),
    "serving": Part("gpu_runs", 90),
    "processes": Part("gpu_runs", 90),
    "convolutions": Part("gpu_parts", 90),
    "compiled": Part("gpu_parts", 150),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--parts", default=",".join(PARTS), help="Some of them, with commas in between.")
    parser.add_argument("--quick", action="store_true", help="Tiny sizes, all in one process: shows that it runs.")
    parser.add_argument("--data", type=Path, help="Fashion-MNIST's files; without them, images of noise.")
    parser.add_argument("--epochs", type=int, default=50, help="Of a whole training.")
    parser.add_argument("--minutes", type=float, default=10, help="After which no part begins, and the last one ends.")
    parser.add_argument("--output", type=Path, help="File for the lines; without it, they are printed.")
    parser.add_argument(WORKER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = (options.worker or options.parts).split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}: give some of {', '.join(PARTS)}")
    if options.worker is not None:
        work(names, Setup(options.device, options.quick, options.data, options.epochs))
        return
    with contextlib.nullcontext(sys.stdout) if options.output is None else open(options.output, "w") as output:
        run_all(names, options, output)


def run_all(names: list[str], options: argparse.Namespace, output: IO[str]) -> None:
    """Run the parts one after the other, as long as there is time."""
    end = time.monotonic() + 60 * options.minutes
    about: Values = {"card": None}
    groups = {",".join(names): QUICK_LIMIT_S} if options.quick else {name: PARTS[name].limit_s for name in names}
    for group, limit_s in groups.items():
        left_s = end - time.monotonic()
        if left_s <= 0:
            write(output, {"part": group, **about, "left_out": f"{options.minutes:g} minutes were over"})
            continue
        about = run_worker(group, min(limit_s, left_s), output=output, about=about)


def write(output: IO[str], line: Values) -> None:
    """Write a line, so that it is there whatever comes."""
    output.write(json.dumps(line) + "\n")
    output.flush()


def run_worker(group: str, limit_s: float, *, output: IO[str], about: Values) -> Values:
    """Run parts in a process, write their lines as they come, and one of what ended it where it did not end well.

    Returns the card and the versions, by the last line that has them.
    """
    ended_by_limit = threading.Event()
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], WORKER, group],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

        def end_it() -> None:
            ended_by_limit.set()
            end_processes(process)

        timer = threading.Timer(limit_s, end_it)
        timer.start()
        assert process.stdout is not None
        try:
            for text in process.stdout:
                if not text.endswith("\n"):
                    break  # of a line that it was about to write when it was ended
                line = json.loads(text)
                about = {name: line[name] for name in line["about"]}
                write(output, {name: value for name, value in line.items() if name != "about"})
            code = process.wait()
        finally:
            timer.cancel()
            end_processes(process)
        if ended_by_limit.is_set():
            write(output, {"part": group, **about, "error": f"it was not done after {limit_s:.0f} s"})
        elif code != 0:
            errors.seek(0)
            why = errors.read()[-ERROR_CHARACTERS:]
            write(output, {"part": group, **about, "error": f"the process ended with {code}: {why}"})
    return about


def end_processes(process: subprocess.Popen[str]) -> None:
    """End a process and those that it has started, also torchrun's, which are of other process groups."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()


# ---- the process of a part -------------------------------------------------------------------------------------------


def work(names: list[str], setup: Setup) -> None:
    """Run parts in this process and print the lines of their cases; whatever else is printed goes to stderr."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    about = describe(setup)
    for name in names:
        for line in lines_of(name, setup):
            write(lines, {"part": name, **about, **line, "about": list(about)})


def lines_of(name: str, setup: Setup) -> Iterable[Values]:
    """Yield a line for each case of a part."""
    function = getattr(importlib.import_module(PARTS[name].module), name)
    try:
        for case, measure in function(setup):
            start = time.perf_counter()
            line = {"case": case, **outcome(measure)}
            yield line | {"seconds": round(time.perf_counter() - start, 2)}
            free_memory()
    except LeftOut as reason:
        yield {"left_out": str(reason)}
    except Exception:
        yield {"error": traceback.format_exc()[-ERROR_CHARACTERS:]}


def outcome(measure: Callable[[], Values]) -> Values:
    """Return what a case measures, or why it does not."""
    try:
        return measure()
    except LeftOut as reason:
        return {"left_out": str(reason)}
    except Exception:
        return {"error": traceback.format_exc()[-ERROR_CHARACTERS:]}


def free_memory() -> None:
    """Give a GPU's memory back before the next case."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe(setup: Setup) -> Values:
    """Return the card and the versions that belong to every figure."""
    import torch

    on_cuda = setup.device == "cuda"
    if on_cuda and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no usable GPU: give --device cpu to rehearse")
    return {
        "card": torch.cuda.get_device_name() if on_cuda else f"CPU, {platform.machine()}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if on_cuda else None,
        "python": platform.python_version(),
        "quick": setup.quick,
    }


if __name__ == "__main__":
    # as the module that the parts import, so that there is one LeftOut
    importlib.import_module("gpu").main()
