"""Reading row groups of photos within memory bounds, and keeping the last few.

A file may be crafted: a few kilobytes of Parquet can unpack to gigabytes, so declared and real sizes are both checked.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fruits.errors import StoreError, counted
from fruits.photos.reading.columns import Columns, leaf
from fruits.storage.disk.local import MAX_PHOTO_BYTES, RefusedError, too_large
from fruits.storage.objects import AbsentError

#: Limits of a row group. ``fruits pack`` ends a row group with the photo that reaches 4 MiB, or at 4,096 rows. A name takes at
#: most 4,096 bytes, 8,192 with its overhead.
_MAX_GROUP_BYTES: Final = MAX_PHOTO_BYTES + (8 << 20)
_MAX_GROUP_ROWS: Final = 16_384
_MAX_TEXT: Final = 8 << 10
#: Row groups cached per file or pack: the one in use, the one before (shards end anywhere), and the next one of a bucket; fewer
#: if they are large, as those of other programs.
_GROUPS_KEPT: Final = 3
_BYTES_KEPT: Final = 128 << 20
#: Rows per slice in which a row group is read, fewer if its photos are large. Each slice is checked against the declared sizes.
_SLICE_ROWS: Final = 32
_SLICE_BYTES: Final = 128 << 20
#: Advice for messages about a pack that cannot be used.
ADVICE: Final = "make it again with 'fruits pack'"


class RowGroup:
    """The photos of one row group; of a pack with their paths and checksums."""

    def __init__(self, contents: pa.Array, paths: pa.Array | None = None, sha256: pa.Array | None = None) -> None:
        self.contents, self.paths, self.sha256 = contents, paths, sha256
        self._rows = {path: row for row, path in enumerate(paths.to_pylist())} if paths is not None else {}

    @classmethod
    def read_from(cls, parquet: pq.ParquetFile, group: int, columns: Columns, *, packed: bool) -> RowGroup:
        """Read a row group; stop soon after it exceeds the limit, or, in a pack, its declared sizes.

        Raises
        ------
        RefusedError
            If it exceeds the limits of a row group.
        ArrowInvalid
            If the sizes of its photos differ from the declared ones.
        """
        about = parquet.metadata.row_group(group)
        names = [columns.path or "", "sha256", "size_bytes"] if packed else []
        size = check_group(about, names, columns.contents, most_rows=_MAX_GROUP_ROWS if packed else about.num_rows)
        # No value is larger than its column, so a slice takes this much or one value, even if a dictionary repeats it.
        rows = max(1, min(_SLICE_ROWS, _SLICE_BYTES // max(1, size)))
        batches: list[pa.RecordBatch] = []
        held = 0
        wanted = [*names, columns.contents]
        for batch in parquet.iter_batches(rows, row_groups=[group], columns=wanted, use_threads=False):
            contents = leaf(batch, columns.contents)
            lengths = _lengths(contents)
            if packed and not lengths.equals(batch.column("size_bytes")):
                raise pa.ArrowInvalid("photos are of other sizes than it declares")
            held += pc.sum(lengths).as_py() or 0
            if held > _MAX_GROUP_BYTES:
                batches.clear()  # the traceback of the error keeps local variables alive
                raise too_large(held, _MAX_GROUP_BYTES)
            texts = [short(leaf(batch, name)).cast(pa.string()) for name in names[:2]]
            batches.append(
                pa.RecordBatch.from_arrays(
                    [contents.cast(pa.binary()), *texts], ["", "path", "sha256"][: 1 + len(texts)]
                )
            )
        table = pa.Table.from_batches(batches).combine_chunks()
        return cls(*(column.combine_chunks() for column in table.columns))

    def read(self, path: str) -> bytes:
        """Return the bytes of a photo of a pack after verifying its checksum."""
        row = self._rows.get(path)
        if row is None or self.sha256 is None:
            raise AbsentError(f"the pack has no photo '{path}'")
        data = self.read_row(row)
        if hashlib.sha256(data).hexdigest() != self.sha256[row].as_py():
            raise StoreError(f"damaged in its pack: its bytes have another checksum; {ADVICE}")
        return data

    def read_row(self, row: int) -> bytes:
        """Return the bytes of the photo in a row."""
        data: bytes | None = self.contents[row].as_py()
        if data is None:
            raise StoreError(
                "its row holds no bytes: a path in a table is not followed; write the table with its photos"
            )
        return data


class Groups:
    """The row groups read last, by number; thread-safe: threads that wait for the same one load it once.

    Parameters
    ----------
    load : callable
        Reads a row group.
    """

    def __init__(self, load: Callable[[int], RowGroup]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, Future[RowGroup]] = OrderedDict()
        self._reading = -1  # the row group requested last

    def __len__(self) -> int:
        return len(self._groups)

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            self._groups.clear()

    def get(self, number: int) -> RowGroup:
        """Return a row group."""
        while True:
            mine: Future[RowGroup] = Future()
            with self._lock:
                loading = self._groups.get(number, mine)
                self._keep(number, loading)
                self._reading = number
            if loading is mine:
                try:
                    mine.set_result(self._load(number))
                except BaseException as exc:
                    mine.set_exception(exc)
            try:
                return loading.result()
            except CancelledError:  # the prefetch was cancelled
                self._drop(number, loading)
            except RefusedError:
                raise  # stays cached: it fails for all of its photos, without reading it again
            except BaseException:
                self._drop(number, loading)  # may work next time
                raise

    def expect(self, number: int, executor: Executor) -> None:
        """Prefetch a row group that will be read, if it is the next one."""
        with self._lock:
            # With large photos, the next ones lie in many row groups: prefetching all would evict each from the cache.
            if number not in self._groups and (number == self._reading + 1 or (number >= 0 and not self._groups)):
                self._keep(number, executor.submit(self._load, number))

    def _keep(self, number: int, group: Future[RowGroup]) -> None:
        self._groups[number] = group
        self._groups.move_to_end(number)
        while len(self._groups) > _GROUPS_KEPT or (len(self._groups) > 1 and self._stored_bytes() > _BYTES_KEPT):
            self._groups.popitem(last=False)

    def _stored_bytes(self) -> int:
        done = (one for one in self._groups.values() if one.done() and not one.cancelled() and one.exception() is None)
        return sum(one.result().contents.nbytes for one in done)

    def _drop(self, number: int, group: Future[RowGroup]) -> None:
        with self._lock:
            if self._groups.get(number) is group:
                del self._groups[number]


def check_group(
    about: Any, texts: Sequence[str], contents: str | None = None, *, most_rows: int = _MAX_GROUP_ROWS
) -> int:
    """Check the metadata of a row group against the limits.

    Parameters
    ----------
    about : pyarrow.parquet.RowGroupMetaData
    texts : sequence of str
        Columns to be read, besides those of photos.
    contents : str, optional
        Column of the photos, if it is to be read.
    most_rows : int
        Those of a row group of a pack; more if it is not read as a whole.

    Returns
    -------
    int
        Uncompressed bytes of its photos; 0 without ``contents``.

    Raises
    ------
    RefusedError
        If a column exceeds its limit.
    ArrowInvalid
        If it has more rows than a file of photos has.
    """
    size, text = 0, (1 << 20) + _MAX_TEXT * about.num_rows
    if about.num_rows > most_rows:
        raise pa.ArrowInvalid(f"a row group of {counted(about.num_rows, 'photo')}; expected at most {most_rows:,}")
    for chunk in (about.column(at) for at in range(about.num_columns)):
        if chunk.path_in_schema in texts and chunk.total_uncompressed_size > text:
            raise too_large(chunk.total_uncompressed_size, text)
        if chunk.path_in_schema == contents:
            size = chunk.total_uncompressed_size
            if size > _MAX_GROUP_BYTES:
                raise too_large(size, _MAX_GROUP_BYTES)
    return size


def text_batches(parquet: pq.ParquetFile, names: Sequence[str], most: int) -> Iterator[pa.RecordBatch]:
    """Yield batches of small columns of all row groups, of bounded memory.

    Columns that are no part of a struct should be read as dictionaries, which hold a repeated text once, however long it is. For
    parts of a struct, Arrow cannot do that if a column has several dictionaries; there a batch has fewer rows: no text is larger
    than its column.
    """
    for number in range(parquet.metadata.num_row_groups):
        about = parquet.metadata.row_group(number)
        chunks = (about.column(at) for at in range(about.num_columns))
        nested = [
            one.total_uncompressed_size for one in chunks if one.path_in_schema in names and "." in one.path_in_schema
        ]
        rows = max(1, min(most, _SLICE_BYTES // max(1, *nested, 1)))
        yield from parquet.iter_batches(batch_size=rows, row_groups=[number], columns=list(names), use_threads=False)


def _lengths(contents: pa.Array) -> pa.Array:
    """Return the number of bytes of each photo; an untrusted pack may store one photo once for many rows (a dictionary)."""
    if pa.types.is_dictionary(contents.type):
        return pc.binary_length(contents.dictionary).cast(pa.int64()).take(contents.indices)
    return pc.binary_length(contents).cast(pa.int64())


def short(texts: pa.Array) -> pa.Array:
    """Return the texts unchanged; raise RefusedError if one is longer than the limit."""
    words = texts.dictionary if pa.types.is_dictionary(texts.type) else texts
    longest = pc.max(pc.binary_length(words)).as_py() or 0
    if longest > _MAX_TEXT:
        raise too_large(longest, _MAX_TEXT)
    return texts
