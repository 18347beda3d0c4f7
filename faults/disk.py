"""Scenario: the disk is full. ``OUT`` on a file system of a few megabytes, in a mount namespace that nobody else sees.

The trial itself is a program (``python -m faults.disk``), because the file system lives only as long as its namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from faults import checks
from faults.running import Ended, Running, describe
from faults.trials import Figure, SkippedError, Trials

_PAGE = 4096


def disk_full(trials: Trials) -> Figure:
    """Let the disk be full at ten points from nearly nothing to nearly enough."""
    figure = Figure("disk-full", "disk full at points from 2 % to 98 % of what the results take")
    namespace = _namespace()
    expected = trials.expected()
    needed = _size(trials.out())
    points = trials.number(10)
    for number in range(points):
        size = int(needed * (0.02 + 0.96 * number / max(points - 1, 1)))
        with trials.folder() as folder:
            first, second = _on_small_disk(trials, namespace, folder, size, 4 * needed)
            said = "space" in first.message.lower()
            if first.code == 0:
                figure.count("had enough", checks.check(folder / "copy", expected))
            elif not first.is_clear_error or not said:
                figure.fail(f"full at {size:,} bytes: {describe(first)}")
            elif second.code != 0:
                figure.fail(f"full at {size:,} bytes, then enlarged: {describe(second)}")
            else:
                verdict = checks.check(folder / "copy", expected)
                figure.count("said so, and was finished when there was space", verdict)
        trials.say(f"{figure.name}: {figure.trials} trials")
    return figure


def _namespace() -> list[str]:
    """Return the command that gives a mount namespace; raise if the machine has none for us."""
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        probe = [*command, "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt"]
        if shutil.which("unshare") and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return command
    raise SkippedError("no file system can be mounted here, not even with unshare; run as root or on Linux with userns")


def _size(folder: Path) -> int:
    """Return what files take on a disk of pages."""
    return sum(-(-path.stat().st_size // _PAGE) * _PAGE for path in folder.rglob("*") if path.is_file())


def _on_small_disk(trials: Trials, namespace: list[str], folder: Path, size: int, enough: int) -> tuple[Ended, Ended]:
    """Run on a disk of ``size`` bytes, then again on the same disk, enlarged; the results are in ``folder/copy``."""
    command = trials.command(folder / "disk" / "out")
    task = {"folder": str(folder), "size": size, "enough": enough, "command": command}
    program = [*namespace, sys.executable, "-m", "faults.disk", json.dumps(task)]
    done = Running(program, folder / "logs").wait()
    if done.code != 0:
        raise RuntimeError(f"the disk could not be made: {describe(done)}")
    first, second = (Ended(**each) for each in json.loads(done.stdout))
    return first, second


def _inside(task: dict[str, Any]) -> None:
    """Mount, run, enlarge, run, copy; called in the namespace."""
    folder = Path(task["folder"])
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={task['size']}", "none", str(disk)]
    subprocess.run(mount, check=True, capture_output=True)
    first = Running(task["command"], folder / "inner logs").wait()
    subprocess.run(["mount", "-o", f"remount,size={task['enough']}", str(disk)], check=True, capture_output=True)
    second = Running(task["command"], folder / "inner logs").wait()
    shutil.copytree(disk / "out", folder / "copy")
    print(json.dumps([{name: getattr(end, name) for name in Ended.__annotations__} for end in (first, second)]))


if __name__ == "__main__":
    os.umask(0o077)
    _inside(json.loads(sys.argv[1]))
