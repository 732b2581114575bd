"""Files of a folder, and splits by the names of files and folders."""

from __future__ import annotations

import os
from pathlib import Path

from gan_plugin.errors import UserError

# Names that mark a split → the one spelling of that split
SPLIT_NAMES = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


def list_files(root: Path) -> list[str]:
    """List all files below ``root`` by relative paths with forward slashes and in one order on every machine.

    Hidden files and folders are passed over; links to folders are followed.

    Raises:
        UserError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}.") from error

    paths = []
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=refuse):
        resolved = Path(folder).resolve()
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and not is_loop(resolved, name)]
        relative = Path(folder).relative_to(root)
        paths += [(relative / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(paths)


def is_loop(folder: Path, name: str) -> bool:
    """Return whether an entry of ``folder`` is a link back to the folder itself or to one above it."""
    return (folder / name).is_symlink() and folder.is_relative_to((folder / name).resolve())


def canonical_split(name: str) -> str:
    """Return the one spelling of a split: "val" and "Valid" are "validation"; other names stay as they are."""
    return SPLIT_NAMES.get(name.lower(), name)


def is_split_name(name: str) -> bool:
    """Return whether a file or folder of this name holds a split."""
    return name.lower() in SPLIT_NAMES
