"""Reading a manifest: a CSV or Parquet table that says which photos there are, with their labels and splits.

Columns ``uri`` and ``label``; optional ``split`` and ``group`` (photos that show the same thing share one). Other columns are
ignored. A manifest may lie on disk or in a bucket, and name photos in either: relative to itself, by absolute path, or by url.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from fruits.errors import CatalogueError
from fruits.storage.objects import AbsentError, is_remote, opened, split_uri


class Row(NamedTuple):
    """A photo that a manifest names; the key is its uri as written."""

    uri: str
    key: str
    label: str | None
    split: str | None
    group: str | None


def read_manifest(manifest: str, split_names: Mapping[str, str], *, labelled: bool) -> Iterator[Row]:
    """Yield the rows of a manifest.

    Parameters
    ----------
    manifest : str
        Absolute path or url of a ``.csv`` or ``.parquet`` file.
    split_names : mapping
        Spelling, in lower case, to split.
    labelled : bool
        Whether a label is required; without, label, split and group are None.

    Raises
    ------
    CatalogueError
        If the file cannot be read, a column is missing, or a row lacks uri or label or has an unknown split.
    """
    folder, name = split_uri(manifest)
    table = _read(manifest, name)
    needed = ["uri", "label"] if labelled else ["uri"]
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise CatalogueError(
            f"manifest '{name}' has the columns {', '.join(table.column_names)}; "
            f"expected uri, label and, if you like, split, group: {', '.join(missing)} missing"
        )
    columns = [name for name in ("uri", "label", "split", "group") if name in table.column_names]
    number = 0
    for batch in _as_text(table, columns, name).to_batches(8192):
        for row in batch.to_pylist():
            number += 1
            uri = row["uri"]
            if not uri or "\0" in uri:
                raise CatalogueError(f"manifest '{name}', row {number}: no uri; expected the path of a photo")
            if not labelled:
                yield Row(_resolve(folder, uri), uri, None, None, None)
                continue
            label = unicodedata.normalize("NFC", row["label"] or "").strip()
            if not label:
                raise CatalogueError(f"manifest '{name}', row {number} ('{uri}'): no label; add one or remove the row")
            spelling = (row.get("split") or "").strip()
            split = split_names.get(spelling.lower()) if spelling else None
            if spelling and split is None:
                raise CatalogueError(
                    f"manifest '{name}', row {number}: split '{spelling}'; expected {', '.join(split_names)}, or nothing"
                )
            yield Row(_resolve(folder, uri), uri, label, split, row.get("group") or None)


def _read(manifest: str, name: str) -> pa.Table:
    data = _fetched(manifest) if is_remote(manifest) else None

    def source() -> object:
        return Path(manifest) if data is None else pa.BufferReader(data)

    try:
        if name.lower().endswith(".parquet"):
            return pq.read_table(source(), use_threads=False, pre_buffer=False)
        # Everything as text: a label such as 007 is a name, not a number.
        columns = pa.csv.open_csv(source()).schema.names
        options = pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False)
        return pa.csv.read_csv(source(), convert_options=options)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise CatalogueError(
            f"manifest '{name}' cannot be read ({exc}); expected UTF-8 CSV with a header line, or Parquet"
        ) from exc


def _fetched(manifest: str) -> bytes:
    folder, name = split_uri(manifest)
    try:
        return opened(folder).read(name)
    except AbsentError as exc:
        raise CatalogueError(f"'{manifest}' does not exist; expected a manifest (.csv, .parquet)") from exc


def _as_text(table: pa.Table, columns: list[str], name: str) -> pa.Table:
    try:
        return table.select(columns).cast(pa.schema([(column, pa.string()) for column in columns]))
    except (pa.ArrowException, KeyError) as exc:
        raise CatalogueError(
            f"manifest '{name}': {exc.args[0]}; expected one column each, of text, for {', '.join(columns)}"
        ) from exc


def _resolve(folder: str, uri: str) -> str:
    # Spelled one way, so that a photo that two rows name differently is still one photo.
    if is_remote(uri) or (is_remote(folder) and not uri.startswith("/")):
        scheme, _, rest = (uri if is_remote(uri) else f"{folder}/{uri}").partition("://")
        return f"{scheme}://{posixpath.normpath(rest)}"
    return posixpath.normpath(posixpath.join(folder or "/", uri))
