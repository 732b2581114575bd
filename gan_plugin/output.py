"""Output that is never a reason to end: a reader that goes away, a closed terminal, a full disk. Imports no torch."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class ForgivingFile(io.FileIO):
    """A file descriptor to write to. Once that fails, what is written goes nowhere, whoever writes it."""

    def write(self, data: object, /) -> int:
        """Write bytes, or drop them where they cannot be written."""
        try:
            written: int | None = super().write(data)  # type: ignore[arg-type]  # whatever a buffer passes on
            return len(data) if written is None else written  # type: ignore[arg-type]  # a full pipe that does not wait
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for C libraries and child processes as well
            os.close(nowhere)
            return super().write(data)  # type: ignore[arg-type]


def forgive_output() -> None:
    """Let stdout and stderr of this process survive their reader, and characters that their encoding lacks."""
    sys.stdout = forgiving(sys.stdout)
    sys.stderr = forgiving(sys.stderr)


def forgiving(stream: TextIO) -> TextIO:
    """Return a stream to the same descriptor that raises no OSError; one without a descriptor stays as it is."""
    buffer = stream.buffer if isinstance(stream, io.TextIOWrapper) else None
    raw = getattr(buffer, "raw", buffer)  # without a buffer where Python runs with -u
    if not isinstance(stream, io.TextIOWrapper) or type(raw) is not io.FileIO:
        return stream
    file = ForgivingFile(raw.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        file if raw is buffer else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
