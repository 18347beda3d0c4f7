"""Photos in Parquet files of other programs, such as Hugging Face's ``datasets``: read by row, a row group at a time."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fruits.errors import CatalogueError, StoreError
from fruits.photos.reading.access import Access
from fruits.photos.reading.columns import Columns
from fruits.photos.reading.containers import TABLE, contained_uri
from fruits.photos.reading.pack_groups import Groups, RowGroup, check_group, text_batches
from fruits.storage.disk.local import open_regular
from fruits.storage.objects import AbsentError, is_remote, opened

_ROWS_AT_ONCE: Final = 1024
_WRITE: Final = "write it again with row groups of less than 100 MB"


class DamagedTableError(StoreError):
    """A file that is called a Parquet table cannot be read as one."""


class ImageTable:
    """A Parquet file with a column of photos; thread-safe.

    Parameters
    ----------
    file : str
        Path or uri.
    access : Access
        Where a link may lead.

    Attributes
    ----------
    columns : Columns or None
        None if the file holds no photos.
    rows : int

    Raises
    ------
    DamagedTableError
        If it is damaged.
    CatalogueError
        If its columns are ambiguous.
    OSError
        If it is missing or cannot be read.
    """

    def __init__(self, file: str, access: Access) -> None:
        self.file, self._access = file, access
        with self._opened() as stream:
            try:
                self._metadata = pq.ParquetFile(stream).metadata
                self.schema: pa.Schema = self._metadata.schema.to_arrow_schema()
                kept = self._metadata.metadata  # holds the names of labels
                self.columns = Columns.of(self.schema.with_metadata(kept))
            except (pa.ArrowException, UnicodeDecodeError) as exc:
                raise self._damaged(exc) from exc
            except CatalogueError as exc:
                raise CatalogueError(f"'{file}': {exc}") from exc
        self.rows: int = self._metadata.num_rows
        sizes = [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]
        self._starts = [0, *np.cumsum(sizes).tolist()]
        self._groups = Groups(self._load)

    def uri(self, row: int, name: str) -> str:
        """Return the uri of the photo in a row; uris of one file sort in the order of its rows."""
        return contained_uri(TABLE, self.file, f"{row:012d}/{name}")

    def bytes_per_photo(self) -> int:
        """Return the mean size of a photo as stored: what a photo has is known once it is read."""
        contents = self.columns.contents if self.columns else ""
        groups = (self._metadata.row_group(group) for group in range(self._metadata.num_row_groups))
        chunks = (group.column(at) for group in groups for at in range(group.num_columns))
        size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == contents)
        return int(size // max(1, self.rows))

    def texts(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield batches of small columns; repeated texts stay dictionaries, however long they are."""
        try:
            for group in range(self._metadata.num_row_groups):
                check_group(self._metadata.row_group(group), names, most_rows=self.rows)
            with self._opened() as stream:
                whole = [name for name in names if "." not in name]
                parquet = pq.ParquetFile(stream, metadata=self._metadata, read_dictionary=whole, pre_buffer=False)
                yield from text_batches(parquet, names, _ROWS_AT_ONCE)
        except (pa.ArrowException, UnicodeDecodeError) as exc:
            raise self._damaged(exc) from exc

    def read(self, place: str) -> bytes:
        """Return the bytes of a photo, given the part of its uri after ``#``.

        Raises
        ------
        RefusedError
            If its row group takes too much memory.
        StoreError
            If the file is damaged, or its row holds no bytes.
        """
        number, row = self._place(place)
        return self._groups.get(number).read_row(row - self._starts[number])

    def expect(self, place: str, executor: Executor) -> None:
        """Prefetch the row group of a photo that will be read, if it is the next one."""
        self._groups.expect(self._place(place)[0], executor)

    def _place(self, place: str) -> tuple[int, int]:
        digits = place.partition("/")[0]
        row = int(digits) if digits.isascii() and digits.isdigit() else -1
        if not 0 <= row < self.rows:
            raise AbsentError(f"'{self.file}' has no row '{digits}'")
        return bisect_right(self._starts, row) - 1, row

    def _load(self, number: int) -> RowGroup:
        if self.columns is None:
            raise StoreError(f"'{self.file}' holds no photos any more")
        try:
            with self._opened() as stream:
                parquet = pq.ParquetFile(stream, metadata=self._metadata, pre_buffer=True)
                return RowGroup.read_from(parquet, number, self.columns, packed=False)
        except (pa.ArrowException, IndexError) as exc:
            raise self._damaged(exc) from exc

    def _opened(self) -> Any:
        return opened_file(self.file, self._access)

    def _damaged(self, exc: Exception) -> StoreError:
        first = (str(exc).splitlines() or [type(exc).__name__])[0]
        return DamagedTableError(f"'{self.file}' is damaged or of another kind ({first}); {_WRITE}")


def opened_file(file: str, access: Access) -> Any:
    """Open a file of a bucket, or a regular file on a disk, as Arrow reads it.

    Raises
    ------
    RefusedError
        If a link leads where ``access`` does not.
    OSError
        If it is missing or cannot be read.
    """
    if is_remote(file):
        # From the bucket on: a prefix is part of a URL, in which the %20 of a folder's name would be a blank.
        scheme, _, rest = file.partition("://")
        bucket, _, key = rest.partition("/")
        return opened(f"{scheme}://{bucket}").open(key)
    descriptor = open_regular(file, access.allows_opened)
    try:
        # Arrow opens the checked file, not one that may have taken its name since.
        checked = Path(f"/proc/self/fd/{descriptor}")
        return pa.OSFile(str(checked if checked.exists() else file))
    finally:
        os.close(descriptor)


def is_damaged_table(file: str, access: Access) -> bool:
    """Return whether a file is called a Parquet table and cannot be read as one; False for files of other names."""
    if not file.lower().endswith(".parquet"):
        return False
    try:
        ImageTable(file, access)
    except DamagedTableError:
        return True
    except (CatalogueError, OSError):  # unusual columns; or it cannot be opened, which is reported otherwise
        return False
    return False


#: Opens a table, twice per process at most: each may hold row groups. Cleared when a table is listed.
opened_table = lru_cache(maxsize=2)(ImageTable)
