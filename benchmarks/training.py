"""Images/s of the training step, beside Keras and a plain PyTorch loop with the same networks and batch, in one run.

    python benchmarks/training.py [--batch-size 256] [--rounds 5] [--steps 5] [--device auto]

Keras runs in an environment of its own, made on the first run in .venv-keras (TensorFlow, about 1 GB). The contenders
are processes that take turns, each timing a few steps and then waiting, so that a noisy machine disturbs all alike.
Printed: the median of each, and the median over rounds of its ratio to Keras in float32 within the same round.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
BASELINE = "keras float32"


def keras_python(on_gpu: bool) -> Path:
    """Return the interpreter of Keras' environment for this kind of device, which is made where it is missing."""
    environment = HERE.parent / (".venv-keras-gpu" if on_gpu else ".venv-keras")
    package = "tensorflow[and-cuda]==2.21.0" if on_gpu else "tensorflow-cpu==2.21.0"
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    complete = environment / "complete"
    if not complete.exists():
        venv.create(environment, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", package], check=True)
        complete.touch()
    return python


class Contender:
    """A worker process: a line with a number of steps goes in, images/s come out."""

    def __init__(self, name: str, command: list[str | Path]) -> None:
        self.name, self.rates = name, list[float]()
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}")
        return line.strip()

    def run(self, steps: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.rates.append(float(self.answer()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="a round")
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    options = parser.parse_args()

    from gan_plugin.device import choose_device

    device = choose_device(options.device).type
    ours = [sys.executable, HERE / "torch_worker.py", device, str(options.batch_size)]
    keras = [keras_python(device == "cuda"), HERE / "keras_worker.py", device, str(options.batch_size)]
    contenders = [
        Contender(BASELINE, [*keras, "float32"]),
        Contender("keras mixed_bfloat16", [*keras, "mixed_bfloat16"]),
        Contender("plain PyTorch float32", [*ours, "plain"]),
        Contender("gan_plugin float32", [*ours, "float32"]),
        Contender("gan_plugin bf16", [*ours, "bf16"]),
    ]
    versions = [contender.answer() for contender in contenders]  # each says so when it is ready and warm
    for _ in range(options.rounds):
        for contender in contenders:
            contender.run(options.steps)

    baseline = contenders[0].rates
    print(f"{versions[0]}; {versions[-1]}; {device}; {platform.processor() or platform.machine()}; ", end="")
    print(f"batch {options.batch_size}, median of {options.rounds} rounds of {options.steps} steps")
    print(f"{'':24}{'images/s':>10}{'ratio':>8}")
    for contender in contenders:
        ratio = statistics.median(rate / base for rate, base in zip(contender.rates, baseline))
        print(f"{contender.name:24}{statistics.median(contender.rates):10,.0f}{ratio:8.2f}")
        assert contender.process.stdin is not None
        contender.process.stdin.close()
        contender.process.wait()


if __name__ == "__main__":
    main()
