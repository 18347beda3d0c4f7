"""Facts about a kind besides its name: its season, its look-alikes, and how to tell them apart.

Seasons (``seasons.csv``) and differences (``apart.csv``) are facts about kinds of the package's taxonomy. What a kind is taken
for is measured: a run counts the confused kinds of its validation photos and keeps the most frequent in the bundle. For a kind
without such counts, the kinds with the most similar features are the look-alikes. Independent of pages and HTTP.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Look-alikes kept for each kind: so many a person can compare.
MOST: Final = 3
#: Smallest share of a kind's photos that counts as confusion; one photo of a few alone says little.
_LEAST_SHARE: Final = 0.01
_LEAST_PHOTOS: Final = 2
#: Least cosine between the means of two kinds, of which the mean of all is subtracted: from here on people see a likeness, too.
_LEAST_COSINE: Final = 0.2


def confused_kinds(
    predicted: NDArray[np.int64], truth: NDArray[np.int64], kind_ids: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return what each kind was taken for most often, for the manifest of a bundle.

    Parameters
    ----------
    predicted, truth : int64 array, shape (m,)
        Indices into ``kind_ids`` of validation photos.
    kind_ids : sequence of str

    Returns
    -------
    dict
        For each confused kind at most ``MOST`` of ``{"kind", "photos", "share"}``, most frequent first.
    """
    c = len(kind_ids)
    total = np.bincount(truth, minlength=c)
    wrong = predicted != truth
    pairs, counts = np.unique(truth[wrong] * c + predicted[wrong], return_counts=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for at in np.argsort(-counts, kind="stable"):
        kind, photos = int(pairs[at]) // c, int(counts[at])
        of_kind, share = found.setdefault(kind_ids[kind], []), photos / int(total[kind])
        if len(of_kind) < MOST and photos >= _LEAST_PHOTOS and share >= _LEAST_SHARE:
            of_kind.append({"kind": kind_ids[int(pairs[at]) % c], "photos": photos, "share": round(share, 4)})
    return {kind: others for kind, others in sorted(found.items()) if others}


def look_alikes(
    about: Mapping[str, Any], kind_ids: Sequence[str], kind_of: Sequence[int], centres: NDArray[np.float32]
) -> dict[str, list[dict[str, Any]]]:
    """Return the look-alikes of each kind of a bundle.

    Parameters
    ----------
    about : mapping
        Of the bundle's manifest, which may come from anybody: what is not well formed is left out.
    kind_ids : sequence of str
    kind_of : sequence of int, length c
        Index of the kind of each label.
    centres : float32 array, shape (c, k)
        Mean of each label in features whose scatter within labels is the unit matrix.

    Returns
    -------
    dict
        For each kind with some, lists of ``{"kind", "share", "apart"}``: share of its photos that were taken for the other kind,
        None where that was not counted; a sentence by language that tells the two apart, or None.
    """
    counted = about.get("look_alikes")
    found = _nearest(kind_ids, kind_of, centres)
    if isinstance(counted, dict):
        found |= _well_formed(counted, set(kind_ids))
    return {
        kind: [{"kind": other, "share": share, "apart": difference(kind, other)} for other, share in others]
        for kind, others in found.items()
        if others
    }


def season(kind: str) -> tuple[int, ...]:
    """Return the months, 1 to 12, in which a kind is in season in Western Europe; none for what is imported or there all year."""
    return _seasons().get(kind, ())


def difference(kind: str, other: str) -> dict[str, str] | None:
    """Return a sentence by language that tells two kinds apart, in either order."""
    return _differences().get(frozenset((kind, other)))


def _well_formed(counted: Mapping[Any, Any], kinds: set[str]) -> dict[str, list[tuple[str, float | None]]]:
    found: dict[str, list[tuple[str, float | None]]] = {}
    for kind, others in counted.items():
        if kind not in kinds or not isinstance(others, list):
            continue
        for one in others[:MOST]:
            other, share = (one.get("kind"), one.get("share")) if isinstance(one, dict) else (None, None)
            if (
                isinstance(other, str)
                and other in kinds
                and other != kind
                and isinstance(share, int | float)
                and 0 <= share <= 1  # not true of NaN
            ):
                found.setdefault(kind, []).append((other, float(share)))
    return found


def _nearest(
    kind_ids: Sequence[str], kind_of: Sequence[int], centres: NDArray[np.float32]
) -> dict[str, list[tuple[str, float | None]]]:
    """Return the kinds in whose direction the mean of a kind lies, seen from the mean of all kinds.

    By distance, kinds of many looks would be near to every other.
    """
    if len(kind_ids) < 2 or len(centres) != len(kind_of):
        return {}
    sums = np.zeros((len(kind_ids), centres.shape[1]))
    np.add.at(sums, np.asarray(kind_of), centres.astype(np.float64))
    means = sums / np.bincount(kind_of, minlength=len(kind_ids))[:, None]
    means -= means.mean(axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    cosines = means @ means.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :MOST]
    return {
        kind: [(kind_ids[other], None) for other in near if of_kind[other] >= _LEAST_COSINE]
        for kind, near, of_kind in zip(kind_ids, order, cosines, strict=True)
    }


@cache
def _seasons() -> dict[str, tuple[int, ...]]:
    return {row["kind"]: _months(row["months"]) for row in _table("seasons.csv")}


@cache
def _differences() -> dict[frozenset[str], dict[str, str]]:
    return {
        frozenset((row["kind"], row["other"])): {
            language: text for language, text in row.items() if language not in ("kind", "other")
        }
        for row in _table("apart.csv")
    }


def _months(written: str) -> tuple[int, ...]:
    """Return the months of ranges such as ``11-5`` (November to May) or ``3-6 9-11``, in order."""
    months: list[int] = []
    for part in written.split():
        first, last = map(int, part.split("-"))
        months += [(month - 1) % 12 + 1 for month in range(first, (last if last >= first else last + 12) + 1)]
    return tuple(months)


def _table(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(resources.files("fruits.recogniser").joinpath(name).read_text("utf-8").splitlines()))
