"""The machine of a measurement: processor, cores, and the load of other programs."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import psutil

from fruits.monitoring.cores import usable_cores

#: With more running programs than this per core when a study begins, its times are those of a busy machine.
_BUSY = 0.5


def machine() -> dict[str, Any]:
    """Return ``cpu`` (model), ``cores``, ``load`` (mean number of running programs in the last minute) and ``busy``."""
    cores = usable_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": _cpu(),
        "cores": cores,
        "load": None if load is None else round(load, 2),
        "busy": None if load is None else load > _BUSY * cores,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def peak_bytes(pid: int) -> int:
    """Return the peak resident memory of a process in bytes; 0 if the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def processor_s() -> float:
    """Return the processor seconds of this process and of its children, such as a worker's decoder, so far."""
    # Of other processes the system tells hundredths of a second only, in which a few small photos are done.
    total = time.process_time()
    for one in with_children()[1:]:
        try:
            used = one.cpu_times()
        except psutil.Error:
            continue  # it has just ended
        total += used.user + used.system
    return total


def with_children() -> list[psutil.Process]:
    """Return this process and its children."""
    me = psutil.Process()
    return [me, *me.children()]
