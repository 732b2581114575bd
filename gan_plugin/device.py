"""Where training runs, in which precision, and with how many threads of a CPU."""

from __future__ import annotations

import gc
import logging
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor

from gan_plugin.cores import affinity, cores, limit_reason, threads_variable
from gan_plugin.errors import UserError
from gan_plugin.threads import PERIOD_S, CoreUsage, ThreadTuner, free_at_start, suggest

MEMORY_FORMAT = torch.channels_last  # of images and weights: what a GPU and the default recipe on a CPU are fastest in

STEPS_AHEAD = 8  # of the host before a GPU: enough for its queue never to run empty

T = TypeVar("T")

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


def choose_device(name: str) -> torch.device:
    """Choose a device that works for ``auto``, ``cuda`` or ``cpu``.

    Raises:
        UserError: CUDA was demanded and is not there; the message names the cause.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        reason = "PyTorch sees no usable NVIDIA GPU" if built else f"torch {torch.__version__} was built without CUDA"
        raise UserError(f"device=cuda is not possible, {reason}: give device=cpu, or install what is missing.")
    return torch.device("cuda")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Map ``auto``, ``bf16`` or ``float32`` to the type in which autocast computes; weights always stay float32."""
    fast = bf16_is_fast(device) if name == "auto" else name == "bf16"
    return torch.bfloat16 if fast else torch.float32


def precision_name(precision: torch.dtype) -> str:
    """Return the precision as a user writes it."""
    return "bf16" if precision == torch.bfloat16 else "float32"


def bf16_is_fast(device: torch.device) -> bool:
    """Return whether the hardware computes bfloat16 products, and more of them than float32 ones in the same time.

    Emulated ones are slower. AVX-512 BF16 makes twice as many on AMD's processors, but only as many on Intel's, where
    matrix units (AMX) are what is fast.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.cpu._is_amx_tile_supported():
        return True
    return bool(torch.cpu._is_avx512_bf16_supported()) and not is_intel()


def is_intel() -> bool:
    """Return whether the processor is one of Intel's."""
    try:
        about = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:  # not Linux
        about = platform.processor()
    return "GenuineIntel" in about


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Return a context in which forward passes compute in ``precision``."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Have CUDA compute float32 as float32, where it would round factors to 10 bits; restore what it was at the end.

    What can be read outside can be read inside: torch refuses to read one of its older settings, such as
    ``torch.backends.cudnn.allow_tf32``, where the newer ``fp32_precision`` says something else, so both are set.
    """
    backends: Any = torch.backends  # torch creates some of the attributes at import
    operators = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    before = [operator.fp32_precision for operator in operators]
    of_cpu = backends.mkldnn.matmul.fp32_precision  # which the older setting of products moves as well
    tf32, products = older_settings()
    if tf32 is not None:
        backends.cudnn.allow_tf32 = False
    if products is not None:
        torch.set_float32_matmul_precision("highest")
    for operator in operators:
        operator.fp32_precision = "ieee"
    try:
        yield
    finally:
        if tf32 is not None:
            backends.cudnn.allow_tf32 = tf32
        if products is not None:
            torch.set_float32_matmul_precision(products)
            backends.mkldnn.matmul.fp32_precision = of_cpu
        for operator, precision in zip(operators, before):
            operator.fp32_precision = precision


def older_settings() -> tuple[bool | None, str | None]:
    """Return cuDNN's ``allow_tf32`` and the precision of products, None for one that torch refuses to read."""
    try:
        tf32 = torch.backends.cudnn.allow_tf32
    except RuntimeError:
        tf32 = None
    try:
        return tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        return tf32, None


def start_copy(values: Tensor) -> Callable[[], Tensor]:
    """Begin to copy values to the host, and return what waits for them: from a GPU into pinned memory."""
    if values.device.type != "cuda":
        return lambda: values
    host = torch.empty_like(values, device="cpu", pin_memory=True)
    host.copy_(values, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> Tensor:
        copied.synchronize()
        return host

    return wait


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the host on a device, for which nobody waits: to a GPU from pinned memory."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def release_memory() -> None:
    """Give back what is over: networks refer to themselves, and torch keeps a GPU's memory for tensors to come."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where CUDA has not been used


class Throttle:
    """Keeps the host at most STEPS_AHEAD steps ahead of a GPU, so that it notices by no more too late what happens.

    Such as the end of its time, a signal, or that another process is gone.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_needed = device.type == "cuda"
        self.events: deque[torch.cuda.Event] = deque()

    def step(self) -> None:
        """Take note of a step that was launched, and wait for the one that was launched STEPS_AHEAD steps before it."""
        if not self.is_needed:
            return
        event = torch.cuda.Event()
        event.record()
        self.events.append(event)
        if len(self.events) > STEPS_AHEAD:
            self.events.popleft().synchronize()


# ---- threads of a CPU ------------------------------------------------------------------------------------------------


class CpuThreads:
    """The number of torch's threads within a block of :func:`cpu_threads`, and what adapts it in each kind of work."""

    def __init__(self, most: int, count: int) -> None:
        self.most, self.count = most, count
        self.tuners: dict[str, ThreadTuner] = {}
        self.usage, self.ended = CoreUsage(), time.perf_counter()

    def over(self, items: Iterable[T], work: str, cycle: int) -> Iterator[T]:
        """Yield the items, and time what is done with each."""
        tuner = self.tuners.setdefault(work, ThreadTuner(self.most, self.count, cycle=cycle))
        self._set(tuner.count)
        if (
            time.perf_counter() - self.ended > PERIOD_S
        ):  # whoever worked meanwhile, perhaps for this process, says nothing
            self.usage = CoreUsage()
        for item in items:
            start = time.perf_counter()
            yield item
            seconds = time.perf_counter() - start
            is_due = tuner.trial is None and self.usage.seconds >= PERIOD_S
            change = tuner.step(seconds, self.usage.free_cores() if is_due else None)
            if tuner.count != self.count:
                self._set(tuner.count)
                self.usage = CoreUsage()
            if change is not None:
                logger.info("%s with %s.", work.capitalize(), change)
            self.ended = time.perf_counter()

    def _set(self, count: int) -> None:
        self.count = count
        torch.set_num_threads(count)


_CURRENT: ContextVar[CpuThreads | None] = ContextVar("cpu_threads", default=None)


@contextmanager
def cpu_threads(device: torch.device, threads: int | None = None) -> Iterator[None]:
    """Let torch compute with the number of CPU threads that is fastest here, within a block; the log says which.

    With ``threads`` it is that number. Without, what the user has set by a variable or by ``torch.set_num_threads``
    stays; else the most are as many as the process has cores, and where other programs use them, :func:`tuned` goes
    over to fewer and back. On another device, and inside of another such block, nothing changes.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or _CURRENT.get() is not None:
        yield
        return
    adaptive = None
    if threads is not None:
        torch.set_num_threads(threads)
        reason = f"threads={threads}"
    elif (variable := threads_variable()) is not None:
        reason = f"{variable} is kept"
    elif before not in default_threads():
        reason = "torch.set_num_threads is kept"
    else:
        most, free = min(before, cores()), free_at_start()
        adaptive = CpuThreads(most, suggest(free, most))
        torch.set_num_threads(adaptive.count)
        reason = limit_reason() if adaptive.count == most else f"only {free:.1f} cores are free of other programs"
    logger.info("CPU threads: %d, because %s.", torch.get_num_threads(), reason)
    token = _CURRENT.set(adaptive)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        torch.set_num_threads(before)


def tuned(items: Iterable[T], work: str, *, cycle: int = 1) -> Iterator[T]:
    """Yield the items of a loop, and within :func:`cpu_threads` adapt torch's threads to how long each one takes.

    Args:
        items: each stands for about the same work; with ``cycle``, each so many of them in a row.
        work: what the loop does, for the log; the next loop of the same name begins with what was fastest.
        cycle: after how many items the same work comes again.
    """
    current = _CURRENT.get()
    return iter(items) if current is None else current.over(items, work, cycle)


def default_threads() -> set[int]:
    """Return the numbers of threads with which torch may begin where nobody has set any: cores, or physical ones."""
    return {len(affinity()), os.cpu_count() or 1, psutil.cpu_count(logical=False) or 1}
