"""What the machine does meanwhile: by MLflow's monitors, and into a run's folder.

MLflow's own thread asks the server after every sample, and at its end waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from gan_plugin.tracking.spool import Spool, last_step

PREFIX = "system/"
INTERVAL_S = 10.0  # from one sample to the next, as MLflow has it
END_S = 2.0  # that a sample which hangs is waited for

logger = logging.getLogger(__name__)


@contextmanager
def system_metrics(spool: Spool) -> Iterator[None]:
    """Log what processor, memory, disk, network and GPU do within a block."""
    ended = threading.Event()
    thread = threading.Thread(target=_sample, args=(spool, ended), name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(END_S)


def _sample(spool: Spool, ended: threading.Event) -> None:
    interval = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL_S
    sample = last_step(spool.folder, PREFIX) + 1
    try:
        monitors = _monitors()
        while True:
            for monitor in monitors:
                monitor.collect_metrics()
            if ended.wait(interval):
                return
            values = {name: value for monitor in monitors for name, value in monitor.aggregate_metrics().items()}
            spool.metrics({f"{PREFIX}{name}": value for name, value in values.items()}, sample)
            sample += 1
            for monitor in monitors:
                monitor.clear_metrics()
    except Exception:
        logger.warning("System metrics are no longer logged.", exc_info=True)


def _monitors() -> list[Any]:
    monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(Exception):  # without NVIDIA's library or a GPU
        monitors.append(GPUMonitor())
    return monitors
