"""A line for every wait that a person sees: what is done, where it takes longer than a moment. Imports no torch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOMENT = 1.0  # seconds

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
