"""Turn SIGTERM, Ctrl-C and a closed terminal into a request to stop, which training checks after each step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType

Handler = Callable[[int, FrameType | None], None] | signal.Handlers

# sent to end a process: by schedulers, by the keyboard, and by a terminal that closes (which Windows does not have)
SIGHUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
ENDING = tuple(number for number in (signal.SIGTERM, SIGHUP) if number is not None)


class StopSignals:
    """Remembers a signal to end instead of ending the process; the same again ends it, unless it :func:`comes_twice`.

    Args:
        promise: what is done then, as the line says that a person sees.
    """

    def __init__(self, promise: str = "finishing this step, then saving a checkpoint") -> None:
        self.received: signal.Signals | None = None
        self.promise = promise

    def requested(self) -> bool:
        """Return whether a signal has come."""
        return self.received is not None

    def exit_status(self) -> int:
        """Return what a shell reports for a process that such a signal ended; SIGTERM, where it came to another one."""
        return 128 + (self.received or signal.SIGTERM)

    @contextmanager
    def installed(self) -> Iterator[StopSignals]:
        """Catch SIGTERM, Ctrl-C and SIGHUP inside of the ``with`` block; afterwards the former handlers are back."""
        with signals_handled_by(self._handle, signal.SIGINT, *ENDING):
            yield self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == self.received and not comes_twice(number):
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if self.received is None:  # after a Ctrl-C mlflow run sends its child a SIGTERM as well
            self.received = signal.Signals(number)
            once_more = "" if comes_twice(number) else " Once more ends at once."
            message = f"{self.received.name}: {self.promise}.{once_more}\n"
            with suppress(OSError):  # the terminal may be gone
                os.write(2, message.encode())  # print may be in the middle of another line


def comes_twice(number: int) -> bool:
    """Return whether what is sent once may come twice: SIGHUP when a terminal closes, and all that torchrun passes on.

    A scheduler that ends a group of processes sends a signal to this one and to torchrun, which ends what goes on for
    too long by itself.
    """
    return number == SIGHUP or "TORCHELASTIC_RUN_ID" in os.environ


def exit_on_signals() -> AbstractContextManager[None]:
    """Raise SystemExit on SIGTERM and SIGHUP within a block: by themselves they would leave a run as RUNNING."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)  # what a shell reports for a process that the signal ended

    return signals_handled_by(handle, *ENDING)


def signals_ignored() -> AbstractContextManager[None]:
    """Ignore SIGTERM and SIGHUP within a block."""
    return signals_handled_by(signal.SIG_IGN, *ENDING)


@contextmanager
def signals_handled_by(handler: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Give signals another handler within a block; in other threads than the main one, which get none, do nothing.

    SIGHUP stays ignored where it is, as ``nohup`` has it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = [number for number in numbers if number != SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in caught}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)
