"""Upkeep of an embeddings table: rows that nobody needs leave, damage is repaired, small files are merged, dead files deleted.

Runs that read or write the table at the same time are safe: what leaves the table stays on disk until a vacuum, and a vacuum
begins an epoch, after which nothing written before can be committed; see :mod:`fruits.storage.embeddings.table`.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from fruits.errors import counted
from fruits.storage.disk.locks import FolderLock, lock_folder
from fruits.storage.disk.private import make_private_folder
from fruits.storage.embeddings.inventory import ROWS_PER_CHUNK, Inventory
from fruits.storage.embeddings.table import LOG, DamagedError, EmbeddingTable, File, Snapshot, epoch_of
from fruits.storage.objects import AbsentError

#: Chunks with fewer rows are merged by :func:`compact`.
_SMALL: Final = ROWS_PER_CHUNK // 2
_FILES_PER_COMMIT: Final = 64
#: What a file is called on disk until it is whole, and the time after which its writer is taken for dead.
_PIECE: Final = re.compile(r".+\.parquet#\d+")
_UNFINISHED_S: Final = 600.0


def lock_table(stored: EmbeddingTable) -> FolderLock | None:
    """Keep other processes of this machine from removing the table as a whole, as long as the returned object lives."""
    if (folder := stored.objects.local_path(stored.prefix)) is None:
        return None
    while True:
        make_private_folder(folder)
        lock = lock_folder(folder, wait=True)
        if lock is None or lock.is_at(folder):
            return lock


def remove_needless(stored: EmbeddingTable, inventory: Inventory) -> int:
    """Remove the rows that a catalogue does not need from the table; return their number.

    Files with such rows are written again without them; the old ones leave the table, and the disk with the next vacuum.
    """
    kept = {entry.file.name: entry for entry in inventory.file_rows}
    epoch, removed = inventory.snapshot.epoch, 0
    for at in range(0, len(inventory.leaving), _FILES_PER_COMMIT):
        files, added = inventory.leaving[at : at + _FILES_PER_COMMIT], []
        for file in files:
            if (entry := kept.get(file.name)) is not None:
                rows = stored.read(file).filter(pa.array(entry.catalogue_rows >= 0))
                added.append(stored.write(file.shard, rows, epoch))
        if stored.commit(added, files, epoch=epoch):
            removed += sum(file.rows for file in files) - sum(file.rows for file in added)
    return removed


def repair(stored: EmbeddingTable, progress: Callable[[str], None] = lambda _: None) -> int:
    """Verify all bytes of the table; remove damaged files, so that their photos are computed again.

    A damaged log is made again of the undamaged files beside it. No other run may use the table meanwhile.

    Parameters
    ----------
    stored : EmbeddingTable
    progress : callable
        Called with a message for every damaged file.

    Returns
    -------
    int
        Number of damaged files.
    """
    try:
        snapshot = stored.snapshot()
    except DamagedError as exc:
        progress(str(exc).partition(";")[0] + ": made again of the files beside it")
        return 1 + _log_again(stored, progress)
    if snapshot.version < 0 and any(stored.stored()):
        progress(f"the log of '{stored.uri}' is gone: made again of the files beside it")
        return 1 + _log_again(stored, progress)
    damaged = [file for file in snapshot.files.values() if not _is_whole(stored, file)]
    for file in damaged:
        progress(f"file '{stored.key(file.name)}' is damaged: {counted(file.rows, 'photo')} to compute again")
    if damaged:
        stored.commit([], damaged, epoch=snapshot.epoch)
    for file in damaged:
        stored.objects.delete(stored.key(file.name))
    return len(damaged)


def compact(stored: EmbeddingTable) -> int:
    """Merge files of the same chunk, and small chunks with each other; return by how many files the table got smaller.

    Embeddings keep their bits. Sums over chunks that were merged may differ in their last digits from before.
    """
    snapshot, fewer = stored.snapshot(), 0
    for files in _to_merge(snapshot):
        rows = pa.concat_tables(stored.read(file) for file in files)
        chunks = sorted({file.chunk for file in files})
        chunk = chunks[0] if len(chunks) == 1 else f"{hashlib.sha256(' '.join(chunks).encode()).hexdigest()[:8]}-000000"
        merged = stored.write(f"{chunk}-0000", _once(rows), snapshot.epoch)
        if stored.commit([merged], files, epoch=snapshot.epoch):
            fewer += len(files) - 1
    return fewer


@dataclass(frozen=True, slots=True)
class UnusedFiles:
    """Files that no state of the table names any more."""

    keys: list[str]
    size_bytes: int


def vacuum(stored: EmbeddingTable, *, dry_run: bool = False) -> UnusedFiles:
    """Delete the files that the table does not name, whenever they were written; with ``dry_run``, only list them.

    A run that is computing embeddings notices and computes its last uncommitted ones again. A reader of an older state fails with
    a clear error if a file that it needs is gone.
    """
    epoch = None if dry_run else stored.next_epoch()
    snapshot = stored.snapshot()
    dead, size = [], 0
    for found in stored.below():
        name = found.key.removeprefix(f"{stored.prefix}/")
        old = name.endswith(".parquet") and "/" not in name and name not in snapshot.files
        if old and not (epoch is not None and (written := epoch_of(name)) is not None and written >= epoch):
            dead.append(found.key)
            size += found.size_bytes
    pieces = list(_pieces(stored))
    if not dry_run:
        for key in dead:
            stored.objects.delete(key)
        for path, _ in pieces:
            path.unlink(missing_ok=True)
        stored.checkpoint()
    return UnusedFiles([*dead, *(stored.key(path.name) for path, _ in pieces)], size + sum(size for _, size in pieces))


def _pieces(stored: EmbeddingTable) -> Iterator[tuple[Path, int]]:
    """Yield the unfinished files that killed processes left on disk, with their sizes; listings do not show them."""
    folder = stored.objects.local_path(stored.prefix)
    for path in folder.iterdir() if folder is not None and folder.is_dir() else ():
        with suppress(OSError):  # finished in the meantime
            about = path.stat()
            if _PIECE.fullmatch(path.name) and time.time() - about.st_mtime > _UNFINISHED_S:
                yield path, about.st_size


def _is_whole(stored: EmbeddingTable, file: File) -> bool:
    found = stored.measured(file.name)
    return found is not None and (found.size_bytes, found.rows) == (file.size_bytes, file.rows)


def _log_again(stored: EmbeddingTable, progress: Callable[[str], None]) -> int:
    whole, damaged = [], 0
    for name in sorted(stored.stored()):
        file = stored.measured(name)
        if file is None:
            damaged += 1
            progress(f"file '{stored.key(name)}' is damaged: its photos are computed again")
            stored.objects.delete(stored.key(name))
        else:
            whole.append(file)
    with suppress(AbsentError):
        for found in list(stored.objects.list(f"{stored.prefix}/{LOG}")):
            stored.objects.delete(found.key)
    epoch = 1 + max((file.epoch for file in whole), default=0)
    stored.create(epoch)
    stored.commit(whole, epoch=epoch)
    return damaged


def _to_merge(snapshot: Snapshot) -> Iterator[list[File]]:
    """Yield the files to merge: of small chunks, together a chunk at least; or of one chunk."""
    small: list[File] = []
    for _, members in groupby(sorted(snapshot.files.values(), key=lambda file: file.name), key=lambda file: file.chunk):
        files = list(members)
        if sum(file.rows for file in files) >= _SMALL:
            if len(files) > 1:
                yield files
            continue
        small += files
        if sum(file.rows for file in small) >= ROWS_PER_CHUNK:
            yield small
            small = []
    if len(small) > 1:
        yield small


def _once(rows: pa.Table) -> pa.Table:
    """Return the rows with each photo once, in the order of uris; of two rows, one that did not fail."""
    keys = list(zip(*(rows[name].to_pylist() for name in ("uri", "version", "status")), strict=True))
    order = sorted(range(len(keys)), key=lambda row: (*keys[row][:2], keys[row][2] == "failed", row))
    kept = [row for at, row in enumerate(order) if not at or keys[order[at - 1]][:2] != keys[row][:2]]
    return rows.take(pa.array(np.array(kept, np.int64)))
