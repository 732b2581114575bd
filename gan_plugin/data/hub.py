"""The Hugging Face hub and its library: whether it is installed, and whether the hub answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gan_plugin.errors import UserError, first_line

TIMEOUT = 4.0  # seconds for the hub's first answer; the library itself would try again for half a minute, or for ever

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


def import_datasets() -> Any:
    """Import the ``datasets`` library, an optional dependency that takes a second to import.

    Raises:
        UserError: it is not installed.
    """
    try:
        import datasets
        from datasets import load_dataset  # noqa: F401  # a folder "datasets" here would import as an empty module
    except ImportError as error:
        raise UserError(
            'Parquet files and the Hugging Face hub are read by the library datasets: pip install "gan-plugin[hub]".'
        ) from error
    return datasets


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Turn on the library's offline mode for a block where the hub does not answer: it goes by its cache, or fails.

    Nothing is asked of the network where the user turned that mode on.
    """
    datasets = import_datasets()
    from huggingface_hub import constants

    if datasets.config.HF_HUB_OFFLINE or constants.HF_HUB_OFFLINE or (reason := why_unreachable()) is None:
        yield
        return
    logger.warning("%s cannot be reached (%s): only what was downloaded before is used.", constants.ENDPOINT, reason)
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True  # read at every request
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = False


def why_unreachable() -> str | None:
    """Return why the hub does not answer within ``TIMEOUT``; None where it does, whatever the answer."""
    from huggingface_hub import constants, get_session

    reasons: list[str | None] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=TIMEOUT)  # by the library's client, which knows the proxies
            reasons.append(None)
        except Exception as error:  # of whichever client the library has
            reasons.append(first_line(error))

    # in a thread, since the time for looking up a name is not bounded by a client's timeout
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return reasons[0] if reasons else f"no answer within {TIMEOUT:g} s"
