"""Files of a folder, and splits by the names of files and folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gan_plugin.errors import UserError

# Names that mark a split → the one spelling of that split
SPLIT_NAMES = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


@dataclass(frozen=True)
class Listing:
    """The files below a folder.

    Attributes:
        files: relative paths with forward slashes, in one order on every machine.
        repeated: relative paths of links that lead to a folder whose files are in the list already.
    """

    files: list[str]
    repeated: list[str]


def list_files(root: Path) -> Listing:
    """List all files below ``root``.

    Hidden files and folders are passed over. Links to folders are followed, after all folders that are no links; what
    several paths lead to is listed once, so that links in a circle come to an end.

    Raises:
        UserError: a folder cannot be listed.
    """
    files: list[str] = []
    repeated: list[str] = []
    visited: set[object] = set()
    links = [PurePosixPath()]
    while links:
        start = links.pop(0)
        if identity_of(root / start) in visited:
            repeated.append(str(start))
            continue
        folders, nested = [start], list[PurePosixPath]()
        while folders:
            folder = folders.pop()
            visited.add(identity_of(root / folder))
            prefix = f"{folder}/" if folder.name else ""
            for entry in entries_of(root / folder):
                if not is_folder(entry):
                    files.append(prefix + entry.name)  # as text: a path object for each file takes most of the time
                elif entry.is_symlink():
                    nested.append(folder / entry.name)
                else:
                    folders.append(folder / entry.name)
        links = sorted([*links, *nested])
    return Listing(sorted(files), repeated)


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, except for what is hidden.

    Raises:
        UserError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{escaped(str(folder))} cannot be listed: {error.strerror}.") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def identity_of(folder: Path) -> object:
    """Return what is equal for all paths to the same folder."""
    try:
        status = folder.stat()
    except OSError as error:
        raise UserError(f"{escaped(str(folder))} cannot be listed: {error.strerror}.") from error
    return (status.st_dev, status.st_ino) if status.st_ino else folder.resolve()  # not every system numbers them


def check_text(name: str, what: str) -> None:
    """Refuse a name that cannot be stored as text, such as that of a folder whose bytes are not UTF-8.

    Args:
        name: as Python reads it from the file system or a file.
        what: is called so; how the sentence begins.

    Raises:
        UserError: names it, with its bytes escaped.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{what} '{escaped(name)}' has a name that is not UTF-8 text, as which it is stored with the model: "
            "rename it."
        ) from None


def escaped(name: str) -> str:
    r"""Return a name for messages: bytes that are not UTF-8, and characters that do not print, are escaped.

    >>> escaped("caf\udce9.png"), escaped("café.png")
    ('caf\\xe9.png', 'café.png')
    """
    try:
        text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def canonical_split(name: str) -> str:
    """Return the one spelling of a split: "val" and "Valid" are "validation"; other names stay as they are."""
    return SPLIT_NAMES.get(name.lower(), name)


def is_split_name(name: str) -> bool:
    """Return whether a file or folder of this name holds a split."""
    return name.lower() in SPLIT_NAMES
