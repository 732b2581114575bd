"""Times of what a GPU computes, and the kernels that it runs, for the parts of benchmarks/gpu.py."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
from gpu import Setup, Values
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

ROUNDS, ROUND_S = 5, 2.0  # whose median is the time of a call, and the seconds that a round may take


def wait_for(device: str) -> None:
    """Wait until the device has computed everything that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_a_call(run: Callable[[], object], setup: Setup, *, calls: int, unit: int = 1) -> tuple[float, int]:
    """Return the median over ROUNDS of the seconds that a call takes, by CUDA's events, and the calls of a round.

    Args:
        run: what is called; it has been warmed up.
        calls: of a round, or as many as ROUND_S has time for; 1 or 2 where sizes are those that measure nothing.
        unit: of which the calls of a round are a multiple, because so many in a row are the same work.
    """
    for _ in range(unit):
        run()
    once = timed(run, setup.device, unit) / unit
    calls = min(calls, max(1, int(ROUND_S / once)))
    calls = unit if setup.quick else -(-calls // unit) * unit
    rounds = 1 if setup.quick else ROUNDS
    return statistics.median(timed(run, setup.device, calls) / calls for _ in range(rounds)), calls


def timed(run: Callable[[], object], device: str, calls: int) -> float:
    """Return the seconds of so many calls."""
    wait_for(device)
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    began = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - began


class Kernel(NamedTuple):
    """What a device has run.

    Attributes:
        name: of the kernel; on a CPU, of the operation.
        us: microseconds.
    """

    name: str
    us: float


def kernels_of(run: Callable[[], object], device: str) -> list[Kernel]:
    """Return the kernels of a call, copies among them; on a CPU its outermost operations."""
    activity, kind = (
        (ProfilerActivity.CUDA, DeviceType.CUDA) if device == "cuda" else (ProfilerActivity.CPU, DeviceType.CPU)
    )
    with profile(activities=[activity]) as profiler:
        run()
        wait_for(device)
    return [
        Kernel(event.name, event.time_range.elapsed_us())
        for event in profiler.events() or []
        if event.device_type == kind and not event.is_user_annotation and event.cpu_parent is None
    ]


def top(kernels: list[Kernel], count: int) -> list[Values]:
    """Return the kernels that take most of the time, those of one name together."""
    times: dict[str, list[float]] = defaultdict(list)
    for kernel in kernels:
        times[kernel.name].append(kernel.us)
    longest = sorted(times.items(), key=lambda item: -sum(item[1]))[:count]
    total = sum(kernel.us for kernel in kernels)
    return [
        {"name": name[:160], "calls": len(us), "ms": sum(us) / 1e3, "share": sum(us) / total} for name, us in longest
    ]
