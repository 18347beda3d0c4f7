"""Geometry of the plots of a run's timeline.

Coordinates are in per cent of a plot's width and height, as for the variance curve. One plot per quantity, all over the same time
axis: photos per second, busy cores, memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SORTS = {"read": "work_read", "decode": "work_decode", "infer": "work_infer", "write": "work_write"}


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes
    ----------
    name : str
        Its message key.
    line : str
        Points ``x,y x,y`` in a square of side 100 with the origin at the top left.
    other : str
        A second line, or empty: running tasks of the executors, in addition to the busy cores of the driver.
    levels : Sequence[tuple[float, float]]
        Position in per cent from the top, and value.
    digits : int
        Decimals of the values.
    """

    name: str
    line: str
    other: str
    levels: Sequence[tuple[float, float]]
    digits: int


@dataclass(frozen=True)
class TimelineView:
    """Content of the section; ``ticks`` are positions in per cent from the left, and seconds."""

    panels: Sequence[Panel]
    ticks: Sequence[tuple[float, float]]
    photos_per_s: float
    photos_per_core_s: float
    cores: int
    usd_per_million: float | None
    core_hour_usd: float | None
    work: Sequence[tuple[str, float, float]]
    executors: Sequence[Mapping[str, Any]]


def view_timeline(record: Mapping[str, Any]) -> TimelineView | None:
    """Lay out a run's timeline.

    Parameters
    ----------
    record : Mapping[str, Any]
        The run record; ``timeline`` from :meth:`fruits.monitoring.timeline.Timeline.summary`, or missing.

    Returns
    -------
    TimelineView or None
        None if nothing was embedded, or too little to draw a line.
    """
    timeline = record.get("timeline") or {}
    points = timeline.get("points") or []
    if len(points) < 2 or not timeline.get("photos_per_s"):
        return None
    end = points[-1]["at_s"]
    with_tasks = any(point["tasks"] is not None for point in points)
    panels = [
        _panel("timeline_photos", points, end, "photos_per_s", digits=0),
        _panel("timeline_cores", points, end, "cores_busy", other="tasks" if with_tasks else None, digits=1),
        _panel("timeline_memory", points, end, "memory_mb", scale=1e-3, digits=1),
    ]
    work = timeline.get("work_seconds") or {}
    whole = sum(work.values())
    return TimelineView(
        panels=panels,
        ticks=[(round(100 * value / end, 2), value) for value in round_steps(end)],
        photos_per_s=timeline["photos_per_s"],
        photos_per_core_s=timeline["photos_per_core_s"],
        cores=timeline["cores"],
        usd_per_million=timeline.get("usd_per_million"),
        core_hour_usd=timeline.get("core_hour_usd"),
        work=[(sort, work[key], work[key] / whole) for key, sort in _SORTS.items() if work.get(key)],
        executors=timeline.get("executors") or [],
    )


def _panel(
    name: str,
    points: Sequence[Mapping[str, Any]],
    end: float,
    key: str,
    *,
    other: str | None = None,
    scale: float = 1.0,
    digits: int,
) -> Panel:
    highest = max(max(point[key] * scale, (point[other] or 0) if other else 0) for point in points)
    levels = round_steps(highest)
    top = max(highest, levels[-1]) or 1.0

    def line(of: str, by: float) -> str:
        shown = [point for point in points if point[of] is not None]
        return " ".join(
            f"{100 * point['at_s'] / end:.2f},{100 * (1 - min(1.0, point[of] * by / top)):.2f}" for point in shown
        )

    return Panel(
        name=name,
        line=line(key, scale),
        other=line(other, 1.0) if other else "",
        levels=[(round(100 * (1 - value / top), 2), value) for value in levels],
        digits=0 if levels[-1] >= 10 else digits,
    )


def round_steps(highest: float) -> list[float]:
    """Return 0 and up to five more round numbers of 1, 2 or 5 times a power of ten, up to ``highest``."""
    if highest <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(highest))
    step = next(size * power / 10 for size in (2, 5, 10, 20) if highest / (size * power / 10) <= 5)
    return [round(step * number, 6) for number in range(int(highest / step + 1e-9) + 1)]
