"""``fruits serve`` in a process of its own, as its user starts it; what it takes of the machine, and what it has written down."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil

from fruits.monitoring.cores import usable_cores

#: What the command of each of several processes runs.
_CHILD = "fruits.service.http.processes"


class Service:
    """``fruits serve`` in a process of its own; usable once it is ready.

    Parameters
    ----------
    out, scratch : Path
    options : str
        Of ``fruits serve``.

    Attributes
    ----------
    address : (str, int)
    processes : int
        How many of its processes answer.
    """

    def __init__(self, out: Path, scratch: Path, *options: str) -> None:
        self._data, self._log = scratch / "data", scratch / "serve.log"
        command = [sys.executable, "-m", "fruits", "serve", str(out), "--data", str(self._data), "--port", "0"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--rate", "0", "--max-connections-per-address", "1000", "--json", *options],
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            sys.exit(f"fruits serve did not start:\n{self._log.read_text()[-2000:]}")
        url = json.loads(said)["address"]
        host, _, port = url.rpartition("//")[2].rpartition(":")
        self.address = (host, int(port))
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"{url}/readyz") as answer:
                if answer.status == 200:
                    break
            time.sleep(0.1)
        self._look()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def memory_mb(self) -> float:
        """Return the resident memory of the processes and their decoders; what they share counts twice."""
        return float(sum(process.memory_info().rss for process in (*self._answering, *self._others))) / 1e6

    @contextmanager
    def watched(self) -> Iterator[dict[str, float]]:
        """Give a dictionary that is filled at the end: shares of the cores, of the service, its decoders, and everybody else."""
        found: dict[str, float] = {}
        self._look()
        before = self._cpu()
        yield found
        answering, decoders, mine, busy, clock = (b - a for a, b in zip(before, self._cpu(), strict=True))
        cores = usable_cores() * clock
        found["process_share"], found["decoders_share"] = answering / cores, decoders / cores
        found["others_share"] = max(0.0, busy - answering - decoders - mine) / cores
        found["load"] = os.getloadavg()[0]

    def receipts(self, names: Iterable[bytes]) -> dict[str, int]:
        """Compare the receipts that were given with the rows of the database."""
        given = {name.decode() for name in names}
        with closing(sqlite3.connect(f"file:{self._data}/service.db?mode=ro", uri=True)) as database:
            rows = {name for (name,) in database.execute("SELECT id FROM submissions WHERE state = 'kept'")}
        return {"given": len(given), "rows": len(rows), "missing": len(given - rows), "unknown": len(rows - given)}

    def bugs(self) -> list[str]:
        """Return the lines of the log that are errors."""
        return [line[:2000] for line in self._log.read_text().splitlines() if '"level": "error"' in line]

    def _look(self) -> None:
        """Find the processes of the service."""
        parent = psutil.Process(self._process.pid)
        tree = [parent, *parent.children(recursive=True)]
        self._answering = [process for process in tree if _CHILD in process.cmdline()] or [parent]
        # Decoders, and the parent of several processes, which does nothing meanwhile.
        self._others = [process for process in tree if process not in self._answering]
        self.processes = len(self._answering)

    def _cpu(self) -> tuple[float, float, float, float, float]:
        mine, whole = psutil.Process().cpu_times(), psutil.cpu_times()
        busy = sum(whole) - whole.idle - whole.iowait - getattr(whole, "guest", 0) - getattr(whole, "guest_nice", 0)
        return _seconds(self._answering), _seconds(self._others), mine.user + mine.system, busy, time.monotonic()


def _seconds(processes: Iterable[psutil.Process]) -> float:
    return float(sum(times.user + times.system for times in (process.cpu_times() for process in processes)))
