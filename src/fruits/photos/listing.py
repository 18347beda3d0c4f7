"""Where photos are listed: folders on disk, prefixes of a bucket, packs, manifests and single photos.

The same folders and names give the same labels, splits, groups and hashes wherever they lie. Only names, sizes and times are
read, and the first bytes of files whose suffix says nothing.
"""

from __future__ import annotations

import os
import stat as stats
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fruits.config import is_utf8
from fruits.errors import CatalogueError
from fruits.photos.draft import SPLIT_NAMES, Draft, stable_hash
from fruits.photos.films import number_frames
from fruits.photos.formats import HEAD_BYTES, is_photo
from fruits.photos.manifest import Row, read_manifest
from fruits.photos.packs import Pack, find_pack
from fruits.photos.reading import THREADS, place_of
from fruits.storage.objects import AbsentError, Found, Objects, is_remote, opened, reach

#: Photos whose frame numbers fall into the same span of this length count as neighbours. 30 of the 328 frames in which
#: Fruits-360 turns a fruit once are 33 degrees.
FRAMES_PER_GROUP: Final = 30

# The second line is listed although it will be rejected: whoever has such photos should read why, not wonder where they went.
_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"}) | frozenset(
    {".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx"}
)
_MANIFEST_SUFFIXES: Final = (".csv", ".parquet")
_ROWS_AT_ONCE: Final = 8192


def add_source(draft: Draft, source: str) -> None:
    """Add the photos of a folder, a prefix of a bucket, a pack, a manifest, or (unlabelled) a single photo.

    Raises
    ------
    CatalogueError
        If the source is missing or cannot be used.
    StoreError
        If a bucket refuses.
    """
    draft.start(source)
    if is_remote(source):
        _add_remote(draft, source.rstrip("/"))
        return
    if not is_utf8(str(Path(source).absolute())):
        raise CatalogueError(f"{source!r}: its name is not UTF-8, which tables cannot hold; rename the folder")
    path = Path(source)
    try:
        path.stat()
    except FileNotFoundError:
        pass  # said below
    except OSError as exc:
        raise CatalogueError(
            f"'{source[:200]}' cannot be read ({exc.strerror}); check its name and permissions"
        ) from exc
    if path.is_dir():
        root = path.resolve()
        if (pack := find_pack(str(root))) is not None:
            _add_pack(draft, pack)
        else:
            _walk(draft, root)
    elif path.suffix.lower() in _MANIFEST_SUFFIXES and path.is_file():
        _add_manifest(draft, str(path.resolve()))
    elif path.is_file() and not draft.labelled:
        file = path.resolve()
        draft.lies_below(f"{file.parent}/".replace("//", "/"))
        _add_file(draft, str(file), path.name, path.stat(), label=None, split=None, group=None)
    elif path.exists():
        raise CatalogueError(f"'{source}' is a file; expected a folder of photos or a manifest (.csv, .parquet)")
    else:
        raise CatalogueError(f"'{source}' does not exist; expected a folder of photos or a manifest (.csv, .parquet)")


def _add_remote(draft: Draft, source: str) -> None:
    reach(source)
    if source.lower().endswith(_MANIFEST_SUFFIXES):
        _add_manifest(draft, source)
        return
    if (pack := find_pack(source)) is not None:
        _add_pack(draft, pack)
        return
    if _add_prefix(draft, opened(source)):
        return
    objects, key = place_of(source)
    found = objects.look(key) if key else None
    if found is not None and not draft.labelled:
        draft.lies_below(source[: source.rindex("/") + 1])
        name = source.rpartition("/")[2]
        draft.add(source, name, found.size_bytes, found.version, label=None, split=None)
    elif found is not None:
        raise CatalogueError(f"'{source}' is an object; expected a prefix with photos or a manifest (.csv, .parquet)")
    else:
        raise CatalogueError(f"nothing is stored below '{source}'; expected photos: check bucket and prefix")


def _add_pack(draft: Draft, pack: Pack) -> None:
    if draft.labelled and not pack.labelled:
        raise CatalogueError(
            f"the photos in pack '{pack.root}' have no labels; expected a pack made without --unlabelled"
        )
    draft.lies_below(pack.uri(""))
    for batch in pack.catalogue(labelled=draft.labelled):
        draft.add_batch(batch)
    draft.from_manifest |= draft.labelled and pack.from_manifest


def _add_manifest(draft: Draft, manifest: str) -> None:
    """Add the photos that a manifest names, asking for the size and version of each."""
    draft.lies_below(manifest[: manifest.rindex("/") + 1])
    rows = read_manifest(manifest, SPLIT_NAMES, labelled=draft.labelled)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="look") as pool:  # starts threads only when something is asked
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            asked = [row for row in some if is_remote(row.uri)]
            looks = pool.map(_look, (row.uri for row in asked))
            for row in some:
                _add_row(draft, row, next(looks) if is_remote(row.uri) else None)
    draft.from_manifest = True


def _add_row(draft: Draft, row: Row, found: Found | None) -> None:
    group = stable_hash(row.key) if row.group is None else -1 - stable_hash(row.group)
    # Photos of one group, which the manifest says show the same thing, go to the same split and sample.
    key = row.key if row.group is None else row.group
    if found is not None:
        draft.add(row.uri, key, found.size_bytes, found.version, label=row.label, split=row.split, group=group)
        return
    try:
        stat = None if is_remote(row.uri) else os.stat(row.uri)  # noqa: PTH116 - a Path per row costs as much again
    except OSError:
        stat = None
    if stat is None:
        # The stage will say "failed", with the reason, and try again next time.
        draft.add(row.uri, key, 0, "missing", label=row.label, split=row.split, group=group)
    else:
        _add_file(draft, row.uri, key, stat, label=row.label, split=row.split, group=group)


def _look(uri: str) -> Found | None:
    objects, key = place_of(uri)
    try:
        return objects.look(key)
    except ValueError:  # a name that no object can have, such as one with two slashes in a row
        return None


def _add_prefix(draft: Draft, objects: Objects) -> bool:
    """Add every photo below a prefix, folder by folder; return whether there is any object."""
    root = f"{objects.root}/"
    draft.lies_below(root)
    listed = _listed(objects)
    if not listed.num_rows:
        return False
    unknown = _photos_by_content(objects, listed)
    folders = _Folders(draft, root)
    row = 0
    for batch in listed.to_batches(_ROWS_AT_ONCE):
        columns = (batch.column(name).to_pylist() for name in ("key", "size", "version"))
        for key, size, version in zip(*columns, strict=True):
            folders.add(key, size, version, unknown.get(row))
            row += 1
    folders.close()
    return True


def _walk(draft: Draft, root: Path) -> None:
    """Add every photo below ``root``; folders are visited once per way down, never in a circle."""
    draft.lies_below(f"{root}/".replace("//", "/"))
    stack: list[tuple[str, tuple[str, ...], frozenset[tuple[int, int]]]] = [(str(root), (), frozenset())]
    while stack:
        folder, parts, above = stack.pop()
        try:
            stat = os.stat(folder)  # noqa: PTH116 - a Path per folder would reject names that are not UTF-8
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as exc:
            if not parts:
                raise CatalogueError(f"'{root}' cannot be read ({exc.strerror}); check its permissions") from exc
            draft.leave("unreadable", "/".join(parts))
            continue
        me = (stat.st_dev, stat.st_ino)
        if me in above:
            draft.leave("symlink loop", "/".join(parts))
            continue
        folders, files = [], []
        for entry in found:
            if not is_utf8(entry.name):
                draft.leave("name is not UTF-8", "/".join((*parts, entry.name)))
            elif entry.name.startswith("."):
                draft.leave("hidden", "/".join((*parts, entry.name)))
            elif _is_folder(entry):
                folders.append(entry)
            else:
                files.append(entry)
        stack.extend((entry.path, (*parts, entry.name), above | {me}) for entry in reversed(folders))
        photos = [entry for entry in files if _looks_like_photo(draft, entry, parts)]
        if not folders and not photos and parts and parts[-1].lower() not in SPLIT_NAMES:
            draft.leave("empty label", "/".join(parts))
        _add_folder(draft, photos, parts, root.name)


def _add_folder(draft: Draft, photos: list[os.DirEntry[str]], parts: tuple[str, ...], root_name: str) -> None:
    if (meaning := _meaning(draft, parts, root_name)) is None:
        for entry in photos:
            draft.leave("no label", "/".join((*parts, entry.name)))
        return
    label, split = meaning
    for entry, group in zip(photos, _neighbours(parts, [entry.name for entry in photos]), strict=True):
        key = "/".join((*parts, entry.name))
        try:
            stat = entry.stat()
        except OSError:
            draft.leave("unreadable", key)
        else:
            _add_file(draft, entry.path, key, stat, label=label, split=split, group=group)


def _add_file(
    draft: Draft, uri: str, key: str, stat: os.stat_result, *, label: str | None, split: str | None, group: int | None
) -> None:
    if not stats.S_ISREG(stat.st_mode):
        draft.leave("not a file", key)  # opening a named pipe would wait for ever
        return
    draft.add(uri, key, stat.st_size, f"{stat.st_mtime_ns}-{stat.st_size}", label=label, split=split, group=group)


def _meaning(draft: Draft, parts: tuple[str, ...], root_name: str) -> tuple[str | None, str | None] | None:
    """Return label and split of the photos in a folder; None if they have no label but need one."""
    if not draft.labelled:
        return None, None
    if not parts or parts[-1].lower() in SPLIT_NAMES:
        return None
    above = (root_name, *parts[:-1])  # the root too: `fruits run data/Training data/Test` means what it says
    split = next((SPLIT_NAMES[part.lower()] for part in reversed(above) if part.lower() in SPLIT_NAMES), None)
    return unicodedata.normalize("NFC", parts[-1]).strip(), split


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symlink to itself; asking for its size will say so
        return False


def _neighbours(parts: tuple[str, ...], names: list[str]) -> Iterator[int]:
    """Yield a group per file name: the series it is numbered in, and the span its number falls into.

    A name without digits is a group of its own.
    """
    for name, numbered in zip(names, number_frames(names), strict=True):
        if numbered is None:
            yield stable_hash("/".join((*parts, name)))
        else:
            series, frame = numbered
            yield stable_hash("/".join((*parts, series, str(frame // FRAMES_PER_GROUP))))


def _looks_like_photo(draft: Draft, entry: os.DirEntry[str], parts: tuple[str, ...]) -> bool:
    if has_photo_suffix(entry.name):
        return True
    try:
        # Only a regular file may be opened: reading a pipe would wait for ever.
        if entry.is_file():
            with open(entry.path, "rb") as file:  # noqa: PTH123
                if is_photo(file.read(HEAD_BYTES)):
                    return True
    except OSError:
        draft.leave("unreadable", "/".join((*parts, entry.name)))
        return False
    draft.leave("not an image", "/".join((*parts, entry.name)))
    return False


def has_photo_suffix(name: str) -> bool:
    """Whether a file is called like a photo."""
    return os.path.splitext(name)[1].lower() in _SUFFIXES  # noqa: PTH122 - 5 times faster than a Path per file


@dataclass(slots=True)
class _Folder:
    """A folder of a bucket whose objects are still coming."""

    parts: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    has_folders: bool = False


class _Folders:
    """Objects in the order of their names, put together into folders again.

    All that lies below a folder comes in one go, but for its own files, between which its folders come. So only the folders
    above the present object are held.
    """

    def __init__(self, draft: Draft, root: str) -> None:
        self._draft, self._root = draft, root
        self._root_name = root.rstrip("/").rpartition("/")[2]
        self._open = [_Folder(())]
        self._hidden: str | None = None

    def add(self, key: str, size: int, version: str, is_photo: bool | None) -> None:
        *above, name = key.split("/")
        parts = tuple(above)
        for depth, part in enumerate((*parts, name), 1):
            if part.startswith("."):
                path = "/".join((*parts, name)[:depth])
                if path != self._hidden:  # a hidden folder counts once, as on disk
                    self._draft.leave("hidden", path)
                self._hidden = path
                self._reach(parts[: depth - 1])
                return
        folder = self._reach(parts)
        if is_photo is None or is_photo:
            folder.names.append(name)
            folder.sizes.append(size)
            folder.versions.append(version)
        elif size:
            self._draft.leave("not an image", key)
        # An empty object without a suffix is how many tools mark a folder.

    def close(self) -> None:
        self._reach(())
        self._finish(self._open.pop())

    def _reach(self, parts: tuple[str, ...]) -> _Folder:
        """Finish the folders that the present one is not in, and open those that lead to it."""
        while self._open[-1].parts != parts[: len(self._open[-1].parts)]:
            self._finish(self._open.pop())
        while len(self._open[-1].parts) < len(parts):
            self._open[-1].has_folders = True
            self._open.append(_Folder(parts[: len(self._open)]))
        return self._open[-1]

    def _finish(self, folder: _Folder) -> None:
        draft, parts = self._draft, folder.parts
        if not folder.has_folders and not folder.names and parts and parts[-1].lower() not in SPLIT_NAMES:
            draft.leave("empty label", "/".join(parts))
        if (meaning := _meaning(draft, parts, self._root_name)) is None:
            for name in folder.names:
                draft.leave("no label", "/".join((*parts, name)))
            return
        label, split = meaning
        groups = _neighbours(parts, folder.names)
        for name, size, version, group in zip(folder.names, folder.sizes, folder.versions, groups, strict=True):
            key = "/".join((*parts, name))
            draft.add(self._root + key, key, size, version, label=label, split=split, group=group)


def _listed(objects: Objects) -> pa.Table:
    """Return ``key, size, version`` of all objects, in the order of keys."""
    schema = pa.schema([("key", pa.string()), ("size", pa.int64()), ("version", pa.string())])
    found = ((one.key, one.size_bytes, one.version) for one in objects.list())
    chunks = []
    while some := list(islice(found, _ROWS_AT_ONCE)):
        columns = zip(zip(*some, strict=True), schema.types, strict=True)
        chunks.append(pa.RecordBatch.from_arrays([pa.array(column, kind) for column, kind in columns], schema=schema))
    table = pa.Table.from_batches(chunks, schema)
    keys = table["key"].combine_chunks()
    # Not every store lists in the order of names (S3's directory buckets do not).
    if pc.any(pc.less(keys.slice(1), keys.slice(0, max(0, len(keys) - 1)))).as_py():
        table = table.sort_by("key")
    return table


def _photos_by_content(objects: Objects, listed: pa.Table) -> dict[int, bool]:
    """Return for each row whose name has no photo's suffix whether it begins like a photo."""
    names = pc.utf8_lower(listed["key"])
    known = pc.match_substring_regex(names, rf"[^/]\.({'|'.join(suffix[1:] for suffix in sorted(_SUFFIXES))})$")
    hidden = pc.match_substring_regex(names, r"(^|/)\.")
    rows = np.flatnonzero(~pc.or_(known, hidden).to_numpy())
    keys = listed["key"].take(pa.array(rows)).to_pylist()
    sizes = listed["size"].take(pa.array(rows)).to_pylist()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="sniff") as pool:
        found: dict[int, bool] = {}
        for start in range(0, len(rows), _ROWS_AT_ONCE):  # so that no million of requests is queued
            some = slice(start, start + _ROWS_AT_ONCE)
            answers = pool.map(lambda key, size: size > 0 and _begins_like_photo(objects, key), keys[some], sizes[some])
            found |= zip(rows[some].tolist(), answers, strict=True)
    return found


def _begins_like_photo(objects: Objects, key: str) -> bool:
    try:
        return is_photo(objects.read_range(key, 0, HEAD_BYTES))
    except AbsentError:
        return False
