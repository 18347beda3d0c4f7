"""Tables as Parquet files of results: written whole or not at all, read on the calling thread alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from fruits.storage.objects import Objects


def read_table(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file from memory, on the calling thread only.

    Arrow's threads may still hold Python objects when the interpreter ends, which then aborts the process (seen with pyarrow 26,
    in 2 to 5 of 120 programs that read a table and end).
    """
    # pq.read_table takes seven times as long for a small file: it goes through Arrow's datasets.
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(columns, use_threads=False)


def write_table(objects: Objects, key: str, table: pa.Table) -> None:
    """Write a table as Parquet, atomically."""
    out = BytesIO()
    pq.write_table(table, out, compression="zstd")
    objects.write(key, out.getvalue())


@contextmanager
def table_writer(objects: Objects, key: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Open a table for writing in parts; it appears when the block ends without an error."""
    with objects.writer(key) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        yield writer
