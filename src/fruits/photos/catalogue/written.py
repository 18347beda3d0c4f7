"""Which folders among photos fruits itself wrote: results, bundles, packs, exports, what a service keeps.

They hold pictures that nobody gave as photos to learn from, such as thumbnails and what visitors sent. Older ones have no marker;
:mod:`fruits.storage.marker` knows both.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fruits.errors import CatalogueError, StoreError
from fruits.storage import marker
from fruits.storage.objects import Objects, under

#: In results that are named as a source themselves: an older version took photos for ``OUT``, too.
_IN_RESULTS: Final = frozenset({"bundle", "embeddings", "lease", "service"})
#: Names of objects that a folder of ours in a bucket has.
_MARKS: Final = (
    r"(^|/)(\.fruits|run\.json|audit\.json|manifest\.json|pack\.json|service\.db|\.fruits-export/ledger\.json)$"
)
_WORDS: Final = {
    "bundle": "a bundle of 'fruits run'",
    "service": "the data of 'fruits serve', with photos that nobody may have reviewed",
}


class Written:
    """The folders below a source that fruits wrote.

    Parameters
    ----------
    root : str or None
        What fruits wrote to the source itself, if it did.
    folders : frozenset of str
        Known ones, relative to the source.
    """

    REASON: Final = "written by fruits"

    def __init__(self, root: str | None, folders: frozenset[str] = frozenset()) -> None:
        self._root, self._folders = root, folders

    @classmethod
    def on_disk(cls, root: Path) -> Written:
        """Look at a folder; those below it are asked for on the way.

        Raises
        ------
        CatalogueError
            If it holds nothing that could be given as photos.
        """
        with suppress(StoreError):
            return cls(_kind_of_source(Objects(str(root))))
        return cls(None)

    @classmethod
    def in_bucket(cls, objects: Objects, keys: pa.ChunkedArray) -> Written:
        """Look at a prefix, all of whose keys are known.

        Raises
        ------
        CatalogueError
            As :meth:`on_disk`.
        """
        marks = keys.filter(pc.match_substring_regex(keys, _MARKS)).to_pylist()
        folders = {key.removesuffix(".fruits-export/ledger.json").rpartition("/")[0] for key in marks} - {""}
        ours = frozenset(folder for folder in folders if marker.kind_of(Objects(under(objects.root, folder))))
        return cls(_kind_of_source(objects), ours)

    def has_at_root(self, name: str) -> bool:
        """Whether a folder that lies directly in the source is part of results that lie there."""
        return self._root == "results" and name in _IN_RESULTS

    def has(self, folder: str) -> bool:
        """Whether fruits wrote a folder of a bucket, relative to the source."""
        return folder in self._folders or self.has_at_root(folder)

    def is_folder(self, path: str, names: Iterable[str]) -> bool:
        """Whether fruits wrote a folder on disk, in which some names lie."""
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
