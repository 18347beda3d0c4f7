"""The stored embeddings of a catalogue: which file has which photo, and what is left to compute.

A photo counts once by (uri, version), in whichever file it is found first by name. New rows are assigned to chunks of
``ROWS_PER_CHUNK`` by their place among all rows of the catalogue that no earlier catalogue brought. The place does not depend on
what is computed already: a run that was killed and resumed, or two runs at once, get the same chunks, and moments that are merged
chunk by chunk have the same bits.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fruits.storage.embeddings.table import EmbeddingTable, File, Snapshot
from fruits.storage.tables.schemas import WORK
from fruits.storage.tables.spool import ROWS_PER_BATCH, Spool, TextColumn, is_sorted, spans

#: Rows of a chunk; with fewer, merging moments would cost more than the matrix products when d is large.
ROWS_PER_CHUNK: Final = 4096
#: Shards of a job, if photos are few; a shard has a power of two of rows, so that none crosses chunks.
_SHARDS: Final = 128
FEWEST_ROWS: Final = 64
#: Keys of the table are compared with the catalogue in batches of this many rows.
_KEYS_AT_ONCE: Final = 1 << 17
#: Files of a bucket whose keys are read concurrently.
_AT_ONCE: Final = 16
#: Value of each hexadecimal digit by its character.
_DIGIT_OF: Final = np.zeros(256, np.uint8)
_DIGIT_OF[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_KEYS: Final = ["uri", "version", "sha256", "status", "error"]
#: In place of a catalogue row: no version of the photo is in the catalogue.
_UNLISTED: Final = -2


@dataclass(frozen=True, slots=True)
class FileRows:
    """A file, and the catalogue rows that its rows belong to.

    Attributes
    ----------
    file : File
    catalogue_rows : int32 array (int64 for large catalogues), shape (file.rows,)
        Catalogue row of each row of the file; -1 for rows that are not used.
    errors : tuple of (int, str, str)
        Row, status and error of every used row that is not ok.
    """

    file: File
    catalogue_rows: NDArray[Any]
    errors: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """The stored embeddings of a catalogue, and the work that is left.

    Attributes
    ----------
    snapshot : Snapshot
    file_rows : list of FileRows
        By name of the file; every catalogue row is in at most one.
    absent : integer array
        Catalogue rows without a stored row.
    failed : int64 array
        Catalogue rows that failed, and may work now.
    leaving : list of File
        Committed files with rows that the catalogue does not need: of other photos or versions, or stored twice.
    missing : int
        Committed rows of photos that the catalogue does not list in any version.
    content : str
        Checksum of the photos' contents, as far as they could be read.
    """

    snapshot: Snapshot
    file_rows: list[FileRows]
    absent: NDArray[Any]
    failed: NDArray[np.int64]
    leaving: list[File]
    missing: int
    content: str

    @property
    def files(self) -> list[File]:
        """The files that hold rows of the catalogue."""
        return [entry.file for entry in self.file_rows]


def take(stored: EmbeddingTable, catalogue: pa.Table | Spool, also: Iterable[File] = ()) -> Inventory:
    """Compare the table's keys with a catalogue.

    Memory is bounded but for a few numbers per photo: keys are read and compared in batches.

    Parameters
    ----------
    stored : EmbeddingTable
    catalogue : pyarrow.Table or Spool
        Columns ``uri`` and ``version``; each uri once. A spool remembers the range of its uris.
    also : iterable of File
        Files that may have left the table since; used for photos that it lacks.

    Raises
    ------
    StoreError
        If the log or a file cannot be read.
    """
    photos = _spool(catalogue)
    n, snapshot = photos.num_rows, stored.snapshot()
    extra = {file.name: file for file in also if file.name not in snapshot.files}
    files = [*(snapshot.files[name] for name in sorted(snapshot.files)), *(extra[name] for name in sorted(extra))]
    holder = np.full(n, -1, np.int32)
    failures: dict[int, tuple[int, int]] = {}  # row -> time and number of the file, of its latest failure
    content = np.zeros(n, np.uint64)
    missing = 0
    rows_of: list[NDArray[Any]] = []
    bad_of: list[dict[int, tuple[str, str]]] = []
    for number, (file, rows, keys) in enumerate(_matched(stored, files, photos)):
        unlisted = rows == _UNLISTED
        if file.name in snapshot.files:
            missing += int(unlisted.sum())
        rows[unlisted] = -1
        status = keys["status"].combine_chunks()
        bad = np.flatnonzero(pc.not_equal(status, "ok").to_numpy(zero_copy_only=False))
        why = {int(row): (status[int(row)].as_py(), keys["error"][int(row)].as_py()) for row in bad}
        failed = np.zeros(len(rows), bool)
        failed[[row for row, (code, _) in why.items() if code == "failed"]] = True
        good = np.flatnonzero(~failed & (rows >= 0))
        free = good[holder[rows[good]] < 0]
        holder[rows[free]] = number
        content[rows[free]] = _first_bytes(keys["sha256"].take(pa.array(free)))
        for row in rows[failed & (rows >= 0)].tolist():
            if row not in failures or failures[row][0] < file.modified_ms:
                failures[row] = (file.modified_ms, number)
        rows_of.append(rows)
        bad_of.append(why)
    failed_rows = np.array(sorted(row for row in failures if holder[row] < 0), np.int64)
    holder[failed_rows] = [failures[row][1] for row in failed_rows.tolist()]
    settled = np.ones(n, bool)
    settled[failed_rows] = False
    file_rows, leaving = [], []
    for number, (file, why) in enumerate(zip(files, bad_of, strict=True)):
        rows = rows_of[number]
        mine = (rows >= 0) & (holder[rows] == number)
        # A photo that failed before and again stays, or its file would be written again by every run.
        needless = ~mine & ((rows < 0) | settled[rows])
        rows[~mine] = -1
        errors = tuple((row, *why[row]) for row in sorted(why) if mine[row])
        if mine.any():
            file_rows.append(FileRows(file, rows, errors))
        if file.name in snapshot.files and (needless.any() or not mine.any()):
            leaving.append(file)
    return Inventory(
        snapshot,
        sorted(file_rows, key=lambda entry: entry.file.name),  # with those that left the table at their place
        np.flatnonzero(holder < 0).astype(_row_type(n)),
        failed_rows,
        leaving,
        missing,
        hashlib.sha256(content.data).hexdigest(),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """Work divided into shards, none of which crosses chunks.

    Attributes
    ----------
    photos : Spool
        The catalogue's ``uri`` and ``version``.
    rows : integer array, shape (m,)
        Catalogue rows to compute, ascending.
    starts : int64 array
        First of each shard's ``rows``.
    names : list of str
        Names of the shards.
    """

    photos: Spool
    rows: NDArray[Any]
    starts: NDArray[np.int64]
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def shards(self, first: int = 0) -> Iterator[pa.Table]:
        """Yield the shards, schema ``WORK``, each when it is asked for; from number ``first`` on, then those before."""
        ends = [*self.starts[1:].tolist(), len(self.rows)]
        for at in (*range(first, len(self)), *range(first)):
            some = self.photos.take(self.rows[self.starts[at] : ends[at]], ["uri", "version"])
            named = pa.array([self.names[at]] * some.num_rows, pa.string())
            yield some.append_column("shard", named).select(WORK.names).cast(WORK).combine_chunks()


def plan(catalogue: pa.Table | Spool, inventory: Inventory, rows: NDArray[Any]) -> Plan:
    """Assign catalogue rows, ascending, to shards."""
    photos = _spool(catalogue)
    n = photos.num_rows
    mine = generation(photos)
    brought_before = np.zeros(n, bool)
    for entry in inventory.file_rows:
        if not entry.file.name.startswith(mine):
            good = entry.catalogue_rows >= 0
            good[[row for row, status, _ in entry.errors if status == "failed"]] = False
            brought_before[entry.catalogue_rows[good]] = True
    place = np.cumsum(~brought_before, dtype=_row_type(n))[rows] - 1
    per_shard = ROWS_PER_CHUNK
    while per_shard > FEWEST_ROWS and per_shard * _SHARDS > len(rows):
        per_shard //= 2
    while per_shard < ROWS_PER_CHUNK and len(spans(place // per_shard)) * FEWEST_ROWS > 2 * len(rows):
        per_shard *= 2  # rows far apart, such as failed ones
    starts = np.array([start for start, _ in spans(place // per_shard)], np.int64)
    firsts = place[starts] // per_shard * per_shard
    names = [f"{mine}-{at // ROWS_PER_CHUNK:06d}-{at % ROWS_PER_CHUNK:04d}" for at in firsts.tolist()]
    return Plan(photos, rows, starts, names)


def generation(catalogue: pa.Table | Spool) -> str:
    """Return the number of a catalogue in names of files, 8 hexadecimal digits: a hash of its photos and their versions."""
    digest = hashlib.sha256()
    for batch in _spool(catalogue).batches(["uri", "version"]):
        digest.update(batch.serialize())  # without what lies outside of the batch
    return digest.hexdigest()[:8]


def uncommitted(stored: EmbeddingTable, catalogue: pa.Table | Spool, snapshot: Snapshot) -> Iterator[File]:
    """Yield whole files that a killed run wrote for the same catalogue and did not commit."""
    mine = generation(catalogue)
    for name in stored.stored():
        usable = name.startswith(mine) and File(name, 0, 0, 0).epoch == snapshot.epoch
        if usable and name not in snapshot.files and (whole := stored.measured(name)) is not None:
            yield whole


def _spool(catalogue: pa.Table | Spool) -> Spool:
    return catalogue if isinstance(catalogue, Spool) else Spool.of(catalogue.select(["uri", "version"]), "uri")


def _row_type(n: int) -> type[np.signedinteger[Any]]:
    """Return the integers that count the rows of a catalogue of n photos."""
    return np.int32 if n < 1 << 31 else np.int64


def _matched(stored: EmbeddingTable, files: list[File], photos: Spool) -> Iterator[tuple[File, NDArray[Any], pa.Table]]:
    """Yield each file with the catalogue rows of its rows, and its keys."""
    for group in _groups(files, _KEYS_AT_ONCE):
        tables = list(_read_all(lambda file: stored.read_keys(file, _KEYS), group, serial=stored.objects.is_local))
        rows = find(photos, pa.concat_tables([table.select(["uri", "version"]) for table in tables]))
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
    """Return the first 8 bytes of hexadecimal digests, of 64 characters each; 0 for null."""
    if not len(digests):
        return np.empty(0, np.uint64)
    first = pc.utf8_slice_codeunits(digests.combine_chunks().fill_null(16 * "0"), 0, 16)
    text = np.frombuffer(first.buffers()[2], np.uint8)[: 16 * len(first)].reshape(-1, 16)
    digits = _DIGIT_OF[text]
    return ((digits[:, ::2] << 4) | digits[:, 1::2]).view(">u8").reshape(-1).astype(np.uint64)


def find(photos: Spool, keys: pa.Table) -> NDArray[Any]:
    """Return for each key, columns ``uri, version``, the catalogue row that has both.

    It is -1 if the catalogue has another version only, and ``_UNLISTED`` if it has none.

    Only the batches of the catalogue are read whose range of uris has keys. Files hold photos in the order of uris, so that keys
    of neighbouring files fall into few batches.
    """
    rows = np.full(keys.num_rows, _UNLISTED, _row_type(photos.num_rows))
    uris, versions = keys["uri"].combine_chunks(), keys["version"].combine_chunks()
    order = None if is_sorted(uris) else pc.sort_indices(uris)
    if order is not None:
        uris, versions = uris.take(order), versions.take(order)
    words = TextColumn(uris)
    for number, (least, largest) in enumerate(photos.ranges):
        start = bisect_left(words, least)
        count = bisect_right(words, largest, start) - start
        if not count:
            continue
        batch = photos.batch(number, ["uri", "version"])
        there = pc.index_in(uris.slice(start, count), value_set=batch.column("uri")).fill_null(-1).to_numpy()
        has = np.flatnonzero(there >= 0)
        own = versions.slice(start, count).take(pa.array(has))
        same = pc.equal(own, batch.column("version").take(pa.array(there[has]))).to_numpy(zero_copy_only=False)
        rows[start + has] = -1
        rows[start + has[same]] = number * ROWS_PER_BATCH + there[has[same]]
    if order is not None:
        back = np.empty_like(rows)
        back[order.to_numpy()] = rows
        return back
    return rows
