"""The folder that caches what this package trained, computed or downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from gan_plugin.errors import UserError, first_line


def cache_folder() -> Path:
    """Return the cache folder, and make it where it does not exist.

    It is ``$GAN_PLUGIN_CACHE``, else ``$XDG_CACHE_HOME/gan_plugin``, else ``~/.cache/gan_plugin``.

    Raises:
        UserError: the folder cannot be made or written.
    """
    folder = _named_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        can_write = os.access(folder, os.W_OK | os.X_OK)
        reason = "no permission to write"
    except OSError as error:
        can_write, reason = False, first_line(error)
    if not can_write:
        raise UserError(
            f"The cache folder {folder} cannot be written ({reason}): set GAN_PLUGIN_CACHE to one that can."
        )
    return folder


def _named_folder() -> Path:
    if named := os.environ.get("GAN_PLUGIN_CACHE"):
        return Path(named).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "gan_plugin"
