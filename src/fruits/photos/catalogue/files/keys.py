"""Listing photos below a prefix of a bucket: keys are assembled into the folders that they would be on a disk.

The folders of a large prefix are listed side by side. The result does not depend on the order of listing. An inventory of a
bucket takes the same way from keys to photos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from threading import Lock
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fruits.photos.catalogue.builder import CatalogueBuilder
from fruits.photos.catalogue.files.folders import SUFFIXES, Labels, neighbours
from fruits.photos.catalogue.files.own_folders import OwnFolders
from fruits.photos.catalogue.names import is_system_folder, split_of_source
from fruits.photos.decoding.formats import HEAD_BYTES, is_photo
from fruits.photos.reading.access import Access
from fruits.photos.reading.reading import THREADS
from fruits.photos.reading.tables import is_damaged_table
from fruits.storage.objects import AbsentError, NoPathError, ObjectInfo, Objects
from fruits.storage.tables.spool import SortedRuns, Spool

#: What a listing says of each object.
LISTED: Final = pa.schema([("key", pa.large_string()), ("size", pa.int64()), ("version", pa.large_string())])
_ROWS_AT_ONCE: Final = 8192
#: Folders of a bucket that are listed at the same time.
_LISTINGS: Final = 16
#: Objects of a folder that are listed before it is divided: less than one response of S3, which then costs nothing more.
_PAGE: Final = 200
#: A listing is divided until it has this many folders, and at most this deep.
_ENOUGH: Final = 64
_MAX_DEPTH: Final = 4
#: More folders are not listed one by one: each costs a request, and a response without folders holds a thousand objects.
_MOST_FOLDERS: Final = 10_000
#: If more than this share of a folder's first objects lie directly in it, it holds photos and is not divided.
_OWN: Final = 0.1


def add_keys(builder: CatalogueBuilder, objects: Objects, listed: Spool, others: Iterable[str]) -> None:
    """Add every photo among the objects of a prefix, folder by folder.

    Parameters
    ----------
    builder : CatalogueBuilder
    objects : Objects
        The prefix.
    listed : Spool
        Its objects, schema ``LISTED``, sorted by key.
    others : iterable of str
        Names of the other sources, as in :func:`fruits.photos.catalogue.files.folders.add_folder`.
    """
    root = f"{objects.root}/"
    builder.lies_below(root)
    written = OwnFolders.in_bucket(objects, keys_of(listed))
    name = objects.root.rpartition("/")[2]
    folders = _Folders(builder, root, Labels(builder, split_of_source(name, others)), written)
    for batch in listed.batches():
        unknown = _photos_by_content(objects, batch)
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            rows = (column.to_pylist() for column in batch.slice(start, _ROWS_AT_ONCE).columns)
            for at, (key, size, version) in enumerate(zip(*rows, strict=True), start):
                folders.add(key, size, version, unknown.get(at))
    folders.close()


def keys_of(listed: Spool) -> Iterator[pa.Array]:
    """Yield the keys of a listing, batch by batch."""
    for batch in listed.batches(["key"]):
        yield batch.column("key")


@dataclass(slots=True)
class _Folder:
    """A folder of a bucket whose objects are still being listed."""

    parts: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    has_folders: bool = False


class _Folders:
    """Assembles objects, sorted by key, into folders.

    In the order of keys, everything below a folder is contiguous; its own files and its subfolders are interleaved. Therefore
    only the folders above the present object are kept.
    """

    def __init__(self, builder: CatalogueBuilder, root: str, labels: Labels, written: OwnFolders) -> None:
        self._builder, self._root, self._labels, self._written = builder, root, labels, written
        self._access = Access.to([root])
        self._open = [_Folder(())]
        self._left: str | None = None

    def add(self, key: str, size: int, version: str, is_photo: bool | None) -> None:
        *above, name = key.split("/")
        parts = tuple(above)
        for depth, part in enumerate((*parts, name), 1):
            path = "/".join((*parts, name)[:depth])
            if reason := self._reason(path, part, is_folder=depth <= len(parts)):
                if path != self._left:  # a folder counts once, as on disk
                    self._builder.skip(reason, path)
                self._left = path
                # As on disk, where a folder written by fruits is recognised only once it is opened.
                self._reach(parts[: depth - 1]).has_folders |= reason == self._written.REASON
                return
        folder = self._reach(parts)
        if is_photo is None or is_photo:
            folder.names.append(name)
            folder.sizes.append(size)
            folder.versions.append(version)
        elif size:
            is_damaged = is_damaged_table(self._root + key, self._access)
            self._builder.skip("damaged table" if is_damaged else "not an image", key)
        # An empty object without a suffix is how many tools mark a folder.

    def close(self) -> None:
        self._reach(())
        self._finish(self._open.pop())
        self._labels.close()

    def _reason(self, path: str, part: str, *, is_folder: bool) -> str | None:
        """Return why an object or a whole folder is skipped; None if it is not."""
        if part.startswith("."):
            return "hidden"
        if is_folder and self._written.has(path):
            return self._written.REASON
        return "system folder" if is_folder and is_system_folder(part) else None

    def _reach(self, parts: tuple[str, ...]) -> _Folder:
        """Finish the folders that do not contain the given one, and open those on the way to it."""
        while self._open[-1].parts != parts[: len(self._open[-1].parts)]:
            self._finish(self._open.pop())
        while len(self._open[-1].parts) < len(parts):
            self._open[-1].has_folders = True
            self._open.append(_Folder(parts[: len(self._open)]))
        return self._open[-1]

    def _finish(self, folder: _Folder) -> None:
        builder, parts = self._builder, folder.parts
        self._labels.count_empty(parts, has_folders=folder.has_folders, has_photos=bool(folder.names))
        if not folder.names:
            return
        if (meaning := self._labels.of(parts)) is None:
            for name in folder.names:
                builder.skip("no label", "/".join((*parts, name)))
            return
        label, split = meaning
        groups = neighbours(builder, parts, folder.names)
        for name, size, version, group in zip(folder.names, folder.sizes, folder.versions, groups, strict=True):
            key = "/".join((*parts, name))
            builder.add(self._root + key, key, size, version, label=label, split=split, group=group)


def sorted_by_key(runs: SortedRuns) -> Spool:
    """Return objects, schema ``LISTED``, sorted by key. Not every store lists in this order (S3's directory buckets do not)."""
    listed = Spool(LISTED, "key")
    for table in runs.merged():
        listed.append(table)
    return listed.close()


def list_prefix(builder: CatalogueBuilder, objects: Objects) -> Spool:
    """Return all objects, sorted by key; the folders of a large listing are listed side by side."""
    folders: list[_Listing] = []
    runs, adding = SortedRuns("key"), Lock()

    def add(batch: pa.RecordBatch) -> None:
        with adding:
            runs.add(batch)

    with ThreadPoolExecutor(_LISTINGS, thread_name_prefix="list") as pool:
        running = {pool.submit(_Listing, objects, "", 0, add)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            folders += (one.result() for one in done)
            for folder, depth in ((name, one.result().depth + 1) for one in done for name in one.result().folders):
                deepest = depth if len(folders) + len(running) < _ENOUGH else _MAX_DEPTH
                running.add(pool.submit(_Listing, objects, folder, deepest, add))
    folders.sort(key=lambda one: one.folder)  # they end in any order
    for one in folders:
        for key in one.skipped:
            builder.skip("key that is no path", key)
    return sorted_by_key(runs)


class _Listing:
    """The objects below a folder. If it is large and holds folders rather than photos: those directly in it, and its folders.

    Parameters
    ----------
    objects : Objects
    folder : str
        Relative to the root; empty for the root.
    depth : int
        Levels between the root and the folder. At the greatest depth it is listed as one.
    add : callable
        Called with the objects, schema ``LISTED``, a batch at a time.
    """

    def __init__(self, objects: Objects, folder: str, depth: int, add: Callable[[pa.RecordBatch], None]) -> None:
        self.folder, self.depth = folder, depth
        self.folders: tuple[str, ...] = ()
        self.skipped: list[str] = []
        self._put = add
        found = objects.list(folder, leave=self.skipped.append, page=_PAGE)
        first = list(islice(found, _PAGE))
        inside = len(folder) + 1 if folder else 0
        own = sum("/" not in one.key[inside:] for one in first)
        if len(first) == _PAGE and own <= _OWN * _PAGE and depth < _MAX_DEPTH:
            with suppress(NoPathError):  # then only a full listing works
                folders, beside = objects.level(folder)
                if len(folders) <= _MOST_FOLDERS:
                    self.folders = folders
                    self.skipped.clear()
                    self._add(beside)
                    return
        self._add(chain(first, found))

    def _add(self, found: Iterable[ObjectInfo]) -> None:
        rest = iter(found)
        while some := list(islice(rest, _ROWS_AT_ONCE)):
            rows = zip(*((one.key, one.size_bytes, one.version) for one in some), strict=True)
            arrays = [pa.array(column, kind) for column, kind in zip(rows, LISTED.types, strict=True)]
            self._put(pa.RecordBatch.from_arrays(arrays, schema=LISTED))


def _photos_by_content(objects: Objects, listed: pa.RecordBatch) -> dict[int, bool]:
    """Return, for each row whose name has no suffix of a photo, whether its first bytes are those of a photo."""
    names = pc.utf8_lower(listed["key"])
    known = pc.match_substring_regex(names, rf"[^/]\.({'|'.join(suffix[1:] for suffix in sorted(SUFFIXES))})$")
    hidden = pc.match_substring_regex(names, r"(^|/)\.")
    rows = np.flatnonzero(~pc.or_(known, hidden).to_numpy(zero_copy_only=False))
    if not len(rows):
        return {}
    keys = listed["key"].take(pa.array(rows)).to_pylist()
    sizes = listed["size"].take(pa.array(rows)).to_pylist()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="sniff") as pool:
        found: dict[int, bool] = {}
        for start in range(0, len(rows), _ROWS_AT_ONCE):  # bounds the number of queued requests
            some = slice(start, start + _ROWS_AT_ONCE)
            answers = pool.map(lambda key, size: size > 0 and _begins_like_photo(objects, key), keys[some], sizes[some])
            found |= zip(rows[some].tolist(), answers, strict=True)
    return found


def _begins_like_photo(objects: Objects, key: str) -> bool:
    try:
        return is_photo(objects.read_range(key, 0, HEAD_BYTES))
    except AbsentError:
        return False
