"""The folder that caches what this package trained, computed or downloaded.

Several users and processes may share it. A good file is never replaced, a damaged one is noticed by its digest, and a
folder that cannot be written costs time and nothing else: what was computed is used from memory, with one warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from gan_plugin.errors import first_line
from gan_plugin.storage import DamagedFileError, cache_folder, load_tensors, save_tensors

T = TypeVar("T")
Content = tuple[dict[str, Tensor], dict[str, Any]]  # tensors and header of a file

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages

_in_memory: dict[Path, Content] = {}  # what could not be written
_warnings: set[str] = set()  # already logged: an evaluation would write several files into the same full folder


def cached(name: str, compute: Callable[[], Content], read: Callable[[Content], T]) -> tuple[T, Path | None]:
    """Return what the cache holds under a name, computed and written where it holds nothing or a damaged file.

    Args:
        name: of the file, without its suffix.
        compute: gives the tensors and the JSON-serializable header to be written.
        read: makes the value of what is in the file; raises ``DamagedFileError`` where that is something else.

    Returns:
        The value, and its file: None where the file cannot be written, and the value is kept in memory.
    """
    path = cache_folder() / f"{name}.safetensors"
    if path in _in_memory:
        return read(_in_memory[path]), None
    try:
        return read(load_tensors(path)), path
    except (FileNotFoundError, DamagedFileError):
        content = compute()
    # Another process may have been first, with other bits (a GPU, more threads): then its file is the one to use.
    damage = None
    try:
        return read(load_tensors(path)), path
    except FileNotFoundError:
        pass
    except DamagedFileError as error:
        damage = str(error) if os.path.lexists(path) else None
    reason = write(path, content)
    if damage is not None and reason is None:
        logger.warning("%s was damaged (%s) and has been computed again.", path, damage)
    elif damage is not None:
        warn_once(
            f"{path} is damaged ({damage}) and cannot be replaced ({reason}): it was computed again for this process "
            "alone; remove it, or set GAN_PLUGIN_CACHE to another folder."
        )
    elif reason is not None:
        warn_once(
            f"The cache folder {path.parent} cannot be written ({reason}): what belongs there is computed again by "
            "every process; set GAN_PLUGIN_CACHE to a folder that can."
        )
    return read(content), path if reason is None else None


def write(path: Path, content: Content) -> str | None:
    """Write a file of the cache; return the reason where it cannot be, and keep its content in memory."""
    try:
        save_tensors(path, *content)
    except OSError as error:
        _in_memory[path] = content
        return error.strerror or first_line(error)
    return None


def warn_once(text: str) -> None:
    """Log a warning, unless this process has logged it."""
    if text not in _warnings:
        _warnings.add(text)
        logger.warning("%s", text)
