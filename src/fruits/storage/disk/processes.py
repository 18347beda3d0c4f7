"""Which process wrote an object, and whether it has ended, as far as this machine can tell."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import psutil


def this_process() -> dict[str, Any]:
    """Return what identifies this process, as JSON; each call has an ``id`` of its own."""
    return {
        "id": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "processes": _process_numbers(),
        "pid": os.getpid(),
        "born": psutil.Process().create_time(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def has_ended(data: bytes) -> bool:
    """Return whether a process that wrote this about itself is over: it says so, or is of this machine and has ended."""
    try:
        holder = json.loads(data)
        if holder.get("over"):
            return True
        # Containers may share a host name, and each has its own PIDs: a process is known dead only in the same PID namespace.
        if (holder["host"], holder["processes"]) != (socket.gethostname(), _process_numbers()):
            return False
        return bool(abs(psutil.Process(holder["pid"]).create_time() - holder["born"]) > 1)
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError, AttributeError, psutil.Error):
        return False


def _process_numbers() -> str:
    """Return the PID namespace of this process; empty where the system has none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
