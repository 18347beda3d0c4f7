"""Publishes a run in a forked process that kills itself, or waits, before steps: an object put, a file moved, a link, a deletion.

Reads lines of ``kill STEP OUT`` and answers each with ``killed`` or ``done``; and of ``wait STRIDE OUT``: before every STRIDE-th
step, from the first on, it says ``at STEP`` and waits for a line.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore

from fruits.config import RunConfig
from fruits.engines import local
from fruits.storage.outputs import publishing
from fruits.training import pipeline

#: All that changes an output: every write, move, link and deletion of the package goes through one of these.
STEPS = [(obstore, name) for name in ("put", "delete", "open_writer", "copy")] + [
    (Path, name) for name in ("rename", "replace", "symlink_to", "unlink", "mkdir", "write_bytes")
]
STEPS += [(shutil, "rmtree")]


def before_each_step(act: Callable[[int], None]) -> None:
    """Call a function with the number of each step, counted from the moment when the run claims its folder."""
    begin, steps, turn = publishing.begin, itertools.count(1), threading.Lock()

    def acted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with turn:  # steps of several threads are one after the other, too
                act(next(steps))
            return real(*args, **kwargs)

        setattr(owner, name, call)

    def counting(*args: Any) -> Any:
        for owner, name in STEPS:
            acted(owner, name)
        return begin(*args)

    publishing.begin = counting


def killed_before(at: int) -> Callable[[int], None]:
    """Die before a step."""

    def act(step: int) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def waiting(stride: int) -> Callable[[int], None]:
    """Let the other side look at what is there before every so many steps."""

    def act(step: int) -> None:
        if step % stride == 1 % stride:
            sys.stdout.write(f"at {step}\n")
            sys.stdout.flush()
            sys.stdin.readline()

    return act


def main() -> None:
    """Fork a process per line."""
    local.forkserver.ensure_running = lambda: None  # there is nothing to embed: its imports would be in vain
    for line in sys.stdin:
        what, number, out = line.rstrip("\n").split(" ", 2)
        child = os.fork()
        if not child:
            before_each_step({"kill": killed_before, "wait": waiting}[what](int(number)))
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
