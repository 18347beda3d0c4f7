"""The stored embeddings of a catalogue: which file has which photo, and what is left to compute.

A photo counts once by (uri, version), in whichever file it is found first by name. New rows are assigned to chunks of
``ROWS_PER_CHUNK`` by their place among all rows of the catalogue that no earlier catalogue brought. The place does not depend on
what is computed already: a run that was killed and resumed, or two runs at once, get the same chunks, and moments that are merged
chunk by chunk have the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fruits.storage.schemas import WORK
from fruits.storage.table import EmbeddingTable, File, Snapshot

#: Rows of a chunk; with fewer, merging moments would cost more than the matrix products when d is large.
ROWS_PER_CHUNK: Final = 4096
#: Shards of a job, if photos are few; a shard has a power of two of rows, so that none crosses chunks.
_SHARDS: Final = 128
_FEWEST_ROWS: Final = 64
#: Keys are compared with the catalogue in batches of this many rows, or this share of the catalogue.
_KEYS_AT_ONCE: Final = 1 << 17
_SHARE_AT_ONCE: Final = 8
#: Files of a bucket whose keys are read concurrently.
_AT_ONCE: Final = 16
_KEYS: Final = ["uri", "version", "sha256", "status", "error"]


@dataclass(frozen=True, slots=True)
class Holding:
    """A file, and the catalogue rows that its rows belong to.

    Attributes
    ----------
    file : File
    catalogue_rows : int64 array, shape (file.rows,)
        Catalogue row of each row of the file; -1 for rows that are not used.
    errors : tuple of (int, str, str)
        Row, status and error of every used row that is not ok.
    """

    file: File
    catalogue_rows: NDArray[np.int64]
    errors: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """The stored embeddings of a catalogue, and the work that is left.

    Attributes
    ----------
    snapshot : Snapshot
    holdings : list of Holding
        By name of the file; every catalogue row is in at most one.
    absent : int64 array
        Catalogue rows without a stored row.
    failed : int64 array
        Catalogue rows that failed, and may work now.
    leaving : list of File
        Committed files with rows that the catalogue does not need: of other photos or versions, or stored twice.
    content : str
        Checksum of the photos' contents, as far as they could be read.
    """

    snapshot: Snapshot
    holdings: list[Holding]
    absent: NDArray[np.int64]
    failed: NDArray[np.int64]
    leaving: list[File]
    content: str

    @property
    def files(self) -> list[File]:
        """The files that hold rows of the catalogue."""
        return [holding.file for holding in self.holdings]


def take(stored: EmbeddingTable, catalogue: pa.Table, also: Iterable[File] = ()) -> Inventory:
    """Compare the table's keys with a catalogue.

    Parameters
    ----------
    stored : EmbeddingTable
    catalogue : pyarrow.Table
        Columns ``uri`` and ``version``; each uri once.
    also : iterable of File
        Files that may have left the table since; used for photos that it lacks.

    Raises
    ------
    StoreError
        If the log or a file cannot be read.
    """
    n, snapshot = catalogue.num_rows, stored.snapshot()
    extra = {file.name: file for file in also if file.name not in snapshot.files}
    files = [*(snapshot.files[name] for name in sorted(snapshot.files)), *(extra[name] for name in sorted(extra))]
    holder, failed_in = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    failed_at = np.zeros(n, np.int64)
    content = np.zeros(n, np.uint64)
    rows_of: list[NDArray[np.int64]] = []
    bad_of: list[dict[int, tuple[str, str]]] = []
    for number, (file, rows, keys) in enumerate(_matched(stored, files, catalogue)):
        status = keys["status"].combine_chunks()
        bad = np.flatnonzero(pc.not_equal(status, "ok").to_numpy(zero_copy_only=False))
        why = {int(row): (status[int(row)].as_py(), keys["error"][int(row)].as_py()) for row in bad}
        failed = np.zeros(len(rows), bool)
        failed[[row for row, (code, _) in why.items() if code == "failed"]] = True
        good = np.flatnonzero(~failed & (rows >= 0))
        free = good[holder[rows[good]] < 0]
        holder[rows[free]] = number
        content[rows[free]] = _first_bytes(keys["sha256"].take(pa.array(free)))
        tried = rows[failed & (rows >= 0)]
        later = tried[(failed_in[tried] < 0) | (failed_at[tried] < file.modified_ms)]
        failed_in[later], failed_at[later] = number, file.modified_ms
        rows_of.append(rows)
        bad_of.append(why)
    failed_rows = np.flatnonzero((holder < 0) & (failed_in >= 0))
    holder[failed_rows] = failed_in[failed_rows]
    settled = np.ones(n, bool)
    settled[failed_rows] = False
    holdings, leaving = [], []
    for number, (file, rows, why) in enumerate(zip(files, rows_of, bad_of, strict=True)):
        held = np.where((rows >= 0) & (holder[rows] == number), rows, -1)
        errors = tuple((row, *why[row]) for row in sorted(why) if held[row] >= 0)
        if (held >= 0).any():
            holdings.append(Holding(file, held, errors))
        # A photo that failed before and again stays, or its file would be written again by every run.
        needless = (held < 0) & ((rows < 0) | settled[rows])
        if file.name in snapshot.files and (needless.any() or not (held >= 0).any()):
            leaving.append(file)
    return Inventory(
        snapshot,
        sorted(holdings, key=lambda holding: holding.file.name),  # with those that left the table at their place
        np.flatnonzero(holder < 0),
        failed_rows,
        leaving,
        hashlib.sha256(content.tobytes()).hexdigest(),
    )


def plan(catalogue: pa.Table, inventory: Inventory, rows: NDArray[np.int64]) -> pa.Table:
    """Assign catalogue rows to shards, none of which crosses chunks; return them, schema ``WORK``."""
    mine = generation(catalogue)
    brought_before = np.zeros(catalogue.num_rows, bool)
    for holding in inventory.holdings:
        if not holding.file.name.startswith(mine):
            good = holding.catalogue_rows >= 0
            good[[row for row, status, _ in holding.errors if status == "failed"]] = False
            brought_before[holding.catalogue_rows[good]] = True
    place = (np.cumsum(~brought_before) - 1)[rows]
    per_shard = ROWS_PER_CHUNK
    while per_shard > _FEWEST_ROWS and per_shard * _SHARDS > len(rows):
        per_shard //= 2
    while per_shard < ROWS_PER_CHUNK and len(np.unique(place // per_shard)) * _FEWEST_ROWS > 2 * len(rows):
        per_shard *= 2  # rows far apart, such as failed ones
    shard = place // per_shard
    firsts = np.unique(shard)
    starts = firsts * per_shard
    names = [f"{mine}-{at // ROWS_PER_CHUNK:06d}-{at % ROWS_PER_CHUNK:04d}" for at in starts.tolist()]
    numbers = np.searchsorted(firsts, shard).astype(np.int32)
    wanted = catalogue.select(["uri", "version"])
    if len(rows) < catalogue.num_rows:  # else the work shares the catalogue's memory
        wanted = wanted.take(pa.array(rows))
    named = pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(names, pa.string()))
    return wanted.append_column("shard", named).select(WORK.names).cast(WORK)


def generation(catalogue: pa.Table) -> str:
    """Return the number of a catalogue in names of files, 8 hexadecimal digits: a hash of its photos and their versions."""
    digest = hashlib.sha256()
    for batch in catalogue.select(["uri", "version"]).combine_chunks().to_batches(1 << 16):
        digest.update(batch.serialize())  # without what lies outside of the batch
    return digest.hexdigest()[:8]


def uncommitted(stored: EmbeddingTable, catalogue: pa.Table, snapshot: Snapshot) -> Iterator[File]:
    """Yield whole files that a killed run wrote for the same catalogue and did not commit."""
    mine = generation(catalogue)
    for name in stored.stored():
        usable = name.startswith(mine) and File(name, 0, 0, 0).epoch == snapshot.epoch
        if usable and name not in snapshot.files and (whole := stored.measured(name)) is not None:
            yield whole


def _matched(
    stored: EmbeddingTable, files: list[File], catalogue: pa.Table
) -> Iterator[tuple[File, NDArray[np.int64], pa.Table]]:
    """Yield each file with the catalogue rows of its rows, and its keys."""
    most = max(_KEYS_AT_ONCE, catalogue.num_rows // _SHARE_AT_ONCE)
    uris = catalogue["uri"].combine_chunks()
    for group in _groups(files, most):
        tables = list(_read_all(lambda file: stored.read_keys(file, _KEYS), group, serial=stored.objects.is_local))
        rows = _catalogue_rows(pa.concat_tables(tables), uris, catalogue["version"])
        ends = np.cumsum([table.num_rows for table in tables])
        for file, table, end in zip(group, tables, ends.tolist(), strict=True):
            yield file, rows[end - table.num_rows : end], table


def _groups(files: list[File], most: int) -> Iterator[list[File]]:
    group: list[File] = []
    rows = 0
    for file in files:
        if group and rows + file.rows > most:
            yield group
            group, rows = [], 0
        group.append(file)
        rows += file.rows
    if group:
        yield group


def _read_all(read: Callable[[File], pa.Table], files: list[File], *, serial: bool) -> Iterator[pa.Table]:
    if serial:
        yield from map(read, files)
        return
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="keys") as pool:
        yield from pool.map(read, files)


def _first_bytes(digests: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return the first 8 bytes of hexadecimal digests; 0 for null."""
    return np.array([int(digest[:16], 16) if digest else 0 for digest in digests.to_pylist()], np.uint64)


def _catalogue_rows(keys: pa.Table, uris: pa.Array, versions: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return for each key the catalogue row of the same uri and version; -1 if there is none."""
    index = pc.index_in(keys["uri"], value_set=uris)
    rows: NDArray[np.int64] = index.combine_chunks().fill_null(-1).to_numpy().astype(np.int64)
    found = np.flatnonzero(rows >= 0)
    same = pc.equal(keys["version"].take(pa.array(found)), versions.take(pa.array(rows[found])))
    rows[found[~same.combine_chunks().to_numpy(zero_copy_only=False)]] = -1
    return rows
