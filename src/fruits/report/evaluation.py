"""Layout of the report's section on evaluation: scores with intervals on a common axis.

Geometry only, for the results of ``fruits evaluate``. Protocols whose photos the network was trained on have no score and no
position on the axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fruits.learning.neighbours import LEAK_LIMIT
from fruits.report.localisation import LocalisedText, has_message, localised

# Possible starts of the axis, and the distance of ticks: accuracies are close to 1, where a percentage point matters.
_AXES = ((0.95, 0.01), (0.9, 0.02), (0.8, 0.05), (0.5, 0.1), (0.0, 0.25))
# Prefixes of the keys of scores: by label, by kind.
_PREFIXES = ("", "kind_")
_AMONG_THREE = "kind_top3_"


@dataclass(frozen=True)
class Score:
    """One score with its interval, and their positions.

    Parameters
    ----------
    value, low, high : float or None
        The score and its bounds, from 0 to 1; None if missing.
    at, start, width : float or None
        The score, the lower bound and the length of the interval, in per cent of the axis.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    at: float | None = None
    start: float | None = None
    width: float | None = None


@dataclass(frozen=True)
class SourceScores:
    """Scores by kind of one held-out source.

    Parameters
    ----------
    name : str
        As the manifest says: untrusted text.
    photos : int
        Number of photos scored; of a seen source, all of them.
    seen, few : bool
        As in :class:`Protocol`.
    kind, three : Score
        The right kind, first and among the three most probable.
    """

    name: str
    photos: int
    seen: bool
    few: bool
    kind: Score
    three: Score


@dataclass(frozen=True)
class Protocol:
    """One evaluation protocol and its results.

    Parameters
    ----------
    name : str
        Its message key, without the prefix.
    facts : Sequence[LocalisedText]
        Numbers of photos, groups and folds.
    seen : bool
        The network was trained on these photos: there is no score.
    label, kind : Score
        Scored by label and by kind.
    leakage : float or None
        Share of the test photos with a near-duplicate among the training photos.
    few : bool
        Too few test photos to give a score.
    photos : int
        Number of photos scored.
    three : Score
        Share with the right kind among the three most probable.
    sources : Sequence[SourceScores]
        Held-out sources, if there is a score for some of them.
    """

    name: str
    facts: Sequence[LocalisedText]
    seen: bool
    label: Score
    kind: Score
    leakage: float | None
    few: bool
    photos: int
    three: Score
    sources: Sequence[SourceScores]

    @property
    def seen_sources(self) -> int:
        """Number of the sources that have no score, because the network was trained on their photos."""
        return sum(source.seen for source in self.sources)

    @property
    def leaks(self) -> bool:
        """Whether the leakage exceeds its limit, so that the score is too optimistic."""
        return self.leakage is not None and self.leakage > LEAK_LIMIT


@dataclass(frozen=True)
class Tick:
    """A tick of the axis: position in per cent from the left, and value."""

    at: float
    value: float


@dataclass(frozen=True)
class Evaluation:
    """Content of the section.

    Parameters
    ----------
    record : Mapping[str, Any]
        The evaluation record, unchanged.
    protocols : Sequence[Protocol]
        In the order of the record.
    ticks : Sequence[Tick]
        Ticks of the common axis; empty without scores.
    by_kind : bool
        Whether scores by kind differ from those by label.
    """

    record: Mapping[str, Any]
    protocols: Sequence[Protocol]
    ticks: Sequence[Tick]
    by_kind: bool

    @property
    def any_seen(self) -> bool:
        """Whether a score is missing because the network was trained on the photos."""
        return any(protocol.seen or protocol.seen_sources for protocol in self.protocols)

    @property
    def any_few(self) -> bool:
        """Whether a score is left out because too few photos were classified."""
        return any(protocol.few or any(source.few for source in protocol.sources) for protocol in self.protocols)

    @property
    def with_sources(self) -> Protocol | None:
        """The protocol that holds out sources, if it has a score for some of them."""
        return next((protocol for protocol in self.protocols if protocol.sources), None)

    @property
    def strictest(self) -> Protocol | None:
        """The lowest score by label with whole groups, sources or sequences held out; None if there is none, or of few photos."""
        scored = [
            p
            for p in self.protocols
            if p.name != "official" and p.label.value is not None and p.label.low is not None and not (p.few or p.leaks)
        ]
        return min(scored, key=lambda protocol: protocol.label.value or 0.0, default=None)

    @property
    def any_leaks(self) -> bool:
        """Whether a score is too optimistic because of leakage."""
        return any(protocol.leaks for protocol in self.protocols)


def view_evaluation(record: Mapping[str, Any] | None) -> Evaluation | None:
    """Lay out the results of ``fruits evaluate``.

    Parameters
    ----------
    record : Mapping[str, Any], optional
        Format 1; ``protocols`` with ``accuracy``, ``low``, ``high`` and the same ``kind_`` values, any of them null.

    Returns
    -------
    Evaluation or None
        None if nothing was measured.
    """
    if not record:
        return None
    rows = record.get("protocols") or []
    known = [bound for row in rows for prefix in _PREFIXES for bound in _bounds(row, prefix)]
    begin, step = axis_from(min(known)) if known else (0.0, 1.0)
    protocols = [_protocol(row, begin) for row in rows]
    n_steps = round((1 - begin) / step)
    return Evaluation(
        record=record,
        protocols=protocols,
        ticks=[Tick(round(100 * i / n_steps, 3), begin + i * step) for i in range(n_steps + 1)] if known else [],
        by_kind=any(p.kind.value is not None and p.kind.value != p.label.value for p in protocols),
    )


def axis_from(least: float) -> tuple[float, float]:
    """Return where an axis of shares up to 1 begins that shows ``least``, and the distance of its ticks."""
    return next((axis for axis in _AXES if axis[0] <= least), _AXES[-1])


def _protocol(row: Mapping[str, Any], begin: float) -> Protocol:
    """Lay out one row of the record on an axis that begins at ``begin``."""
    label, kind, three = (_score(row, prefix, begin) for prefix in (*_PREFIXES, _AMONG_THREE))
    seen, few = bool(row.get("seen")), bool(row.get("too_few_to_say"))
    sources = [] if seen else [_source(one) for one in row.get("sources") or ()]
    return Protocol(
        row["protocol"], _facts(row, sources), seen, label, kind, row.get("leakage"), few, row["photos"], three, sources
    )


def _source(row: Mapping[str, Any]) -> SourceScores:
    """Return the scores of one source."""
    kind, three = (_score(row, prefix, 0.0) for prefix in ("kind_", _AMONG_THREE))
    seen, few = bool(row.get("seen")), bool(row.get("too_few_to_say"))
    return SourceScores(row["source"], row["photos"], seen, few, kind, three)


def _facts(row: Mapping[str, Any], sources: Sequence[SourceScores]) -> list[LocalisedText]:
    """Return the number of test photos, how they are grouped, and how many photos and sources were left out."""
    facts = [localised("n_photos", n=row["photos"])]
    name = "sequence" if row.get("grouped_by") == "film" else str(row.get("grouped_by"))  # film: in older records
    grouped_by = f"groups_{name.replace('-', '_')}"
    if row.get("groups") and has_message(grouped_by):
        facts.append(localised(grouped_by, n=row["groups"]))
    if row.get("folds", 1) > 1:
        facts.append(localised("folds", n=row["folds"]))
    if row.get("left_out"):
        facts.append(localised("protocol_left_out", n=row["left_out"]))
    if n_seen := sum(source.seen for source in sources):
        facts.append(localised("sources_seen", n=n_seen, sources=len(sources)))
    return facts


def _score(row: Mapping[str, Any], prefix: str, begin: float) -> Score:
    """Lay out a score of the row and its interval, on an axis that begins at ``begin``."""
    bounds = _bounds(row, prefix)
    if not bounds:
        return Score(None)
    value, *interval = bounds
    if not interval:
        return Score(value, at=_across(value, begin))
    low, high = interval
    start = _across(low, begin)
    return Score(value, low, high, _across(value, begin), start, round(_across(high, begin) - start, 3))


def _bounds(row: Mapping[str, Any], prefix: str) -> tuple[float, ...]:
    """Return a score and both its bounds, the score alone, or nothing."""
    value, low, high = (row.get(prefix + name) for name in ("accuracy", "low", "high"))
    # A score that is too optimistic is not shown, even if the record has one.
    if value is None or row.get("seen"):
        return ()
    return (value,) if low is None or high is None else (value, low, high)


def _across(value: float, begin: float) -> float:
    """Return the position in per cent from the left of the axis."""
    return round(100 * (min(1.0, max(begin, value)) - begin) / (1 - begin), 3)
