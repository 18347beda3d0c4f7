"""Listing the photos in Parquet files that hold them, such as those of Hugging Face's ``datasets``.

Only labels, splits and names are read. A photo is identified by its file and row, and its version is that of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import pyarrow as pa

from fruits.errors import CatalogueError, StoreError
from fruits.photos.catalogue.builder import CatalogueBuilder, stable_hash
from fruits.photos.catalogue.files.folders import neighbours
from fruits.photos.catalogue.manifests.manifest import has_uris
from fruits.photos.catalogue.names import label_of, split_of
from fruits.photos.reading.access import Access
from fruits.photos.reading.columns import leaf
from fruits.photos.reading.containers import TABLE, contained_uri
from fruits.photos.reading.pack_groups import short
from fruits.photos.reading.tables import DamagedTableError, ImageTable, opened_table
from fruits.storage.disk.local import RefusedError
from fruits.storage.objects import is_remote

#: Files listed at the same time in a bucket.
_AT_ONCE: Final = 16
_LONGEST_NAME: Final = 255


class _Row(NamedTuple):
    row: int
    name: str
    split: str | None


@dataclass(slots=True)
class _Listed:
    """What a file holds: its photos by label, and what is skipped, with reasons."""

    table: ImageTable
    photos: dict[str | None, list[_Row]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def kind_of_table(file: str, access: Access) -> Literal["photos", "names", "damaged", "other"]:
    """Return whether a Parquet file holds photos, names them by uri (a manifest), is damaged, or none of these."""
    try:
        table = ImageTable(file, access)
    except DamagedTableError:
        return "damaged"
    except OSError:
        return "other"
    return "photos" if table.columns is not None else "names" if has_uris(table.schema.names) else "other"


def add_tables(builder: CatalogueBuilder, files: dict[str, tuple[str, str | None]], root: str, access: Access) -> None:
    """Add the photos of Parquet files.

    Parameters
    ----------
    builder : CatalogueBuilder
    files : dict of str to (str, str or None)
        Path or uri of each file to its version and its split, in order.
    root : str
        Folder that the files lie in.
    access : Access
        Where links among files on a disk may lead.

    Raises
    ------
    CatalogueError
        If a file cannot be read, or its columns cannot be used.
    """
    opened_table.cache_clear()
    builder.lies_below(contained_uri(TABLE, f"{root.rstrip('/')}/", "").removesuffix("#"))
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="table") as pool:
        run: Callable[..., Iterator[_Listed]] = pool.map if any(map(is_remote, files)) else map
        listed = run(lambda file: _list(file, access, labelled=builder.labelled), files)
        for (file, (version, split)), found in zip(files.items(), listed, strict=True):
            _add(builder, file.rpartition("/")[2], version, split, found)


def _add(builder: CatalogueBuilder, file: str, version: str, split: str | None, found: _Listed) -> None:
    for reason, example in found.skipped:
        builder.skip(reason, f"{file}: {example}")
    keys: set[int] = set()
    size = found.table.bytes_per_photo()
    for label, photos in found.photos.items():
        groups = neighbours(builder, (file, label or ""), [photo.name for photo in photos])
        for photo, group in zip(photos, groups, strict=True):
            # As of a folder per label; a photo without a name of its own goes by its row.
            key = f"{label or ''}/{photo.name}"
            if not photo.name or stable_hash(key) in keys:
                key = f"{key}#{file}#{photo.row}"
                group = stable_hash(key) if group is not None else None  # noqa: PLW2901
            keys.add(stable_hash(key))
            part = (photo.split or split) if builder.labelled else None
            uri = found.table.uri(photo.row, photo.name)
            builder.add(uri, key, size, version, label=label, split=part, group=group)


def _list(file: str, access: Access, *, labelled: bool) -> _Listed:
    expected = "expected a column image with the bytes of photos, and label, as Hugging Face's datasets writes"
    try:
        found = _Listed(ImageTable(file, access))
        columns = found.table.columns
        if columns is None:
            raise CatalogueError(f"'{file}' has the columns {', '.join(found.table.schema.names)}; {expected}")
        if labelled and columns.label is None:
            several = f": rename the one of {', '.join(columns.labels)} that is meant" if columns.labels else ""
            raise CatalogueError(f"'{file}' has no column label{several}; {expected}")
        names = [columns.path] if columns.path else []
        if labelled:
            names += [name for name in (columns.label, "split") if name and _is_there(found.table.schema, name)]
        if not names:
            found.photos[None] = [_Row(row, "", None) for row in range(found.table.rows)]
        start = 0
        for batch in found.table.texts(names) if names else ():
            none = [None] * batch.num_rows
            paths = short(leaf(batch, columns.path)).to_pylist() if columns.path else none
            splits = short(batch.column("split")).to_pylist() if "split" in names else none
            labels = none
            if labelled and columns.label:
                labels = short(columns.label_of(leaf(batch, columns.label))).to_pylist()
            for row, (path, label, split) in enumerate(zip(paths, labels, splits, strict=True), start):
                _sort(found, _Row(row, _name(path), None), label, split, labelled=labelled)
            start += batch.num_rows
    except CatalogueError:
        raise
    except (RefusedError, UnicodeDecodeError) as exc:
        raise CatalogueError(f"'{file}' cannot be used ({exc}); {expected}") from exc
    except StoreError as exc:
        raise CatalogueError(f"{exc}; {expected}") from exc
    except OSError as exc:
        raise CatalogueError(f"'{file}' cannot be read ({exc.strerror or exc}); {expected}") from exc
    return found


def _sort(found: _Listed, photo: _Row, given: str | None, split: str | None, *, labelled: bool) -> None:
    """Put a row where it belongs: one that cannot be used is skipped."""
    label = label_of(given or "") if labelled else None
    spelling = (split or "").strip()
    if labelled and label is None:
        found.skipped.append(("no label", f"row {photo.row + 1:,}"))
    elif spelling and split_of(spelling) is None:
        found.skipped.append(("split of an unknown name", f"row {photo.row + 1:,}, '{spelling}'"))
    else:
        found.photos.setdefault(label, []).append(photo._replace(split=split_of(spelling) if spelling else None))


def _is_there(schema: pa.Schema, name: str) -> bool:
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    return name != "split" or bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _name(path: str | None) -> str:
    name = (path or "").rpartition("/")[2]
    return name if len(name) <= _LONGEST_NAME else ""
