"""How many cores this process may use: those of the machine, its affinity, and the quota of its control group."""

from __future__ import annotations

import math
import os
from pathlib import Path


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


def _quota(root: Path) -> float:
    """Return the CPU quota, in cores, of the control groups of this process; infinity without a limit.

    Version 2 has ``cpu.max``, version 1 ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` (kernel.org, cgroup-v2 and
    sched-bwc). A container may see its own group as the root of the mount, in contradiction to /proc: both paths are read.
    """
    least = math.inf
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            mounts, read = ["sys/fs/cgroup", "sys/fs/cgroup/unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            mounts, read = (
                [f"sys/fs/cgroup/{name}" for name in (controllers, "cpu", "cpu,cpuacct", "cpuacct,cpu")],
                _quota_v1,
            )
        else:
            continue
        inner = Path(group.lstrip("/"))
        for mount in mounts:
            least = min(least, *(read(root / mount / place) for place in (inner, *inner.parents, Path())))
    return least


def _quota_v2(group: Path) -> float:
    words = " ".join(_lines(group / "cpu.max")).split()
    return _share(*words) if len(words) == 2 else math.inf


def _quota_v1(group: Path) -> float:
    quota, period = (" ".join(_lines(group / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    return _share(quota, period)


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
