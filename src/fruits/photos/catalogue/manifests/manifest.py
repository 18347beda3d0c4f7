"""Reading a manifest: a CSV or Parquet table of photos with their labels and splits.

Columns: ``uri`` and ``label``; optional ``split``, ``group`` (shared by photos of the same object) and ``source`` (origin of a
photo, free text); ``size_bytes`` with ``etag`` or ``last_modified``, which spare a request per photo. Common names of each are
understood. Other columns are ignored. A manifest may lie on disk or in a bucket, and name photos in either: relative to
itself, by absolute path, or by url, ``file:`` included. It is streamed, so memory does not grow with its length.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from fruits.errors import CatalogueError, StoreError
from fruits.photos.catalogue.names import label_of, split_of
from fruits.storage.objects import AbsentError, is_remote, opened, split_uri

#: A manifest of ten million rows takes about one gigabyte.
MAX_BYTES: Final = 8 << 30
#: Longest value of a manifest in bytes; paths have at most 4,096.
_MAX_VALUE: Final = 8 << 10
#: Most uncompressed bytes of the columns that are read of one row group of a Parquet manifest.
_MAX_GROUP: Final = 1 << 30
_ROWS_AT_ONCE: Final = 8192
#: Larger sizes are no sizes: no store has such objects, and columns of sizes have 64 bits.
_MAX_SIZE: Final = 1 << 50
#: Column to the names it may have, in lower case and without ``_``, ``-`` and blanks; the first that is there counts.
_COLUMNS: Final = {
    "uri": ("uri", "url", "s3uri", "imageuri", "imageurl", "path", "imagepath", "filepath", "filename", "file"),
    "label": ("label", "class", "classname", "category"),
    "split": ("split", "subset"),
    "group": ("group",),
    "source": ("source",),
    "size": ("sizebytes", "size", "filesize", "contentlength", "sizeinbytes"),
    "etag": ("etag", "version"),
    "modified": ("lastmodified", "lastmodifieddate", "modified", "mtime"),
}
_FILE: Final = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>/.*)", re.IGNORECASE | re.DOTALL)


class Row(NamedTuple):
    """A photo in a manifest; ``key`` is its uri as written. ``size`` and ``version`` are None unless both are given."""

    uri: str
    key: str
    label: str | None
    split: str | None
    group: str | None
    source: str | None
    size: int | None = None
    version: str | None = None


def read_manifest(manifest: str, *, labelled: bool) -> Iterator[Row]:
    """Yield the rows of a manifest.

    Parameters
    ----------
    manifest : str
        Absolute path or url of a ``.csv`` or ``.parquet`` file.
    labelled : bool
        Whether a label is required. If False, label, split, group and source are None.

    Raises
    ------
    CatalogueError
        If the file cannot be read or is too large, a column is missing, or a row lacks uri or label or has an unknown split.
    """
    folder, name = split_uri(manifest)
    yield from rows_in(_batches(manifest, name, labelled=labelled), folder, name, labelled=labelled)


def rows_in(batches: Iterable[pa.RecordBatch], folder: str, name: str, *, labelled: bool) -> Iterator[Row]:
    """Yield the rows of batches of text, whose columns are called as in :class:`Row`.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch
    folder : str
        What relative uris are relative to.
    name : str
        Of the table, for messages.
    labelled : bool
        As in :func:`read_manifest`.

    Raises
    ------
    CatalogueError
        If a row cannot be used.
    """
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            uri = row["uri"]
            if not uri or "\0" in uri:
                raise CatalogueError(f"manifest '{name}', row {number}: no uri; expected the path of a photo")
            place = f"manifest '{name}', row {number} ('{uri}')"
            state = _state(row)
            if not labelled:
                yield Row(_resolve(folder, uri, place), uri, None, None, None, None, *state)
                continue
            label = label_of(row["label"] or "")
            if label is None:
                raise CatalogueError(f"{place}: no label; add one or remove the row")
            spelling = (row.get("split") or "").strip()
            split = split_of(spelling) if spelling else None
            if spelling and split is None:
                raise CatalogueError(
                    f"manifest '{name}', row {number}: split '{spelling}'; expected train, val, test, or nothing"
                )
            source = (row.get("source") or "").strip() or None
            yield Row(_resolve(folder, uri, place), uri, label, split, row.get("group") or None, source, *state)


def _state(row: dict[str, Any]) -> tuple[int | None, str | None]:
    """Return size and version of a photo as a listing of its bucket gives them; None twice if the row does not say both."""
    etag, modified = (row.get("etag") or "").strip().strip('"'), (row.get("modified") or "").strip()
    try:
        size = int(row.get("size") or "")
        if not (0 <= size <= _MAX_SIZE and (etag or modified)):
            return None, None
    except ValueError:
        return None, None
    return size, etag or version_at(modified, size)


def version_at(modified: str, size: int) -> str:
    """Return the version of an object without an etag, from its time (ISO 8601, or seconds since 1970) and size."""
    with suppress(ValueError):
        time = datetime.fromisoformat(modified)
        modified = f"{(time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp():.6f}"
    return f"{modified}-{size}"


def _batches(manifest: str, name: str, *, labelled: bool) -> Iterator[pa.RecordBatch]:
    """Yield batches of the known columns as text."""
    reading = _of_parquet if name.lower().endswith(".parquet") else _of_csv
    try:
        yield from reading(manifest, name, labelled=labelled)
    except StoreError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise CatalogueError(
            f"manifest '{name}' cannot be read ({exc}); expected UTF-8 CSV with a header line, or Parquet"
        ) from exc


def _of_csv(manifest: str, name: str, *, labelled: bool) -> Iterator[pa.RecordBatch]:
    read = pyarrow.csv.ReadOptions(use_threads=False)
    with _opened(manifest, name) as file, closing(pyarrow.csv.open_csv(file, read)) as head:
        given = head.schema.names
    columns = columns_of(given, name, labelled=labelled)
    # Read everything as text: a label such as 007 is a name, not a number.
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(given, pa.string()), include_columns=[*columns], strings_can_be_null=False
    )
    with _opened(manifest, name) as file, closing(pyarrow.csv.open_csv(file, read, convert_options=options)) as reader:
        for batch in reader:
            yield from as_text_batches(batch, columns, name)


def _of_parquet(manifest: str, name: str, *, labelled: bool) -> Iterator[pa.RecordBatch]:
    with _opened(manifest, name) as file:
        metadata = pq.ParquetFile(file).metadata
    given = metadata.schema.to_arrow_schema()
    columns = columns_of(given.names, name, labelled=labelled)
    check_row_groups(metadata, columns, name)
    # Dictionaries hold a repeated value once, however long it is.
    text = [column for column in columns if pa.types.is_string(given.field(column).type)]
    with _opened(manifest, name) as file:
        parquet = pq.ParquetFile(file, metadata=metadata, read_dictionary=text, pre_buffer=False)
        for batch in parquet.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[*columns], use_threads=False):
            yield from as_text_batches(batch, columns, name)


def check_row_groups(metadata: Any, columns: Iterable[str], name: str) -> None:
    """Raise CatalogueError if the columns of a row group of a Parquet file take more memory than a manifest should."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        chunks = [row_group.column(at) for at in range(row_group.num_columns)]
        size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns)
        if size > _MAX_GROUP:
            raise CatalogueError(
                f"manifest '{name}': row group {group} takes {size:,} bytes; expected at most {_MAX_GROUP:,}: "
                "write it with fewer rows per group"
            )


def has_uris(given: list[str]) -> bool:
    """Return whether columns name photos."""
    return any(re.sub(r"[\s_-]+", "", column.lower()) in _COLUMNS["uri"] for column in given)


def columns_of(given: list[str], name: str, *, labelled: bool) -> dict[str, str]:
    """Return the columns to read, each with its own name and the one it has here.

    Raises
    ------
    CatalogueError
        If one is missing, or is there twice.
    """
    needed = ["uri", "label"] if labelled else ["uri"]
    plain = [re.sub(r"[\s_-]+", "", column.lower()) for column in given]
    wanted = _COLUMNS if labelled else {name: _COLUMNS[name] for name in ("uri", "size", "etag", "modified")}
    columns = {}
    for column, names in wanted.items():
        spelling = next((known for known in names if known in plain), None)
        if spelling is not None:
            columns[given[plain.index(spelling)]] = column
            if plain.count(spelling) > 1:
                raise CatalogueError(
                    f"manifest '{name}': {column} is there {plain.count(spelling)} times; "
                    f"expected one column each, of text, for {', '.join(wanted)}"
                )
    missing = [column for column in needed if column not in columns.values()]
    if missing:
        raise CatalogueError(
            f"manifest '{name}' has the columns {', '.join(given)}; "
            f"expected uri, label and, if you like, split, group, source: {', '.join(missing)} missing"
        )
    return columns


def as_text_batches(batch: pa.RecordBatch, columns: dict[str, str], name: str) -> Iterator[pa.RecordBatch]:
    """Yield a batch in pieces, its columns as text and called as here; refuse values of other types or lengths."""
    for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
        some, arrays = batch.slice(start, _ROWS_AT_ONCE), []
        for column in columns:
            values = some.column(column)
            try:
                words = as_texts(values.dictionary if pa.types.is_dictionary(values.type) else values)
                longest = pc.max(pc.binary_length(words)).as_py() or 0
                if longest > _MAX_VALUE:
                    raise CatalogueError(
                        f"manifest '{name}': a value of {longest:,} bytes in column {column}; expected at most {_MAX_VALUE:,}"
                    )
                arrays.append(
                    words.take(values.indices) if words is not values and hasattr(values, "indices") else words
                )
            except pa.ArrowException as exc:
                raise CatalogueError(
                    f"manifest '{name}': {exc.args[0]}; expected one column each, of text, for {', '.join(columns)}"
                ) from exc
        yield pa.RecordBatch.from_arrays(arrays, names=[*columns.values()])


def as_texts(values: pa.Array) -> pa.Array:
    """Return values as text; times in seconds since 1970 with six decimals, as versions have them."""
    if not pa.types.is_timestamp(values.type):
        return values.cast(pa.string())
    since = values.cast(pa.timestamp("us", values.type.tz), safe=False).cast(pa.int64()).to_pylist()
    return pa.array([None if time is None else f"{time / 1e6:.6f}" for time in since], pa.string())


def _opened(manifest: str, name: str) -> Any:
    """Open a manifest; raise CatalogueError if it is larger than ``MAX_BYTES``."""
    try:
        if is_remote(manifest):
            folder, _ = split_uri(manifest)
            objects = opened(folder)
            size, file = objects.size(name) or 0, objects.open(name)
        else:
            file = pa.OSFile(manifest)
            size = file.size()
    except AbsentError as exc:
        raise CatalogueError(f"'{manifest}' does not exist; expected a manifest (.csv, .parquet)") from exc
    if size > MAX_BYTES:
        file.close()
        raise CatalogueError(
            f"manifest '{name}' has {size:,} bytes; expected at most {MAX_BYTES:,}: split it, and give all of them"
        )
    return file


def _resolve(folder: str, uri: str, place: str) -> str:
    # Normalised, so that a photo that two rows spell differently is one photo.
    if match := _FILE.fullmatch(uri):
        if (match["host"] or "localhost").lower() != "localhost":
            raise CatalogueError(f"{place}: a file of another machine; expected file:///path, of this one")
        # Some programs put "file://" before a path without encoding it: "%20" is then part of the name.
        written, path = match["path"], unquote(match["path"], errors="surrogateescape")
        if "\0" in path:
            raise CatalogueError(f"{place}: no uri; expected the path of a photo")
        if path != written and not os.path.lexists(path) and os.path.lexists(written):
            path = written
        return posixpath.normpath(path).replace("//", "/")
    if is_remote(uri) or (is_remote(folder) and not uri.startswith("/")):
        scheme, _, rest = (uri if is_remote(uri) else f"{folder}/{uri}").partition("://")
        return f"{scheme}://{posixpath.normpath(rest)}"
    return posixpath.normpath(posixpath.join(folder or "/", uri))
