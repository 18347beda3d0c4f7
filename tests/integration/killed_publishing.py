"""Publishes a run in a forked process that kills itself before a given step: an object put, a file moved, a link, a deletion.

Reads lines of ``STEP OUT`` and answers each with ``killed`` or ``done``.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import obstore

from fruits.config import RunConfig
from fruits.storage import publishing
from fruits.training import pipeline

#: All that changes an output: every write, move, link and deletion of the package goes through one of these.
STEPS = [(obstore, name) for name in ("put", "delete", "open_writer", "copy")] + [
    (Path, name) for name in ("rename", "replace", "symlink_to", "unlink", "mkdir", "write_bytes")
]
STEPS += [(shutil, "rmtree")]


def kill_before(step: int) -> None:
    """Count the steps from the moment when the run claims its folder."""
    begin, count = publishing.begin, 0

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(owner, name, call)

    def counting(*args: Any) -> Any:
        for owner, name in STEPS:
            counted(owner, name)
        return begin(*args)

    publishing.begin = counting


def main() -> None:
    """Fork a process per line."""
    for line in sys.stdin:
        step, _, out = line.rstrip("\n").partition(" ")
        child = os.fork()
        if not child:
            kill_before(int(step))
            network = str(Path(sys.argv[1]).parent / "tiny.onnx")
            config = RunConfig(sources=(sys.argv[1],), out=out, components=4, backbone=network, workers=1)
            done = pipeline.run(config)
            os._exit(0 if done["current"] else 3)
        _, status = os.waitpid(child, 0)
        ended = {0: "done", -signal.SIGKILL: "killed"}
        sys.stdout.write(f"{ended.get(os.waitstatus_to_exitcode(status), status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
