"""Who holds a run or a lock: a process, by which others can tell whether it still lives. Imports no torch."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")
TOLERANCE_S = 5.0  # by which a clock that is set changes the time at which a process is said to have begun


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """A process, as other processes on whatever machine may know it.

    Attributes:
        host: the machine's name.
        space: where the number means something: a boot of the machine and, on Linux, a namespace of numbers, since
            containers that share a name do not share those.
        pid: the number.
        started: seconds since 1970, because numbers are used again.
    """

    host: str
    space: str
    pid: int
    started: float

    def to_json(self) -> str:
        """Return the text that :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ProcessIdentity | None:
        """Read what :meth:`to_json` wrote; None for any other text."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError):
            return None

    def is_near(self) -> bool:
        """Return whether its number means the same here, so that it can be known whether it lives."""
        here = this_process()
        return (self.host, self.space) == (here.host, here.space)

    def is_alive(self) -> bool:
        """Return whether the process is known to be there; False for one of which nothing can be known from here."""
        return self.is_near() and not self.is_dead()

    def is_dead(self) -> bool:
        """Return whether the process is known to be gone; False for one of which nothing can be known from here."""
        if not self.is_near():
            return False
        try:
            process = psutil.Process(self.pid)
            is_another = abs(process.create_time() - self.started) > TOLERANCE_S
            return bool(is_another or process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return not psutil.pid_exists(self.pid)  # where others' processes are hidden, psutil sees only that
        except psutil.AccessDenied:
            return False


def this_process() -> ProcessIdentity:
    """Return the identity of this process."""
    return ProcessIdentity(
        host=platform.node(), space=_space(), pid=os.getpid(), started=psutil.Process().create_time()
    )


def _space() -> str:
    try:
        return f"{BOOT_ID.read_text().strip()}/{PID_NAMESPACE.readlink()}"
    except OSError:  # another system than Linux
        return str(int(psutil.boot_time()))


def age_s() -> float:
    """Return the seconds since this process began."""
    began: float = psutil.Process().create_time()
    return max(time.time() - began, 0.0)
