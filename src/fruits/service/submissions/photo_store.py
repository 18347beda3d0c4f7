"""The photos that people let us keep, in a folder or a bucket: under which key, whose they are, and what is in quarantine.

A store carries the identity of the database whose photos it holds, so that no other database takes them for nobody's.
``<id>.jpg`` is a photo; ``.quarantine/<id>.jpg`` one that no row named, until it is deleted for good or its row is back. All
names but those of photos are hidden, so that ``fruits apply`` lists photos alone. Knows nothing of rows.
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
from fruits.storage.marker import mark
from fruits.storage.objects import AbsentError, Objects
from fruits.storage.sanitising import json_text

#: Of submissions, and of their photos: 128 random bits.
ID: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_FILE: Final = re.compile(r"([A-Za-z0-9_-]{22})\.jpg(#\d+)?")
_IDENTITY: Final = ".fruits-identity"
_QUARANTINE: Final = ".quarantine"


class PhotoStore:
    """The photos of one service.

    Parameters
    ----------
    objects : Objects
        Where photos rest; holds nothing else.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects, self.root = objects, objects.root
        objects.make_private()

    def write(self, name: str, photo: bytes) -> None:
        """Keep a photo."""
        self._objects.write(photo_key(name), photo)

    def read(self, name: str) -> bytes | None:
        """Return a photo, also one in quarantine; None if there is none."""
        key = photo_key(name)
        data = self._objects.read_if_present(key)
        return data if data is not None else self._objects.read_if_present(f"{_QUARANTINE}/{key}")

    def delete(self, name: str) -> None:
        """Delete a photo wherever it is, and what killed writes left of it."""
        # In this order: what is put back from quarantine meanwhile is found in its old place.
        for key in (f"{_QUARANTINE}/{photo_key(name)}", photo_key(name)):
            self._objects.delete(key)
            for piece in self._pieces(key):
                with suppress(FileNotFoundError):
                    piece.unlink()

    def names(self) -> Iterator[str]:
        """Yield the ids that files are named after, each once; those in quarantine are not among them."""
        if self._objects.is_local:
            # obstore does not list the pieces of killed writes.
            yield from {found.group(1) for name in os.listdir(self.root) if (found := _FILE.fullmatch(name))}  # noqa: PTH208
            return
        for one in self._objects.list():
            if found := _FILE.fullmatch(one.key):
                yield found.group(1)

    # --- Whose photos these are -------------------------------------------------------------------------------------

    def identity(self) -> str | None:
        """Return the identity of the database whose photos these are; None if nothing says it."""
        data = self._objects.read_if_present(_IDENTITY)
        if data is None:
            return None
        try:
            return str(json.loads(data)["database"])
        except (ValueError, KeyError, TypeError):
            return "unreadable"  # no database's: nothing is deleted before someone had a look

    def claim(self, identity: str) -> str:
        """Say whose photos these are, unless it is said; return whose they are then. Of several at once, one is the first."""
        mark(self._objects, "photos")
        if self._objects.put_if_absent(_IDENTITY, _said(identity)):
            return identity
        return self.identity() or identity

    def adopt(self, identity: str) -> None:
        """Say whose photos these are from now on, whatever was said before."""
        mark(self._objects, "photos")
        self._objects.write(_IDENTITY, _said(identity))

    # --- Quarantine -------------------------------------------------------------------------------------------------

    def quarantine(self, name: str) -> None:
        """Put a photo aside, with what killed writes left of it."""
        key = photo_key(name)
        with suppress(AbsentError):  # its owner, or another process, was faster
            self._objects.move(key, f"{_QUARANTINE}/{key}")
        for piece in self._pieces(key):
            with suppress(AbsentError):
                self._objects.move(piece.name, f"{_QUARANTINE}/{piece.name}")

    def restore(self, name: str) -> None:
        """Put a photo back that was set aside."""
        with suppress(AbsentError):
            self._objects.move(f"{_QUARANTINE}/{photo_key(name)}", photo_key(name))

    def quarantined(self) -> dict[str, float]:
        """Return the ids in quarantine, and since when each is there, in seconds since 1970."""
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
        """Return the files that killed writes left on a disk, where they have other names."""
        return list(Path(self.root).glob(f"{key}#*")) if self._objects.is_local else []


class SweepRefusedError(StoreError):
    """Photos would go that may be somebody's: a person must decide."""


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


def _said(identity: str) -> bytes:
    return json_text({"database": identity}).encode()
