"""Files that are whole or not there: written atomically, and where they hold tensors, with a digest over everything.

A file of tensors is safetensors. Its header holds the rest as JSON, and the digest. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

KEY, DIGEST_KEY = "gan_plugin", "digest"  # of the header


class DamagedFileError(ValueError):
    """A file is not what was written: cut, changed, or no such file at all; the message has no full stop."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it to ``path``.

    A reader sees the old file or the new one, never a part. Of two processes that write at once, both succeed and the
    later one's file stays. If ``write`` raises, nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # tempfile's files are private to the user, and a folder may be shared
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
        except safetensors.SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error

    write_atomically(path, write)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of a file that :func:`save_tensors` wrote, on the CPU.

    Raises:
        DamagedFileError: the file is another, or its content is not what was written.
        FileNotFoundError: there is no such file.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise DamagedFileError(f"it is no safetensors file, or cut: {error}") from None
    if KEY not in metadata or DIGEST_KEY not in metadata:
        raise DamagedFileError("it has no header of this package")
    if digest_of(tensors, metadata[KEY]) != metadata[DIGEST_KEY]:
        raise DamagedFileError("its content is not what was written")
    header: dict[str, Any] = json.loads(metadata[KEY])
    return tensors, header


def digest_of(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return a SHA-256 over a text and over the names, types, shapes and bytes of tensors on the CPU."""
    hasher = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.numel():
            hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
