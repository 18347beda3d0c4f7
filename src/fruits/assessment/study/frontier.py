"""The Pareto frontier: the measured choices that no other one beats in both cost and value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def frontier(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Return whether each choice is on the frontier of low cost and high value.

    A choice is off it if another one costs no more, is worth no less, and is better in one of the two. Equal choices stay
    together.

    Parameters
    ----------
    costs, values : sequence of float
        One each per choice.
    """
    pairs = list(zip(costs, values, strict=True))
    return [
        not any(
            cost <= own_cost and value >= own_value and (cost, value) != (own_cost, own_value) for cost, value in pairs
        )
        for own_cost, own_value in pairs
    ]


def mark_frontier(rows: Sequence[dict[str, Any]], costs: Sequence[float], values: Sequence[float]) -> None:
    """Set ``frontier`` of each row: whether it is on the frontier."""
    for row, on in zip(rows, frontier(costs, values), strict=True):
        row["frontier"] = on


def recommended(costs: Sequence[float], values: Sequence[float], lows: Sequence[float]) -> int:
    """Return the index of the cheapest choice whose value is not clearly below the best one.

    That is: its value is at least the lower end of the interval of the best value. Of equally cheap ones, the more valuable.

    Parameters
    ----------
    costs, values : sequence of float
        One each per choice; at least one.
    lows : sequence of float
        Lower end of the interval of each value.
    """
    best = max(range(len(values)), key=lambda at: (values[at], -costs[at]))
    good = [at for at in range(len(values)) if values[at] >= min(lows[best], values[best])]
    return min(good, key=lambda at: (costs[at], -values[at]))


def components_for(ratio: Sequence[float], shares: Sequence[float]) -> list[int | None]:
    """Return the smallest k that explains each share of the variance; None if all components together do not.

    Parameters
    ----------
    ratio : sequence of float
        Explained variance ratio of each component, descending.
    shares : sequence of float
        From 0 to 1.
    """
    found: list[int | None] = []
    for share in shares:
        total, k = 0.0, None
        for number, value in enumerate(ratio, 1):
            total += value
            if total >= share - 1e-12:  # 0.6 + 0.3 is 0.8999999999999999
                k = number
                break
        found.append(k)
    return found
