"""How many cores this process may use: by its affinity, and by the quota of its control groups. Imports no torch.

A container limits the CPU by a quota of its control group, of which neither the affinity nor ``os.cpu_count()`` says
anything. The quota of each group from the process's own up to the root counts, in version 1 and 2 of control groups.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

GROUPS, MOUNTS = Path("/proc/self/cgroup"), Path("/proc/self/mountinfo")  # of Linux
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by which a user sets the threads of torch


class Quota(NamedTuple):
    """The CPU time that a control group may use.

    Attributes:
        cores: seconds of CPU time in each second.
        group: the group's folder.
    """

    cores: float
    group: Path


def cores() -> int:
    """Return how many cores this process may use at once, a quota rounded up; at least 1."""
    quota = cpu_quota()
    count = len(affinity())
    return count if quota is None else max(1, min(count, math.ceil(quota.cores)))


def affinity() -> set[int]:
    """Return the numbers of the cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def limit_reason() -> str:
    """Return what decides :func:`cores`, in words."""
    count, of_machine, quota = len(affinity()), os.cpu_count() or 1, cpu_quota()
    if quota is not None and math.ceil(quota.cores) < count:
        return f"the quota of the control group {quota.group} is {quota.cores:g} of {count} cores"
    if count < of_machine:
        return f"the affinity of the process is {count} of {of_machine} cores"
    return f"the machine has {of_machine} core{'' if of_machine == 1 else 's'}, and there is no quota"


def threads_variable() -> str | None:
    """Return the variable by which the user has set torch's threads, as ``NAME=VALUE``; None where there is none."""
    return next((f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)), None)


def threads_of_user() -> int | None:
    """Return the number in that variable; None where there is none, or no number such as in OpenMP's lists ``4,2``."""
    number = (threads_variable() or "").partition("=")[2]
    return int(number) if number.isdecimal() and int(number) > 0 else None


def cpu_quota() -> Quota | None:
    """Return the smallest quota among the process's control groups and those above them; None without any."""
    return min((quota for folder in control_groups() if (quota := quota_of(folder)) is not None), default=None)


def quota_of(folder: Path) -> Quota | None:
    """Return the quota of a control group's folder, or None where it has no limit."""
    try:
        if (folder / "cpu.max").exists():  # version 2: "LIMIT PERIOD" in microseconds, LIMIT perhaps "max"
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if limit == "max" or int(limit) <= 0 else Quota(int(limit) / int(period), folder)
    except (OSError, ValueError):
        return None


def control_groups(controller: str = "cpu") -> Iterator[Path]:
    """Yield the folders of the control groups that may limit this process, its own first.

    Args:
        controller: of what they limit, ``cpu`` or ``memory``; version 1 has a hierarchy for each.
    """
    try:
        groups = [line.split(":", 2) for line in GROUPS.read_text().splitlines()]
        mounts = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:  # another system than Linux
        return
    paths = {  # one for each version
        "cgroup2" if number == "0" else "cgroup": path
        for number, controllers, path in groups
        if number == "0" or controller in controllers.split(",")
    }
    for mount in mounts:
        root, folder, rest = mount[3], Path(mount[4]), mount[mount.index("-") + 1 :]
        kind, options = rest[0], rest[-1].split(",")
        if kind not in paths or (kind == "cgroup" and controller not in options):
            continue
        # A container may see its own group alone: mounted as the root, and under a path that does not exist inside.
        path = PurePosixPath(paths[kind])
        inside = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
        if ".." not in inside.parts:
            yield from (folder / part for part in (inside, *inside.parents))
        else:
            yield folder
