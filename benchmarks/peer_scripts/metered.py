"""Runs a command and writes what it and all its children took: ``python metered.py USAGE COMMAND...``.

On Linux also children that outlive their parent, such as those of a fork server, if they end within a few seconds.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 5.0

if sys.platform == "linux":
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
started = time.perf_counter()
code = subprocess.run(sys.argv[2:], check=False).returncode
wall = time.perf_counter() - started
until = time.monotonic() + _PATIENCE_S
while time.monotonic() < until:
    try:
        if os.waitpid(-1, os.WNOHANG) == (0, 0):
            time.sleep(0.05)
    except ChildProcessError:
        break
used = resource.getrusage(resource.RUSAGE_CHILDREN)
Path(sys.argv[1]).write_text(json.dumps({"wall": wall, "cpu": used.ru_utime + used.ru_stime}), encoding="utf-8")
sys.exit(code if code >= 0 else 1)
