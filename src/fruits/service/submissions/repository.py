"""Repository of submissions: photo and answer with consent, otherwise a receipt and the day; feedback and reviews.

The order of steps ensures that a killed process leaves no orphans. To store: insert a row in state *writing*, write the photo,
set the state to *kept*; so every photo has a row. To delete: see ``erasure.py``. :meth:`Submissions.recover` finishes
interrupted steps. Independent of HTTP; nothing about the sender is stored.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, and_, case, func, insert, or_, select, tuple_, update

from fruits.errors import ConfigError, StoreError
from fruits.photos.catalogue.consent import ConsentMark, mark
from fruits.service.submissions.database import Database
from fruits.service.submissions.erasure import Erasure
from fruits.service.submissions.photo_store import ID, PhotoStore, not_found, photo_key
from fruits.service.submissions.reviewed.test_set import split_of
from fruits.service.submissions.rows import day_s, hashed, new_receipts, row_of, submission_of
from fruits.service.submissions.tables import SubmissionRow
from fruits.service.submissions.types import (
    DECISIONS,
    FILTERS,
    Decision,
    Filter,
    NewSubmission,
    Page,
    Receipt,
    Submission,
)
from fruits.storage.objects import Objects
from fruits.storage.sanitising import clean_line, clean_text

__all__ = [
    "DECISIONS",
    "FEEDBACK_HOURS",
    "FILTERS",
    "Decision",
    "Filter",
    "NewSubmission",
    "Page",
    "Receipt",
    "Submission",
    "Submissions",
]

#: Hours into the next day for which a receipt remains, by default.
FEEDBACK_HOURS: Final = 6
#: Ids in one query.
_NAMES_AT_ONCE: Final = 500
#: A row in state "writing" for longer than this was left by a killed process.
_WRITING_S: Final = 600
_ROW: Final = SubmissionRow


class Submissions:
    """The submissions of one service.

    Parameters
    ----------
    database : Database
    photos : Objects
        Store of the photos; contains nothing else.
    keep_days : int
        Days after which everything is deleted.
    feedback_hours : int
        Hours into the next day (UTC) for which receipts of photos that were not stored remain, for feedback.

    Raises
    ------
    StoreError
        From every method, if the database or the store fails.
    """

    def __init__(
        self, database: Database, photos: Objects, *, keep_days: int, feedback_hours: int = FEEDBACK_HOURS
    ) -> None:
        if keep_days < 1:
            raise ConfigError(f"keep_days is {keep_days}; expected at least 1")
        self._feedback = timedelta(hours=feedback_hours)
        self._database, self._photos, self.keep_days = database, PhotoStore(photos), keep_days
        self._erasure = Erasure(database, self._photos)
        #: Folder or prefix of the stored photos.
        self.photo_root = self._photos.root

    # --- The visitor ------------------------------------------------------------------------------------------------

    def add(self, answer: NewSubmission) -> Receipt:
        """Store a photo with its answer and features; without a photo, only a receipt and the day."""
        return self.add_many([answer])[0]

    def add_many(self, answers: Sequence[NewSubmission]) -> list[Receipt]:
        """Store several answers in one commit, all or none; return their receipts in the same order."""
        receipts = new_receipts(len(answers))
        photos = dict[str, bytes]()
        marked = set[str]()
        for receipt, answer in zip(receipts, answers, strict=True):
            if answer.photo is not None:
                # The consent is part of the photo from the start: a manifest may name it where it is.
                with suppress(ValueError):
                    photos[receipt.id] = mark(answer.photo, ConsentMark(receipt.id, answer.may_show))
                    marked.add(receipt.id)
                photos.setdefault(receipt.id, answer.photo)
        rows = [
            row_of(receipt, answer, marked=receipt.id in marked)
            for receipt, answer in zip(receipts, answers, strict=True)
        ]
        if rows:
            try:
                with self._database.writing() as connection:
                    for same in (
                        [row for row in rows if row["has_photo"]],
                        [row for row in rows if not row["has_photo"]],
                    ):
                        if same:  # each of one shape: most columns of a receipt are empty, and need no value
                            connection.execute(insert(_ROW.__table__), same)  # type: ignore[arg-type]
            except Exception:
                # The connection may break after the commit; then the rows exist.
                if not self._all_stored([receipt.id for receipt in receipts]):
                    raise
        if photos:
            names = list(photos)
            try:
                for name, photo in photos.items():
                    self._photos.write(name, photo)
                with self._database.writing() as connection:
                    written = update(_ROW).where(_ROW.id.in_(names), _ROW.state == "writing").values(state="kept")
                    kept = connection.execute(written).rowcount
                if kept < len(names):  # it took so long that recover() in another process deleted the rows
                    raise StoreError("the photo took too long to be stored; try again")
            except BaseException:
                # The visitor gets no receipt and could not request deletion. If this fails too, recover() does it.
                with suppress(StoreError):
                    self._erasure.erase([receipt.id for receipt in receipts])
                    for name in names:  # whose row is already deleted
                        self._photos.delete(name)
                raise
        return receipts

    def feedback(
        self, submission_id: str, secret: str, right: bool, label: str | None = None, note: str | None = None
    ) -> None:
        """Store the visitor's feedback on an answer; it replaces earlier feedback.

        Raises
        ------
        NotFoundError
            If there is no such submission or the secret does not match.
        """
        self._owned(submission_id, secret, ("kept",))
        said = {
            "was_right": right,
            "said_label": (clean_line(label) or None) if label else None,
            "note": (clean_text(note) or None) if note else None,
            "feedback_s": day_s(time.time()),
        }
        with self._database.writing() as connection:
            # SQLite overwrites earlier feedback; PostgreSQL keeps the old row in its file until the table is rewritten.
            changed = connection.execute(
                update(_ROW).where(_ROW.id == submission_id, _ROW.state == "kept").values(said)
            ).rowcount
        if not changed:
            raise not_found()

    def delete(self, submission_id: str, secret: str) -> None:
        """Delete a submission: on return, row, photo and features are deleted. May be called again after a failure.

        Raises
        ------
        NotFoundError
            If there is no such submission (any more) or the secret does not match.
        """
        self._owned(submission_id, secret, ("kept", "deleting"))
        self._erase([submission_id])

    def of(self, submission_id: str, secret: str) -> Submission:
        """Return the stored data of a submission to its sender, who proves it by the secret.

        Raises
        ------
        NotFoundError
            If there is no such submission or the secret does not match.
        """
        self._owned(submission_id, secret, ("kept",))
        return self.get(submission_id)

    def retract(self, receipts: Sequence[Receipt]) -> None:
        """Delete submissions whose receipts were not delivered: their senders could not request deletion."""
        self._erase([receipt.id for receipt in receipts])

    def shown(self, ids: Sequence[str]) -> set[str]:
        """Return the ids of those submissions that exist and may be shown to others."""
        wanted = [name for name in ids if ID.fullmatch(name)]
        found: set[str] = set()
        with self._database.reading() as connection:
            for start in range(0, len(wanted), _NAMES_AT_ONCE):
                some = _ROW.id.in_(wanted[start : start + _NAMES_AT_ONCE])
                statement = select(_ROW.id).where(some, _ROW.state == "kept", _ROW.may_show.is_(True))
                found.update(connection.execute(statement).scalars())
        return found

    # --- The owner --------------------------------------------------------------------------------------------------

    def page(self, which: Filter = "kept", cursor: str | None = None, limit: int = 50) -> Page:
        """Return submissions, newest first.

        Parameters
        ----------
        which : {"pending", "wrong", "reviewed", "kept"}
            With a photo and not yet reviewed; with feedback that the answer was wrong; reviewed; with a photo.
        cursor : str, optional
            From the previous page.
        limit : int
            Between 1 and 200.

        Raises
        ------
        ConfigError
            If the filter is unknown or the cursor malformed.
        """
        conditions: list[ColumnElement[bool]] = [_ROW.state == "kept", _chosen(which)]
        if cursor is not None:
            conditions.append(tuple_(_ROW.created_s, _ROW.id) < tuple_(*_parse_cursor(cursor)))
        limit = max(1, min(limit, 200))
        statement = (
            select(_ROW.__table__)
            .where(and_(*conditions))
            .order_by(_ROW.created_s.desc(), _ROW.id.desc())
            .limit(limit + 1)
        )
        with self._database.reading() as connection:
            rows = connection.execute(statement).all()
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(tuple(map(submission_of, rows)), f"{rows[-1].created_s}.{rows[-1].id}" if more else None)

    def counts(self) -> dict[str, int]:
        """Return the number of submissions per filter and in total."""
        columns = [func.count().filter(_chosen(which)).label(which) for which in FILTERS]
        with self._database.reading() as connection:
            row = connection.execute(select(func.count().label("all"), *columns).where(_ROW.state == "kept")).one()
        return {name: int(value) for name, value in row._mapping.items()}

    def get(self, submission_id: str) -> Submission:
        """Return one submission.

        Raises
        ------
        NotFoundError
        """
        photo_key(submission_id)  # a malformed id must not reach the database, which may reject its characters
        with self._database.reading() as connection:
            row = connection.execute(
                select(_ROW.__table__).where(_ROW.id == submission_id, _ROW.state == "kept")
            ).one_or_none()
        if row is None:
            raise not_found()
        return submission_of(row)

    def photo(self, submission_id: str) -> bytes:
        """Return the JPEG of a submission.

        Raises
        ------
        NotFoundError
            If there is no such submission, or it has no photo.
        """
        data = self._photos.read(submission_id) if self.get(submission_id).has_photo else None
        if data is None:
            raise not_found()
        return data

    def review(self, submission_id: str, decision: Decision, label: str | None = None, *, reviewer: str) -> Submission:
        """Record the owner's decision on a photo; it replaces earlier decisions.

        Parameters
        ----------
        submission_id : str
        decision : {"confirmed", "corrected", "refused"}
            The answer's label is right; ``label`` is right; the photo must not be used for training.
        label : str, optional
            Required for ``corrected``.
        reviewer : str
            Name of the token.

        Raises
        ------
        NotFoundError
            If there is no such submission.
        ConfigError
            If the decision is unknown or its label is missing.
        """
        if decision not in DECISIONS:
            raise ConfigError(f"decision is '{clean_line(str(decision), 40)}'; expected {', '.join(DECISIONS)}")
        found = self.get(submission_id)
        final = {"confirmed": found.label, "corrected": clean_line(label or ""), "refused": None}[decision]
        if decision != "refused" and not final:
            raise ConfigError(f"{decision} without a label; expected the label of what the photo shows")
        values = {
            "decision": decision,
            "reviewed_label": final,
            "reviewer": clean_line(reviewer, 100),
            "reviewed_s": int(time.time()),
            # Once and for all: a photo that a run may have trained on never becomes a test photo, nor does one that a version
            # without splits reviewed.
            "split": func.coalesce(
                _ROW.split, case((_ROW.decision.is_not(None), "train"), else_=split_of(submission_id))
            ),
        }
        with self._database.writing() as connection:
            changed = connection.execute(
                update(_ROW).where(_ROW.id == submission_id, _ROW.state == "kept").values(values)
            ).rowcount
        if not changed:
            raise not_found()
        return self.get(submission_id)

    def remove(self, submission_id: str) -> None:
        """Delete a submission for the owner, as :meth:`delete` does for the visitor.

        Raises
        ------
        NotFoundError
        """
        photo_key(submission_id)
        with self._database.reading() as connection:
            there = connection.execute(
                select(_ROW.id).where(_ROW.id == submission_id, _ROW.state != "writing")
            ).one_or_none()
        if there is None:
            raise not_found()
        self._erase([submission_id])

    def for_training(self) -> Iterator[Submission]:
        """Yield submissions usable for training, newest first: with a photo, confirmed or corrected, not of the test set."""
        return (one for one in self.labelled() if one.split != "test")

    def labelled(self) -> Iterator[Submission]:
        """Yield submissions with a photo that are confirmed or corrected, newest first; those of the test set as well."""
        cursor: str | None = None
        while True:
            page = self.page("reviewed", cursor, 200)
            for one in page.submissions:
                if one.has_photo and one.decision in ("confirmed", "corrected"):
                    yield one
            if (cursor := page.cursor) is None:
                return

    # --- Maintenance ------------------------------------------------------------------------------------------------

    def recover(self) -> int:
        """Finish the work of killed processes: tombstones, rows still in state writing, files not yet scrubbed.

        Called at start-up and every minute. Returns the number of submissions deleted.
        """
        abandoned = and_(_ROW.state == "writing", _ROW.created_s < int(time.time()) - _WRITING_S)
        count = self._erasure.erase_all(or_(_ROW.state == "deleting", abandoned))
        self._erasure.scrub()
        return count

    def purge(self, now: datetime | None = None, *, thorough: bool = False, adopt: bool = False) -> int:
        """Delete expired submissions and move orphaned photos to quarantine; return the number of submissions deleted.

        Parameters
        ----------
        now : datetime, optional
        thorough : bool
            Also scrub the database's files at once, however long that locks them.
        adopt : bool
            Whether this database takes over the photos of another database, or any number of orphaned photos.

        Raises
        ------
        SweepRefusedError
            If orphaned photos must be checked by the operator first. Everything else was done.
        """
        before = (now or datetime.now(UTC)) - timedelta(days=self.keep_days)
        count = self._erasure.erase_all(_ROW.created_s < int(before.timestamp()))
        count += self._erasure.drop_receipts(day_s(((now or datetime.now(UTC)) - self._feedback).timestamp()))
        self._erasure.drop_answers_without_submission()
        self._erasure.scrub(thorough=thorough)
        self._erasure.sweep(adopt=adopt)
        return count

    def quarantined(self) -> int:
        """Return the number of orphaned photos in quarantine."""
        return len(self._photos.quarantined())

    def _erase(self, ids: Sequence[str]) -> None:
        self._erasure.erase(ids)
        # Row and photo are deleted, so report success. The pending scrub is recorded in the database: see recover().
        with suppress(StoreError):
            self._erasure.scrub()

    def _all_stored(self, ids: Sequence[str]) -> bool:
        with suppress(StoreError), self._database.reading() as connection:
            return connection.execute(select(func.count()).where(_ROW.id.in_(ids))).scalar() == len(ids)
        return False

    def _owned(self, submission_id: str, secret: str, states: Sequence[str]) -> None:
        """Raise NotFoundError unless the submission exists and the secret matches."""
        found: bytes | None = None
        if ID.fullmatch(submission_id):
            with self._database.reading() as connection:
                found = connection.execute(
                    select(_ROW.secret_sha256).where(_ROW.id == submission_id, _ROW.state.in_(states))
                ).scalar()
        if not hmac.compare_digest(found or bytes(32), hashed(secret)):
            raise not_found()


def _chosen(which: str) -> ColumnElement[bool]:
    conditions: dict[str, ColumnElement[bool]] = {
        "pending": and_(_ROW.has_photo.is_(True), _ROW.decision.is_(None)),
        "wrong": _ROW.was_right.is_(False),
        "reviewed": _ROW.decision.is_not(None),
        "kept": _ROW.has_photo.is_(True),
    }
    if which not in conditions:
        raise ConfigError(f"state is '{clean_line(which, 40)}'; expected {', '.join(FILTERS)}")
    return conditions[which]


def _parse_cursor(cursor: str) -> tuple[int, str]:
    created, dot, submission_id = cursor.partition(".")
    if not (dot and re.fullmatch(r"[0-9]{1,12}", created) and ID.fullmatch(submission_id)):
        raise ConfigError("the cursor is none that a page gave; begin without one")
    return int(created), submission_id
