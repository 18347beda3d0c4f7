"""Delta tables that name photos, as PHOTOS: the rows of the latest version, whose columns are those of a manifest.

The log is read by delta-rs, the data files by ourselves, so that only files within the table's folder are read, in bounded
memory. A table that needs more than that, such as deletion vectors or column mapping, is refused with the reason.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from fruits.errors import CatalogueError
from fruits.photos.catalogue.manifests.manifest import (
    Row,
    as_text_batches,
    check_row_groups,
    columns_of,
    has_uris,
    rows_in,
)
from fruits.photos.reading.access import Access
from fruits.photos.reading.tables import opened_file
from fruits.storage.objects import AbsentError, Objects, is_remote
from fruits.storage.objects.buckets import delta_options
from fruits.storage.objects.failures import error_of

if TYPE_CHECKING:
    from deltalake import DeltaTable

#: Folder of the log of a Delta table.
LOG: Final = "_delta_log"
#: Latest reader version, and those of its features that do not change which rows count, or are checked to be unused.
_READER_VERSION: Final = 3
_FEATURES: Final = frozenset(
    {"timestampNtz", "typeWidening", "v2Checkpoint", "vacuumProtocolCheck", "columnMapping", "deletionVectors"}
)
_ROWS_AT_ONCE: Final = 8192
_AS_PARQUET: Final = "write what it holds now as Parquet, and name that folder"


@dataclass(frozen=True, slots=True)
class _File:
    """A data file: path relative to the table, and the values of its partition columns."""

    path: str
    partition: dict[str, str | None]


def is_delta_table(root: str) -> bool:
    """Return whether a folder or prefix is a Delta table."""
    if not is_remote(root):
        return Path(root, LOG).is_dir()
    try:
        return next(iter(Objects(root).list(LOG)), None) is not None
    except AbsentError:
        return False


def read_delta(root: str, access: Access, *, labelled: bool) -> Iterator[Row]:
    """Yield the rows of the latest version of a Delta table, as those of a manifest in its folder.

    Parameters
    ----------
    root : str
        Absolute path or uri of the table.
    access : Access
        Where links among its files may lead.
    labelled : bool
        As in :func:`fruits.photos.catalogue.manifests.manifest.read_manifest`.

    Raises
    ------
    CatalogueError
        If it cannot be read, needs what is not supported, or its columns or rows are not those of a manifest.
    StoreError
        If the bucket cannot be reached.
    """
    name = root.rpartition("/")[2]
    table, files = _opened(root)
    given = [field.name for field in table.schema().fields]
    if not has_uris(given):
        raise CatalogueError(
            f"Delta table '{root}' has the columns {', '.join(given)}; expected rows that name photos (uri, label, size, etag): "
            f"if it holds their bytes, {_AS_PARQUET}"
        )
    columns = columns_of(given, name, labelled=labelled)
    yield from rows_in(_batches(root, files, columns, name, access), root, name, labelled=labelled)


def _opened(root: str) -> tuple[DeltaTable, list[_File]]:
    """Open a table, check that it can be read right, and return its data files, in the order of their names."""
    if not is_remote(root) and (found := re.search(r"%[0-9A-Fa-f]{2}|\\", root)):
        raise CatalogueError(
            f"'{root}': its path contains {found[0]}, which the library of Delta tables misreads; expected a folder without it: "
            "rename it"
        )
    from deltalake import DeltaTable  # noqa: PLC0415 - needed by few
    from deltalake.exceptions import DeltaError  # noqa: PLC0415

    try:
        table = DeltaTable(root, storage_options=delta_options(root))
        _refuse_unsupported(root, table)
        actions = pa.table(table.get_add_actions(flatten=True))
        parts = {
            name.removeprefix("partition."): name for name in actions.column_names if name.startswith("partition.")
        }
        has_vectors = "deletionVectors" in (table.protocol().reader_features or ()) and _has_vectors(table)
    except (DeltaError, OSError, ValueError) as exc:
        if isinstance(exc, CatalogueError):
            raise
        first = (str(exc).splitlines() or [type(exc).__name__])[0][:300]
        if is_remote(root) and re.search(r"Generic \w+ error|status code|error sending request|timed? ?out", str(exc)):
            raise error_of("open", root, exc) from exc
        raise CatalogueError(
            f"Delta table '{root}' cannot be read ({first}); expected reader version 1 to {_READER_VERSION} and a whole log: "
            f"mend it, or {_AS_PARQUET}"
        ) from exc
    except BaseException as exc:
        if type(exc).__name__ == "PanicException":  # of Rust, on some damaged logs
            raise CatalogueError(
                f"the log of Delta table '{root}' is damaged; expected a whole one: restore it"
            ) from exc
        raise
    if has_vectors:
        raise CatalogueError(
            f"Delta table '{root}' has deletion vectors, which are not read: deleted rows would count; expected none: run REORG "
            f"TABLE ... APPLY (PURGE) where it was written, or {_AS_PARQUET}"
        )
    partitions = [actions[column].to_pylist() for column in parts.values()]
    files = []
    for at, path in enumerate(actions["path"].to_pylist()):
        values = {name: column[at] for name, column in zip(parts, partitions, strict=True)}
        files.append(_File(_within(root, path), {k: None if v is None else str(v) for k, v in values.items()}))
    return table, sorted(files, key=lambda file: file.path)


def _refuse_unsupported(root: str, table: DeltaTable) -> None:
    protocol = table.protocol()
    unknown = sorted(set(protocol.reader_features or ()) - _FEATURES)
    if protocol.min_reader_version > _READER_VERSION or unknown:
        needs = f"reader version {protocol.min_reader_version}" + (f" with {', '.join(unknown)}" if unknown else "")
        raise CatalogueError(
            f"Delta table '{root}' needs {needs}; expected at most version {_READER_VERSION}, with no features but "
            f"{', '.join(sorted(_FEATURES))}: {_AS_PARQUET}"
        )
    mode = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mode != "none":
        raise CatalogueError(
            f"Delta table '{root}' has column mapping '{mode}', so that its files name columns otherwise; expected none: "
            f"{_AS_PARQUET}"
        )


def _has_vectors(table: DeltaTable) -> bool:
    """Return whether rows are deleted by deletion vectors; Databricks switches the feature on for tables that never use it."""
    from deltalake.exceptions import DeltaError  # noqa: PLC0415

    try:
        return any(batch.num_rows for batch in pa.RecordBatchReader.from_stream(table.deletion_vectors()))
    except DeltaError:  # there are some, and their file cannot be read
        return True


def _within(root: str, path: str) -> str:
    """Return the path of a data file on the disk or in the bucket; refuse one that leads out of the table."""
    plain = unquote(path)
    if plain.startswith("/") or ":" in plain.partition("/")[0] or ".." in plain.split("/") or "\0" in plain:
        raise CatalogueError(
            f"Delta table '{root}' has a file elsewhere, '{plain[:200]}', as a shallow clone has; expected all of them in its "
            f"folder: {_AS_PARQUET}"
        )
    return posixpath.normpath(plain)


def _batches(
    root: str, files: list[_File], columns: dict[str, str], name: str, access: Access
) -> Iterator[pa.RecordBatch]:
    for file in files:
        place = f"{name}/{file.path}"
        try:
            with opened_file(f"{root}/{file.path}", access) as stream:
                for batch in _of_file(stream, file, columns, place):
                    yield from as_text_batches(batch, columns, name)
        except (AbsentError, FileNotFoundError) as exc:
            raise CatalogueError(
                f"Delta table '{name}': its file '{file.path}' is gone; expected it: restore it"
            ) from exc
        except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
            if isinstance(exc, CatalogueError):
                raise
            first = (str(exc).splitlines() or [type(exc).__name__])[0][:300]
            raise CatalogueError(f"Delta table '{name}': its file '{file.path}' cannot be read ({first})") from exc


def _of_file(stream: Any, file: _File, columns: dict[str, str], place: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file with all columns: those of its partition and those that it lacks are constant."""
    metadata = pq.ParquetFile(stream).metadata
    schema = metadata.schema.to_arrow_schema()
    there = [column for column in columns if column in schema.names and column not in file.partition]
    check_row_groups(metadata, there, place)
    text = [column for column in there if pa.types.is_string(schema.field(column).type)]
    parquet = pq.ParquetFile(stream, metadata=metadata, read_dictionary=text, pre_buffer=False)
    for batch in parquet.iter_batches(batch_size=_ROWS_AT_ONCE, columns=there, use_threads=False):
        arrays = [
            batch.column(column)
            if column in there
            else pa.repeat(pa.scalar(file.partition.get(column), pa.string()), batch.num_rows)
            for column in columns
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
