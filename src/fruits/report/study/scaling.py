"""The page of ``fruits study scaling``: rates against workers, where time goes, the check of the simulation, and plans.

Computes no results. Coordinates are in per cent of a plot's width and height, as in the other plots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fruits.report.document import assemble
from fruits.report.localisation import LocalisedText, decimal, localised, plain
from fruits.report.study.costs import ticks_within
from fruits.report.timeline import round_steps

#: A logarithmic axis extends by this factor beyond its ends.
_MARGIN = 1.3
#: Parts of a run in the order in which they happen, and whether a part is work of the workers.
PARTS = ("prepare", "session", "start", "working", "commit", "merge")


@dataclass(frozen=True)
class Mark:
    """A point: its text, position, the ends of its interval from the top, and its class."""

    text: str
    x: float
    y: float
    low: float
    high: float
    kind: str


@dataclass(frozen=True)
class Line:
    """A line ``x,y x,y`` and its class."""

    points: str
    kind: str


@dataclass(frozen=True)
class Plot:
    """A plot with two axes; ticks are positions in per cent and their texts."""

    marks: Sequence[Mark]
    lines: Sequence[Line]
    across: Sequence[tuple[float, LocalisedText]]
    down: Sequence[tuple[float, LocalisedText]]


@dataclass(frozen=True)
class Bar:
    """How a run spent its seconds: parts with their start and width in per cent of the longest run."""

    row: Mapping[str, Any]
    parts: Sequence[tuple[str, float, float]]


def render_scaling_study(study: Mapping[str, Any]) -> str:
    """Return the page of ``study/scaling.json``: a complete HTML document, the same for the same input, for UTF-8."""
    largest = study["projected"][-1] if study["projected"] else None
    return assemble(
        "study/scaling.html.j2",
        titles=localised("study_scaling_title"),
        record=study,
        rates=plot_rates(study),
        bars=bars(study["runs"]),
        checked=plot_checked(study["runs"], study["simulation"]["goal"]),
        plans=[(one, plot_plans(one["plans"])) for one in study["projected"]],
        largest=largest,
        best=largest["plans"][largest["cheapest"]] if largest else None,
        parts=PARTS,
        on_top=(),
    )


def plot_rates(study: Mapping[str, Any]) -> Plot:
    """Lay out photos per second against workers, with the fitted laws."""
    rows = [row for row in study["runs"] if row["photos"] == study["photos"]]
    drawn = [point for curve in study["curves"] for point in curve["line"]]
    last = max(point["workers"] for point in drawn)
    top = max(
        *(row["photos_per_s_high"] for row in rows),
        *(point["photos_per_s"] for point in drawn if point["workers"] <= last),
    )
    levels = round_steps(top)
    top = max(top, levels[-1])
    across, down = _linear(0.0, last, False), _linear(0.0, top, True)
    return Plot(
        marks=[
            Mark(
                text=str(row["workers"]), x=across(row["workers"]), y=down(row["photos_per_s"]),
                low=down(row["photos_per_s_low"]), high=down(row["photos_per_s_high"]), kind=row["kind"],
            )
            for row in rows
        ],
        lines=[
            Line(
                " ".join(f"{across(point['workers']):g},{down(point['photos_per_s']):g}" for point in curve["line"]),
                curve["kind"],
            )
            for curve in study["curves"]
        ],
        across=[(across(n), plain(n)) for n in round_steps(last) if n >= 1 and n == int(n)],
        down=[(down(level), plain(level)) for level in levels],
    )  # fmt: skip


def bars(runs: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """Return the parts of each run on one scale of seconds."""
    longest = max(row["seconds"]["total"] for row in runs) or 1.0
    found = []
    for row in runs:
        at, parts = 0.0, []
        for name in PARTS:
            width = 100 * row["seconds"][name] / longest
            parts.append((name, round(at, 2), round(width, 2)))
            at += width
        found.append(Bar(row, parts))
    return found


def plot_checked(runs: Sequence[Mapping[str, Any]], goal: float) -> Plot:
    """Lay out simulated against measured seconds, with the diagonal and the goal on both sides of it."""
    values = [value for row in runs for value in (row["seconds"]["total"], row["simulated"]["total"])]
    first, last = min(values) / _MARGIN, max(values) * _MARGIN
    across, down = _logarithmic(first, last, False), _logarithmic(first, last, True)

    def sloped(by: float) -> str:
        return f"0,{down(first * by):g} 100,{down(last * by):g}"

    return Plot(
        marks=[
            Mark(
                text=str(row["workers"]), x=across(row["seconds"]["total"]), y=down(row["simulated"]["total"]),
                low=down(row["simulated"]["total"]), high=down(row["simulated"]["total"]), kind=row["kind"],
            )
            for row in runs
        ],
        lines=[Line(sloped(1.0), "even"), Line(sloped(1 + goal), "asked"), Line(sloped(1 - goal), "asked")],
        across=[(across(tick), plain(tick)) for tick in ticks_within(first, last)],
        down=[(down(tick), plain(tick)) for tick in ticks_within(first, last)],
    )  # fmt: skip


def plot_plans(plans: Sequence[Mapping[str, Any]]) -> Plot:
    """Lay out the money of plans against their hours; the line joins the frontier."""
    hours, usd = ([max(1e-4, plan[name]) for plan in plans] for name in ("hours", "usd"))
    across = _logarithmic(min(hours) / _MARGIN, max(hours) * _MARGIN, False)
    down = _logarithmic(min(usd) / _MARGIN, max(usd) * _MARGIN, True)
    marks = [
        Mark(str(number), across(one), down(other), down(other), down(other), "on" if plan["frontier"] else "off")
        for number, (one, other, plan) in enumerate(zip(hours, usd, plans, strict=True), 1)
    ]
    on = sorted((mark.x, mark.y) for mark in marks if mark.kind == "on")
    return Plot(
        marks=marks,
        lines=[Line(" ".join(f"{x:g},{y:g}" for x, y in on), "up")],
        across=[(across(tick), plain(tick)) for tick in _few(ticks_within(min(hours) / _MARGIN, max(hours) * _MARGIN))],
        down=[(down(tick), _money(tick)) for tick in _few(ticks_within(min(usd) / _MARGIN, max(usd) * _MARGIN))],
    )


def _money(value: float) -> LocalisedText:
    return decimal(value, 0 if value >= 10 else 2)


def _few(ticks: list[float]) -> list[float]:
    """Return at most nine ticks: those that begin with 1 if there are more."""
    return ticks if len(ticks) <= 9 else [tick for tick in ticks if f"{tick:e}".startswith("1.")]


def _linear(first: float, last: float, reverse: bool) -> Callable[[float], float]:
    def place(value: float) -> float:
        at = 100 * (value - first) / (last - first)
        return round(100 - at if reverse else at, 2)

    return place


def _logarithmic(first: float, last: float, reverse: bool) -> Callable[[float], float]:
    def place(value: float) -> float:
        at = 100 * math.log(value / first) / math.log(last / first)
        return round(100 - at if reverse else at, 2)

    return place
