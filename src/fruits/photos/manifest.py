"""Reading a manifest: a CSV or Parquet table that says which photos there are, with their labels and splits.

Columns ``uri`` (a path, absolute or relative to the manifest) and ``label``; optional ``split`` and ``group`` (photos that
show the same thing share one). Other columns are ignored.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from fruits.errors import CatalogueError


def read_manifest(
    path: Path, split_names: Mapping[str, str], *, labelled: bool
) -> Iterator[tuple[str, str, str | None, str | None, str | None]]:
    """Yield ``(uri, key, label, split, group)`` for each row; the key is the uri as written.

    Parameters
    ----------
    path : Path
        Absolute path of a ``.csv`` or ``.parquet`` file.
    split_names : mapping
        Spelling, in lower case, to split.
    labelled : bool
        Whether a label is required; without, label and split are None.

    Raises
    ------
    CatalogueError
        If the file cannot be read, a column is missing, or a row lacks uri or label or has an unknown split.
    """
    table = _read(path)
    needed = ["uri", "label"] if labelled else ["uri"]
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise CatalogueError(
            f"manifest '{path.name}' has the columns {', '.join(table.column_names)}; "
            f"expected uri, label and, if you like, split, group: {', '.join(missing)} missing"
        )
    columns = [name for name in ("uri", "label", "split", "group") if name in table.column_names]
    number = 0
    for batch in _as_text(table, columns, path).to_batches(8192):
        for row in batch.to_pylist():
            number += 1
            uri = row["uri"]
            if not uri or "\0" in uri:
                raise CatalogueError(f"manifest '{path.name}', row {number}: no uri; expected the path of a photo")
            if not labelled:
                yield _resolve(path, uri), uri, None, None, None
                continue
            label = unicodedata.normalize("NFC", row["label"] or "").strip()
            if not label:
                raise CatalogueError(
                    f"manifest '{path.name}', row {number} ('{uri}'): no label; add one or remove the row"
                )
            spelling = (row.get("split") or "").strip()
            split = split_names.get(spelling.lower()) if spelling else None
            if spelling and split is None:
                raise CatalogueError(
                    f"manifest '{path.name}', row {number}: split '{spelling}'; expected {', '.join(split_names)}, or nothing"
                )
            yield _resolve(path, uri), uri, label, split, row.get("group") or None


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path)
        # Everything as text: a label such as 007 is a name, not a number.
        names = pa.csv.open_csv(path).schema.names
        options = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        return pa.csv.read_csv(path, convert_options=options)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise CatalogueError(
            f"manifest '{path.name}' cannot be read ({exc}); expected UTF-8 CSV with a header line, or Parquet"
        ) from exc


def _as_text(table: pa.Table, columns: list[str], path: Path) -> pa.Table:
    try:
        return table.select(columns).cast(pa.schema([(name, pa.string()) for name in columns]))
    except (pa.ArrowException, KeyError) as exc:
        raise CatalogueError(
            f"manifest '{path.name}': {exc.args[0]}; expected one column each, of text, for {', '.join(columns)}"
        ) from exc


def _resolve(manifest: Path, uri: str) -> str:
    # Spelled one way, so that a photo that two rows name differently is still one photo.
    return os.path.normpath(manifest.parent / uri)
