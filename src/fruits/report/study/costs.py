"""The pages of ``fruits study backbones``, ``preprocessing`` and ``storage``: one HTML document each, from their records.

They show accuracy against cost with the frontier, and the measured values in tables. Computes no results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fruits.report.document import assemble
from fruits.report.evaluation import axis_from
from fruits.report.localisation import localised

#: The horizontal axis extends by this factor beyond the cheapest and the dearest point, so that no point lies on the edge.
_MARGIN = 1.25


@dataclass(frozen=True)
class Tick:
    """A tick of an axis: position in per cent from the left or from the top, and value."""

    at: float
    value: float


@dataclass(frozen=True)
class Point:
    """One network of the plot: positions in per cent from the left and from the top.

    Parameters
    ----------
    number : int
        Its row in the tables.
    x, y, low, high : float
        Cost, accuracy, and the ends of its interval.
    frontier, recommended : bool
    """

    number: int
    x: float
    y: float
    low: float
    high: float
    frontier: bool
    recommended: bool


@dataclass(frozen=True)
class CostPlot:
    """Content of the plot.

    Parameters
    ----------
    points : Sequence[Point]
    line : str
        The frontier from the cheapest point on, ``x,y x,y``, in a square of side 100.
    costs, values : Sequence[Tick]
        Ticks of the logarithmic axis of cost, and of the axis of accuracy.
    """

    points: Sequence[Point]
    line: str
    costs: Sequence[Tick]
    values: Sequence[Tick]


def render_study(study: Mapping[str, Any]) -> str:
    """Return the page of a study of networks.

    Parameters
    ----------
    study : Mapping[str, Any]
        Format 1, as in ``study/backbones.json``.

    Returns
    -------
    str
        A complete HTML document, the same for the same input; to be written as UTF-8.
    """
    rows = study["rows"]
    best = next((row for row in rows if row["score"] and row["run"] == study["recommended"]), None)
    named = {name: None for row in rows for name in row["protocols"]}
    return assemble(
        "study/backbones.html.j2",
        titles=localised("study_backbones_title"),
        record=study,
        rows=rows,
        best=best,
        plot=plot_costs(study),
        protocols=list(named),
        shares=[each["share"] for each in rows[0]["components_for"]] if rows else [],
        on_top=(),
    )


def render_storage_study(study: Mapping[str, Any]) -> str:
    """Return the page of ``study/storage.json``, as :func:`render_study` does."""
    settings = study["settings"]
    return assemble(
        "study/storage.html.j2",
        titles=localised("study_storage_title"),
        record=study,
        best=settings[study["recommended"]],
        whole=next(one for one in settings if one["vectors"] == "embeddings" and one["number_format"] == "float32"),
        plot=lay_out(
            [
                Measured(number, one["bytes_per_photo"], one, one["frontier"], number == study["recommended"] + 1)
                for number, one in enumerate(settings, 1)
            ]
        ),
        on_top=(),
    )


def render_preprocessing_study(study: Mapping[str, Any]) -> str:
    """Return the page of ``study/preprocessing.json``, as :func:`render_study` does."""
    points = [*study["treatments"], study["together"]]
    return assemble(
        "study/preprocessing.html.j2",
        titles=localised("study_preprocessing_title"),
        record=study,
        rows=study["treatments"],
        best=study["together"],
        plot=lay_out(
            [
                Measured(number, one["cost_ms"], one, one["frontier"], number == len(points))
                for number, one in enumerate(points, 1)
            ]
        ),
        on_top=(),
    )


@dataclass(frozen=True)
class Measured:
    """One choice to draw: its number, its cost, its ``accuracy``, ``low`` and ``high``, and how it is marked."""

    number: int
    cost: float
    score: Mapping[str, Any]
    frontier: bool
    recommended: bool


def plot_costs(study: Mapping[str, Any]) -> CostPlot | None:
    """Lay out accuracy against processor time; None if no network has a score."""
    scored = [(number, row) for number, row in enumerate(study["rows"], 1) if row["score"]]
    if not scored:
        return None
    return lay_out(
        [
            Measured(number, row["core_s_per_1000"], row["score"], row["frontier"], row["run"] == study["recommended"])
            for number, row in scored
        ]
    )


def lay_out(choices: Sequence[Measured]) -> CostPlot:
    """Lay out accuracy against cost; there is at least one choice."""
    costs = [one.cost for one in choices]
    first, last = min(costs) / _MARGIN, max(costs) * _MARGIN
    begin, step = axis_from(min(one.score["low"] for one in choices))

    def across(cost: float) -> float:
        return round(100 * math.log(cost / first) / math.log(last / first), 2)

    def down(value: float) -> float:
        return round(100 * (1 - (min(1.0, max(begin, value)) - begin) / (1 - begin)), 2)

    points = [
        Point(
            number=one.number,
            x=across(one.cost),
            y=down(one.score["accuracy"]),
            low=down(one.score["low"]),
            high=down(one.score["high"]),
            frontier=one.frontier,
            recommended=one.recommended,
        )
        for one in choices
    ]
    on = sorted((point.x, point.y) for point in points if point.frontier)
    n_steps = round((1 - begin) / step)
    return CostPlot(
        points,
        " ".join(f"{x:g},{y:g}" for x, y in on),
        [Tick(across(cost), cost) for cost in ticks_within(first, last)],
        [Tick(down(begin + number * step), begin + number * step) for number in range(n_steps + 1)],
    )


def ticks_within(first: float, last: float) -> list[float]:
    """Return 1, 2, 5, 10, 20, ... and 0.5, 0.2, ... from ``first`` to ``last``; every digit if these are fewer than three."""
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    for digits in ((1, 2, 5), range(1, 10)):
        every = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        within = [tick for tick in every if first <= tick <= last]
        if len(within) > 2:
            break
    return within
