"""A row group of a pack, read within bounds whatever the pack says of itself: a few kilobytes may unpack to gigabytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fruits.errors import StoreError
from fruits.storage.local import MAX_PHOTO_BYTES, too_large
from fruits.storage.objects import AbsentError

#: What a row group may hold. ``fruits pack`` ends a row group at 4 MiB of photos, or with the
#: photo that goes beyond, and at 4,096 rows; a name takes at most 4,096 bytes, 8,192 with what comes around it.
_MAX_GROUP_BYTES: Final = MAX_PHOTO_BYTES + (8 << 20)
_MAX_GROUP_ROWS: Final = 16_384
_MAX_TEXT: Final = 8 << 10
#: A row group is taken in slices of so many rows, fewer where its photos are large, each held against what it declares.
_SLICE_ROWS: Final = 32
_SLICE_BYTES: Final = 128 << 20
#: What to do about a pack that cannot be used.
ADVICE: Final = "make it again with 'fruits pack'"


class RowGroup:
    """The photos of one row group."""

    def __init__(self, paths: pa.Array, sha256: pa.Array, contents: pa.Array) -> None:
        self.paths, self.sha256, self.contents = paths, sha256, contents
        self._rows = {path: row for row, path in enumerate(paths.to_pylist())}

    @classmethod
    def read_from(cls, parquet: pq.ParquetFile, group: int) -> RowGroup:
        """Read a row group, never much more of it than it declares.

        Raises
        ------
        RefusedError
            If it takes more than a row group may.
        ArrowInvalid
            If it holds other sizes than it declares.
        """
        about = parquet.metadata.row_group(group)
        size = check_group(about, ["path", "sha256", "bytes"])
        rows = max(1, min(_SLICE_ROWS, _SLICE_BYTES // max(1, size)))
        if not _is_plain(about):  # no `fruits pack` wrote it so: look at what it declares before anything else
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
                batches.clear()  # an error holds on to what was there when it was raised
                raise too_large(held, _MAX_GROUP_BYTES)
            texts = (short(batch.column(name)).cast(pa.string()) for name in ("path", "sha256"))
            batches.append(pa.RecordBatch.from_arrays([*texts, batch.column("bytes").cast(pa.binary())], columns[1:]))
        table = pa.Table.from_batches(batches).combine_chunks()
        paths, sha256 = (table[name].combine_chunks() for name in ("path", "sha256"))
        return cls(paths, sha256, table["bytes"].combine_chunks())

    def read(self, path: str) -> bytes:
        """Return the bytes of a photo, checked against its checksum."""
        row = self._rows.get(path)
        if row is None:
            raise AbsentError(f"the pack has no photo '{path}'")
        data: bytes = self.contents[row].as_py()
        if hashlib.sha256(data).hexdigest() != self.sha256[row].as_py():
            raise StoreError(f"damaged in its pack: its bytes have another checksum; {ADVICE}")
        return data


def check_group(about: Any, columns: Sequence[str]) -> int:
    """Hold what a row group says of itself against what it may be; return what its photos take, if they are asked for.

    Raises
    ------
    RefusedError
        If it takes more.
    ArrowInvalid
        If no ``fruits pack`` wrote it so.
    """
    size, text = 0, (1 << 20) + _MAX_TEXT * about.num_rows
    if about.num_rows > _MAX_GROUP_ROWS:
        raise pa.ArrowInvalid(f"a row group of {about.num_rows:,} photos; expected at most {_MAX_GROUP_ROWS:,}")
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
    """Whether the photos of a row group take as many bytes as its file has for them."""
    for chunk in (about.column(at) for at in range(about.num_columns)):
        if chunk.path_in_schema == "bytes":
            return chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
    return True


def _lengths(contents: pa.Array) -> pa.Array:
    """Return how many bytes each photo has; a pack of a stranger's may hold the same photo once for many rows."""
    if pa.types.is_dictionary(contents.type):
        return pc.binary_length(contents.dictionary).cast(pa.int64()).take(contents.indices)
    return pc.binary_length(contents).cast(pa.int64())


def short(texts: pa.Array) -> pa.Array:
    """Return texts if none is longer than a text may be."""
    words = texts.dictionary if pa.types.is_dictionary(texts.type) else texts
    longest = pc.max(pc.binary_length(words)).as_py() or 0
    if longest > _MAX_TEXT:
        raise too_large(longest, _MAX_TEXT)
    return texts
