"""Erasure of submissions, in an order that survives being killed between any two steps.

1. The row becomes a tombstone that holds only its id; its evaluations are deleted. 2. The photo is deleted. 3. The row is
deleted. 4. Remains in the database's files are overwritten (``Database.scrub``). The next call finishes an interrupted erasure:
tombstones can be queried, and the transaction that writes one also records that the files must be scrubbed. Photos without a row
(orphans) go to quarantine for a week first, and only if they are few and belong to this database. Permissions are checked by the
callers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from sqlalchemy import ColumnElement, and_, delete, select, update

from fruits.service.submissions.database import Database
from fruits.service.submissions.photo_store import ID, PhotoStore, SweepRefusedError, not_found, photo_key
from fruits.service.submissions.tables import EvaluationRow, SubmissionRow

__all__ = ["ID", "QUARANTINE_S", "Erasure", "not_found", "photo_key"]

#: Submissions deleted per batch: few transactions for a day's worth, none of them long.
_AT_ONCE: Final = 200
#: Rows without a photo that are deleted in one transaction.
_RECEIPTS_AT_ONCE: Final = 5000
#: Erasing rewrites a table of PostgreSQL, or the file of SQLite; if it is large, at most this often. Photo and row are deleted
#: by then.
_SCRUB_EVERY_S: Final = 60.0
#: Time for which an orphaned photo stays in quarantine and can be restored.
QUARANTINE_S: Final = 7 * 86400
#: If a larger share of the photos is orphaned, rows are assumed to be missing and nothing is moved.
_LARGEST_SHARE: Final = 0.05
_ADVICE: Final = (
    "give the database that these photos belong to, or its latest backup; if this one is right: "
    "fruits submissions purge ... --adopt, which puts photos without a submission into quarantine for a week, then deletes them"
)
_ROW: Final = SubmissionRow
_EMPTY: Final = {column.name: None for column in SubmissionRow.__table__.columns if column.nullable}


class Erasure:
    """Permanent deletion of submissions.

    Parameters
    ----------
    database : Database
    photos : PhotoStore
    """

    def __init__(self, database: Database, photos: PhotoStore) -> None:
        self._database, self._photos = database, photos
        self._scrubbed = -_SCRUB_EVERY_S
        self._scrubbing = threading.Lock()

    def erase(self, ids: Sequence[str], condition: ColumnElement[bool] | None = None) -> int:
        """Delete rows and photos of some submissions; return how many existed. The caller must call :meth:`scrub`.

        With a condition, only rows that still meet it are deleted: a slow writer may have finished in the meantime.
        """
        with self._database.writing() as connection:
            tombstone = update(_ROW).where(_ROW.id.in_(ids)).values(_EMPTY | {"state": "deleting"})
            connection.execute(tombstone if condition is None else tombstone.where(condition))
            self._database.request_scrub(connection)
            dead = connection.execute(
                select(_ROW.id, _ROW.has_photo).where(_ROW.id.in_(ids), _ROW.state == "deleting")
            ).all()
            ids = [row.id for row in dead]
            connection.execute(delete(EvaluationRow).where(EvaluationRow.submission_id.in_(ids)))
        for row in dead:
            if row.has_photo:
                self._delete_photo(row.id)
        with self._database.writing() as connection:
            return connection.execute(delete(_ROW).where(_ROW.id.in_(ids))).rowcount

    def erase_all(self, condition: ColumnElement[bool]) -> int:
        """Delete all submissions that meet a condition; return how many."""
        count = 0
        while True:
            with self._database.reading() as connection:
                ids = list(connection.execute(select(_ROW.id).where(condition).limit(_AT_ONCE)).scalars())
            if not ids:
                return count
            count += self.erase(ids, condition)

    def drop_receipts(self, before_s: int) -> int:
        """Delete receipts of photos that were not stored and are older than a time; return how many."""
        old = and_(_ROW.has_photo.is_(False), _ROW.created_s < before_s, _ROW.state == "kept")
        count, last = 0, _RECEIPTS_AT_ONCE
        while last == _RECEIPTS_AT_ONCE:
            some = select(_ROW.id).where(old).limit(_RECEIPTS_AT_ONCE)
            with self._database.writing() as connection:
                last = connection.execute(delete(_ROW).where(_ROW.id.in_(some.scalar_subquery()))).rowcount
                if last:
                    self._database.request_scrub(connection)
            count += last
        return count

    def drop_answers_without_submission(self) -> int:
        """Delete evaluations whose submission is gone; return how many.

        A version of fruits that does not know evaluations may run beside this one during an upgrade, and delete submissions.
        """
        return self._database.drop(EvaluationRow, EvaluationRow.submission_id.not_in(select(_ROW.id)))

    def sweep(self, *, adopt: bool = False) -> None:
        """Move orphaned photos to quarantine; delete those quarantined for a week, restore those whose rows exist again.

        A row is always written before its photo. So a photo that is listed first and then has no row is an orphan.

        Parameters
        ----------
        adopt : bool
            Whether the operator confirmed that the photos belong to this database.

        Raises
        ------
        SweepRefusedError
            If the store belongs to another database, or so many photos are orphaned that rows must be missing. Nothing was
            changed.
        """
        mine, photos = self._database.identity(), self._photos
        theirs = photos.identity()
        if theirs not in (None, mine) and not adopt:
            raise self._refused(f"belong to another database ({theirs[:8]}; this one is {mine[:8]})")
        listed, nobodys = 0, list[str]()
        for some in _batches(photos.names()):
            listed += len(some)
            nobodys += self._unnamed(some)
        if nobodys and not adopt:
            if not self._has_rows():
                raise self._refused(f"are {listed:,}, and the database names none at all: it is new, or was emptied")
            if len(nobodys) > _LARGEST_SHARE * listed:
                raise self._refused(
                    f"are {listed:,}, and the database does not name {len(nobodys):,} of them: it is older"
                )
        if adopt:
            photos.set_identity(mine)
        elif (
            theirs is None and listed and (first := photos.claim(mine)) != mine
        ):  # another service claimed the store at the same moment
            raise self._refused(f"belong to another database ({first[:8]}; this one is {mine[:8]})")
        for some in _batches(nobodys):
            for name in self._unnamed(some):
                photos.quarantine(name)
        self._look_through_quarantine()

    def scrub(self, *, thorough: bool = False) -> bool:
        """Overwrite deleted data in the database's files; return whether it is done. If it is large, at most once a minute."""
        if not thorough and not self._database.is_scrub_pending():
            return True
        with self._scrubbing:
            wait = 0.0 if self._database.is_quickly_scrubbed or thorough else _SCRUB_EVERY_S
            if time.monotonic() - self._scrubbed < wait:
                return False  # a later call does it
            self._scrubbed = time.monotonic()
            return self._database.scrub(thorough=thorough)

    def _delete_photo(self, name: str) -> None:
        self._photos.delete(name)

    def _look_through_quarantine(self) -> None:
        since = self._photos.quarantined()
        for some in _batches(since):
            unnamed = set(self._unnamed(some))
            for name in unnamed:
                if since[name] < time.time() - QUARANTINE_S:
                    self._delete_photo(name)
            back = [name for name in some if name not in unnamed]
            for name in back:
                self._photos.restore(name)
            for name in self._unnamed(back, ("kept", "writing")):  # erased while it was being restored
                self._delete_photo(name)

    def _unnamed(self, ids: Sequence[str], states: Sequence[str] = ("kept", "writing", "deleting")) -> list[str]:
        """Return the ids that have no row in one of these states."""
        with self._database.reading() as connection:
            statement = select(_ROW.id).where(_ROW.id.in_(ids), _ROW.state.in_(states))
            named = set(connection.execute(statement).scalars())
        return [name for name in ids if name not in named]

    def _has_rows(self) -> bool:
        with self._database.reading() as connection:
            return connection.execute(select(_ROW.id).where(_ROW.has_photo.is_(True)).limit(1)).first() is not None

    def _refused(self, why: str) -> SweepRefusedError:
        return SweepRefusedError(f"no photo was quarantined: the photos in '{self._photos.root}' {why}; {_ADVICE}")


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while some := list(islice(rest, _AT_ONCE)):
        yield some
