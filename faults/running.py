"""``fruits`` in a session of its own: started, watched, killed with all that it started."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from faults.s3_server import FOREIGN

#: No trial takes nearly as long on the slowest machine; whatever does hangs, and that is a finding.
HANGS_AFTER_S = 900.0
_NUMBERS = itertools.count()
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: a signal; None: it hung and was killed), and what it said."""

    code: int | None
    seconds: float
    stdout: str
    stderr: str

    @property
    def message(self) -> str:
        """The last line on stderr, which says what was wrong."""
        return (self.stderr.strip().splitlines() or [""])[-1]

    @property
    def is_clear_error(self) -> bool:
        """Whether it is an error that a user can act on: exit 1, one message, no traceback."""
        return self.code == 1 and self.message.startswith("fruits: ") and "Traceback" not in self.stderr

    def json(self) -> dict[str, Any]:
        """Return what ``--json`` printed."""
        value: dict[str, Any] = json.loads(self.stdout)
        return value


class Running:
    """A command that has been started.

    Parameters
    ----------
    command : sequence of str
    logs : Path
        Folder for its output: files, because orphans would keep pipes open.
    environment : dict, optional
        Variables on top of those of this process.
    """

    def __init__(self, command: Sequence[str], logs: Path, environment: dict[str, str] | None = None) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        number = next(_NUMBERS)
        self._out, self._err = logs / f"{os.getpid()}-{number:05d}.out", logs / f"{os.getpid()}-{number:05d}.err"
        inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        self.started = time.monotonic()
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True,
                env=inherited | {"PYTHONPATH": with_repository(inherited)} | (environment or {}),
            )  # fmt: skip

    def members(self) -> list[psutil.Process]:
        """Return every live process of the session or descended from it; Spark's workers leave the group, not the session."""
        mine: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.Error):
                if os.getsid(process.pid) == self.process.pid:
                    mine |= {one.pid: one for one in (process, *process.children(recursive=True))}
        return [process for process in mine.values() if _lives(process)]

    def kill(self, *, whole: bool = True) -> None:
        """SIGKILL: the command with all that it started, or the command alone, as an operator does."""
        if not whole:
            self.process.kill()
            self.process.wait()
            return
        while members := self.members():  # again, for what was being started
            for member in members:
                with suppress(psutil.Error):
                    member.kill()
            self.process.poll()
        self.process.wait()

    def left_behind(self, patience_s: float = 20.0) -> list[str]:
        """Return the names of processes that outlive the command; ends them."""
        until = time.monotonic() + patience_s
        while (members := self.members()) and time.monotonic() < until:
            time.sleep(0.05)
        names = []
        for member in members:
            with suppress(psutil.Error):
                names.append(" ".join(member.cmdline())[:120])
                member.kill()
        psutil.wait_procs(members, timeout=10)
        return names

    def wait(self, timeout_s: float = HANGS_AFTER_S) -> Ended:
        """Wait for the end; kill what hangs."""
        code: int | None
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = None
        return Ended(code, time.monotonic() - self.started, self._out.read_text(), self._err.read_text())


def fruits(*arguments: object) -> list[str]:
    """Return the command line of fruits, as a user has it."""
    return [sys.executable, "-m", "fruits", *map(str, arguments)]


def describe(ended: Ended) -> str:
    """Say in a line how a command ended."""
    if ended.code is None:
        return "hung"
    if ended.code < 0:
        return f"died of {signal.Signals(-ended.code).name}"
    return f"exit {ended.code}: {ended.message[:300]}"


def with_repository(environment: Mapping[str, str]) -> str:
    """Return the PYTHONPATH of an environment with this repository before it."""
    return os.pathsep.join(filter(None, [str(REPOSITORY), environment.get("PYTHONPATH", "")]))


def linked_spark_home(folder: Path) -> Path:
    """Fill a folder with links into PySpark, for SPARK_HOME: a cluster of this machine works in ``work`` beside them.

    In the package itself, two that start in the same second would get one folder there, and all of them stay.
    """
    import pyspark  # noqa: PLC0415 - many scenarios need no Spark

    for path in Path(pyspark.__file__).parent.iterdir():
        if path.name != "work":
            (folder / path.name).symlink_to(path)
    return folder


def _lives(process: psutil.Process) -> bool:
    """Whether a process is more than an entry that nobody has collected yet."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
