"""Which photos there are: one row each, with label, split and version, and a word for everything left aside.

Label = the folder that holds the photo. Split = a folder above it named Training, train, val, Test ...; else by a hash of
the path. A manifest (CSV or Parquet) says both itself. Only file names, sizes and times are read here, so a photo that
cannot be decoded is still in the catalogue. A row never depends on the order in which files are listed.
"""

from __future__ import annotations

import hashlib
import os
import stat as stats
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fruits.config import is_utf8
from fruits.errors import CatalogueError
from fruits.photos.films import number_frames
from fruits.photos.images import is_photo
from fruits.photos.manifest import read_manifest
from fruits.storage.schemas import CATALOGUE

SPLITS: Final = ("train", "val", "test")
SPLIT_NAMES: Final = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
TEST_SHARE: Final = 0.2
#: Photos whose frame numbers fall into the same span of this length count as neighbours. 30 of the 328 frames in which
#: Fruits-360 turns a fruit once are 33 degrees.
FRAMES_PER_GROUP: Final = 30

_PHOTO_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
# Listed although they will be rejected: whoever has them should read why, not wonder where they went.
_FOREIGN_SUFFIXES: Final = frozenset({".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl"})
_MANIFEST_SUFFIXES: Final = frozenset({".csv", ".parquet"})
_EXAMPLES_KEPT: Final = 5
_ROWS_PER_CHUNK: Final = 8192


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The photos of a run and what was left aside.

    Attributes
    ----------
    table : pyarrow.Table
        Schema ``CATALOGUE``, sorted by uri, each uri once.
    split_origin : str
        ``folders``, ``manifest``, ``hash`` or ``mixed``.
    group_origin : str
        ``manifest`` if one says which photos show the same thing, ``names`` (numbers in file names) if none does, ``mixed``.
    sources : dict of str to int
        Photos per source, in the order given.
    left_aside : dict of str to int
        Reason to number of files or folders.
    examples : dict of str to list of str
        Reason to the first few names, made printable.
    """

    table: pa.Table
    split_origin: str
    group_origin: str
    sources: dict[str, int]
    left_aside: dict[str, int]
    examples: dict[str, list[str]]


def list_photos(
    sources: Sequence[str],
    *,
    only: Sequence[str] = (),
    sample: int | None = None,
    seed: int = 0,
    labelled: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Catalogue:
    """List the photos of all sources.

    Parameters
    ----------
    sources : sequence of str
        Folders, manifests or single photos.
    only : sequence of str
        Globs; labels that match none are left aside.
    sample : int, optional
        Keep at most this many photos per label, chosen by a seeded hash of their paths.
    seed : int
        Of the sample.
    labelled : bool
        Without labels (photos that users submitted), label and split stay null and any layout will do.
    progress : callable, optional
        Called with the number of photos found since the last call.

    Returns
    -------
    Catalogue

    Raises
    ------
    CatalogueError
        If a source is missing or unreadable, or there is nothing left to use.
    """
    draft = _Draft(labelled=labelled, progress=progress or (lambda _: None))
    for source in sources:
        if not is_utf8(str(Path(source).absolute())):
            raise CatalogueError(f"{source!r}: its name is not UTF-8, which tables cannot hold; rename the folder")
        draft.start(source)
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
            _walk(draft, path.resolve())
        elif path.suffix.lower() in _MANIFEST_SUFFIXES and path.is_file():
            for row in read_manifest(path.resolve(), SPLIT_NAMES, labelled=labelled):
                draft.add_manifest_row(row)
        elif path.is_file() and not labelled:
            draft.add_file(str(path.resolve()), path.name, path.stat(), label=None, split=None)
        elif path.exists():
            raise CatalogueError(f"'{source}' is a file; expected a folder of photos or a manifest (.csv, .parquet)")
        else:
            raise CatalogueError(
                f"'{source}' does not exist; expected a folder of photos or a manifest (.csv, .parquet)"
            )
    table = draft.finish()
    table = _select(table, draft, only, sample, seed)
    if table.num_rows == 0:
        raise CatalogueError(_nothing_found(sources, draft, only))
    counts = {row["values"]: row["counts"] for row in table["source"].combine_chunks().value_counts().to_pylist()}
    if labelled:
        table, origin = _split_by_hash(table, draft)
    else:
        origin = "none"
    # What sorting took is given back: a run holds the catalogue to its end, beside its workers.
    pa.default_memory_pool().release_unused()
    return Catalogue(
        table,
        origin,
        _group_origin(table["group"].to_numpy()),
        {source: counts.get(source, 0) for source in dict.fromkeys(sources)},
        dict(sorted(draft.left_aside.items())),
        {reason: draft.examples[reason] for reason in sorted(draft.examples)},
    )


def labels_without_training(table: pa.Table) -> dict[str, int]:
    """Return the labels that no training photo has, with their number of photos."""
    labels = table["label"].combine_chunks()
    trained = set(
        labels.filter(pc.equal(table["split"].combine_chunks().cast(pa.string()), "train")).unique().to_pylist()
    )
    counts = {row["values"]: row["counts"] for row in labels.value_counts().to_pylist()}
    return {label: counts[label] for label in sorted(counts) if label not in trained}


def stable_hash(text: str) -> int:
    """Return 63 bits that depend on ``text`` alone, on any machine and in any process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(slots=True)
class _Draft:
    """The catalogue while it grows, in columns: lists of rows would take ten times the memory."""

    labelled: bool
    progress: Callable[[int], None]
    left_aside: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    chunks: list[pa.RecordBatch] = field(default_factory=list)
    pending: list[tuple[object, ...]] = field(default_factory=list)
    codes: dict[str, dict[str, int]] = field(default_factory=lambda: {"label": {}, "split": {}, "source": {}})
    source: str = ""
    root_name: str = ""
    from_manifest: bool = False

    def start(self, source: str) -> None:
        self.source = source
        self._code("source", source)

    def leave(self, reason: str, name: str) -> None:
        self.left_aside[reason] += 1
        if len(self.examples[reason]) < _EXAMPLES_KEPT:
            self.examples[reason].append(name.encode("utf-8", "backslashreplace").decode())

    def add_file(
        self,
        uri: str,
        key: str,
        stat: os.stat_result,
        *,
        label: str | None,
        split: str | None,
        group: int | None = None,
    ) -> None:
        """Add a photo; ``key`` is its path within the source, which decides all that is decided by hash."""
        if not stats.S_ISREG(stat.st_mode):
            self.leave("not a file", key)  # opening a named pipe would wait for ever
            return
        version = f"{stat.st_mtime_ns}-{stat.st_size}"
        self._add(uri, key, stat.st_size, version, label, split, stable_hash(key) if group is None else group)

    def add_manifest_row(self, row: tuple[str, str, str | None, str | None, str | None]) -> None:
        uri, key, label, split, group = row
        number = stable_hash(key) if group is None else -1 - stable_hash(group)
        # Photos of one group, which the manifest says show the same thing, go to the same split and sample.
        key = key if group is None else group
        try:
            stat = Path(uri).stat()
        except OSError:
            # The stage will say "failed", with the reason, and try again next time.
            self._add(uri, key, 0, "missing", label, split, number)
        else:
            self.add_file(uri, key, stat, label=label, split=split, group=number)
        self.from_manifest = True

    def finish(self) -> pa.Table:
        """Return the table, sorted by uri, without second mentions of a photo."""
        self._flush()
        columns = [*CATALOGUE.names, "key"]
        if not self.chunks:
            return pa.table({name: [] for name in columns})
        table = pa.Table.from_batches(self.chunks)
        self.chunks.clear()
        for name, codes in self.codes.items():
            values = pa.array(list(codes), pa.string())
            chunks = [pa.DictionaryArray.from_arrays(chunk, values) for chunk in table[name].chunks]
            table = table.set_column(table.schema.get_field_index(name), name, pa.chunked_array(chunks))
        table = table.sort_by("uri").combine_chunks()
        uris = table["uri"].combine_chunks()
        again = pc.equal(uris.slice(1), uris.slice(0, max(0, len(uris) - 1)))
        if pc.any(again).as_py():
            table = self._without_second_mentions(table, np.append(False, again.to_numpy(zero_copy_only=False)))
        return table

    def _without_second_mentions(self, table: pa.Table, again: np.ndarray) -> pa.Table:
        labels = table["label"].combine_chunks().indices.fill_null(-1).to_numpy()
        splits = table["split"].combine_chunks().indices.fill_null(-1).to_numpy()
        clash = np.flatnonzero(again[1:] & ((labels[1:] != labels[:-1]) | (splits[1:] != splits[:-1])))
        if len(clash):
            one, other = table.slice(int(clash[0]), 2).select(["uri", "label", "split"]).to_pylist()
            what = "label" if one["label"] != other["label"] else "split"
            raise CatalogueError(
                f"'{one['uri']}' is listed with two {what}s, '{one[what]}' and '{other[what]}'; "
                "expected one: remove it from one of the sources"
            )
        for row in np.flatnonzero(again):
            self.leave("listed twice", table["uri"][int(row)].as_py())
        return table.filter(pa.array(~again))

    def _add(
        self, uri: str, key: str, size: int, version: str, label: str | None, split: str | None, group: int
    ) -> None:
        label_code = None if label is None else self._code("label", label)
        split_code = None if split is None else self._code("split", split)
        source_code = self.codes["source"][self.source]
        self.pending.append((uri, label_code, split_code, size, version, source_code, group, stable_hash(key)))
        if len(self.pending) >= _ROWS_PER_CHUNK:
            self._flush()

    def _code(self, column: str, value: str) -> int:
        codes = self.codes[column]
        return codes.setdefault(value, len(codes))

    def _flush(self) -> None:
        if not self.pending:
            return
        names = (*CATALOGUE.names, "key")
        types = (pa.string(), pa.int32(), pa.int8(), pa.int64(), pa.string(), pa.int32(), pa.int64(), pa.int64())
        arrays = [pa.array(column, kind) for column, kind in zip(zip(*self.pending, strict=True), types, strict=True)]
        self.chunks.append(pa.RecordBatch.from_arrays(arrays, names=list(names)))
        self.progress(len(self.pending))
        self.pending.clear()


def _walk(draft: _Draft, root: Path) -> None:
    """Add every photo below ``root``; folders are visited once per way down, never in a circle."""
    draft.root_name = root.name  # `fruits run data/Training data/Test` means what it says
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
        _add_folder(draft, photos, parts)


def _add_folder(draft: _Draft, photos: list[os.DirEntry[str]], parts: tuple[str, ...]) -> None:
    label = split = None
    if draft.labelled:
        if not parts or parts[-1].lower() in SPLIT_NAMES:
            for entry in photos:
                draft.leave("no label", "/".join((*parts, entry.name)))
            return
        label = unicodedata.normalize("NFC", parts[-1]).strip()
        above = (draft.root_name, *parts[:-1])
        split = next((SPLIT_NAMES[part.lower()] for part in reversed(above) if part.lower() in SPLIT_NAMES), None)
    for entry, group in zip(photos, _neighbours(parts, [entry.name for entry in photos]), strict=True):
        try:
            stat = entry.stat()
        except OSError:
            draft.leave("unreadable", "/".join((*parts, entry.name)))
        else:
            draft.add_file(entry.path, "/".join((*parts, entry.name)), stat, label=label, split=split, group=group)


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


def _looks_like_photo(draft: _Draft, entry: os.DirEntry[str], parts: tuple[str, ...]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - 5 times faster than a Path per file
    if suffix in _PHOTO_SUFFIXES or suffix in _FOREIGN_SUFFIXES:
        return True
    try:
        # Only a regular file may be opened: reading a pipe would wait for ever.
        if entry.is_file():
            with open(entry.path, "rb") as file:  # noqa: PTH123
                if is_photo(file.read(12)):
                    return True
    except OSError:
        draft.leave("unreadable", "/".join((*parts, entry.name)))
        return False
    draft.leave("not an image", "/".join((*parts, entry.name)))
    return False


def _select(table: pa.Table, draft: _Draft, only: Sequence[str], sample: int | None, seed: int) -> pa.Table:
    if only and table.num_rows:
        labels = table["label"].combine_chunks()
        wanted = np.array([any(fnmatchcase(label, glob) for glob in only) for label in labels.dictionary.to_pylist()])
        keep = wanted[labels.indices.to_numpy()]
        draft.left_aside["not selected"] += int((~keep).sum())
        table = table.filter(pa.array(keep))
    if sample is not None and table.num_rows:
        labels = table["label"].combine_chunks().indices.to_numpy()
        # A bijection on 64 bits that takes in the seed: a function of path and seed alone, and independent of the split by
        # hash, which takes the largest of the same keys for testing.
        mixed = table["key"].to_numpy().astype(np.uint64) ^ np.uint64(stable_hash(f"sample {seed}"))
        for _ in range(2):
            mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
        order = np.lexsort((mixed, labels))
        rank = np.empty(len(order), np.int64)
        starts = np.flatnonzero(np.r_[True, labels[order][1:] != labels[order][:-1]])
        rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        draft.left_aside["not selected"] += int((rank >= sample).sum())
        table = table.filter(pa.array(rank < sample))
    if not draft.left_aside["not selected"]:
        del draft.left_aside["not selected"]
    return table


def _split_by_hash(table: pa.Table, draft: _Draft) -> tuple[pa.Table, str]:
    """Give every photo without a split one, and a share of test photos to a run that would have none to score on."""
    given = table["split"].combine_chunks()
    # Codes rather than names: at millions of rows, Python strings would be most of the memory.
    code = np.array([SPLITS.index(name) for name in given.dictionary.to_pylist()] or [0], np.int8)
    split = np.where(given.is_null(), -1, code[given.indices.fill_null(0).to_numpy()])
    missing = split < 0
    origin = "mixed" if missing.any() and not missing.all() else "hash" if missing.all() else ""
    if not split.any():
        missing[:] = True
        origin = "hash"
    labels = table["label"].combine_chunks().indices.to_numpy()
    key = table["key"].to_numpy()
    is_test = key >= (1 - TEST_SHARE) * 2.0**63
    # A label's lowest hash always trains, so that chance never leaves a small label without training photos.
    first = np.full(labels.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, labels, key)
    is_test &= key != first[labels]
    split[missing] = np.where(is_test, SPLITS.index("test"), SPLITS.index("train"))[missing]
    column = pa.DictionaryArray.from_arrays(pa.array(split, pa.int8()), pa.array(SPLITS))
    table = table.set_column(2, CATALOGUE.field("split"), column).select(CATALOGUE.names).cast(CATALOGUE)
    return table, origin or ("manifest" if draft.from_manifest else "folders")


def _group_origin(group: np.ndarray) -> str:
    given = group < 0
    return "manifest" if given.all() else "mixed" if given.any() else "names"


def _nothing_found(sources: Sequence[str], draft: _Draft, only: Sequence[str]) -> str:
    where = ", ".join(f"'{source}'" for source in sources)
    aside = "; ".join(
        f"{count} {reason} (such as {draft.examples[reason][0]!r})"
        if draft.examples.get(reason)
        else f"{count} {reason}"
        for reason, count in draft.left_aside.items()
    )
    if only and draft.left_aside.get("not selected"):
        known = ", ".join(sorted(draft.codes["label"])[:8])
        return f"no label in {where} matches {', '.join(map(repr, only))}; labels there: {known}, ..."
    layout = (
        "PHOTOS/<label>/photo.jpg, with or without Training/ and Test/ above it"
        if draft.labelled
        else "JPEG, PNG or WebP files"
    )
    return f"no photos to use in {where}{f' ({aside})' if aside else ''}; expected {layout}"
