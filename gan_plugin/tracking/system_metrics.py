"""What the machine does meanwhile: MLflow's monitors, without its server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from gan_plugin.tracking.spool import Spool, last_step

PREFIX = "system/"


class SpooledMonitor(SystemMetricsMonitor):
    """MLflow's monitor of processor, memory, disk, network and GPU, whose values go to a run's folder.

    MLflow's own asks the server after every sample, and at its end waits for it.
    """

    def __init__(self, spool: Spool) -> None:
        super().__init__(run_id="")  # type: ignore[no-untyped-call]
        self.spool, self.sample = spool, last_step(spool.folder, PREFIX) + 1

    def monitor(self) -> None:
        """Sample until :meth:`finish` is called."""
        while not self._shutdown_event.is_set():
            self.collect_metrics()  # type: ignore[no-untyped-call]
            if self._shutdown_event.wait(self.sampling_interval):
                return
            values = self.aggregate_metrics()  # type: ignore[no-untyped-call]
            self.spool.metrics({f"{PREFIX}{name}": value for name, value in values.items()}, self.sample)
            self.sample += 1
            for monitor in self.monitors:
                monitor.clear_metrics()


@contextmanager
def system_metrics(spool: Spool) -> Iterator[None]:
    """Log what the machine does within a block."""
    monitor = SpooledMonitor(spool)
    monitor.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        monitor.finish()  # type: ignore[no-untyped-call]
