"""The rows of a catalogue, sorted by uri: text in a spool, which may lie on disk, and a few small numbers per photo in memory.

Nothing here makes one table of all rows but :meth:`CatalogueRows.table`, for commands over few photos.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruits.storage.objects import Objects
from fruits.storage.tables.parquet import table_writer
from fruits.storage.tables.schemas import CATALOGUE
from fruits.storage.tables.spool import ROWS_PER_BATCH, Spool

#: Columns of text, and the size, which are different for every photo.
TEXTS: Final = pa.schema([CATALOGUE.field(name) for name in ("uri", "size_bytes", "version")])
CODED: Final = ("label", "split", "source", "manifest_source")


@dataclass(frozen=True, slots=True)
class CodedText:
    """A column of few different values.

    Attributes
    ----------
    names : list of str
        The values.
    codes : integer array, shape (n,)
        Index of each row's value; -1 for null.
    """

    names: list[str]
    codes: NDArray[Any]

    def array(self, name: str, rows: slice | NDArray[np.int64]) -> pa.DictionaryArray:
        """Return some rows as the column ``name`` of the schema ``CATALOGUE``."""
        kind = CATALOGUE.field(name).type
        codes = self.codes[rows]
        indices = pa.array(codes, kind.index_type, mask=codes < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(self.names, pa.string()))

    def having(self, name: str) -> NDArray[np.bool_]:
        """Return which rows have a value, shape (n,)."""
        code = self.names.index(name) if name in self.names else len(self.names)
        return np.asarray(self.codes == code)

    def values(self, rows: NDArray[Any]) -> NDArray[np.str_]:
        """Return the values of some rows, none of them null."""
        return np.asarray(np.array(self.names)[self.codes[rows]])

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each value that occurs."""
        found = np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, found, strict=True) if count}


@dataclass(frozen=True, slots=True)
class CatalogueRows:
    """The rows of a catalogue.

    Attributes
    ----------
    texts : Spool
        Schema ``TEXTS``, sorted by uri, each uri once.
    coded : dict of str to CodedText
        The columns ``CODED``.
    group : int64 array, shape (n,)
    """

    texts: Spool
    coded: dict[str, CodedText]
    group: NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table) -> CatalogueRows:
        """Return the rows of a table of schema ``CATALOGUE``; those of older runs lack ``manifest_source``."""
        coded = {}
        for name in CODED:
            if name not in table.column_names:
                coded[name] = CodedText([], np.full(table.num_rows, -1, np.int8))
                continue
            column = table[name].combine_chunks()
            codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            coded[name] = CodedText(column.dictionary.to_pylist(), smallest_type(codes))
        texts = Spool.of(table.select(TEXTS.names), "uri")
        return cls(texts, coded, table["group"].to_numpy())

    @classmethod
    def read(cls, objects: Objects, key: str) -> CatalogueRows:
        """Return the rows that :meth:`write` wrote, reading a batch at a time.

        Raises
        ------
        AbsentError
            If there is no such object.
        pyarrow.ArrowException, KeyError
            If it is no catalogue.
        """
        texts, groups = Spool(TEXTS, "uri"), []
        names: dict[str, dict[str, int]] = {name: {} for name in CODED}
        codes: dict[str, list[NDArray[Any]]] = {name: [] for name in CODED}
        with objects.open(key) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            there = set(parquet.schema_arrow.names)
            for batch in parquet.iter_batches(ROWS_PER_BATCH, use_threads=False):
                texts.append(pa.Table.from_batches([batch]).select(TEXTS.names).cast(TEXTS))
                groups.append(batch.column("group").to_numpy())
                for name in CODED:
                    found = np.full(batch.num_rows, -1, np.int32)
                    if name in there:
                        column = batch.column(name)
                        known = names[name]
                        code = [known.setdefault(one, len(known)) for one in column.dictionary.to_pylist()]
                        found = np.array([*code, -1], np.int32)[column.indices.fill_null(len(code)).to_numpy()]
                    codes[name].append(found)
        coded = {
            name: CodedText(list(names[name]), smallest_type(np.concatenate(codes[name] or [np.empty(0, np.int32)])))
            for name in CODED
        }
        return cls(texts.close(), coded, np.concatenate(groups or [np.empty(0, np.int64)]))

    @property
    def num_rows(self) -> int:
        """n, number of photos."""
        return self.texts.num_rows

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches of ``ROWS_PER_BATCH`` rows, the last one smaller, with some columns of ``CATALOGUE``."""
        names = CATALOGUE.names if columns is None else list(columns)
        text = [name for name in names if name in TEXTS.names]
        for start in range(0, self.num_rows, ROWS_PER_BATCH):
            rows = slice(start, min(start + ROWS_PER_BATCH, self.num_rows))
            batch = self.texts.batch(start // ROWS_PER_BATCH, text) if text else None
            arrays = [self._column(name, rows, batch) for name in names]
            yield pa.RecordBatch.from_arrays(arrays, schema=_schema(names))

    def take(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Return some rows, in the order given, with some columns of ``CATALOGUE``."""
        text = [name for name in columns if name in TEXTS.names]
        found = self.texts.take(rows, text).combine_chunks() if text else None
        arrays = [
            found[name] if found is not None and name in text else self._column(name, np.asarray(rows), None)
            for name in columns
        ]
        return pa.Table.from_arrays(arrays, schema=_schema(columns))

    def uris(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the uris of some rows, in the order given."""
        found: list[str] = self.texts.take(rows, ["uri"])["uri"].to_pylist()
        return found

    def table(self) -> pa.Table:
        """Return all rows as one table, in memory."""
        return pa.Table.from_batches(list(self.batches()), CATALOGUE)

    def write(self, objects: Objects, key: str) -> None:
        """Write the rows as Parquet, atomically, a batch at a time."""
        with table_writer(objects, key, CATALOGUE) as writer:
            for batch in self.batches():
                writer.write_batch(batch)

    def _column(self, name: str, rows: Any, batch: pa.RecordBatch | None) -> pa.Array:
        if name in CODED:
            return self.coded[name].array(name, rows)
        if name == "group":
            return pa.array(self.group[rows], pa.int64())
        assert batch is not None  # noqa: S101 - read for such columns
        return batch.column(name)


def smallest_type(codes: NDArray[Any]) -> NDArray[Any]:
    """Return codes in the smallest type that holds them."""
    largest = int(codes.max(initial=0))
    kind = np.int8 if largest < 1 << 7 else np.int16 if largest < 1 << 15 else np.int32
    return codes.astype(kind)


def _schema(names: Sequence[str]) -> pa.Schema:
    return pa.schema([CATALOGUE.field(name) for name in names])
