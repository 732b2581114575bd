"""A line for every wait that a person sees: what is done, where it takes longer than a moment. Imports no torch."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOMENT = 1.0  # seconds
INTERVAL = 30.0  # seconds between two lines on the same work

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


@contextmanager
def announced(text: str) -> Iterator[None]:
    """Log a sentence about a block that is still running after a moment, and nothing about one that is done by then."""
    timer = threading.Timer(MOMENT, logger.info, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def counted(text: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far work on many things is, and how fast: a bar on a terminal, else a line every half minute.

    Yields what is called with the number of things that were done since its last call.

    Args:
        text: what is done, as a sentence without its full stop.
        total: number of things.
        unit: what they are, such as "images".
    """
    if sys.stderr is not None and sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=text, unit=f" {unit}", mininterval=0.5) as bar:

            def advance(count: int) -> None:
                bar.update(count)

            yield advance
        return
    started = reported = time.monotonic()
    done = 0

    def update(count: int) -> None:
        nonlocal done, reported
        done += count
        if (now := time.monotonic()) >= reported + INTERVAL:
            reported = now
            logger.info("%s: %s of %s, %s", text, f"{done:,}", f"{total:,}", speed(done, now - started, unit))

    yield update
    if (seconds := time.monotonic() - started) > MOMENT:
        logger.info("%s: %s in %.0f s, %s", text, f"{done:,}", seconds, speed(done, seconds, unit))


def speed(count: int, seconds: float, unit: str) -> str:
    """Return in words how many things a second that is.

    >>> speed(3000, 2.0, "images")
    '1,500 images/s.'
    """
    return f"{count / max(seconds, 1e-9):,.0f} {unit}/s."
