"""Geometry of the plot of cumulative explained variance.

Coordinates are in per cent of the plot's width and height, so that lines stretch with the page while text does not. Components
are on a logarithmic scale: the first ten explain as much as the next hundred.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

# Enough points for a smooth curve at the width of a screen, few enough for a small page with 2,048 components.
_MAX_POINTS = 200
_LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
# Tolerance for rounding: 0.6 + 0.3 is 0.8999999999999999, but explains 90 %.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Mark:
    """One point to draw: position in per cent from the left and from the top, and its values."""

    x: float
    y: float
    components: int
    value: float
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class VarianceCurve:
    """Content of the plot.

    Parameters
    ----------
    line : str
        Points of the cumulative curve, ``x,y x,y``, in a square of side 100 with the origin at the top left.
    ticks : Sequence[Mark]
        Labels of the component axis.
    chosen : Mark or None
        The number of components that the run kept.
    trials : Sequence[Mark]
        Validation accuracy where components were chosen by it; ``low`` and ``high`` are one standard error away, in
        per cent from the top.
    milestones : Sequence[tuple[float, int]]
        Explained share and the fewest components that reach it.
    """

    line: str
    ticks: Sequence[Mark]
    chosen: Mark | None
    trials: Sequence[Mark]
    milestones: Sequence[tuple[float, int]]

    @property
    def trials_line(self) -> str:
        """Points of the validation curve, like ``line``."""
        return " ".join(f"{mark.x:g},{mark.y:g}" for mark in self.trials)


def plot_variance(
    ratio: Sequence[float], chosen: int | None, *, trials: Sequence[Mapping[str, Any]] = ()
) -> VarianceCurve | None:
    """Lay out the cumulative explained variance over components.

    Parameters
    ----------
    ratio : Sequence[float]
        Explained variance ratio of each of the d components, descending.
    chosen : int, optional
        Components kept, from 1 to d.
    trials : Sequence[Mapping[str, Any]]
        Rows with ``components``, ``accuracy`` and ``standard_error``.

    Returns
    -------
    VarianceCurve or None
        None if there is no component to show.
    """
    if not ratio:
        return None
    cumulative = [min(1.0, max(0.0, value)) for value in accumulate(ratio)]
    size = len(cumulative)

    def mark(components: int, value: float, error: float = 0.0) -> Mark:
        return Mark(
            x=_across(components, size),
            y=_down(value),
            components=components,
            value=value,
            low=_down(value - error),
            high=_down(value + error),
        )

    shown = [mark(components, cumulative[components - 1]) for components in _spread(size)]
    return VarianceCurve(
        line=" ".join(f"{point.x:g},{point.y:g}" for point in shown),
        ticks=[mark(components, 0.0) for components in _ticks(size)],
        chosen=mark(chosen, cumulative[chosen - 1]) if chosen and chosen <= size else None,
        trials=[
            mark(trial["components"], trial["accuracy"], trial.get("standard_error") or 0.0)
            for trial in sorted(trials, key=lambda trial: int(trial["components"]))
            if 1 <= trial["components"] <= size
        ],
        milestones=[
            (level, next(i for i, value in enumerate(cumulative, 1) if value >= level - _ROUNDING))
            for level in _LEVELS
            if cumulative[-1] >= level
        ],
    )


def _across(components: int, size: int) -> float:
    """Return the position in per cent from the left; a single component is in the middle."""
    return 50.0 if size == 1 else round(100 * math.log(components) / math.log(size), 2)


def _down(value: float) -> float:
    """Return the position in per cent from the top."""
    return round(100 * (1 - min(1.0, max(0.0, value))), 2)


def _spread(size: int) -> list[int]:
    """Component numbers from 1 to ``size``, evenly spread on the logarithmic axis."""
    steps = (size ** (step / (_MAX_POINTS - 1)) for step in range(_MAX_POINTS))
    return sorted({1, size, *(min(size, round(step)) for step in steps)})


def _ticks(size: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... and the last component, without two labels in one place."""
    decades = range(int(math.log10(size)) + 1)
    regular = [digit * 10**decade for decade in decades for digit in (1, 2, 5) if digit * 10**decade <= size]
    return [tick for tick in regular if tick == size or _across(size, size) - _across(tick, size) > 8] + (
        [] if size in regular else [size]
    )
