"""Store of submitted photos, in a folder or a bucket: keys, identity and quarantine.

A store carries the identity of its database, so that another database does not treat its photos as orphans. ``<id>.jpg`` is a
photo; ``.quarantine/<id>.jpg`` is one without a row, until it is deleted or its row exists again. All other names are hidden, so
that ``fruits apply`` lists only photos. Independent of the database.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from fruits.errors import NotFoundError, StoreError
from fruits.storage.objects import AbsentError, Objects
from fruits.storage.outputs.marker import mark
from fruits.storage.sanitising import json_text

#: Id of a submission and of its photo: 128 random bits.
ID: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_FILE: Final = re.compile(r"([A-Za-z0-9_-]{22})\.jpg(#\d+)?")
_IDENTITY: Final = ".fruits-identity"
_QUARANTINE: Final = ".quarantine"


class PhotoStore:
    """The photos of one service.

    Parameters
    ----------
    objects : Objects
        Store of the photos; contains nothing else.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects, self.root = objects, objects.root
        objects.make_private()

    def write(self, name: str, photo: bytes) -> None:
        """Write a photo."""
        self._objects.write(photo_key(name), photo)

    def read(self, name: str) -> bytes | None:
        """Return a photo, also from quarantine; None if there is none."""
        key = photo_key(name)
        data = self._objects.read_if_present(key)
        return data if data is not None else self._objects.read_if_present(f"{_QUARANTINE}/{key}")

    def delete(self, name: str) -> None:
        """Delete a photo from the store and from quarantine, with the partial files of killed writes."""
        # In this order: a photo restored from quarantine in the meantime is found under its regular key.
        for key in (f"{_QUARANTINE}/{photo_key(name)}", photo_key(name)):
            self._objects.delete(key)
            for piece in self._pieces(key):
                with suppress(FileNotFoundError):
                    piece.unlink()

    def names(self) -> Iterator[str]:
        """Yield the ids of all photos, each once, without those in quarantine."""
        if self._objects.is_local:
            # obstore does not list the partial files of killed writes.
            yield from {found.group(1) for name in os.listdir(self.root) if (found := _FILE.fullmatch(name))}  # noqa: PTH208
            return
        for one in self._objects.list():
            if found := _FILE.fullmatch(one.key):
                yield found.group(1)

    # --- Identity ---------------------------------------------------------------------------------------------------

    def identity(self) -> str | None:
        """Return the identity of the database that these photos belong to; None if it is not set."""
        data = self._objects.read_if_present(_IDENTITY)
        if data is None:
            return None
        try:
            return str(json.loads(data)["database"])
        except (ValueError, KeyError, TypeError):
            return "unreadable"  # matches no database: nothing is deleted before the operator has checked

    def claim(self, identity: str) -> str:
        """Set the identity unless it is set; return the identity now stored. Of concurrent calls, exactly one sets it."""
        mark(self._objects, "photos")
        if self._objects.put_if_absent(_IDENTITY, _said(identity)):
            return identity
        return self.identity() or identity

    def set_identity(self, identity: str) -> None:
        """Set the identity, replacing any other."""
        mark(self._objects, "photos")
        self._objects.write(_IDENTITY, _said(identity))

    # --- Quarantine -------------------------------------------------------------------------------------------------

    def quarantine(self, name: str) -> None:
        """Move a photo to quarantine, with the partial files of killed writes."""
        key = photo_key(name)
        with suppress(AbsentError):  # deleted by its sender or moved by another process meanwhile
            self._objects.move(key, f"{_QUARANTINE}/{key}")
        for piece in self._pieces(key):
            with suppress(AbsentError):
                self._objects.move(piece.name, f"{_QUARANTINE}/{piece.name}")

    def restore(self, name: str) -> None:
        """Move a photo back from quarantine."""
        with suppress(AbsentError):
            self._objects.move(f"{_QUARANTINE}/{photo_key(name)}", photo_key(name))

    def quarantined(self) -> dict[str, float]:
        """Return the ids in quarantine, each with the time it was moved there, in seconds since 1970."""
        since: dict[str, float] = {}
        if self._objects.is_local:
            with suppress(FileNotFoundError), os.scandir(Path(self.root, _QUARANTINE)) as entries:
                for entry in entries:
                    if found := _FILE.fullmatch(entry.name):
                        with suppress(FileNotFoundError):
                            since[found.group(1)] = entry.stat().st_mtime
            return since
        for one in self._objects.list(_QUARANTINE):
            if found := _FILE.fullmatch(one.key.rpartition("/")[2]):
                since[found.group(1)] = one.modified_s
        return since

    def _pieces(self, key: str) -> list[Path]:
        """Return the partial files that killed writes left on a local disk."""
        return list(Path(self.root).glob(f"{key}#*")) if self._objects.is_local else []


class SweepRefusedError(StoreError):
    """The sweep would quarantine photos that may still have rows elsewhere: the operator must decide."""


def photo_key(name: str) -> str:
    """Return the key of a submission's photo.

    Raises
    ------
    NotFoundError
        If the id is malformed.
    """
    if not ID.fullmatch(name):
        raise not_found()
    return f"{name}.jpg"


def not_found() -> NotFoundError:
    """Return the error for an absent submission and for a wrong secret alike."""
    return NotFoundError("there is no such submission; it was deleted, has had its time, or never was")


def _said(identity: str) -> bytes:
    return json_text({"database": identity}).encode()
