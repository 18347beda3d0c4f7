"""Reading a row group of a pack within memory bounds.

A pack may be crafted: a few kilobytes of Parquet can unpack to gigabytes, so declared and real sizes are both checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fruits.errors import StoreError, counted
from fruits.storage.local import MAX_PHOTO_BYTES, too_large
from fruits.storage.objects import AbsentError

#: Limits of a row group. ``fruits pack`` ends a row group with the photo that reaches 4 MiB, or at 4,096 rows. A name takes at
#: most 4,096 bytes, 8,192 with its overhead.
_MAX_GROUP_BYTES: Final = MAX_PHOTO_BYTES + (8 << 20)
_MAX_GROUP_ROWS: Final = 16_384
_MAX_TEXT: Final = 8 << 10
#: Rows per slice in which a row group is read, fewer if its photos are large. Each slice is checked against the declared sizes.
_SLICE_ROWS: Final = 32
_SLICE_BYTES: Final = 128 << 20
#: Advice for messages about a pack that cannot be used.
ADVICE: Final = "make it again with 'fruits pack'"


class RowGroup:
    """The photos of one row group."""

    def __init__(self, paths: pa.Array, sha256: pa.Array, contents: pa.Array) -> None:
        self.paths, self.sha256, self.contents = paths, sha256, contents
        self._rows = {path: row for row, path in enumerate(paths.to_pylist())}

    @classmethod
    def read_from(cls, parquet: pq.ParquetFile, group: int) -> RowGroup:
        """Read a row group; stop soon after it exceeds its declared size.

        Raises
        ------
        RefusedError
            If it exceeds the limits of a row group.
        ArrowInvalid
            If the sizes of its photos differ from the declared ones.
        """
        about = parquet.metadata.row_group(group)
        size = check_group(about, ["path", "sha256", "bytes"])
        rows = max(1, min(_SLICE_ROWS, _SLICE_BYTES // max(1, size)))
        if not _is_plain(about):  # not written by `fruits pack`: check its declared sizes first
            declared = parquet.read_row_group(group, columns=["size_bytes"], use_threads=False)["size_bytes"]
            if (held := pc.sum(declared).as_py() or 0) > _MAX_GROUP_BYTES:
                raise too_large(held, _MAX_GROUP_BYTES)
        columns = ["size_bytes", "path", "sha256", "bytes"]
        batches: list[pa.RecordBatch] = []
        held = 0
        for batch in parquet.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
            lengths = _lengths(batch.column("bytes"))
            if not lengths.equals(batch.column("size_bytes")):
                raise pa.ArrowInvalid("photos are of other sizes than it declares")
            held += pc.sum(lengths).as_py() or 0
            if held > _MAX_GROUP_BYTES:
                batches.clear()  # the traceback of the error keeps local variables alive
                raise too_large(held, _MAX_GROUP_BYTES)
            texts = (short(batch.column(name)).cast(pa.string()) for name in ("path", "sha256"))
            batches.append(pa.RecordBatch.from_arrays([*texts, batch.column("bytes").cast(pa.binary())], columns[1:]))
        table = pa.Table.from_batches(batches).combine_chunks()
        paths, sha256 = (table[name].combine_chunks() for name in ("path", "sha256"))
        return cls(paths, sha256, table["bytes"].combine_chunks())

    def read(self, path: str) -> bytes:
        """Return the bytes of a photo after verifying its checksum."""
        row = self._rows.get(path)
        if row is None:
            raise AbsentError(f"the pack has no photo '{path}'")
        data: bytes = self.contents[row].as_py()
        if hashlib.sha256(data).hexdigest() != self.sha256[row].as_py():
            raise StoreError(f"damaged in its pack: its bytes have another checksum; {ADVICE}")
        return data


def check_group(about: Any, columns: Sequence[str]) -> int:
    """Check the metadata of a row group against the limits.

    Returns
    -------
    int
        Uncompressed bytes of its photos; 0 if ``columns`` lacks ``bytes``.

    Raises
    ------
    RefusedError
        If a column exceeds its limit.
    ArrowInvalid
        If it has more rows than ``fruits pack`` writes.
    """
    size, text = 0, (1 << 20) + _MAX_TEXT * about.num_rows
    if about.num_rows > _MAX_GROUP_ROWS:
        raise pa.ArrowInvalid(
            f"a row group of {counted(about.num_rows, 'photo')}; expected at most {_MAX_GROUP_ROWS:,}"
        )
    for chunk in (about.column(at) for at in range(about.num_columns)):
        if chunk.path_in_schema not in columns:
            continue
        if chunk.path_in_schema != "bytes":
            if chunk.total_uncompressed_size > text:
                raise too_large(chunk.total_uncompressed_size, text)
            continue
        size = chunk.total_uncompressed_size
        if size > _MAX_GROUP_BYTES:
            raise too_large(size, _MAX_GROUP_BYTES)
    return size


def _is_plain(about: Any) -> bool:
    """Return whether the photos of a row group are stored as they are: uncompressed, without a dictionary."""
    for chunk in (about.column(at) for at in range(about.num_columns)):
        if chunk.path_in_schema == "bytes":
            return chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
    return True


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
