"""What the owner learns from stored photos: scores on the test set, precision by coverage, groups of unknown photos.

Computes from rows of ``reviewed/evaluations.py``, the open bundle and the record of its run. Independent of the database and
of HTTP.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np

from fruits.learning.calibration import LEAST_PROBABLE
from fruits.learning.metrics import FEWEST_PHOTOS, wilson_interval
from fruits.learning.similarity import same_label_cosine, similar_groups
from fruits.recogniser.bundle import Bundle
from fruits.recogniser.taxonomy import Taxonomy
from fruits.service.submissions.reviewed.evaluations import Reviewed, Scored, UnknownPhoto

#: Limits of the probability that are shown: whole per cent, above the lower bound of probable answers.
LIMITS: Final = tuple(percent / 100 for percent in range(math.ceil(100 * LEAST_PROBABLE), 100))
#: Bounds of ``--min-precision``.
_PRECISION: Final = (0.5, 0.999)
MOST_GROUPS: Final = 24
MOST_NAMES: Final = 20
_SAMPLES: Final = 6
#: Names that are shown of a group.
_SAID: Final = 3


class Share(NamedTuple):
    """A share with its 95 % interval by Wilson; None without photos."""

    share: float
    low: float
    high: float

    @classmethod
    def of(cls, right: int, photos: int) -> Share | None:
        """Return the share of ``photos`` that is ``right``."""
        return cls(right / photos, *wilson_interval(right, photos)) if photos else None


class Kinds:
    """The kind of any label, also of one that the bundle does not know."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        pairs = zip(taxonomy.labels, taxonomy.kind_of, strict=True)
        self._known = {label: taxonomy.kind_ids[kind] for label, kind in pairs}
        self._named = {
            plain(name): kind
            for kind, names in zip(taxonomy.kind_ids, taxonomy.kinds, strict=True)
            for name in names.names().values()
        }

    def of(self, label: str | None) -> str | None:
        """Return the identifier of a label's kind; None without a label."""
        if not label:
            return None
        found = self._known.get(label) or self._named.get(plain(label))
        return found or Taxonomy.of([label]).kind_ids[0]

    def knows(self, name: str) -> bool:
        """Return whether a name is a label or the name of a kind."""
        return name in self._known or plain(name) in self._named

    def __contains__(self, label: str) -> bool:
        return label in self._known


def plain(name: str) -> str:
    """Return a name as it is compared: without accents, case and repeated spaces."""
    letters = unicodedata.normalize("NFKD", name)
    return " ".join("".join(one for one in letters if not unicodedata.combining(one)).casefold().split())


# --- The test set -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BundleScore:
    """Score of a bundle on the test photos that are stored now.

    Attributes
    ----------
    identity : str
    since : str
        Day (UTC) on which it was first asked.
    photos : int
    kind, label : Share, optional
        Share with the right kind, and with the right label; None below 30 photos, which are too few to say.
    """

    identity: str
    since: str
    photos: int
    kind: Share | None
    label: Share | None


def scores(scored: Iterable[Scored], kinds: Kinds) -> list[BundleScore]:
    """Return the score of every bundle, in the order in which they were first asked."""
    by_model: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        by_model[one.model].append(one)
    found = []
    for model, rows in sorted(by_model.items(), key=lambda item: (min(one.evaluated_s for one in item[1]), item[0])):
        enough = len(rows) >= FEWEST_PHOTOS
        right_kind = sum(kinds.of(one.truth) == one.kind for one in rows)
        right_label = sum(plain(one.truth) == plain(one.label or "") for one in rows)
        since = datetime.fromtimestamp(min(one.evaluated_s for one in rows), UTC).date().isoformat()
        found.append(
            BundleScore(
                model,
                since,
                len(rows),
                Share.of(right_kind, len(rows)) if enough else None,
                Share.of(right_label, len(rows)) if enough else None,
            )
        )
    return found


# --- Precision against coverage -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """Answers at a limit: at least this probability of the best kind is needed to name it.

    Attributes
    ----------
    limit : float
    answered, right : int
    coverage : Share, optional
        Share of photos that get an answer that names something; None where the record of a run says nothing, because fewer than
        20 photos get one.
    precision : Share, optional
        Share of these answers that is right; None without answers.
    """

    limit: float
    answered: int
    right: int
    coverage: Share | None
    precision: Share | None


@dataclass(frozen=True, slots=True)
class Curve:
    """Points for every limit of ``LIMITS``, of a number of photos."""

    photos: int
    points: tuple[Point, ...]


def curve_of_record(record: Mapping[str, Any] | None) -> Curve | None:
    """Return the curve on the validation photos of a run; None if its record has none."""
    coverage = (record or {}).get("coverage")
    if not coverage or not coverage.get("curve") or not coverage.get("photos"):
        return None
    photos = int(coverage["photos"])
    counted = sorted(
        (float(point["limit"]), round(point["coverage"] * photos), float(point["precision"]))
        for point in coverage["curve"]
    )
    points = []
    for limit in LIMITS:
        # The point of the lowest probability that is still above the limit.
        at = next(((answered, precision) for known, answered, precision in counted if known >= limit), None)
        points.append(_point(limit, at[0], round(at[0] * at[1]), photos) if at else Point(limit, 0, 0, None, None))
    return Curve(photos, tuple(points))


def curve_of_reviewed(reviewed: Sequence[Reviewed], kinds: Kinds, ood_limit: float) -> Curve | None:
    """Return the curve on reviewed photos; None without any."""
    if not reviewed:
        return None
    probability = np.array([one.probability for one in reviewed])
    right = np.array([kinds.of(one.truth) == (one.kind or kinds.of(one.label)) for one in reviewed])
    known = np.array([one.ood_score is not None and one.ood_score <= ood_limit for one in reviewed])
    points = []
    for limit in LIMITS:
        answered = known & (probability >= limit)
        points.append(_point(limit, int(answered.sum()), int(right[answered].sum()), len(reviewed)))
    return Curve(len(reviewed), tuple(points))


def _point(limit: float, answered: int, right: int, photos: int) -> Point:
    return Point(limit, answered, right, Share.of(answered, photos), Share.of(right, answered))


def min_precision_for(curve: Curve, limit: float) -> float | None:
    """Return the ``--min-precision`` for which a run on such photos chooses a limit, or a lower one that is as right.

    A run takes the lowest limit at which the lower end of Wilson's interval of one standard error reaches it. None if no value
    of the option does.
    """
    point = next(one for one in curve.points if one.limit >= limit - 1e-9)
    low, _ = wilson_interval(point.right, point.answered, 1.0)
    value = math.floor(1000 * low) / 1000
    return value if point.answered and _PRECISION[0] <= value <= _PRECISION[1] else None


# --- What is not known --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """Similar photos that the bundle does not know.

    Attributes
    ----------
    photos : int
    reviewed : int
        Photos that the owner confirmed or corrected: the next run can learn them.
    nearest : str, optional
        The label that is most often the most probable one.
    said : list of (str, int)
        Labels that visitors and the owner gave, with counts.
    samples : list of str
        Ids of typical photos.
    """

    photos: int
    reviewed: int
    nearest: str | None
    said: list[tuple[str, int]]
    samples: list[str]


def groups_of(photos: Sequence[UnknownPhoto], bundle: Bundle) -> list[Group]:
    """Return groups of similar photos, largest first; photos that are like no other are left out."""
    photos = [one for one in photos if one.features.shape == (bundle.components,)]
    if len(photos) < 2:
        return []
    rows = np.stack([one.features for one in photos])
    number = similar_groups(rows, same_label_cosine(bundle.gallery.features, bundle.gallery.labels))
    found = []
    for group in range(min(int(number.max()) + 1, MOST_GROUPS)):
        members = np.flatnonzero(number == group)
        if len(members) < 2:
            break
        centre = rows[members].mean(axis=0)
        scaled = rows[members] / np.maximum(np.linalg.norm(rows[members], axis=1, keepdims=True), 1e-12)
        typical = members[np.argsort(-(scaled @ centre), kind="stable")][:_SAMPLES]
        own = [photos[row] for row in members]
        nearest = Counter(one.label for one in own if one.label).most_common(1)
        found.append(
            Group(
                len(own),
                sum(one.decision is not None for one in own),
                nearest[0][0] if nearest else None,
                _counted([(one.said_label, 1) for one in own if one.said_label])[:_SAID],
                [photos[row].id for row in typical],
            )
        )
    return found


def names_not_known(said: Iterable[tuple[str, int]], kinds: Kinds) -> list[tuple[str, int]]:
    """Return names in feedback that are neither a label nor the name of a kind, most frequent first.

    Spellings that differ in case, accents or spaces are counted together, under the most frequent one.
    """
    return _counted([(name, count) for name, count in said if not kinds.knows(name)])[:MOST_NAMES]


def _counted(names: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for name, count in names:
        spellings[plain(name)][name] += count
    key: Callable[[tuple[str, int]], tuple[int, str]] = lambda one: (-one[1], one[0])  # noqa: E731
    return sorted(((min(every.items(), key=key)[0], every.total()) for every in spellings.values()), key=key)
