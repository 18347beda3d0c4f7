"""Layout of the report's sections on answers, coverage against precision, and calibration (reliability diagram).

Only lays out values of the run record; computes no probabilities or thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fruits.report.localisation import LocalisedText, decimal, localised, plain, share
from fruits.report.sums import Sum, lay_out

# Radii of the dots, in pixels: the smallest remains visible, the largest hides no neighbour.
_SMALLEST, _LARGEST = 3.0, 12.0
# Two points closer than this, in per cent of the width, share one mark: their labels would overlap.
_APART = 2.0


@dataclass(frozen=True)
class Answers:
    """Outcomes of answers: frequency, share that is right, and the thresholds between them."""

    sum: Sum
    outcomes: Sequence[Mapping[str, Any]]
    accepted: float | None
    limits: Sequence[LocalisedText]


@dataclass(frozen=True)
class Point:
    """A chosen point of the curve, with its message key; position in per cent from the left and from the top."""

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Coverage:
    """Precision against coverage on the validation photos; geometry in per cent of the plot.

    Parameters
    ----------
    line : str
        Points of the curve, ``x,y x,y``, from the top left.
    levels : Sequence[tuple[float, float]]
        Position from the top and precision of the grid lines.
    asked : float
        Position from the top of the requested precision.
    points : Sequence[Point]
        The thresholds of certain and of probable answers.
    rows : Sequence[tuple[str, float, float]]
        The same in numbers: key, coverage, precision.
    text, description : LocalisedText
    """

    line: str
    levels: Sequence[tuple[float, float]]
    asked: float
    points: Sequence[Point]
    rows: Sequence[tuple[str, float, float | None]]
    text: LocalisedText
    description: LocalisedText


@dataclass(frozen=True)
class Dot:
    """A bin of the reliability diagram: position in per cent from the left and from the top, radius in pixels."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class CalibrationError:
    """One calibration error, with its message key; ``width`` is the length of its bar, in per cent of the longest."""

    name: str
    value: float
    width: float


@dataclass(frozen=True)
class Calibration:
    """Calibration: predicted probabilities compared with the share that is right."""

    error: float | None
    errors: Sequence[CalibrationError]
    dots: Sequence[Dot]
    bins: Sequence[Mapping[str, Any]]
    temperature: LocalisedText | None


def view_answers(record: Mapping[str, Any]) -> Answers | None:
    """Lay out ``answers`` of a run record; None if it has none."""
    answers, evaluated = record.get("answers"), record.get("evaluated")
    if not answers:
        return None
    outcomes = answers.get("outcomes") or []
    given = [(row["outcome"], row["photos"]) for row in outcomes]
    split, photos = (evaluated["split"], evaluated["photos"]) if evaluated else ("photos", sum(n for _, n in given))
    return Answers(
        sum=lay_out("answers", split, photos, given),
        outcomes=outcomes,
        accepted=answers.get("accepted"),
        limits=_limits(answers.get("thresholds") or {}),
    )


def view_coverage(record: Mapping[str, Any]) -> Coverage | None:
    """Lay out ``coverage`` of a run record; None if it has none or no photo got an answer."""
    coverage = record.get("coverage")
    if not coverage or not coverage["curve"]:
        return None
    wanted, curve = coverage["min_precision"], coverage["curve"]
    chosen = {name: coverage[name] for name in ("sure", "named")}
    found = [point["precision"] for point in (*curve, *chosen.values()) if point["precision"] is not None]
    # The scale begins at the next lower tenth: the interesting range is between 90 and 100 %.
    lowest = min(0.9, math.floor(10 * min(wanted, *found)) / 10)

    def down(precision: float) -> float:
        return float(round(100 * (1 - precision) / (1 - lowest), 2))

    points = [
        Point(name, round(100 * point["coverage"], 2), down(point["precision"]))
        for name, point in chosen.items()
        if point["precision"] is not None
    ]
    if len(points) == 2 and points[1].x - points[0].x < _APART:
        points = [replace(points[1], name="both")]
    steps = round(10 * (1 - lowest))
    levels = [1 - tenth / 10 for tenth in range(steps + 1)] if steps > 1 else [1 - step / 50 for step in range(6)]
    texts = {f"{name}_{key}": share(point[key]) for name, point in chosen.items() for key in ("coverage", "precision")}
    return Coverage(
        line=" ".join(f"{100 * point['coverage']:.2f},{down(point['precision']):g}" for point in curve),
        levels=[(down(level), level) for level in levels],
        asked=down(wanted),
        points=points,
        rows=[(name, point["coverage"], point["precision"]) for name, point in chosen.items()],
        text=localised(
            "coverage_text", photos=coverage["photos"], wanted=share(wanted), sure=share(1 - (1 - wanted) / 3)
        ),
        description=localised("coverage_desc", **texts),
    )


def view_calibration(record: Mapping[str, Any]) -> Calibration | None:
    """Lay out ``calibration`` of a run record; None if it has none."""
    calibration = record.get("calibration")
    if not calibration:
        return None
    bins = [row for row in calibration.get("bins") or [] if row["photos"]]
    most = max((row["photos"] for row in bins), default=1)
    named = (("before", "uncalibrated"), ("after", "expectedCalibrationError"), ("floor", "noise_floor"))
    errors = [(name, calibration[key]) for name, key in named if calibration.get(key) is not None]
    longest = max((value for _, value in errors), default=0.0) or 1.0
    return Calibration(
        error=calibration.get("expectedCalibrationError"),
        errors=[CalibrationError(name, value, round(100 * value / longest, 2)) for name, value in errors],
        # Draw small dots last, so that none is hidden by a large one.
        dots=[_dot(row, most) for row in sorted(bins, key=lambda row: -int(row["photos"]))],
        bins=bins,
        temperature=_temperature(calibration),
    )


def _limits(thresholds: Mapping[str, Any]) -> list[LocalisedText]:
    """Return every threshold of the record as a sentence, in the order in which they are applied."""
    two_digits = partial(decimal, digits=2)
    said: Mapping[str, Callable[[float], LocalisedText]] = {
        "variety": share,
        "kind": share,
        "probable": share,
        "unknown": two_digits,
        "dark": two_digits,
        "blurred": two_digits,
        "small": plain,
    }
    sentences = []
    for name, texts in said.items():
        value = thresholds.get(name)
        never = {"variety": 1.0, "kind": 1.0, "probable": min(1.0, thresholds.get("kind") or 1.0) - 1e-9}.get(name)
        if value is not None and not (never is not None and value > never):
            sentences.append(localised(f"limit_{name}", value=texts(value), n=texts(value)))
        elif name in thresholds and name in ("variety", "kind", "probable", "unknown"):
            sentences.append(localised(f"limit_{name}_none"))
    return sentences


def _dot(row: Mapping[str, Any], most: int) -> Dot:
    """Lay out a bin. Most photos are in the last bin, so the radius grows with the fourth root; others would vanish."""
    return Dot(
        x=round(100 * row["confidence"], 2),
        y=round(100 * (1 - row["accuracy"]), 2),
        radius=round(max(_SMALLEST, _LARGEST * (row["photos"] / most) ** 0.25), 1),
    )


def _temperature(calibration: Mapping[str, Any]) -> LocalisedText | None:
    """Return a sentence on the effect of temperature scaling."""
    temperature, photos = (
        calibration.get("temperature"),
        calibration.get("validation_photos", calibration.get("held_back_photos")),
    )
    if temperature is None or photos is None:
        return None
    key = "temperature_sharpens" if temperature < 1 else "temperature_softens"
    return localised(key, temperature=decimal(temperature, 2), photos=photos)
