"""Folders among the photos that fruits itself wrote: results, bundles, packs, exports, data of a service.

Their images, such as thumbnails and submissions, are no training photos. Older folders have no marker file;
:mod:`fruits.storage.outputs.marker` recognises both.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fruits.errors import CatalogueError, StoreError
from fruits.storage.objects import Objects, uri_of
from fruits.storage.outputs import marker

#: Folders of results that are skipped if a source itself holds results: older versions allowed ``OUT`` to be a folder of photos.
_IN_RESULTS: Final = frozenset({"bundle", "current", "embeddings", "lease", "runs", "service"})
#: Names of objects by which a folder written by fruits is recognised in a bucket.
_MARKS: Final = r"(^|/)(\.fruits|(current|run|audit|manifest|pack)\.json|service\.db|\.fruits-export/ledger\.json)$"
_WORDS: Final = {
    "bundle": "a bundle of 'fruits run'",
    "service": "the data of 'fruits serve', with photos that nobody may have reviewed",
}


class OwnFolders:
    """The folders below a source that fruits wrote.

    Parameters
    ----------
    root : str or None
        Kind of what fruits wrote to the source itself; None if nothing.
    folders : frozenset of str
        Known folders, relative to the source.
    """

    REASON: Final = "written by fruits"

    def __init__(self, root: str | None, folders: frozenset[str] = frozenset()) -> None:
        self._root, self._folders = root, folders

    @classmethod
    def on_disk(cls, root: Path) -> OwnFolders:
        """Inspect a folder; the folders below it are checked during the walk, with :meth:`is_folder`.

        Raises
        ------
        CatalogueError
            If it is a bundle or the data of a service.
        """
        with suppress(StoreError):
            return cls(_kind_of_source(Objects(str(root))))
        return cls(None)

    @classmethod
    def in_bucket(cls, objects: Objects, keys: Iterable[pa.Array]) -> OwnFolders:
        """Inspect a prefix of a bucket, given all of its keys, batch by batch.

        Raises
        ------
        CatalogueError
            As :meth:`on_disk`.
        """
        marks = [key for some in keys for key in some.filter(pc.match_substring_regex(some, _MARKS)).to_pylist()]
        folders = {key.removesuffix(".fruits-export/ledger.json").rpartition("/")[0] for key in marks} - {""}
        ours = frozenset(folder for folder in folders if marker.kind_of(Objects(uri_of(objects.root, folder))))
        return cls(_kind_of_source(objects), ours)

    @property
    def is_ours(self) -> bool:
        """Whether fruits wrote to the source itself."""
        return self._root is not None

    def has_at_root(self, name: str) -> bool:
        """Return whether a folder directly in the source belongs to results in the source."""
        return self._root == "results" and name in _IN_RESULTS

    def has(self, folder: str) -> bool:
        """Return whether fruits wrote a folder of a bucket, given relative to the source."""
        return folder in self._folders or self.has_at_root(folder)

    def is_folder(self, path: str, names: Iterable[str]) -> bool:
        """Return whether fruits wrote a folder on disk, given the names in it."""
        if not marker.may_be_ours(names):
            return False
        with suppress(StoreError):
            return marker.kind_of(Objects(path)) is not None
        return False


def _kind_of_source(objects: Objects) -> str | None:
    kind = marker.kind_of(objects)
    if kind in _WORDS:
        raise CatalogueError(f"'{objects.root}' holds {_WORDS[kind]}; expected photos")
    return kind
