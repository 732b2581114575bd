"""Delivery while a run goes on, from a thread of its own: whatever happens there, training goes on."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

from gan_plugin.connection import describe
from gan_plugin.tracking.replay import Delivery
from gan_plugin.tracking.spool import RunRecord

POLL_S = 1.0  # between two looks for new events
MAX_DELAY_S = 30.0  # between two tries
PATIENCE_S = 60.0  # without any progress, at the end
FIRST_PATIENCE_S = 10.0  # with a server that has never answered
GRACE_S = 8.0  # at the end, after a signal: docker kills 10 s after it, torchrun and Kubernetes after 30

logger = logging.getLogger(__name__)


class DeliveryThread:
    """Delivers a run while it goes on.

    Args:
        folder: of the run.
        begun: the attempt to make the run in MLflow; as long as it waits for the server, no other run is made.
    """

    def __init__(self, folder: Path, begun: Future[RunRecord]) -> None:
        self.delivery, self.begun = Delivery(folder), begun
        self.closing = threading.Event()
        self.has_answered = False
        self.moved_at = time.monotonic()
        self.problem: Exception | None = None
        self.thread = threading.Thread(target=self._work, name="mlflow-delivery", daemon=True)
        self.thread.start()

    def finish(self, stop_requested: Callable[[], bool] = lambda: False, patience_s: float = math.inf) -> bool:
        """Deliver what is left, as long as there is progress; return whether everything is with MLflow.

        Args:
            stop_requested: once it is true, GRACE_S are left.
            patience_s: without any progress, at most.
        """
        self.closing.set()
        self.moved_at = time.monotonic()
        end = math.inf
        while self.thread.is_alive() and time.monotonic() < min(end, self.moved_at + min(patience_s, self._patience())):
            self.thread.join(0.1)
            if stop_requested():
                end = min(end, time.monotonic() + GRACE_S)
        self.delivery.stopped.set()  # what is left belongs to whoever replays it
        return not self.thread.is_alive() and self.delivery.is_complete()

    def _patience(self) -> float:
        return PATIENCE_S if self.has_answered else FIRST_PATIENCE_S

    def _work(self) -> None:
        delay = POLL_S
        while not self.begun.done() and not self.delivery.stopped.is_set():
            wait([self.begun], POLL_S)
        while not self.delivery.stopped.is_set():
            closing = self.closing.is_set()  # before the look at the events, or the last ones might be missed
            try:
                moved = self.delivery.deliver_some()
            except Exception as error:
                if self.problem is None:
                    logger.warning("MLflow does not take what is logged; training goes on: %s", describe(error))
                self.problem = error
                time.sleep(POLL_S) if closing else self.closing.wait(delay)
                delay = min(2 * delay, MAX_DELAY_S)
                continue
            if self.problem is not None:
                logger.warning("MLflow takes what is logged again.")
            self.problem, delay = None, POLL_S
            if moved:
                self.moved_at, self.has_answered = time.monotonic(), True
            elif closing:
                return
            else:
                self.closing.wait(POLL_S)
