"""How a submission is forgotten, in an order that survives being killed between any two steps.

The row becomes a tombstone that holds nothing but its name; the photo goes; the row goes; then what the database's files still
hold of it (``Database.scrub``). What was begun, the next call finishes: tombstones are rows that can be found, and the same
transaction that makes one writes down that the files must be scrubbed. Knows nothing of who may delete what.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, and_, delete, select, update

from fruits.errors import NotFoundError
from fruits.service.database import Database, SubmissionRow
from fruits.storage.objects import Objects

#: Of submissions, and of their photos: 128 random bits.
ID: Final = re.compile(r"[A-Za-z0-9_-]{22}")
#: Deleted in one go: a few transactions for a day's worth, none of them long.
_AT_ONCE: Final = 200
#: Rows without a photo that are deleted in one transaction.
_RECEIPTS_AT_ONCE: Final = 5000
#: PostgreSQL rewrites its table to forget; not more often than this. A photo and its row are gone before.
_SCRUB_EVERY_S: Final = 60.0
_ROW: Final = SubmissionRow
_EMPTY: Final = {column.name: None for column in SubmissionRow.__table__.columns if column.nullable}


class Forgetting:
    """Deletes submissions for good.

    Parameters
    ----------
    database : Database
    photos : Objects
    """

    def __init__(self, database: Database, photos: Objects) -> None:
        self._database, self._photos = database, photos
        self._scrubbed = -_SCRUB_EVERY_S
        self._scrubbing = threading.Lock()

    def forget(self, ids: Sequence[str], condition: ColumnElement[bool] | None = None) -> int:
        """Delete rows and photos of some submissions; return how many were there. :meth:`scrub` is left to do.

        With a condition, only those that still meet it: a slow writer may have come to its end meanwhile.
        """
        with self._database.writing() as connection:
            tombstone = update(_ROW).where(_ROW.id.in_(ids)).values(_EMPTY | {"state": "deleting"})
            connection.execute(tombstone if condition is None else tombstone.where(condition))
            self._database.must_scrub(connection)
            dead = select(_ROW.id).where(_ROW.id.in_(ids), _ROW.state == "deleting")
            ids = list(connection.execute(dead).scalars())
        for name in ids:
            self._delete_photo(name)
        with self._database.writing() as connection:
            return connection.execute(delete(_ROW).where(_ROW.id.in_(ids))).rowcount

    def forget_all(self, condition: ColumnElement[bool]) -> int:
        """Delete all submissions that meet a condition; return how many."""
        count = 0
        while True:
            with self._database.reading() as connection:
                ids = list(connection.execute(select(_ROW.id).where(condition).limit(_AT_ONCE)).scalars())
            if not ids:
                return count
            count += self.forget(ids, condition)

    def drop_receipts(self, before_s: int) -> int:
        """Delete receipts of photos that were not kept, of days that began earlier; return how many."""
        old = and_(_ROW.has_photo.is_(False), _ROW.created_s < before_s, _ROW.state == "kept")
        count, last = 0, _RECEIPTS_AT_ONCE
        while last == _RECEIPTS_AT_ONCE:
            some = select(_ROW.id).where(old).limit(_RECEIPTS_AT_ONCE)
            with self._database.writing() as connection:
                last = connection.execute(delete(_ROW).where(_ROW.id.in_(some.scalar_subquery()))).rowcount
                if last:
                    self._database.must_scrub(connection)
            count += last
        return count

    def sweep(self) -> None:
        """Delete photos that no row names.

        Rows come before their photos, so whatever is listed first and then not named is nobody's.
        """
        names: list[str] = []
        for name in self._names():
            names.append(name)
            if len(names) == _AT_ONCE:
                self._delete_unnamed(names)
                names = []
        self._delete_unnamed(names)

    def scrub(self, *, thorough: bool = False) -> bool:
        """Make the database's files forget as well; return whether they have. On PostgreSQL at most once a minute."""
        if not thorough and not self._database.must_be_scrubbed():
            return True
        with self._scrubbing:
            wait = 0.0 if self._database.is_sqlite or thorough else _SCRUB_EVERY_S
            if time.monotonic() - self._scrubbed < wait:
                return False  # a later call does it
            self._scrubbed = time.monotonic()
            return self._database.scrub(thorough=thorough)

    def _delete_photo(self, name: str) -> None:
        key = photo_key(name)
        self._photos.delete(key)
        if self._photos.is_local:
            # A write that was killed leaves its pieces under another name.
            for piece in Path(self._photos.root).glob(f"{key}#*"):
                with suppress(FileNotFoundError):
                    piece.unlink()

    def _names(self) -> Iterator[str]:
        """Yield the ids that the files in the store are named after."""
        folder = Path(self._photos.root)
        # obstore does not list the pieces of killed writes.
        keys = os.listdir(folder) if self._photos.is_local else (found.key for found in self._photos.list())  # noqa: PTH208
        for key in keys:
            name, dot, rest = key.partition(".")
            if ID.fullmatch(name) and dot and re.fullmatch(r"jpg(#\d+)?", rest):
                yield name

    def _delete_unnamed(self, ids: list[str]) -> None:
        if not ids:
            return
        with self._database.reading() as connection:
            named = set(connection.execute(select(_ROW.id).where(_ROW.id.in_(ids))).scalars())
        for name in set(ids) - named:
            self._delete_photo(name)


def photo_key(name: str) -> str:
    """Return under which key the photo of a submission lies.

    Raises
    ------
    NotFoundError
        If no submission is called so.
    """
    if not ID.fullmatch(name):
        raise not_found()
    return f"{name}.jpg"


def not_found() -> NotFoundError:
    """Return the one answer to whoever asks for what is not there, or not theirs."""
    return NotFoundError("there is no such submission; it was deleted, has had its time, or never was")
