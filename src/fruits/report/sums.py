"""Totals of a record and their parts, added up again, so that a wrong total is visible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NARROWEST = 0.7


@dataclass(frozen=True)
class Part:
    """One part of a total.

    Parameters
    ----------
    name : str
        Its message key, without the prefix; also selects its colour in the stylesheet.
    photos : int
        Number of photos.
    start, width : float
        Start and length of its bar, in per cent.
    """

    name: str
    photos: int
    start: float
    width: float


@dataclass(frozen=True)
class Sum:
    """A total and its parts."""

    name: str
    whole: str
    total: int
    parts: Sequence[Part]

    @property
    def closes(self) -> bool:
        """Whether the parts add up to the total."""
        return sum(part.photos for part in self.parts) == self.total


def sums_of(record: Mapping[str, Any]) -> Sequence[Sum]:
    """Return every total of the record of a run or an audit, with its parts."""
    photos, splits = record["photos"], record.get("splits") or {}
    sums = [lay_out("read", "photos", photos, _counts(record, "ok", "rejected", "failed"))]
    if "computed" in record:
        sums.append(lay_out("work", "photos", photos, _counts(record, "computed", "reused")))
    if roles := [(name, splits[name]) for name in ("train", "val", "test") if name in splits]:
        # A split may be counted before or after unreadable photos are removed; the page shows both totals.
        is_read_only = sum(n for _, n in roles) == record.get("ok") != photos
        sums.append(
            lay_out("split", "ok" if is_read_only else "photos", record["ok"] if is_read_only else photos, roles)
        )
    if evaluated := record.get("evaluated"):
        scored = [("scored", evaluated["photos"]), ("left_out", evaluated.get("left_out_photos", 0))]
        sums.append(lay_out("scored", evaluated["split"], sum(n for _, n in scored), scored))
    return sums


def lay_out(name: str, whole: str, total: int, parts: Iterable[tuple[str, int]]) -> Sum:
    """Lay the parts of a total end to end.

    Parameters
    ----------
    name, whole : str
        Name of the sum, and what its total counts: ``photos``, ``ok`` or a split.
    total : int
        The expected sum of the parts.
    parts : Iterable[tuple[str, int]]
        Name and photos of each.
    """
    laid: list[Part] = []
    start, scale = 0.0, 100 / max(total, 1)
    for part, photos in parts:
        # Two rejected photos of 26,300 must be visible: they get a minimum width, over the end of the neighbouring bar.
        width = max(photos * scale, _NARROWEST)
        laid.append(Part(part, photos, round(max(0.0, min(start, 100 - width)), 3), round(width, 3)))
        start += photos * scale
    return Sum(name, whole, total, laid)


def _counts(record: Mapping[str, Any], *names: str) -> list[tuple[str, int]]:
    """Return counts of a record by name; a missing one is 0."""
    return [(name, record.get(name, 0)) for name in names]
