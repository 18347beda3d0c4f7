"""Shards as PHOTOS: folders, prefixes and patterns of files that each hold many photos.

Named one by one (``train-000.tar``), by a pattern (``s3://b/train-{000..146}.tar``), or by their folder, if no photo lies in it.
The split follows from the name of the shard, or of a folder above it. What is in one is listed by
:mod:`fruits.photos.catalogue.shards.tars` and :mod:`fruits.photos.catalogue.shards.tables`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fruits.config import is_utf8
from fruits.errors import CatalogueError
from fruits.photos.catalogue.builder import CatalogueBuilder
from fruits.photos.catalogue.files.folders import SUFFIXES as PHOTO_SUFFIXES
from fruits.photos.catalogue.files.folders import has_photo_suffix
from fruits.photos.catalogue.files.keys import keys_of
from fruits.photos.catalogue.files.own_folders import OwnFolders
from fruits.photos.catalogue.manifests.delta import LOG
from fruits.photos.catalogue.names import is_system_folder, split_of, split_of_source
from fruits.photos.catalogue.shards.tables import add_tables, kind_of_table
from fruits.photos.catalogue.shards.tars import add_tars
from fruits.photos.reading.access import Access, is_pattern
from fruits.storage.objects import Objects, is_remote, opened, split_uri
from fruits.storage.tables.spool import Spool

SUFFIXES: Final = (".tar", ".parquet")
_COMPRESSED: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
#: Files without a shard among them after which a folder is taken for one of photos.
_PATIENCE: Final = 10_000
_MOST_SHARDS: Final = 100_000


def is_shard(source: str, access: Access) -> bool:
    """Return whether a source is a shard or a pattern of shards. A Parquet file without photos is a manifest.

    Raises
    ------
    CatalogueError
        If it is that of a compressed archive, which has no ranges to read.
    """
    if source.lower().endswith(_COMPRESSED):
        raise CatalogueError(f"'{source}' is compressed; expected a .tar as it is: photos are compressed already")
    if is_pattern(source) or not source.lower().endswith(".parquet"):
        return source.lower().endswith(SUFFIXES)
    return kind_of_table(source, access) == "photos"


def add_shards(
    builder: CatalogueBuilder, shards: dict[str, str], root: str, access: Access, others: Iterable[str]
) -> None:
    """Add the photos of shards, in the order of their names.

    Parameters
    ----------
    builder : CatalogueBuilder
    shards : dict of str to str
        Path or uri of each shard to its version.
    root : str
        Folder that the shards lie in.
    access : Access
    others : iterable of str
        Names of the other sources.
    """
    own = split_of_source(root.rstrip("/").rpartition("/")[2], others)
    splits = {shard: _split(shard[len(root) :].lstrip("/")) or own for shard in sorted(shards)}
    for suffix, add in ((".tar", add_tars), (".parquet", add_tables)):
        some = {shard: (shards[shard], split) for shard, split in splits.items() if shard.lower().endswith(suffix)}
        if some:
            add(builder, some, root, access)


def shards_of(source: str) -> tuple[dict[str, str], str]:
    """Return the shards that a name or pattern means, with their versions, and their folder.

    Raises
    ------
    CatalogueError
        If there are none.
    """
    folder, pattern = split_uri(source if is_remote(source) else os.path.abspath(source))  # noqa: PTH100 - links stay
    wanted = list(islice(_expanded(pattern), _MOST_SHARDS + 1))
    if len(wanted) > _MOST_SHARDS:
        raise CatalogueError(f"'{pattern}' means more than {_MOST_SHARDS:,} shards; expected fewer")
    if is_remote(source):
        objects = opened(folder)
        if is_pattern(source):
            _, there = objects.level()
        else:
            there = tuple(found for found in [objects.stat(pattern)] if found is not None)
        names = {found.key: found.version for found in there}
    else:
        listed = os.listdir(folder) if os.path.isdir(folder) else []  # noqa: PTH112, PTH208
        names = {name: "" for name in listed if is_utf8(name)}
    literal = {name for name in wanted if name in names}
    globs = [name for name in wanted if name not in literal and re.search(r"[*?\[]", name)]
    found = literal | {name for name in names if any(fnmatchcase(name, glob) for glob in globs)}
    if not found:
        raise CatalogueError(f"'{source}' does not exist; expected shards of photos (.tar, .parquet)")
    if len(literal) + len(globs) < len(wanted):
        missing = [name for name in wanted if name not in literal and name not in globs]
        raise CatalogueError(
            f"'{source}': {len(missing):,} of {len(wanted):,} shards do not exist, such as '{missing[0]}'; expected all of them"
        )
    return {f"{folder}/{name}": names[name] or _version(f"{folder}/{name}") for name in found}, folder


@dataclass(frozen=True, slots=True)
class Inside:
    """What a folder holds in place of photos.

    Attributes
    ----------
    shards : dict of str to str
        Shards to their versions.
    tables : list of str
        Parquet files that name photos, if there are no shards.
    """

    shards: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)


def inside_folder(root: Path, access: Access) -> Inside:
    """Return the shards or tables below a folder on disk; none if it holds photos. What fruits wrote is left out."""
    found: list[str] = []
    seen = 0
    is_delta = False
    written = OwnFolders.on_disk(root)
    for folder, folders, files in os.walk(root):
        if written.is_ours or (folder != str(root) and written.is_folder(folder, [*folders, *files])):
            folders.clear()
            continue
        is_delta |= LOG in folders
        folders[:] = sorted(name for name in folders if name[0] not in "._" and not is_system_folder(name))
        if any(has_photo_suffix(name) and not name.startswith(".") for name in files):
            return Inside()
        found += [
            f"{folder}/{name}" for name in sorted(files)
            if name.lower().endswith(SUFFIXES) and name[0] not in "._" and is_utf8(f"{folder}/{name}")
        ]  # fmt: skip
        seen += len(files)
        if seen > _PATIENCE and not found:
            return Inside()
    return _judged({shard: _version(shard) for shard in found}, str(root), access, is_delta=is_delta)


def inside_prefix(objects: Objects, listed: Spool, access: Access) -> Inside:
    """Return the shards or tables among the objects of a prefix; none if there are photos. What fruits wrote is left out."""
    root = objects.root
    shard = rf"(^|/)[^/._][^/]*({'|'.join(map(re.escape, SUFFIXES))})$"
    photo = rf"[^/]({'|'.join(map(re.escape, sorted(PHOTO_SUFFIXES)))})$"
    found_shards, is_delta = [], False
    for batch in listed.batches():
        names = pc.utf8_lower(batch.column("key"))
        if pc.any(pc.match_substring_regex(names, photo)).as_py():
            return Inside()
        found_shards.append(batch.filter(pc.match_substring_regex(names, shard)))
        is_delta |= pc.any(pc.match_substring_regex(batch.column("key"), rf"(^|/){LOG}/")).as_py()
    shards = pa.Table.from_batches(found_shards, listed.schema)
    if not shards.num_rows:
        return Inside()
    written = OwnFolders.in_bucket(objects, keys_of(listed))
    if written.is_ours:
        return Inside()
    found = {}
    for key, version in zip(shards["key"].to_pylist(), shards["version"].to_pylist(), strict=True):
        above = key.split("/")[:-1]
        folders = ["/".join(above[: depth + 1]) for depth in range(len(above))]
        if not any(map(written.has, folders)) and not any(part[0] in "._" for part in above):
            found[f"{root}/{key}"] = version
    return _judged(found, root, access, is_delta=is_delta)


def _judged(found: dict[str, str], root: str, access: Access, *, is_delta: bool) -> Inside:
    """Sort Parquet files into those with photos, those that name photos, and others; judged by a folder's first whole one."""
    kinds: dict[str, str] = {}
    for shard in found:
        folder = split_uri(shard)[0]
        if shard.lower().endswith(".parquet") and kinds.get(folder, "damaged") == "damaged":
            kinds[folder] = kind_of_table(shard, access)
    tables = {shard: kinds[split_uri(shard)[0]] for shard in found if shard.lower().endswith(".parquet")}
    inside = Inside({shard: version for shard, version in found.items() if tables.get(shard, "photos") == "photos"})
    if not inside.shards:
        inside = Inside({}, [table for table, kind in tables.items() if kind == "names"])
    if is_delta and (inside.shards or inside.tables):
        raise CatalogueError(
            f"below '{root}' is a Delta table, with files of its older versions; expected the table's own folder as the source: "
            "name that, if its rows name photos, else write what it holds now as Parquet"
        )
    return inside


def _version(path: str) -> str:
    try:
        stat = os.stat(path)  # noqa: PTH116
    except OSError:
        return "missing"
    return f"{stat.st_mtime_ns}-{stat.st_size}"


def _expanded(pattern: str) -> Iterator[str]:
    """Yield the names of a pattern with ranges in braces, as webdataset and shells write them."""
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = int(match[1]), int(match[2])
    width = len(match[1]) if match[1].startswith("0") else 0
    for number in range(min(first, last), max(first, last) + 1):
        yield from _expanded(f"{pattern[: match.start()]}{number:0{width}d}{pattern[match.end() :]}")


def _split(name: str) -> str | None:
    """Return the split that the name of a shard means, or that of the nearest folder above it."""
    for part in reversed(name.split("/")):
        found = {split for word in re.split(r"[\W\d_]+", part) if word and (split := split_of(word))}
        if len(found) == 1:
            return found.pop()
    return None
