"""Files that are whole or not there: written atomically, and where they hold tensors, with a digest over everything.

A file of tensors is safetensors. Its header holds the rest as JSON, and the digest. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from gan_plugin.errors import first_line
from gan_plugin.process import ProcessIdentity, this_process

KEY, DIGEST_KEY = "gan_plugin", "digest"  # of the header
MAX_AGE = 24 * 3600.0  # seconds after which nobody still writes a temporary file
PARTIAL = re.compile(r".+?(\.(?P<space>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+))?\.[0-9a-f]{32}\.partial")


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet, or may not be writable.

    It is ``$GAN_PLUGIN_CACHE``, else ``$XDG_CACHE_HOME/gan_plugin``, else ``~/.cache/gan_plugin``.
    """
    if named := os.environ.get("GAN_PLUGIN_CACHE"):
        return Path(named).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "gan_plugin"


class DamagedFileError(ValueError):
    """A file is not what was written: cut, changed, or no such file at all; the message has no full stop."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it to ``path``.

    A reader sees the old file or the new one, never a part, after a power cut, too. Of two processes that write at
    once, both succeed and the later one's file stays. Its permissions are those that ``open`` gives a new file,
    whatever ``write`` made of them. If ``write`` raises, nothing is left behind; what a killed process left is removed
    when another file is written into the folder.

    Raises:
        OSError: the file cannot be written; what was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    partial = path.with_name(f"{path.name}.{_owner(this_process())}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:  # by open, since files of tempfile and of safetensors are private to the user
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        if stat.S_IMODE(partial.stat().st_mode) != mode:
            partial.chmod(mode)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote into a folder.

    Those of this machine are known to be dead. What other machines and containers wrote is left for a day.
    """
    here = this_process()
    space = _owner(here).partition("-")[0]
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (match := PARTIAL.fullmatch(entry.name)) is None:
                continue
            with suppress(OSError):  # another process was faster, or the file is another user's
                if match["space"] == space:
                    started, pid = float(match["started"]), int(match["pid"])
                    abandoned = replace(here, pid=pid, started=started).is_dead()
                else:
                    abandoned = time.time() - entry.stat(follow_symlinks=False).st_mtime > MAX_AGE
                if abandoned:
                    os.unlink(entry.path)


def _owner(process: ProcessIdentity) -> str:
    """Return what stands for a process in the names of its temporary files."""
    space = hashlib.sha256(f"{process.host}\n{process.space}".encode()).hexdigest()[:8]
    return f"{space}-{process.pid}-{process.started:.0f}"


def _sync_folder(folder: Path) -> None:
    """Have the disk keep a rename; the file is in place already, and not every system can do this."""
    if os.name == "posix":
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-serializable header into one file, atomically and with a digest.

    Raises:
        OSError: the file cannot be written; what was there before stays.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(header)
    metadata = {KEY: text, DIGEST_KEY: digest_of(contiguous, text)}

    def write(partial: Path) -> None:
        try:
            save_file(contiguous, partial, metadata=metadata)
        except safetensors.SafetensorError as error:
            raise os_error(str(error), path) from error

    write_atomically(path, write)


def os_error(text: str, path: Path) -> OSError:
    """Return the system's error, a full disk for example, that safetensors words as ``… (os error 28)``."""
    number = re.search(r"\(os error (\d+)\)", text)
    return OSError(text) if number is None else OSError(int(number[1]), os.strerror(int(number[1])), str(path))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of a file that :func:`save_tensors` wrote, on the CPU.

    Raises:
        DamagedFileError: the file is another, or its content is not what was written.
        FileNotFoundError: there is no such file.
    """
    while True:
        before = _version_of(path)
        try:
            return _load_once(path)
        except DamagedFileError:
            if _version_of(path) == before:
                raise
            # safetensors opens the path twice, and between the two the file was replaced


def _load_once(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise DamagedFileError("it is not a regular file")
    try:
        with path.open("rb"):  # safetensors calls every failure to open a file one to find it
            pass
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise DamagedFileError(f"it cannot be read: {error.strerror}") from None
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise DamagedFileError(f"it is no safetensors file, or cut: {first_line(error)}") from None
    if KEY not in metadata or DIGEST_KEY not in metadata:
        raise DamagedFileError("it has no header of this package")
    if digest_of(tensors, metadata[KEY]) != metadata[DIGEST_KEY]:
        raise DamagedFileError("its content is not what was written")
    header: dict[str, Any] = json.loads(metadata[KEY])
    return tensors, header


def _version_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def digest_of(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return a SHA-256 over a text and over the names, types, shapes and bytes of tensors on the CPU."""
    hasher = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.numel():
            hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
