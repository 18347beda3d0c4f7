"""Everything kept about a submission: photo and answer if its owner agreed, else a receipt and the day; what was said about it.

Steps are in such an order that a killed process leaves nothing that nobody knows of. Kept: a row that says *writing*, then the
photo, then the row says *kept*; so no photo exists that no row names. Forgotten: see ``forgetting.py``. What was begun,
:meth:`Submissions.recover` finishes. Knows nothing of HTTP, and nothing of who sent the photo: that is not kept at all.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from sqlalchemy import ColumnElement, Row, and_, func, insert, or_, select, tuple_, update

from fruits.errors import ConfigError, StoreError
from fruits.service.submissions.database import Database, SubmissionRow
from fruits.service.submissions.erasure import Erasure
from fruits.service.submissions.photo_store import ID, PhotoStore, not_found, photo_key
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
_DAY_S: Final = 86_400
#: Names in one question to the database.
_NAMES_AT_ONCE: Final = 500
#: A row that says "writing" for so long belongs to a process that is no more.
_WRITING_S: Final = 600
_ROW: Final = SubmissionRow
#: Columns that only a photo that is kept fills.
_OF_ANSWER: Final = (
    "may_show", "outcome", "kind", "variety", "label", "probability", "strangeness", "language", "model", "features",
)  # fmt: skip


class Submissions:
    """The submissions of one service.

    Parameters
    ----------
    database : Database
    photos : Objects
        Where photos rest; holds nothing else.
    keep_days : int
        For how many days anything is kept.
    feedback_hours : int
        How many hours into the next day (UTC) receipts of photos that were not kept remain, so that feedback can be given.

    Raises
    ------
    StoreError
        From every method, if database or store refuse.
    """

    def __init__(
        self, database: Database, photos: Objects, *, keep_days: int, feedback_hours: int = FEEDBACK_HOURS
    ) -> None:
        if keep_days < 1:
            raise ConfigError(f"keep_days is {keep_days}; expected at least 1")
        self._feedback = timedelta(hours=feedback_hours)
        self._database, self._photos, self.keep_days = database, PhotoStore(photos), keep_days
        self._erasure = Erasure(database, self._photos)

    # --- The visitor ------------------------------------------------------------------------------------------------

    def add(self, answer: NewSubmission) -> Receipt:
        """Keep a photo with its answer and features; where no photo is given, a receipt and the day."""
        return self.add_many([answer])[0]

    def add_many(self, answers: Sequence[NewSubmission]) -> list[Receipt]:
        """Keep several answers in one commit, all or none; return their receipts in the same order."""
        receipts = [Receipt(_random_name(16), _random_name(24)) for _ in answers]
        photos = [
            (receipt.id, answer.photo)
            for receipt, answer in zip(receipts, answers, strict=True)
            if answer.photo is not None
        ]
        rows = [_row(receipt, answer) for receipt, answer in zip(receipts, answers, strict=True)]
        if rows:
            try:
                with self._database.writing() as connection:
                    connection.execute(insert(_ROW.__table__), rows)  # type: ignore[arg-type]
            except Exception:
                # A connection may break off when all is written: then the rows say so.
                if not self._are_there([receipt.id for receipt in receipts]):
                    raise
        if photos:
            names = [name for name, _ in photos]
            try:
                for name, photo in photos:
                    self._photos.write(name, photo)
                with self._database.writing() as connection:
                    written = update(_ROW).where(_ROW.id.in_(names), _ROW.state == "writing").values(state="kept")
                    kept = connection.execute(written).rowcount
                if kept < len(names):  # it took so long that another process tidied up
                    raise StoreError("the photo took too long to be stored; try again")
            except BaseException:
                # The visitor gets no receipt, so nobody could ask for its deletion. What fails here too, recover() does.
                with suppress(StoreError):
                    self._erasure.erase([receipt.id for receipt in receipts])
                    for name in names:  # whose row is gone already
                        self._photos.delete(name)
                raise
        return receipts

    def feedback(
        self, submission_id: str, secret: str, right: bool, label: str | None = None, note: str | None = None
    ) -> None:
        """Keep the visitor's word on an answer; the last word counts.

        Raises
        ------
        NotFoundError
            If there is no such submission or the secret is another's.
        """
        self._owned(submission_id, secret, ("kept",))
        said = {
            "was_right": right,
            "said_label": (clean_line(label) or None) if label else None,
            "note": (clean_text(note) or None) if note else None,
            "feedback_s": _day_s(time.time()),
        }
        with self._database.writing() as connection:
            # SQLite overwrites the word before; PostgreSQL keeps it until its table is rewritten.
            changed = connection.execute(
                update(_ROW).where(_ROW.id == submission_id, _ROW.state == "kept").values(said)
            ).rowcount
        if not changed:
            raise not_found()

    def delete(self, submission_id: str, secret: str) -> None:
        """Forget a submission: when this returns, row, photo and features are gone. May be called again if it failed.

        Raises
        ------
        NotFoundError
            If there is no such submission (any more) or the secret is another's.
        """
        self._owned(submission_id, secret, ("kept", "deleting"))
        self._erase([submission_id])

    def of(self, submission_id: str, secret: str) -> Submission:
        """Return what is stored of a submission to whom it belongs.

        Raises
        ------
        NotFoundError
            If there is no such submission or the secret is another's.
        """
        self._owned(submission_id, secret, ("kept",))
        return self.get(submission_id)

    def retract(self, receipts: Sequence[Receipt]) -> None:
        """Forget submissions whose receipts reached nobody, so that nobody could have them deleted."""
        self._erase([receipt.id for receipt in receipts])

    def shown(self, ids: Sequence[str]) -> set[str]:
        """Return which of some submissions are there and may be seen by others."""
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
            With a photo and without the owner's decision; said to be wrong; decided; with a photo.
        cursor : str, optional
            Of the page before.
        limit : int
            Between 1 and 200.

        Raises
        ------
        ConfigError
            If there is no such filter or the cursor is none that was given.
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
        return Page(tuple(map(_submission, rows)), f"{rows[-1].created_s}.{rows[-1].id}" if more else None)

    def counts(self) -> dict[str, int]:
        """Return how many submissions each filter gives, and how many there are in all."""
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
        photo_key(submission_id)  # a name that is none must not reach the database, which may not take its letters
        with self._database.reading() as connection:
            row = connection.execute(
                select(_ROW.__table__).where(_ROW.id == submission_id, _ROW.state == "kept")
            ).one_or_none()
        if row is None:
            raise not_found()
        return _submission(row)

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
        """Decide what a photo shows; the last decision counts.

        Parameters
        ----------
        submission_id : str
        decision : {"confirmed", "corrected", "refused"}
            The answer's label stands; ``label`` is right; the photo is not to be learnt from.
        label : str, optional
            Needed to correct.
        reviewer : str
            Whose decision it is: the name of the token.

        Raises
        ------
        NotFoundError
            If there is no such submission.
        ConfigError
            If the decision is none, or lacks its label.
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
        }
        with self._database.writing() as connection:
            changed = connection.execute(
                update(_ROW).where(_ROW.id == submission_id, _ROW.state == "kept").values(values)
            ).rowcount
        if not changed:
            raise not_found()
        return self.get(submission_id)

    def remove(self, submission_id: str) -> None:
        """Forget a submission at the owner's word, as :meth:`delete` does at the visitor's.

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

    def learnable(self) -> Iterator[Submission]:
        """Yield what the next recogniser may learn from: with a photo, confirmed or corrected; newest first."""
        cursor: str | None = None
        while True:
            page = self.page("reviewed", cursor, 200)
            for one in page.submissions:
                if one.has_photo and one.decision in ("confirmed", "corrected"):
                    yield one
            if (cursor := page.cursor) is None:
                return

    # --- Time passes ------------------------------------------------------------------------------------------------

    def recover(self) -> int:
        """Finish what killed processes left: tombstones, rows that still say writing, files that hold what was deleted.

        Called at the start and every minute. Returns how many submissions were forgotten by it.
        """
        abandoned = and_(_ROW.state == "writing", _ROW.created_s < int(time.time()) - _WRITING_S)
        count = self._erasure.erase_all(or_(_ROW.state == "deleting", abandoned))
        self._erasure.scrub()
        return count

    def purge(self, now: datetime | None = None, *, thorough: bool = False, adopt: bool = False) -> int:
        """Forget what has had its time, set photos aside that no row names; return how many submissions were forgotten.

        Parameters
        ----------
        now : datetime, optional
        thorough : bool
            Also make the database's files forget at once, however long they are locked for it.
        adopt : bool
            Whether photos of another database, or too many that no row names, become this one's to forget.

        Raises
        ------
        SweepRefusedError
            If photos that no row names must not be touched before a person had a look. All else was done.
        """
        before = (now or datetime.now(UTC)) - timedelta(days=self.keep_days)
        count = self._erasure.erase_all(_ROW.created_s < int(before.timestamp()))
        count += self._erasure.drop_receipts(_day_s(((now or datetime.now(UTC)) - self._feedback).timestamp()))
        self._erasure.scrub(thorough=thorough)
        self._erasure.sweep(adopt=adopt)
        return count

    def quarantined(self) -> int:
        """Return how many photos that no row names are set aside."""
        return len(self._photos.quarantined())

    def _erase(self, ids: Sequence[str]) -> None:
        self._erasure.erase(ids)
        # Row and photo are gone, and told so. That the files must be cleaned is written down: see recover().
        with suppress(StoreError):
            self._erasure.scrub()

    def _are_there(self, ids: Sequence[str]) -> bool:
        with suppress(StoreError), self._database.reading() as connection:
            return connection.execute(select(func.count()).where(_ROW.id.in_(ids))).scalar() == len(ids)
        return False

    def _owned(self, submission_id: str, secret: str, states: Sequence[str]) -> None:
        """Raise NotFoundError unless there is such a submission and it belongs to who asks."""
        found: bytes | None = None
        if ID.fullmatch(submission_id):
            with self._database.reading() as connection:
                found = connection.execute(
                    select(_ROW.secret_sha256).where(_ROW.id == submission_id, _ROW.state.in_(states))
                ).scalar()
        if not hmac.compare_digest(found or bytes(32), _hashed(secret)):
            raise not_found()


def _row(receipt: Receipt, answer: NewSubmission) -> dict[str, Any]:
    kept = answer.photo is not None
    row: dict[str, Any] = dict.fromkeys(_OF_ANSWER)
    row |= {
        "id": receipt.id,
        "secret_sha256": _hashed(receipt.secret),
        "state": "writing" if kept else "kept",
        "created_s": int(time.time()) if kept else _day_s(time.time()),
        "has_photo": kept,
    }
    if not kept:
        return row
    return row | {
        "may_show": answer.may_show,
        "outcome": answer.outcome,
        # Of our own bundle, but labels are names of folders, and those may hold anything.
        **{name: clean_line(getattr(answer, name) or "") or None for name in ("kind", "variety", "label")},
        "probability": float(answer.probability),
        # Infinity is a number to SQLite and PostgreSQL, but none in JSON.
        "strangeness": float(answer.strangeness) if np.isfinite(answer.strangeness) else None,
        "language": clean_line(answer.language, 8),
        "model": answer.model,
        "features": None if answer.features is None else np.asarray(answer.features, "<f4").tobytes(),
    }


def _day_s(seconds: float) -> int:
    """Return when the day (UTC) of a moment began."""
    return int(seconds) // _DAY_S * _DAY_S


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


def _submission(row: Row[Any]) -> Submission:
    values = row._mapping
    given = {name: values[name] for name in Submission.__slots__ if name in values}
    given |= {
        "created": datetime.fromtimestamp(row.created_s, UTC),
        "right": row.was_right,
        "may_show": bool(row.may_show),
    }
    return Submission(**given)


def _random_name(size: int) -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()


def _hashed(secret: str) -> bytes:
    # Random by 192 bits: nothing to guess, so no slow hash.
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
