"""Measurements as text for a terminal: tables, scores with their intervals, and evaluations.

Of an evaluation: the scores, why a protocol was not possible, and what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fruits.errors import command, counted, option
from fruits.learning.metrics import FEWEST_PHOTOS
from fruits.learning.neighbours import LEAK_LIMIT

if TYPE_CHECKING:
    from fruits.assessment.results import Evaluation, Protocol, SourceScore

_AMONG_THREE: Final = "kind among three"
_HEADINGS: Final = ("protocol", "right label", "right kind", _AMONG_THREE, "near-duplicates", "photos", "groups")


def as_text(evaluations: Sequence[Evaluation]) -> str:
    """Return evaluations one below the other; what is true of several is said once.

    Scores are shares of photos with their 95 % interval over groups.
    """
    parts = [_one(evaluation) for evaluation in evaluations]
    steps = dict.fromkeys(step for evaluation in evaluations for step in _next_steps(evaluation))
    return "\n\n".join([*parts, "\n".join(["next:", *(f"  {step}" for step in steps)])])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, with columns of equal width; the first row holds the names."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def with_interval(score: Mapping[str, Any]) -> str:
    """Return an ``accuracy`` with its 95 % interval, from ``low`` to ``high``."""
    return f"{score['accuracy']:.1%} ({score['low']:.1%} to {score['high']:.1%})"


def _one(evaluation: Evaluation) -> str:
    lines = [_title(evaluation)]
    if evaluation.protocols:
        rows: list[tuple[str, ...]] = [_HEADINGS]
        for protocol in evaluation.protocols:
            rows.append(_row(protocol))
            if not protocol.seen:
                rows += [_row_of_source(source) for source in protocol.sources if source.photos]
        lines += aligned(rows if any(protocol.sources for protocol in evaluation.protocols) else _without_three(rows))
    lines += [f"{name}: not possible, because {reason}" for name, reason in evaluation.not_applicable]
    for protocol in evaluation.protocols:
        seen = sum(source.seen for source in protocol.sources)
        if 0 < seen < len(protocol.sources):
            lines.append(
                f"{protocol.protocol}: {evaluation.backbone} was trained on photos of {seen} of "
                f"{counted(len(protocol.sources), 'source')} (seen); the scores of the protocol are of the others alone"
            )
        if protocol.left_out:
            lines.append(
                f"{protocol.protocol}: {counted(protocol.left_out, 'photo')} not scored, of labels or kinds without "
                "training photos"
            )
    lines.append(
        f"near-duplicates: photos within {evaluation.near_duplicate_distance:.3g} of a training photo; "
        f"{evaluation.near_duplicate_chance:.1%} of all photos are that near to one of another label"
    )
    return "\n".join(lines)


def _without_three(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return the table without the column of kinds among three, which only scores of sources need."""
    at = _HEADINGS.index(_AMONG_THREE)
    return [(*row[:at], *row[at + 1 :]) for row in rows]


def _title(evaluation: Evaluation) -> str:
    where = ", ".join(Path(source).name for source in evaluation.sources)
    photos = counted(evaluation.photos, "photo")
    if evaluation.photos < evaluation.available:
        photos = f"{evaluation.photos:,} of {counted(evaluation.available, 'photo')}, a sample of whole groups,"
    return (
        f"{evaluation.out}: {photos} of {where}; {evaluation.backbone} at "
        f"{evaluation.size} x {evaluation.size} pixels, {counted(evaluation.components, 'component')}, head {evaluation.head}"
    )


def _row(protocol: Protocol) -> tuple[str, ...]:
    label = _score(protocol, protocol.accuracy, protocol.low, protocol.high)
    counts = (f"{protocol.leakage:.1%}", f"{protocol.photos:,}", f"{protocol.groups:,}")
    return protocol.protocol, label, *_scores_of_kinds(protocol), *counts


def _row_of_source(source: SourceScore) -> tuple[str, ...]:
    return f"  {source.source}", "", *_scores_of_kinds(source), "", f"{source.photos:,}", ""


def _scores_of_kinds(scored: Protocol | SourceScore) -> tuple[str, str]:
    return (
        _score(scored, scored.kind_accuracy, scored.kind_low, scored.kind_high),
        _score(scored, scored.kind_top3_accuracy, scored.kind_top3_low, scored.kind_top3_high),
    )


def _score(scored: Protocol | SourceScore, share: float | None, low: float | None, high: float | None) -> str:
    if scored.seen:
        return "seen"
    if share is None:
        return "-"
    told = "too few to say" if scored.too_few_to_say else f"{share:.1%}"
    return told if low is None else f"{told} ({low:.1%} to {high:.1%})"


def _next_steps(evaluation: Evaluation) -> list[str]:
    """Return what to do about what was found."""
    steps = []
    scored = [protocol for protocol in evaluation.protocols if not protocol.seen]
    if len(scored) < len(evaluation.protocols):
        which = f" by {', '.join(one.protocol for one in evaluation.protocols if one.seen)}" if scored else ""
        steps.append(
            f"seen: {evaluation.backbone} was trained on {evaluation.seen_share or 0:.0%} of these photos, so no score{which} "
            f"would mean anything; run with another network ({option('backbone')}), or evaluate on other photos"
        )
    elif evaluation.seen_share is None:
        steps.append(
            f"the card of {evaluation.backbone} does not list its training photos: check yourself that these are not among them"
        )
    if any(protocol.too_few_to_say for protocol in scored):
        steps.append(f"add test photos: a score needs {FEWEST_PHOTOS} or more")
    official = next((protocol for protocol in scored if protocol.protocol == "official"), None)
    others = [protocol.protocol for protocol in scored if protocol.protocol != "official"]
    if official and official.leakage > LEAK_LIMIT:
        steps.append(
            f"official: {official.leakage:.1%} of the test photos have a near-duplicate in training, so part of that score is "
            f"memory; {f'report {others[0]} instead' if others else 'split by groups, with a column group in a manifest'}"
        )
    steps.append(f"details and confusions: {evaluation.report}")
    if not scored:
        steps.append(f"other protocols: {command('evaluate', evaluation.out, protocols='...')}")
    return steps
