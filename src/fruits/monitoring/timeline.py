"""Timeline of a run: photos per second, processors and memory, of this machine and of Spark's executors.

A bounded list of points, independent of the run's length. Results of a run do not depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from fruits.monitoring.clock import Progress, Watcher

#: Initial interval between points.
_POINT_EVERY_S: Final = 0.25
#: When a timeline is full, pairs of neighbours are merged and the interval is doubled.
_MOST_POINTS: Final = 240
#: Interval of queries for Spark's executors, which take a few calls each.
_ASK_EVERY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Point:
    """Activity between the previous point and this one.

    Attributes
    ----------
    at_s : float
        Seconds since the run began.
    photos : int
        Photos embedded so far.
    photos_per_s : float
    cores_busy : float
        Processor seconds of the process tree per second, on this machine.
    memory_mb : int
        Peak memory of the process tree; pages shared by several processes count once for each.
    tasks : int or None
        Active tasks of Spark's executors; None without Spark.
    cores : int or None
        Cores of Spark's active executors; None without Spark.
    """

    at_s: float
    photos: int
    photos_per_s: float
    cores_busy: float
    memory_mb: int
    tasks: int | None = None
    cores: int | None = None


class Timeline(Watcher):
    """Context manager that records the timeline of a run, and forwards its progress.

    Parameters
    ----------
    progress : Progress
        Receives the progress of the run.
    executors : callable
        Returns the state of Spark's executors, see :meth:`fruits.engines.Engine.executors`.
    """

    def __init__(self, progress: Progress, executors: Callable[[], list[dict[str, Any]]]) -> None:
        super().__init__()
        self._progress, self._ask = progress, executors
        self._started = time.perf_counter()
        self._points: list[Point] = []
        self._every = _POINT_EVERY_S
        self._photos, self._counting = 0, False
        self._seen: list[dict[str, Any]] = []
        self._asked_at = 0.0
        # At the previous point: time, photos and processor seconds so far. Peak memory since then.
        self._last: tuple[float, int, float] | None = None
        self._most_bytes = 0

    def start(self, step: str, total: int | None) -> None:
        """Begin a step; photos are counted during the step ``embeddings``."""
        self._counting = step == "embeddings"
        self._progress.start(step, total)

    def advance(self, photos: int) -> None:
        """Add ``photos`` to the finished photos of the step."""
        if self._counting:
            self._photos += photos
        self._progress.advance(photos)

    def note(self, message: str) -> None:
        """Show a message."""
        self._progress.note(message)

    def summary(self, *, seconds: float, cores: int, work: Mapping[str, float], usd: float | None) -> dict[str, Any]:
        """Return the timeline and derived rates as plain values.

        Parameters
        ----------
        seconds : float
            Duration of the step ``embeddings``.
        cores : int
            Number of workers; with Spark, the cores of its executors are used instead.
        work : mapping
            Seconds by kind of work, summed over workers.
        usd : float, optional
            Cost of a core per hour.
        """
        self.look()
        if not self._points or self._points[-1].photos < self._photos:
            self.sample(last=True)  # include the photos since the last point
        used = max((point.cores for point in self._points if point.cores), default=cores)
        rate = self._photos / seconds if self._photos and seconds > 0 else None
        per_million = usd * used / 3600 / rate * 1e6 if usd is not None and rate else None
        return {
            "points": [asdict(point) for point in self._points],
            "photos": self._photos,
            "cores": used,
            "photos_per_s": rate,
            "photos_per_core_s": rate / used if rate else None,
            "work_seconds": {name: round(value, 3) for name, value in work.items()},
            "core_hour_usd": usd,
            "usd_per_million": per_million,
            "executors": self._seen,
        }

    def look(self) -> None:
        """Query the executors now, while they exist."""
        self._seen = self._ask() or self._seen
        self._asked_at = time.perf_counter()

    def _record_sample(self, memory_bytes: int, cpu_s: float, *, last: bool) -> None:
        now, photos = time.perf_counter(), self._photos
        then, photos_then, cpu_then = self._last = self._last or (now, photos, cpu_s)
        self._most_bytes = max(self._most_bytes, memory_bytes)
        if now - then < self._every and not last:
            return
        # Query until the end of the run, not only during the embeddings: otherwise later points would repeat a stale answer.
        if now - self._asked_at >= _ASK_EVERY_S:
            self.look()
        active = [executor for executor in self._seen if executor["active"]]
        elapsed = max(now - then, 1e-6)
        self._points.append(
            Point(
                at_s=round(now - self._started, 2),
                photos=photos,
                photos_per_s=round((photos - photos_then) / elapsed, 1),
                cores_busy=round(max(0.0, cpu_s - cpu_then) / elapsed, 2),
                memory_mb=round(self._most_bytes / 1e6),
                tasks=sum(executor["tasks_active"] for executor in active) if active else None,
                cores=sum(executor["cores"] for executor in active) if active else None,
            )
        )
        self._last, self._most_bytes = (now, photos, cpu_s), 0
        if len(self._points) >= _MOST_POINTS:
            self._points = _thinned(self._points)
            self._every *= 2


def _thinned(points: list[Point]) -> list[Point]:
    """Merge pairs of neighbouring points."""
    made = []
    start = 0.0
    for first, second in zip(points[::2], points[1::2], strict=True):
        whole = second.at_s - start or 1e-6
        left = (first.at_s - start) / whole

        def mean(one: float, other: float, left: float = left) -> float:
            return round(one * left + other * (1 - left), 2)

        made.append(
            Point(
                at_s=second.at_s,
                photos=second.photos,
                photos_per_s=mean(first.photos_per_s, second.photos_per_s),
                cores_busy=mean(first.cores_busy, second.cores_busy),
                memory_mb=max(first.memory_mb, second.memory_mb),
                tasks=second.tasks,
                cores=second.cores,
            )
        )
        start = second.at_s
    return made
