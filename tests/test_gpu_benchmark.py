"""What takes a GPU to be shown, rehearsed on a CPU: the benchmark runs all its parts, and one ends no other."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gpu_checks
import pytest
import torch
from helpers import PATIENCE_S, ROOT, load_script

from gan_plugin.config.recipe import load_recipe
from gan_plugin.training import checkpoint

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script(BENCHMARKS / "gpu.py")


@pytest.fixture
def parts(benchmark: ModuleType) -> ModuleType:
    load_script(BENCHMARKS / "gpu_timing.py")
    return load_script(BENCHMARKS / "gpu_parts.py")


def test_all_parts_run_on_a_cpu(benchmark: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "gpu.jsonl"
    words = [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu", "--quick", "--output", output]
    subprocess.run(words, check=True, timeout=PATIENCE_S)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line for line in lines if "error" in line] == []
    assert {line["part"] for line in lines if "left_out" not in line} == set(benchmark.PARTS)
    assert all(line["quick"] and line["card"].startswith("CPU") and line["torch"] for line in lines)
    left_out = {line["left_out"] for line in lines if "left_out" in line}
    assert left_out == {"only CUDA captures"}


def test_a_case_that_fails_is_a_line_and_so_are_the_others(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, Any]:
        raise ValueError("boom")

    def impossible() -> dict[str, Any]:
        raise benchmark.LeftOut("no reason to")

    def cases(_: object) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        yield from (("broken", broken), ("impossible", impossible), ("fine", lambda: {"value": 1}))
        raise ValueError("between cases")

    module = ModuleType("more_parts")
    module.more = cases  # type: ignore[attr-defined]  # the part
    monkeypatch.setitem(sys.modules, "more_parts", module)
    monkeypatch.setitem(benchmark.PARTS, "more", benchmark.Part("more_parts", 1))
    setup = benchmark.Setup("cpu", True, None, 1)
    first, second, third, last = benchmark.lines_of("more", setup)
    assert (first["case"], first["error"].splitlines()[-1]) == ("broken", "ValueError: boom")
    assert (second["case"], second["left_out"]) == ("impossible", "no reason to")
    assert (third["case"], third["value"]) == ("fine", 1)
    assert last["error"].endswith("ValueError: between cases\n")


def run_worker(benchmark: ModuleType, program: Path, limit_s: float) -> list[dict[str, Any]]:
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "__file__", str(program))
        benchmark.run_worker("a part", limit_s, output=output, about={"card": "one"})
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_a_part_that_takes_too_long_or_breaks_is_a_line(benchmark: ModuleType, tmp_path: Path) -> None:
    program = tmp_path / "worker.py"
    program.write_text("import time\ntime.sleep(3600)\n")
    (line,) = run_worker(benchmark, program, 0.1)
    assert line == {"part": "a part", "card": "one", "error": "it was not done after 0 s"}
    good = {"part": "a part", "card": "two", "about": ["card"]}
    program.write_text(f"print({json.dumps(json.dumps(good))}, flush=True)\nraise SystemExit('the card fell out')\n")
    first, last = run_worker(benchmark, program, PATIENCE_S)
    assert first == {"part": "a part", "card": "two"}
    assert last == {**first, "error": "the process ended with 1: the card fell out\n"}


def test_the_operations_of_a_published_step(parts: ModuleType) -> None:
    """20 layers of 768 and 1,536 channels a network and pixel: 14 GFLOP an image, in 19 passes of 512 of them."""
    block = 2 * (2 * 768 * 1536 + 1536 * 16 * 9)  # two 1×1 convolutions and one of 3×3 in groups of 16, at a pixel
    passes = 512 * (4 + 15) * 2 * block * (32**2 + 16**2 + 8**2 + 4**2)
    assert parts.step_flops(load_recipe("r3gan-cifar10"), parts.CIFAR) == pytest.approx(passes, rel=2e-3)


def test_half_precision() -> None:
    gpu_checks.check_float16("r1", "cpu")


def test_data_on_the_host_and_the_augmentations_controller() -> None:
    gpu_checks.check_batches_from_the_host(gpu_checks.CPU)
    gpu_checks.check_ada(gpu_checks.CPU)


def test_other_latents_on_the_device_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Larger(gpu_checks.HostRandomness):
        factors = iter([1.01, 1.0])  # of the device, and of the CPU

        def __init__(self) -> None:
            super().__init__()
            self.factor = next(self.factors)

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = super().__torch_function__(func, types, args, kwargs)
            return result * self.factor if func is torch.randn else result

    monkeypatch.setattr(gpu_checks, "HostRandomness", Larger)
    with pytest.raises(AssertionError, match="gradients of the generator differ"):
        gpu_checks.check_against_cpu("r3gan", gpu_checks.CPU)


def test_other_random_numbers_of_captured_steps_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, seed = iter([0, 0, 1, 2]), torch.manual_seed
    monkeypatch.setattr(gpu_checks.torch, "manual_seed", lambda _: seed(next(seeds)))
    with pytest.raises(AssertionError, match="random state"):
        gpu_checks.check_captured("dcgan", gpu_checks.CPU)


def test_what_captured_steps_report_stays_where_others_overwrite_it() -> None:
    gpu_checks.check_captured("r1", gpu_checks.CPU)


def test_replays_that_leave_their_outputs_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks.pytree, "tree_map_", lambda *_: None)
    with pytest.raises(AssertionError, match="losses differ"):
        gpu_checks.check_captured("dcgan", gpu_checks.CPU)


def test_a_random_state_that_is_not_restored_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.torch, "set_rng_state", lambda _: None)
    with pytest.raises(AssertionError, match="random state"):
        gpu_checks.check_resume("dcgan", gpu_checks.CPU)


def test_memory_that_grows_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(0, 0), (0, 2**21)])
    monkeypatch.setattr(gpu_checks, "memory_of", lambda _: next(readings))
    with pytest.raises(AssertionError, match="memory has grown"):
        gpu_checks.check_memory("dcgan", gpu_checks.CPU, steps=1)
