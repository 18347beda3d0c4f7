"""How many cores and how much memory this process may use: of the machine, within its affinity and its control group."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores this process may use: the minimum of cores, affinity and the quota of its control group.

    Parameters
    ----------
    root : Path
        Folder that contains ``proc`` and ``sys``.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Rounded down: an extra worker for half a core would share a core with another, and both would be throttled together.
    return max(1, math.floor(min(cores, _quota(root))))


def usable_memory(root: Path = Path("/")) -> float:
    """Return how many bytes this process may take besides what is taken: those of the machine, and of its control group.

    Parameters
    ----------
    root : Path
        Folder that contains ``proc`` and ``sys``.
    """
    groups = (_unused_v2(group) if version == 2 else _unused_v1(group) for version, group in _groups("memory", root))
    return max(0.0, min(float(psutil.virtual_memory().available), *groups))


def _quota(root: Path) -> float:
    """Return the CPU quota, in cores, of the control groups of this process; infinity without a limit.

    Version 2 has ``cpu.max``, version 1 ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` (kernel.org, cgroup-v2 and
    sched-bwc).
    """
    quotas = (_quota_v2(group) if version == 2 else _quota_v1(group) for version, group in _groups("cpu", root))
    return min(quotas, default=math.inf)


def _groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of every control group of this process, or above it, that may limit it.

    A container may see its own group as the root of the mount, in contradiction to /proc: both paths are read.
    """
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            version, mounts = 2, ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            names = dict.fromkeys(
                (controllers, controller, *(("cpu,cpuacct", "cpuacct,cpu") if controller == "cpu" else ()))
            )
            version, mounts = 1, [f"sys/fs/cgroup/{name}" for name in names]
        else:
            continue
        inner = Path(group.lstrip("/"))
        for mount in mounts:
            for place in (inner, *inner.parents, Path()):
                yield version, root / mount / place


def _quota_v2(group: Path) -> float:
    words = " ".join(_lines(group / "cpu.max")).split()
    return _share(*words) if len(words) == 2 else math.inf


def _quota_v1(group: Path) -> float:
    quota, period = (" ".join(_lines(group / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    return _share(quota, period)


def _unused_v2(group: Path) -> float:
    return _unused(group, "memory.max", "memory.current", "inactive_file")


def _unused_v1(group: Path) -> float:
    return _unused(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _unused(group: Path, limit: str, used: str, cache: str) -> float:
    """Return the bytes below a group's limit; pages of files that were not used lately count as free: the kernel drops them."""
    statistics = dict(line.split(" ", 1) for line in _lines(group / "memory.stat") if " " in line)
    try:
        limit_bytes, used_bytes = (int(" ".join(_lines(group / name))) for name in (limit, used))
        return limit_bytes - used_bytes + int(statistics.get(cache, 0))
    except ValueError:  # "max", or no such file
        return math.inf


def _share(quota: str, period: str) -> float:
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return math.inf
    return cores if cores > 0 else math.inf  # -1 in version 1


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
