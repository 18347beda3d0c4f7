"""The page of an audit: one HTML document from the record of ``fruits audit``.

Shows photos side by side, by type of finding, with the measured values. The record determines which photos are shown, and in
which order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fruits.report.document import assemble, data_uri
from fruits.report.localisation import LocalisedText, decimal, known, localised
from fruits.report.sums import sums_of

_SORTS = ("exact_duplicate", "near_duplicate", "label", "blurred", "dark", "odd_size", "unreadable")
#: What stands open on the page, if there is any; everything else is folded.
_FIRST = ("label", "exact_duplicate", "unreadable", "blurred", "dark", "odd_size", "near_duplicate")
_GROUPED = ("exact_duplicate", "near_duplicate")
_N_PHOTOS_ON_TOP = 14
#: Groups or photos of a sort that are shown before the rest is folded.
_AT_ONCE = 6


@dataclass(frozen=True)
class Photo:
    """One flagged photo.

    Parameters
    ----------
    uri, file : str
        Full uri, and file name without folders.
    label, split : str
        From the catalogue.
    picture : str or None
        A data URI; None if there is no thumbnail.
    facts : Sequence[LocalisedText]
        The measured values for which it was flagged.
    """

    uri: str
    file: str
    label: str
    split: str
    picture: str | None
    facts: Sequence[LocalisedText] = ()


@dataclass(frozen=True)
class Group:
    """A group of duplicates: the first few of ``size`` photos."""

    photos: Sequence[Photo]
    size: int
    distance: float | None
    across_splits: bool
    across_labels: bool


@dataclass(frozen=True)
class LabelError:
    """A photo with a suspected label error."""

    photo: Photo
    suggested: str
    given_probability: float | None
    suggested_probability: float | None


@dataclass(frozen=True)
class Counts:
    """Number of findings of one type; values on groups only for duplicates."""

    photos: int
    groups: int | None = None
    across_splits: int | None = None
    across_labels: int | None = None


@dataclass(frozen=True)
class Finding:
    """One type of finding; at most one of the four sequences is not empty.

    Parameters
    ----------
    name : str
        Its message key, without the prefix.
    counts : Counts
        Counts of all findings, shown or not.
    shown : int
        Number of groups or photos shown on the page.
    """

    name: str
    counts: Counts
    shown: int
    groups: Sequence[Group] = ()
    label_errors: Sequence[LabelError] = ()
    photos: Sequence[Photo] = ()
    files: Sequence[Mapping[str, Any]] = ()

    @property
    def found(self) -> int:
        """Number of groups, or of photos for findings without groups."""
        return self.counts.photos if self.counts.groups is None else self.counts.groups


def render_audit(record: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> str:
    """The page of one audit.

    Parameters
    ----------
    record : Mapping[str, Any]
        The record of an audit, format 1. ``findings`` holds the first of each sort, worst first; ``counts`` counts all.
        ``flagged``, if present, is the number of different photos among all findings.
    thumbnails : Mapping[str, bytes]
        Uri -> small JPEG image; any may be missing.

    Returns
    -------
    str
        A complete HTML document, the same for the same input; to be written as UTF-8.
    """
    findings = [_finding(name, record, thumbnails) for name in _SORTS]
    (apart,) = [finding.counts for finding in findings if finding.name == "near_duplicate"]
    return assemble(
        "audit.html.j2",
        titles=localised("audit_title"),
        record=record,
        findings=findings,
        flagged=record.get("flagged"),
        apart=apart,
        at_once=_AT_ONCE,
        first=next((name for name in _FIRST for finding in findings if finding.name == name and finding.found), ""),
        n_findings=sum(finding.counts.photos for finding in findings),
        on_top=_photos_on_top(findings),
        sums=sums_of(record),
        network=record.get("backbone") or {},
        near_duplicates=record.get("near_duplicates"),
    )


def _finding(name: str, record: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> Finding:
    """Return one type of finding, with its photos."""
    rows = (record.get("findings") or {}).get(name) or []
    counted = (record.get("counts") or {}).get(name) or {}
    counts = Counts(counted.get("photos", 0))
    if name in _GROUPED:
        counts = Counts(counts.photos, *(counted.get(key, 0) for key in ("groups", "across_splits", "across_labels")))
        return Finding(name, counts, len(rows), groups=[_group(row, thumbnails) for row in rows])
    if name == "label":
        return Finding(name, counts, len(rows), label_errors=[_label_error(row, thumbnails) for row in rows])
    if name == "unreadable":
        return Finding(name, counts, len(rows), files=rows)
    photos = [_photo(row, thumbnails, facts=_facts(name, row)) for row in rows]
    return Finding(name, counts, len(rows), photos=photos)


def _photo(row: Mapping[str, Any], thumbnails: Mapping[str, bytes], *, facts: Sequence[LocalisedText] = ()) -> Photo:
    """Return a photo of the record with its thumbnail."""
    uri = str(row["uri"])
    thumbnail = thumbnails.get(uri)
    return Photo(
        uri=uri,
        file=uri.rstrip("/").rpartition("/")[2] or uri,
        label=str(row.get("label") or ""),
        split=str(row.get("split") or ""),
        picture=data_uri(thumbnail) if thumbnail else None,
        facts=facts,
    )


def _group(row: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> Group:
    """Return a group of photos."""
    photos = [_photo(photo, thumbnails) for photo in row["photos"]]
    return Group(
        photos=photos,
        size=row.get("size", len(photos)),
        distance=row.get("distance"),
        across_splits=bool(row.get("across_splits")),
        across_labels=bool(row.get("across_labels")),
    )


def _label_error(row: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> LabelError:
    """Return a photo with its two candidate labels."""
    return LabelError(
        _photo(row, thumbnails), str(row["suggested"]), row.get("given_probability"), row.get("suggested_probability")
    )


def _facts(name: str, row: Mapping[str, Any]) -> list[LocalisedText]:
    """Return the measured values of a single photo."""
    if name == "odd_size":
        return [known("why", row.get("why")), localised("pixels", width=row["width"], height=row["height"])]
    key = {"blurred": "sharpness", "dark": "brightness"}[name]
    return [localised(key, value=decimal(row.get("value"), 2), limit=decimal(row.get("limit"), 2))]


def _photos_on_top(findings: Sequence[Finding]) -> Sequence[str]:
    """Return a few of the pictures below, alternating between types, without repetition."""
    by_sort = [
        [
            *(group.photos[0].picture for group in finding.groups if group.photos),
            *(label_error.photo.picture for label_error in finding.label_errors),
            *(photo.picture for photo in finding.photos),
        ]
        for finding in findings
    ]
    depth = max(map(len, by_sort), default=0)
    in_turn = (pictures[i] for i in range(depth) for pictures in by_sort if i < len(pictures))
    return list(dict.fromkeys(picture for picture in in_turn if picture))[:_N_PHOTOS_ON_TOP]
