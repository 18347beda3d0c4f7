"""Answers of the open bundle to stored photos: to test photos, and to photos that an earlier bundle did not know.

Every bundle is asked about every test photo, so that their scores are comparable, and about the photos that were unknown so far,
so that they leave the list of unknown ones once a bundle knows them. All of it concerns photos stored with consent and is deleted
with them. Stores and queries; ``insights`` computes from it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select

from fruits.recogniser.answers import Answer
from fruits.service.submissions.database import Database
from fruits.service.submissions.tables import EvaluationRow, SubmissionRow
from fruits.storage.sanitising import clean_line

#: Unknown photos that are looked at, the newest.
MOST_UNKNOWN: Final = 2000
_ROW: Final = SubmissionRow
_AGAIN: Final = EvaluationRow
_KEPT: Final = and_(_ROW.state == "kept", _ROW.has_photo.is_(True))
_LABELLED: Final = and_(_KEPT, _ROW.decision.in_(("confirmed", "corrected")), _ROW.reviewed_label.is_not(None))
_IN_TEST: Final = and_(_LABELLED, _ROW.split == "test")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The answer of a bundle to a stored photo; ``answer`` is None if the photo could not be read."""

    submission_id: str
    model: str
    answer: Answer | None


class Scored(NamedTuple):
    """A test photo with the answer of a bundle: label and kind that are most probable, and the owner's label."""

    model: str
    label: str | None
    kind: str | None
    truth: str
    evaluated_s: int


class Reviewed(NamedTuple):
    """A reviewed photo with the answer of the open bundle, by the time of which it was not trained on."""

    label: str | None
    kind: str | None
    probability: float
    ood_score: float | None
    truth: str


class UnknownPhoto(NamedTuple):
    """A photo that the open bundle does not know."""

    id: str
    created_s: int
    label: str | None
    said_label: str | None
    decision: str | None
    features: NDArray[np.float32]


class Evaluations:
    """The evaluations of one service.

    Parameters
    ----------
    database : Database
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self, model: str, limit: int) -> list[str]:
        """Return ids of photos that a bundle has not been asked about yet, newest first."""
        asked = exists().where(_AGAIN.submission_id == _ROW.id, _AGAIN.model == model)
        unknown = select(_ROW.id).where(_KEPT, _ROW.outcome == "unknown").order_by(_ROW.created_s.desc())
        newest = unknown.limit(MOST_UNKNOWN).subquery()
        wanted = or_(_IN_TEST, and_(_ROW.id.in_(select(newest.c.id)), _ROW.model != model))
        statement = select(_ROW.id).where(wanted, ~asked).order_by(_ROW.created_s.desc(), _ROW.id).limit(limit)
        with self._database.reading() as connection:
            return list(connection.execute(statement).scalars())

    def add(self, evaluations: Sequence[Evaluation]) -> None:
        """Store answers; photos that were deleted meanwhile are left out. Answers of the same bundle are replaced."""
        rows = {one.submission_id: _row(one) for one in evaluations}
        if not rows:
            return
        with self._database.writing() as connection:
            # FOR SHARE: a deletion of the submission at the same moment waits, then deletes these rows as well.
            there = select(_ROW.id).where(_KEPT, _ROW.id.in_(rows)).with_for_update(read=True)
            kept = [rows[name] for name in connection.execute(there).scalars()]
            self._database.replace(connection, EvaluationRow, kept)

    def drop_older(self, model: str) -> int:
        """Delete answers of other bundles to photos that are not test photos; return how many."""
        in_test = select(_ROW.id).where(_ROW.split == "test")
        return self._database.drop(_AGAIN, and_(_AGAIN.model != model, _AGAIN.submission_id.not_in(in_test)))

    def of(self, submission_id: str) -> list[dict[str, Any]]:
        """Return what is stored of a submission, by bundle, without features."""
        columns = (_AGAIN.model, _AGAIN.outcome, _AGAIN.kind, _AGAIN.label, _AGAIN.probability, _AGAIN.ood_score)
        statement = select(*columns).where(_AGAIN.submission_id == submission_id).order_by(_AGAIN.evaluated_s)
        with self._database.reading() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def test_photos(self) -> int:
        """Return the number of photos in the test set."""
        with self._database.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(_ROW).where(_IN_TEST)).scalar_one())

    def scored(self) -> list[Scored]:
        """Return the answers of every bundle to the test photos."""
        columns = (_AGAIN.model, _AGAIN.label, _AGAIN.kind, _ROW.reviewed_label.label("truth"), _AGAIN.evaluated_s)
        statement = _joined(*columns).where(_IN_TEST, _AGAIN.outcome.is_not(None))
        with self._database.reading() as connection:
            return [Scored._make(row) for row in connection.execute(statement)]

    def reviewed(self, model: str) -> list[Reviewed]:
        """Return reviewed photos with a bundle's answer to them, none of which it was trained on.

        These are test photos, and photos that were sent to this very bundle, so after it was made.
        """
        columns = [
            case((_AGAIN.model.is_not(None), again), else_=first).label(again.name)
            for again, first in (
                (_AGAIN.label, _ROW.label), (_AGAIN.kind, _ROW.kind), (_AGAIN.probability, _ROW.probability),
                (_AGAIN.ood_score, _ROW.ood_score),
            )
        ]  # fmt: skip
        answered = or_(_ROW.model == model, and_(_ROW.split == "test", _AGAIN.outcome.is_not(None)))
        statement = (
            select(*columns, _ROW.reviewed_label)
            .join_from(_ROW, _AGAIN, and_(_AGAIN.submission_id == _ROW.id, _AGAIN.model == model), isouter=True)
            .where(_LABELLED, answered)
        )
        with self._database.reading() as connection:
            rows = connection.execute(statement).all()
        return [Reviewed._make(row) for row in rows if row.probability is not None]

    def unknown(self, model: str) -> list[UnknownPhoto]:
        """Return the newest photos that a bundle does not know, with its features; none that the owner refused."""
        about = (_ROW.id, _ROW.created_s, _ROW.label, _ROW.said_label, _ROW.decision)
        usable = and_(_KEPT, or_(_ROW.decision.is_(None), _ROW.decision != "refused"))
        first = select(*about, _ROW.features).where(usable, _ROW.outcome == "unknown", _ROW.model == model)
        again = _joined(_ROW.id, _ROW.created_s, _AGAIN.label, _ROW.said_label, _ROW.decision, _AGAIN.features).where(
            usable, _ROW.outcome == "unknown", _ROW.model != model, _AGAIN.model == model, _AGAIN.outcome == "unknown"
        )
        found: dict[str, UnknownPhoto] = {}
        with self._database.reading() as connection:
            for statement in (first, again):
                newest = statement.order_by(_ROW.created_s.desc(), _ROW.id).limit(MOST_UNKNOWN)
                for *values, features in connection.execute(newest):
                    if features:
                        found[values[0]] = UnknownPhoto._make((*values, np.frombuffer(features, "<f4")))
        return sorted(found.values(), key=lambda one: (-one.created_s, one.id))[:MOST_UNKNOWN]

    def feedback_labels(self) -> list[tuple[str, int]]:
        """Return the labels that visitors gave in feedback on stored photos, each with its count; not of refused ones."""
        usable: ColumnElement[bool] = and_(_KEPT, or_(_ROW.decision.is_(None), _ROW.decision != "refused"))
        statement = (
            select(_ROW.said_label, func.count())
            .where(usable, _ROW.was_right.is_(False), _ROW.said_label.is_not(None))
            .group_by(_ROW.said_label)
        )
        with self._database.reading() as connection:
            return [(str(label), int(count)) for label, count in connection.execute(statement)]


def _joined(*columns: Any) -> Any:
    return select(*columns).join_from(_AGAIN, _ROW, _AGAIN.submission_id == _ROW.id)


def _row(one: Evaluation) -> dict[str, Any]:
    row: dict[str, Any] = {
        "submission_id": one.submission_id, "model": one.model, "evaluated_s": int(time.time()), "outcome": None, "kind": None,
        "label": None, "probability": None, "ood_score": None, "features": None,
    }  # fmt: skip
    if (answer := one.answer) is None:
        return row
    kind, _, probability = answer.kinds[0]
    return row | {
        "outcome": answer.outcome,
        "kind": clean_line(kind) or None,
        "label": clean_line(answer.labels[0]) or None,
        "probability": float(probability),
        "ood_score": float(answer.ood_score) if np.isfinite(answer.ood_score) else None,
        "features": np.asarray(answer.features, "<f4").tobytes() if answer.outcome == "unknown" else None,
    }
