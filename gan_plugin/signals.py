"""Turn SIGTERM and Ctrl-C into a request to stop, which training checks after each step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None] | signal.Handlers


class StopSignals:
    """Remembers a SIGTERM or Ctrl-C instead of ending the process; the same signal again ends it as usual."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def requested(self) -> bool:
        """Return whether a signal has come."""
        return self.received is not None

    def exit_status(self) -> int:
        """Return what a shell reports for a process that such a signal ended."""
        return 128 + (self.received or 0)

    @contextmanager
    def installed(self) -> Iterator[StopSignals]:
        """Catch SIGTERM and Ctrl-C inside of the ``with`` block; afterwards the former handlers are back."""
        with signals_handled_by(self._handle, signal.SIGTERM, signal.SIGINT):
            yield self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == self.received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if self.received is None:  # after a Ctrl-C mlflow run sends its child a SIGTERM as well
            self.received = signal.Signals(number)
            message = f"{self.received.name}: finishing this step, then saving a checkpoint. Once more ends at once.\n"
            os.write(2, message.encode())  # print may be in the middle of another line


@contextmanager
def signals_handled_by(handler: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Give signals another handler within a block; in other threads than the main one, which get none, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)
