"""Tables with a row per photo, in bounded memory: a few hundred thousand rows stay in memory, more lie in a temporary file.

:class:`Spool` is written once and read batch by batch. :class:`SortedRuns` sorts rows by a text column, in memory or by merging
sorted runs. Temporary files have no name, so that nothing is left when a process is killed; they lie in ``TMPDIR``.
"""

from __future__ import annotations

import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruits.errors import StoreError

#: Rows of every batch but the last. With paths of at most 4,096 bytes, their text is less than 2 GiB.
ROWS_PER_BATCH: Final = 1 << 16
#: Rows that are kept in memory, by a spool and while sorting.
IN_MEMORY: Final = 1 << 17
#: Rows of each run that are in memory while runs are merged.
_ROWS_PER_BLOCK: Final = 2048


class Spool:
    """Rows that are appended once and then read in their order, any number of times, by one thread at a time.

    Parameters
    ----------
    schema : pyarrow.Schema
        Without dictionary columns: their codes would differ from batch to batch.
    key : str, optional
        Column of text of which the range in each batch is remembered.
    """

    def __init__(self, schema: pa.Schema, key: str | None = None) -> None:
        self.schema = schema
        self._key = key
        #: Least and largest key of each batch.
        self.ranges: list[tuple[str, str]] = []
        self.num_rows = 0
        self._pending: list[pa.Table] = []
        self._waiting = 0
        self._kept: list[pa.RecordBatch] = []
        self._file: Any = None
        self._writer: pq.ParquetWriter | None = None
        self._reader: pq.ParquetFile | None = None
        #: The batch that was read last: neighbouring rows are asked for one after the other.
        self._last: tuple[int, list[str], pa.RecordBatch] | None = None

    @classmethod
    def of(cls, table: pa.Table, key: str | None = None) -> Spool:
        """Return the rows of a table, which stay in memory."""
        spool = cls(table.schema, key)
        whole = table.combine_chunks()
        spool._kept = [_one(whole.slice(start, ROWS_PER_BATCH)) for start in range(0, len(whole), ROWS_PER_BATCH)]
        spool.num_rows = table.num_rows
        for batch in spool._kept:
            spool._note(batch)
        return spool

    @property
    def in_memory(self) -> bool:
        """Whether no file is used."""
        return self._file is None

    def append(self, rows: pa.Table) -> None:
        """Append rows.

        Raises
        ------
        StoreError
            If the temporary folder is full.
        """
        self._pending.append(rows)
        self._waiting += rows.num_rows
        self.num_rows += rows.num_rows
        if self._waiting >= ROWS_PER_BATCH:
            waiting = pa.concat_tables(self._pending).combine_chunks()
            whole = len(waiting) // ROWS_PER_BATCH * ROWS_PER_BATCH
            for start in range(0, whole, ROWS_PER_BATCH):
                self._put(_one(waiting.slice(start, ROWS_PER_BATCH)))
            self._pending, self._waiting = [waiting.slice(whole)], len(waiting) - whole

    def close(self) -> Spool:
        """End writing; return this spool."""
        if self._waiting:
            self._put(_one(pa.concat_tables(self._pending).combine_chunks()))
        self._pending, self._waiting = [], 0
        if self._writer is not None:
            with on_disk():
                self._writer.close()
                self._file.flush()
            self._writer = None
            self._reader = pq.ParquetFile(self._file, pre_buffer=False)
        return self

    def batches(self, columns: Sequence[str] | None = None, first: int = 0) -> Iterator[pa.RecordBatch]:
        """Yield the batches from number ``first`` on, each of ``ROWS_PER_BATCH`` rows but the last."""
        for number in range(first, -(-self.num_rows // ROWS_PER_BATCH)):
            yield self.batch(number, columns)

    def batch(self, number: int, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Return one batch: rows from ``number * ROWS_PER_BATCH`` on."""
        names = self.schema.names if columns is None else list(columns)
        if self._reader is None:
            return self._kept[number].select(names)
        if self._last is None or self._last[:2] != (number, names):
            with on_disk():
                found = self._reader.read_row_group(number, names, use_threads=False)
            self._last = (number, names, _one(found.combine_chunks()).select(names))
        return self._last[2]

    def take(self, rows: NDArray[np.int64], columns: Sequence[str] | None = None) -> pa.Table:
        """Return some rows, in the order given; only the batches that have some are read."""
        names = self.schema.names if columns is None else list(columns)
        rows = np.asarray(rows, np.int64)
        schema = pa.schema([self.schema.field(name) for name in names])
        order = np.argsort(rows, kind="stable")
        wanted, found = rows[order], []
        for start, stop in spans(wanted // ROWS_PER_BATCH):
            number = int(wanted[start]) // ROWS_PER_BATCH
            some = self.batch(number, names).take(pa.array(wanted[start:stop] - number * ROWS_PER_BATCH))
            found.append(some)
        table = pa.Table.from_batches(found, schema)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return table if (np.diff(rows) >= 0).all() else table.take(pa.array(back))

    def filter(self, keep: NDArray[np.bool_]) -> Spool:
        """Return a spool of some of the rows."""
        kept = Spool(self.schema, self._key)
        for number, batch in enumerate(self.batches()):
            mask = keep[number * ROWS_PER_BATCH :][: batch.num_rows]
            kept.append(pa.Table.from_batches([batch.filter(pa.array(mask))], self.schema))
        return kept.close()

    def table(self) -> pa.Table:
        """Return all rows, in memory."""
        return pa.Table.from_batches(list(self.batches()), self.schema)

    def _note(self, batch: pa.RecordBatch) -> None:
        if self._key is not None:
            ends = pc.min_max(batch.column(self._key))
            self.ranges.append((ends["min"].as_py(), ends["max"].as_py()))

    def _put(self, batch: pa.RecordBatch) -> None:
        self._note(batch)
        if self._writer is None and (len(self._kept) + 1) * ROWS_PER_BATCH <= IN_MEMORY:
            self._kept.append(batch)
            return
        with on_disk():
            if self._writer is None:
                self._file = tempfile.TemporaryFile(prefix="fruits-rows-")  # noqa: SIM115
                weakref.finalize(self, self._file.close)
                self._writer = pq.ParquetWriter(self._file, self.schema, compression="zstd", use_dictionary=False)
            for one in [*self._kept, batch]:
                self._writer.write_batch(one, row_group_size=ROWS_PER_BATCH)
        self._kept.clear()


class SortedRuns:
    """Sorts rows by a column of text, in bounded memory: beyond ``IN_MEMORY`` rows, sorted runs are written and merged.

    Parameters
    ----------
    key : str
    """

    def __init__(self, key: str) -> None:
        self.num_rows = 0
        self._key = key
        self._waiting: list[pa.RecordBatch] = []
        self._size = 0
        self._file: Any = None
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._blocks = 0
        self._runs: list[tuple[int, int]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows; all batches have the same schema, without dictionary columns.

        Raises
        ------
        StoreError
            If the temporary folder is full.
        """
        self._waiting.append(batch)
        self._size += batch.num_rows
        self.num_rows += batch.num_rows
        if self._size >= IN_MEMORY:
            self._write_run()

    def merged(self) -> Iterator[pa.Table]:
        """Yield the rows in the order of the key, equal keys in the order in which they were added; once."""
        if not self._runs:
            if self._size:
                table = self._sorted_run()
                for start in range(0, len(table), ROWS_PER_BATCH):
                    yield table.slice(start, ROWS_PER_BATCH)
            return
        if self._size:
            self._write_run()
        assert self._writer is not None  # noqa: S101 - there are runs
        with on_disk():
            self._writer.close()
            self._file.seek(0)
        reader = pa.ipc.open_file(self._file)
        heads = [_Head(reader, self._key, *run) for run in self._runs]
        while heads := [head for head in heads if head.fill()]:
            # Rows up to the end of the block that ends first: nothing before them is still to be read.
            ends = [head.last for head in heads if head.has_more]
            end = min(ends) if ends else None
            rows = pa.concat_tables([head.until(end) for head in heads if end is None or head.first <= end])
            yield _sorted(rows, self._key)
        self._file.close()

    def _write_run(self) -> None:
        table = self._sorted_run()
        with on_disk():
            if self._writer is None:
                self._file = tempfile.TemporaryFile(prefix="fruits-runs-")  # noqa: SIM115
                weakref.finalize(self, self._file.close)
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._writer = pa.ipc.new_file(self._file, table.schema, options=options)
            first = self._blocks
            for start in range(0, len(table), _ROWS_PER_BLOCK):
                self._writer.write_batch(_one(table.slice(start, _ROWS_PER_BLOCK)))
                self._blocks += 1
        self._runs.append((first, self._blocks))

    def _sorted_run(self) -> pa.Table:
        rows = pa.Table.from_batches(self._waiting)
        self._waiting, self._size = [], 0
        return _sorted(rows, self._key)


class _Head:
    """The present block of a run."""

    def __init__(self, reader: Any, key: str, first: int, end: int) -> None:
        self._reader, self._key, self._next, self._end = reader, key, first, end
        self._rows: pa.Table | None = None
        #: Least and largest key of the rows that are left; of thousands of runs, most are not looked into at a time.
        self.first = self.last = ""

    @property
    def has_more(self) -> bool:
        return self._next < self._end

    def fill(self) -> bool:
        """Read the next block if nothing is left of this one; return whether there are rows."""
        if (self._rows is None or not len(self._rows)) and self.has_more:
            with on_disk():
                self._rows = pa.Table.from_batches([self._reader.get_batch(self._next)])
            self._next += 1
            keys = self._rows[self._key]
            self.first, self.last = keys[0].as_py(), keys[-1].as_py()
        return self._rows is not None and len(self._rows) > 0

    def until(self, end: str | None) -> pa.Table:
        """Take the rows up to a key, inclusive; all rows without one."""
        rows = self._rows
        assert rows is not None  # noqa: S101 - filled
        count = len(rows) if end is None else bisect_right(TextColumn(rows[self._key]), end)
        self._rows = rows.slice(count)
        if count < len(rows):
            self.first = rows[self._key][count].as_py()
        return rows.slice(0, count)


def spans(ascending: NDArray[Any]) -> list[tuple[int, int]]:
    """Return where each run of equal numbers begins and ends."""
    begins = np.ones(len(ascending), bool)
    np.not_equal(ascending[1:], ascending[:-1], out=begins[1:])
    starts = np.flatnonzero(begins).tolist()
    return list(zip(starts, [*starts[1:], len(ascending)][: len(starts)], strict=True))


class TextColumn(Sequence[str]):
    """A column of text as a sequence for :mod:`bisect`. Python and Arrow order text in the same way, by code points."""

    def __init__(self, column: pa.Array | pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, at: Any) -> Any:
        return self._column[at].as_py()


@contextmanager
def on_disk() -> Iterator[None]:
    """Report a temporary file that cannot be written or read."""
    try:
        yield
    except OSError as exc:
        raise StoreError(
            f"rows cannot be kept in the temporary folder '{tempfile.gettempdir()}' ({exc.strerror or exc}); expected room for "
            "about 200 bytes per photo and the features: free some, or set TMPDIR to another folder"
        ) from exc


def is_sorted(column: pa.Array) -> bool:
    """Return whether a column of text is in ascending order."""
    return not pc.any(pc.less(column.slice(1), column.slice(0, max(0, len(column) - 1)))).as_py()


def _sorted(rows: pa.Table, key: str) -> pa.Table:
    rows = rows.combine_chunks()
    return rows if is_sorted(rows[key].combine_chunks()) else rows.sort_by(key).combine_chunks()


def _one(table: pa.Table) -> pa.RecordBatch:
    """Return a table of one chunk as a batch."""
    batches = table.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)
