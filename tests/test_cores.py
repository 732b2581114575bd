"""How many cores a process may use: in control groups of both versions, nested, in a container, and a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gan_plugin import cores as module
from gan_plugin.cores import affinity, control_groups, cores, cpu_quota, limit_reason, threads_of_user

SEEN = len(affinity())


def write_groups(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, groups: str, mounts: str, quotas: dict[str, str]
) -> None:
    """Write what /proc and the control groups say; a quota is that of version 2, or ``QUOTA PERIOD v1``."""
    (folder / "cgroup").write_text(groups)
    (folder / "mountinfo").write_text(mounts.replace("MOUNT", str(folder / "mount")))
    for path, text in quotas.items():
        group = folder / "mount" / path
        group.mkdir(parents=True, exist_ok=True)
        limit, period, *version = text.split()
        if version:
            (group / "cpu.cfs_quota_us").write_text(f"{limit}\n")
            (group / "cpu.cfs_period_us").write_text(f"{period}\n")
        else:
            (group / "cpu.max").write_text(f"{limit} {period}\n")
    monkeypatch.setattr(module, "GROUPS", folder / "cgroup")
    monkeypatch.setattr(module, "MOUNTS", folder / "mountinfo")


V2 = "25 30 0:26 / MOUNT rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "33 31 0:30 / MOUNT/other rw - cgroup cgroup rw,cpuset\n"
    "32 31 0:29 ROOT MOUNT rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n"
)


@pytest.mark.parametrize(
    ("groups", "mounts", "quotas", "expected"),
    [
        ("0::/a/b\n", V2, {"a/b": "max 100000", "a": "50000 100000", ".": "max 100000"}, 0.5),  # the parent's
        ("0::/a/b\n", V2, {"a/b": "25000 50000", "a": "150000 100000"}, 0.5),  # the smaller one
        ("0::/a/b\n", V2, {"a/b": "max 100000", "a/c": "50000 100000"}, None),  # a neighbor's is not its own
        ("0::/\n", V2, {".": "150000 100000"}, 1.5),  # a container with a namespace of its own
        ("0::/../../x\n", V2, {".": "150000 100000"}, 1.5),  # moved out of what the namespace shows
        ("3:cpuset:/x\n2:cpu,cpuacct:/a\n", V1.replace("ROOT", "/"), {"a": "30000 100000 v1"}, 0.3),
        ("2:cpu,cpuacct:/docker/1f\n", V1.replace("ROOT", "/docker/1f"), {".": "200000 100000 v1"}, 2.0),
        ("2:cpu,cpuacct:/docker/1f\n", V1.replace("ROOT", "/docker/1f"), {".": "-1 100000 v1"}, None),
        ("2:cpu,cpuacct:/docker/1f\n", V1.replace("ROOT", "/"), {".": "100000 100000 v1"}, 1.0),  # mounted as the root
        ("2:cpu:/a\n0::/\n", V1.replace("ROOT", "/") + V2, {"a": "100000 100000 v1"}, 1.0),  # both versions at once
    ],
)
def test_the_cpu_quota_of_the_process_s_groups(
    groups: str,
    mounts: str,
    quotas: dict[str, str],
    expected: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_groups(tmp_path, monkeypatch, groups=groups, mounts=mounts, quotas=quotas)
    quota = cpu_quota()
    assert (None if quota is None else quota.cores) == expected
    assert cores() == (SEEN if expected is None else min(SEEN, max(1, -int(-expected // 1))))


def test_a_system_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUPS", tmp_path / "missing")
    assert list(control_groups()) == []
    assert cores() == SEEN
    assert limit_reason().endswith(("there is no quota", f"of {os.cpu_count()} cores"))


@pytest.mark.parametrize(
    ("variables", "expected"), [({}, None), ({"OMP_NUM_THREADS": "3"}, 3), ({"MKL_NUM_THREADS": "4,2"}, None)]
)
def test_the_user_s_number_of_threads(
    variables: dict[str, str], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in module.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert threads_of_user() == expected
    assert module.threads_variable() == next((f"{name}={value}" for name, value in variables.items()), None)


def test_a_real_quota_and_a_real_affinity() -> None:
    """Needs root and a control group that can be divided, as on a machine of one's own; the affinity needs neither."""
    program = "from gan_plugin.cores import cores, limit_reason; print(cores()); print(limit_reason())"
    if hasattr(os, "sched_setaffinity"):
        pinned = f"import os; os.sched_setaffinity(0, [{min(affinity())}]); {program}"
        lines = subprocess.run([sys.executable, "-c", pinned], capture_output=True, text=True, check=True).stdout
        assert lines.splitlines()[0] == "1"
    parent = next(control_groups(), None)
    group = None if parent is None else parent / f"test-cores-{os.getpid()}"
    if group is None or SEEN < 2:
        pytest.skip("one core, or no control groups")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        inner = group / "inner"
        inner.mkdir()
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_quota_us").write_text("100000")
        elif (group / "cpu.max").exists():
            (group / "cpu.max").write_text("100000 100000")
        else:
            pytest.skip("control groups limit no CPU time here")
        joined = f"open({str(inner / 'cgroup.procs')!r}, 'w').write('0'); {program}"
        done = subprocess.run([sys.executable, "-c", joined], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["1", f"the quota of the control group {group} is 1 of {SEEN} cores"]
    finally:
        (group / "inner").rmdir()
        group.rmdir()
