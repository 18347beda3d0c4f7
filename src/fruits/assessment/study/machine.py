"""What a measurement was made on: processor, cores, and how busy other programs kept them."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from fruits.config import usable_cores

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
