"""What a run costs: seconds per step and memory of the whole process tree."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import psutil

_SAMPLE_EVERY_S = 0.25


class Progress(Protocol):
    """Whoever wants to show how far a run is."""

    def start(self, step: str, total: int | None) -> None:
        """Begin a step of ``total`` photos; None if that is not known."""

    def advance(self, photos: int) -> None:
        """Say that so many more photos of the step are done."""

    def say(self, message: str) -> None:
        """Tell something worth knowing."""


class Silent:
    """Shows nothing."""

    def start(self, step: str, total: int | None) -> None:
        """Ignore it."""

    def advance(self, photos: int) -> None:
        """Ignore it."""

    def say(self, message: str) -> None:
        """Ignore it."""


class Clock:
    """Seconds per step, in the order in which the steps were taken."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.work: dict[str, float] = {}  # by its sort, summed over workers

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; the same name again adds to it."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 3)

    def add_work(self, receipt: Mapping[str, Any]) -> None:
        """Add the seconds that a receipt says, summed over workers."""
        for name in ("read", "decode", "infer", "write"):
            self.work[name] = self.work.get(name, 0.0) + receipt[f"seconds_{name}"]

    def total(self) -> float:
        """Return the seconds since the clock was made."""
        return round(time.perf_counter() - self._started, 3)


class ProcessTree:
    """Our process and its children. Where Java started this Python, as in a job that was submitted, from Java on.

    Pages that processes share count once for each, so the memory is an upper bound.
    """

    def __init__(self) -> None:
        me = psutil.Process()
        parent = me.parent()
        self._root = parent if parent is not None and parent.name() == "java" else me
        self._cpu: dict[tuple[int, float], float] = {}

    def measure(self) -> tuple[int, float]:
        """Return resident bytes now and processor seconds so far, those of processes that have ended included."""
        total = 0
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                with process.oneshot():
                    total += process.memory_info().rss
                    times = process.cpu_times()
                    self._cpu[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue  # it ended while we looked
        return total, sum(self._cpu.values())


class Watcher:
    """Looks at this process and all its children four times a second while the block lasts; keeps the largest memory."""

    def __init__(self) -> None:
        self._tree = ProcessTree()
        self._peak_bytes = 0
        self._sampling = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watcher")

    @property
    def megabytes(self) -> int:
        """Return the largest sum of resident memory seen, in MB of 10^6 bytes."""
        return round(self._peak_bytes / 1e6)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def sample(self, *, last: bool = False) -> None:
        """Look now; ``last``, if what follows is of no interest."""
        with self._sampling:
            memory_bytes, cpu_s = self._tree.measure()
            self._peak_bytes = max(self._peak_bytes, memory_bytes)
            self._saw(memory_bytes, cpu_s, last=last)

    def _saw(self, memory_bytes: int, cpu_s: float, *, last: bool) -> None:
        """Take note of what was seen; for those who want more than the peak."""

    def _watch(self) -> None:
        self.sample()
        while not self._over.wait(_SAMPLE_EVERY_S):
            self.sample()
