"""Listing the photos of a source: a folder on disk, a prefix of a bucket, a pack, a manifest or a single photo.

The same folders and names give the same labels, splits, groups and hashes wherever they are stored. This module determines the
kind of a source and adds the photos of manifests and packs; :mod:`fruits.photos.catalogue.files.folders` walks folders.
"""

from __future__ import annotations

import os
import stat as stats
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fruits.config import is_utf8
from fruits.errors import CatalogueError
from fruits.photos.catalogue.builder import CatalogueBuilder, stable_hash
from fruits.photos.catalogue.files import inventory
from fruits.photos.catalogue.files.folders import add_file, add_folder
from fruits.photos.catalogue.files.keys import add_keys, list_prefix
from fruits.photos.catalogue.manifests.delta import is_delta_table, read_delta
from fruits.photos.catalogue.manifests.manifest import Row, read_manifest
from fruits.photos.catalogue.names import label_of
from fruits.photos.catalogue.shards.shards import Inside, add_shards, inside_folder, inside_prefix, is_shard, shards_of
from fruits.photos.reading.access import Access, is_pattern
from fruits.photos.reading.packs import Pack, find_pack
from fruits.photos.reading.reading import THREADS, place_of
from fruits.storage.objects import ObjectInfo, is_remote, opened, reach, split_uri

_MANIFEST_SUFFIXES: Final = (".csv", ".parquet")
_ROWS_AT_ONCE: Final = 8192
#: Why a photo that a manifest or a link names is skipped.
OUTSIDE: Final = "outside of its source"


def add_sources(builder: CatalogueBuilder, sources: Sequence[str], access: Access | None = None) -> None:
    """Add the photos of folders, prefixes of buckets, packs, manifests and, without labels, single photos.

    Parameters
    ----------
    builder : CatalogueBuilder
    sources : sequence of str
    access : Access, optional
        Where links and manifests may lead; by default within the sources.

    Raises
    ------
    CatalogueError
        If a source is missing or cannot be used.
    StoreError
        If a request to a bucket is refused.
    """
    access = Access.to(sources) if access is None else access
    names = [source.rstrip("/").rpartition("/")[2] for source in sources]
    for at, source in enumerate(sources):
        builder.start(source)
        others = names[:at] + names[at + 1 :]
        if is_remote(source):
            _add_remote(builder, source.rstrip("/"), access, others)
        else:
            _add_local(builder, source, access, others)


def _add_local(builder: CatalogueBuilder, source: str, access: Access, others: Sequence[str]) -> None:
    if not is_utf8(str(Path(source).absolute())):
        raise CatalogueError(f"{source!r}: its name is not UTF-8, which tables cannot hold; rename the folder")
    path = Path(source)
    try:
        path.stat()
    except FileNotFoundError:
        pass  # reported below
    except OSError as exc:
        raise CatalogueError(
            f"'{source[:200]}' cannot be read ({exc.strerror}); check its name and permissions"
        ) from exc
    if path.is_dir():
        root = path.resolve()
        if (pack := find_pack(str(root))) is not None:
            _add_pack(builder, pack)
        elif is_delta_table(str(root)):
            _add_delta(builder, str(root), access)
        elif not _add_inside(builder, inside_folder(root, access), str(root), access, others):
            add_folder(builder, root, access, others)
    elif path.name == inventory.NAME and path.is_file():
        inventory.add_inventory(builder, str(path.resolve()), access, others)
    elif (path.is_file() or is_pattern(source)) and is_shard(str(path.absolute()), access):
        add_shards(builder, *shards_of(source), access, others)
    elif path.suffix.lower() in _MANIFEST_SUFFIXES and path.is_file():
        _add_manifest(builder, str(path.resolve()), access)
    elif path.is_file() and not builder.labelled:
        file = path.resolve()
        builder.lies_below(f"{file.parent}/".replace("//", "/"))
        add_file(builder, str(file), path.name, path.stat(), label=None, split=None, group=None)
    elif path.exists():
        raise CatalogueError(f"'{source}' is a file; expected a folder of photos or a manifest (.csv, .parquet)")
    else:
        raise CatalogueError(f"'{source}' does not exist; expected a folder of photos or a manifest (.csv, .parquet)")


def _add_remote(builder: CatalogueBuilder, source: str, access: Access, others: Sequence[str]) -> None:
    reach(split_uri(source)[0] if is_pattern(source) else source)
    if is_shard(source, access):
        add_shards(builder, *shards_of(source), access, others)
        return
    if source.lower().endswith(_MANIFEST_SUFFIXES):
        _add_manifest(builder, source, access)
        return
    if source.endswith(f"/{inventory.NAME}"):
        inventory.add_inventory(builder, source, access, others)
        return
    if (pack := find_pack(source)) is not None:
        _add_pack(builder, pack)
        return
    if is_delta_table(source):
        _add_delta(builder, source, access)
        return
    listed = list_prefix(builder, opened(source))
    if _add_inside(builder, inside_prefix(opened(source), listed, access), source, access, others):
        return
    if listed.num_rows:
        add_keys(builder, opened(source), listed, others)
        return
    objects, key = place_of(source)
    found = objects.stat(key) if key else None
    if found is not None and not builder.labelled:
        builder.lies_below(source[: source.rindex("/") + 1])
        name = source.rpartition("/")[2]
        builder.add(source, name, found.size_bytes, found.version, label=None, split=None)
    elif found is not None:
        raise CatalogueError(f"'{source}' is an object; expected a prefix with photos or a manifest (.csv, .parquet)")
    else:
        raise CatalogueError(f"nothing is stored below '{source}'; expected photos: check bucket and prefix")


def _add_inside(builder: CatalogueBuilder, inside: Inside, root: str, access: Access, others: Sequence[str]) -> bool:
    """Add what a folder holds in place of photos; return whether there is anything."""
    if inside.shards:
        add_shards(builder, inside.shards, root, access, others)
    for table in inside.tables:
        _add_manifest(builder, table, access)
    return bool(inside.shards or inside.tables)


def _add_pack(builder: CatalogueBuilder, pack: Pack) -> None:
    if builder.labelled and not pack.labelled:
        raise CatalogueError(
            f"the photos in pack '{pack.root}' have no labels; expected a pack with labels: make it again"
        )
    builder.lies_below(pack.uri(""))
    for batch in pack.catalogue(labelled=builder.labelled):
        builder.add_batch(_with_label(builder, batch) if builder.labelled else batch)
    builder.from_manifest |= builder.labelled and pack.from_manifest


def _with_label(builder: CatalogueBuilder, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Skip photos with a blank label; older packs may contain some."""
    labels = batch.column("label")
    blank = pa.array([label_of(label or "") is None for label in labels.dictionary.to_pylist()], pa.bool_())
    none = pc.fill_null(blank.take(labels.indices), True)
    for uri in batch.column("uri").filter(none).to_pylist():
        builder.skip("no label", uri)
    return batch.filter(pc.invert(none))


def _add_manifest(builder: CatalogueBuilder, manifest: str, access: Access) -> None:
    """Add the photos that a manifest names, after looking up size and version of those of which it does not say both."""
    builder.lies_below(manifest[: manifest.rindex("/") + 1])
    _add_rows(builder, read_manifest(manifest, labelled=builder.labelled), access)


def _add_delta(builder: CatalogueBuilder, root: str, access: Access) -> None:
    """Add the photos that a Delta table names."""
    builder.lies_below(f"{root}/".replace("//", "/") if not is_remote(root) else f"{root}/")
    _add_rows(builder, read_delta(root, access, labelled=builder.labelled), access)


def _add_rows(builder: CatalogueBuilder, rows: Iterator[Row], access: Access) -> None:
    links = _Links(access)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="look") as pool:  # starts threads only when there are requests
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            there = {row.uri for row in some if is_remote(row.uri) and access.has(row.uri)}
            asked = {row.uri for row in some if row.uri in there and row.version is None}
            found = dict(zip(asked, pool.map(_stat, asked), strict=True))
            for row in some:
                if not is_utf8(row.uri):
                    builder.skip("name is not UTF-8", row.key)
                elif not is_remote(row.uri):
                    _add_named_file(builder, row, links)
                elif row.uri not in there:
                    builder.skip(OUTSIDE, row.key)
                elif row.version is None:
                    _add_object(builder, row, found[row.uri])
                else:
                    _add_row(builder, row, row.size or 0, row.version)
    builder.from_manifest = True


def _add_object(builder: CatalogueBuilder, row: Row, found: ObjectInfo | None) -> None:
    # A missing object is listed: embedding gives it status "failed" with the reason, and retries in the next run.
    size, version = (0, "missing") if found is None else (found.size_bytes, found.version)
    _add_row(builder, row, size, version)


def _add_row(builder: CatalogueBuilder, row: Row, size: int, version: str) -> None:
    key, group = _key(row)
    builder.add(
        row.uri, key, size, version, label=row.label, split=row.split, group=group, manifest_source=row.source
    )  # fmt: skip


def _add_named_file(builder: CatalogueBuilder, row: Row, links: _Links) -> None:
    key, group = _key(row)
    if row.version is not None:  # links are checked again when the photo is read
        if links.reach(row.uri):
            _add_row(builder, row, row.size or 0, row.version)
        else:
            builder.skip(OUTSIDE, row.key)
        return
    reached, stat = links.stat(row.uri)
    if not reached:
        builder.skip(OUTSIDE, row.key)
    elif stat is None:
        _add_object(builder, row, None)
    else:
        add_file(
            builder, row.uri, key, stat, label=row.label, split=row.split, group=group, manifest_source=row.source
        )  # fmt: skip


def _key(row: Row) -> tuple[str, int]:
    """Return the key that is hashed and the group. Photos of one group have the same key, so they stay in one split."""
    if row.group is None:
        return row.key, stable_hash(row.key)
    return row.group, -1 - stable_hash(row.group)


class _Links:
    """Resolves paths of a manifest; each folder is checked once."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._folders: dict[str, bool] = {}

    def stat(self, path: str) -> tuple[bool, os.stat_result | None]:
        """Return whether a path may be read, and its stat; None if nothing is there."""
        try:
            stat = os.lstat(path)
        except OSError:
            return self._access.reaches(path), None
        if stats.S_ISLNK(stat.st_mode):
            if not self._access.reaches(path):
                return False, None
            try:
                return True, os.stat(path)  # noqa: PTH116 - a Path per row costs as much again
            except OSError:
                return True, None
        return self.reach(path), stat

    def reach(self, path: str) -> bool:
        """Return whether a path that is no link may be read: it lies where its folder lies, whose answer is kept."""
        folder = path.rpartition("/")[0]
        if folder not in self._folders:
            self._folders[folder] = self._access.reaches(f"{folder}/")
        return self._folders[folder] or self._access.reaches(path)  # a place may also be a single file


def _stat(uri: str) -> ObjectInfo | None:
    objects, key = place_of(uri)
    try:
        return objects.stat(key)
    except ValueError:  # a name that no object can have, such as one with two slashes in a row
        return None
