"""What a person sees of a running training: a bar or a line an epoch, and the metrics of the run."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from gan_plugin.device import start_copy
from gan_plugin.tracking.tracker import Tracker
from gan_plugin.training.guard import Guard, check_finite
from gan_plugin.training.plan import TrainingPlan
from gan_plugin.training.steps import metric_names

METRICS_EVERY = 50  # steps
LINE_EVERY = 30  # seconds, at least


class ProgressLogger:
    """Logs means of the steps' metrics, which stay on the device and are read every METRICS_EVERY steps.

    From a GPU they are logged one reading later, when they have long been copied, so that its queue never runs empty.
    """

    def __init__(
        self,
        tracker: Tracker,
        plan: TrainingPlan,
        guard: Guard,
        *,
        steps_per_epoch: int,
        steps: int,
        visible: bool = True,
    ) -> None:
        self.tracker, self.plan, self.guard, self.steps_per_epoch = tracker, plan, guard, steps_per_epoch
        self.names = metric_names(plan.recipe)
        self.total, self.count = torch.zeros(len(self.names), device=plan.device), 0
        self.latest: dict[str, float] = {}
        self.readings: deque[tuple[int, Callable[[], Tensor]]] = deque()
        self.late = 0 if plan.device.type == "cpu" else 1
        self.timer, self.first_step = time.perf_counter(), steps
        self.last_line = time.perf_counter()
        self.visible = visible
        self.bar = tqdm(
            total=None if plan.epochs is None else plan.epochs * steps_per_epoch,
            initial=steps,
            unit="step",
            smoothing=0.05,
            disable=not (visible and sys.stderr.isatty()),
        )

    def step(self, metrics: Mapping[str, Tensor], step: int) -> None:
        """Take in one step's metrics, and read them once in METRICS_EVERY steps of an epoch.

        Raises:
            GuardError: a metric is not finite, or the guard's check fails.
        """
        self.total += torch.stack([metrics[name] for name in self.names])
        self.count += 1
        self.bar.update()
        if step % self.steps_per_epoch % METRICS_EVERY == 0:  # of the epoch, so that a resumed run has the same windows
            self._read(step)

    @property
    def has_read_all(self) -> bool:
        """Return whether no step's metrics are left on the device: here a run may end and another go on."""
        return self.count == 0

    def _read(self, step: int) -> None:
        """Begin to read the means since the last reading; what is older is there by now, and is logged."""
        self.readings.append((step, start_copy(self.total / self.count)))
        self.total.zero_()
        self.count = 0
        while len(self.readings) > self.late:
            self._log(*self.readings.popleft())

    def _log(self, step: int, values: Callable[[], Tensor]) -> None:
        self.latest = dict(zip(self.names, values().tolist()))
        check_finite(self.latest)
        if self.plan.guard and "loss/discriminator" in self.latest:
            self.latest |= self.guard.add_loss(self.latest["loss/discriminator"], step)
        self.tracker.metrics(self.latest, step)
        if self.plan.guard:
            self.guard.check(step)
        self.bar.set_postfix({name.removeprefix("loss/"): f"{value:.3f}" for name, value in self.losses().items()})
        if time.perf_counter() - self.last_line > LINE_EVERY:
            self._print_line(step)

    def flush(self) -> None:
        """Log what was begun to be read; waits for the device.

        Raises:
            GuardError: as ``step``.
        """
        while self.readings:
            self._log(*self.readings.popleft())

    def epoch(self, step: int) -> None:
        """Log the end of an epoch, or of a training that ends within one.

        Raises:
            GuardError: as ``step``.
        """
        if not self.has_read_all:
            self._read(step)
        epoch, images = step / self.steps_per_epoch, step * self.plan.recipe.batch_size
        rate = self._images_per_second(step)
        self.tracker.metrics({"epoch": epoch, "images": images, "throughput/images_per_second": rate}, step)
        self._print_line(step)
        self.first_step = step

    def _images_per_second(self, step: int) -> float:
        elapsed = time.perf_counter() - self.timer
        return (step - self.first_step) * self.plan.recipe.batch_size / elapsed

    def _print_line(self, step: int) -> None:
        """Print a plain line, where there is no bar."""
        self.last_line = time.perf_counter()
        if self.visible and self.bar.disable:
            epochs = f"{step / self.steps_per_epoch:.4g}"
            epochs += "" if self.plan.epochs is None else f"/{self.plan.epochs}"
            text = "  ".join(f"{name} {value:.3f}" for name, value in self.losses().items())
            print(f"epoch {epochs}  {text}  {self._images_per_second(step):,.0f} images/s", flush=True)

    def losses(self) -> dict[str, float]:
        """Return the latest losses."""
        return {name: value for name, value in self.latest.items() if name.startswith("loss/")}

    def reset_timer(self) -> None:
        """Exclude samples, evaluations and checkpoints since the last step from the throughput."""
        self.timer = time.perf_counter()

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()
