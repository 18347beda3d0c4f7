"""Seconds per step, progress, and memory of the process tree."""

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
    """Interface for displaying the progress of a run."""

    def start(self, step: str, total: int | None) -> None:
        """Begin a step of ``total`` photos; None if the number is unknown."""

    def advance(self, photos: int) -> None:
        """Add ``photos`` to the finished photos of the step."""

    def note(self, message: str) -> None:
        """Show a message."""


class Silent:
    """Progress that displays nothing."""

    def start(self, step: str, total: int | None) -> None:
        """Do nothing."""

    def advance(self, photos: int) -> None:
        """Do nothing."""

    def note(self, message: str) -> None:
        """Do nothing."""


class Clock:
    """Seconds per step, in the order of the steps."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.work: dict[str, float] = {}  # by kind of work, summed over workers

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; the same name again adds to it."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 3)

    def add_work(self, receipt: Mapping[str, Any]) -> None:
        """Add the seconds of a receipt to the sums over workers."""
        for name in ("read", "decode", "infer", "write"):
            self.work[name] = self.work.get(name, 0.0) + receipt[f"seconds_{name}"]

    def total(self) -> float:
        """Return the seconds since the clock was created."""
        return round(time.perf_counter() - self._started, 3)


class Steps:
    """Steps of a run: timed by a clock and shown as progress under one name.

    Parameters
    ----------
    clock : Clock
    progress : Progress
    """

    def __init__(self, clock: Clock, progress: Progress) -> None:
        self.clock, self.progress = clock, progress

    @contextmanager
    def __call__(self, name: str, total: int | None = None, *, shown: bool = True) -> Iterator[None]:
        """Time a step, and show it unless it is too short to be worth a line; ``total`` is its number of photos."""
        with self.clock.step(name):
            if shown:
                self.progress.start(name, total)
            yield


class ProcessTree:
    """Memory and processor time of this process and its children, or of the Java process that started it (a submitted Spark job).

    Pages shared by several processes count once for each, so the memory is an upper bound.
    """

    def __init__(self) -> None:
        me = psutil.Process()
        parent = me.parent()
        self._root = parent if parent is not None and parent.name() == "java" else me
        self._cpu: dict[tuple[int, float], float] = {}

    def measure(self) -> tuple[int, float]:
        """Return the present resident bytes, and the processor seconds so far, including those of ended processes."""
        total = 0
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                with process.oneshot():
                    total += process.memory_info().rss
                    times = process.cpu_times()
                    self._cpu[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue  # it has just ended
        return total, sum(self._cpu.values())


class Watcher:
    """Context manager that samples the process tree four times a second and keeps its peak memory."""

    def __init__(self) -> None:
        self._tree = ProcessTree()
        self._peak_bytes = 0
        self._sampling = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watcher")

    @property
    def megabytes(self) -> int:
        """Return the peak of the sum of resident memory, in MB of 10^6 bytes."""
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
        """Take a sample now; ``last`` marks the final one."""
        with self._sampling:
            memory_bytes, cpu_s = self._tree.measure()
            self._peak_bytes = max(self._peak_bytes, memory_bytes)
            self._record_sample(memory_bytes, cpu_s, last=last)

    def _record_sample(self, memory_bytes: int, cpu_s: float, *, last: bool) -> None:
        """Record a sample; hook for subclasses."""

    def _watch(self) -> None:
        self.sample()
        while not self._over.wait(_SAMPLE_EVERY_S):
            self.sample()
