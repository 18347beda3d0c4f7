"""Packs: many photos in a few Parquet files, which buckets serve faster and cheaper than single objects.

``pack.json`` lists the files, their checksums and the first path of each row group, so a pack is opened without listing. Rows are
sorted by path, so the row group of a photo is found without reading. This module reads packs; ``packing.py`` writes them.

To change the format: raise ``VERSION``, document the change here, and add a test that old packs still open.

1: ``path`` and ``bytes`` are columns of their own, ``label`` is text; older ones lack ``manifest_source``.
2: ``image: struct<bytes, path>`` and numbered labels, as Hugging Face's ``datasets`` writes and reads.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fruits.errors import CatalogueError, StoreError, counted
from fruits.photos.reading.columns import Columns, leaf
from fruits.photos.reading.containers import PACK, contained_uri
from fruits.photos.reading.pack_groups import ADVICE, Groups, RowGroup, check_group, short, text_batches
from fruits.storage.disk.local import RefusedError, open_regular, read_regular
from fruits.storage.objects import AbsentError, Objects, is_remote, opened
from fruits.storage.outputs.marker import inside
from fruits.storage.sanitising import json_text

FORMAT: Final = "fruits pack"
VERSION: Final = 2
_READ: Final = (1, 2)
MANIFEST: Final = "pack.json"
#: Digits of a photo's checksum that form its version, so that packing the same photos again changes no version.
VERSION_DIGITS: Final = 16

#: A row per photo, sorted by path. ``label`` is absent from packs without labels. ``split`` is null where the sources give none.
#: ``group``, ``manifest_source`` and ``key`` are those of the catalogue; ``key`` is the hash that splits and samples are drawn
#: by. The columns needed to read a photo come last, so that they are one range of the file.
SCHEMA: Final = pa.schema(
    [
        pa.field("label", pa.int64()),
        pa.field("split", pa.string()),
        pa.field("manifest_source", pa.string()),
        pa.field("group", pa.int64(), nullable=False),
        pa.field("key", pa.int64(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
    ]
)
_ROWS_AT_ONCE: Final = 8192
_MAX_CONTENTS: Final = 256 << 20
_TEXTS: Final = ("label", "split", "manifest_source", "path", "version", "sha256")


@dataclass(frozen=True, slots=True)
class PackFile:
    """A data file of a pack.

    Attributes
    ----------
    name : str
        Key below the pack's root, unique per attempt.
    size_bytes : int
    sha256 : str
    rows : int
    first : tuple of str
        First path of each row group.
    """

    name: str
    size_bytes: int
    sha256: str
    rows: int
    first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """Contents of ``pack.json``.

    Attributes
    ----------
    photos, photo_bytes : int
        Totals of the files.
    labelled : bool
        Whether every photo has a label.
    from_manifest : bool
        Whether a manifest gave labels and splits.
    files : tuple of PackFile
        Sorted by path.
    """

    photos: int
    photo_bytes: int
    labelled: bool
    from_manifest: bool
    files: tuple[PackFile, ...]

    def to_json(self) -> bytes:
        """Return the text of ``pack.json``."""
        about = {"format": FORMAT, "format_version": VERSION, **asdict(self)}
        return json_text(about, indent=1, ensure_ascii=False).encode()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Contents | None:
        """Parse ``pack.json``; return None if it belongs to another program.

        Raises
        ------
        CatalogueError
            If it is damaged or of another version.
        """
        try:
            about = json.loads(data)
            if isinstance(about, dict) and about.get("format") != FORMAT:
                return None
            version = about["format_version"]
            if version not in _READ:
                raise CatalogueError(
                    f"'{where}' is of pack format {version!r}; expected {VERSION}: {ADVICE}, or update fruits"
                )
            files = tuple(PackFile(**{**file, "first": tuple(file["first"])}) for file in about["files"])
            contents = cls(about["photos"], about["photo_bytes"], about["labelled"], about["from_manifest"], files)
            firsts = [path for file in files for path in file.first]
            if (
                contents.photos != sum(file.rows for file in files)
                or firsts != sorted(firsts)
                or not all(file.first and re.fullmatch(r"data/[\w-]+\.parquet", file.name) for file in files)
            ):
                raise ValueError("its numbers contradict each other")
        except CatalogueError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise CatalogueError(
                f"'{where}' is damaged ({type(exc).__name__}: {exc}); expected what 'fruits pack' wrote: {ADVICE}"
            ) from exc
        return contents


def find_pack(root: str) -> Pack | None:
    """Return the pack at a folder or prefix; None if there is none.

    Raises
    ------
    CatalogueError
        If there is one that is damaged or of another version.
    """
    # Check the disk first: Objects creates missing folders.
    if not is_remote(root) and not (Path(root) / MANIFEST).is_file():
        return None
    objects = opened(root)
    contents = read_contents(objects)
    return None if contents is None else Pack(objects, contents)


def read_contents(objects: Objects) -> Contents | None:
    """Return the contents of a place's ``pack.json``; None if there is none, or it belongs to another program."""
    try:
        path = objects.local_path(MANIFEST)
        if path is None:
            data = objects.read(MANIFEST, limit=_MAX_CONTENTS)
        else:
            data = read_regular(str(path), _MAX_CONTENTS, inside(objects))
    except (AbsentError, FileNotFoundError):
        return None
    except RefusedError as exc:
        raise CatalogueError(f"'{objects.root}/{MANIFEST}' cannot be used ({exc}); {ADVICE}") from exc
    except NotADirectoryError:
        return None
    return Contents.parse(data, f"{objects.root}/{MANIFEST}")


@lru_cache(maxsize=8)
def opened_pack(root: str) -> Pack:
    """Open a pack, once per process.

    Raises
    ------
    StoreError
        If there is no pack, or it cannot be used.
    """
    try:
        pack = find_pack(root)
    except CatalogueError as exc:
        raise StoreError(str(exc)) from exc
    if pack is None:
        raise AbsentError(f"there is no pack at '{root}'; the photos were listed from one")
    return pack


class Pack:
    """An opened pack; thread-safe.

    Parameters
    ----------
    objects : Objects
    contents : Contents
    """

    def __init__(self, objects: Objects, contents: Contents) -> None:
        self.root = objects.root
        self.labelled, self.from_manifest = contents.labelled, contents.from_manifest
        self._objects = objects
        self._use(contents)

    def _use(self, contents: Contents) -> None:
        self.contents = contents
        self._places = [(file, group) for file in contents.files for group in range(len(file.first))]
        self._firsts = [path for file in contents.files for path in file.first]
        self._groups = Groups(self._load)
        self._footers: dict[str, Any] = {}

    def uri(self, path: str) -> str:
        """Return the uri of a photo, for :func:`fruits.photos.reading.reading.read_photo`."""
        return contained_uri(PACK, self.root, path)

    def catalogue(self, *, labelled: bool) -> Iterator[pa.RecordBatch]:
        """Yield batches for ``CatalogueBuilder.add_batch``, reading the small columns only.

        Raises
        ------
        CatalogueError
            If a file is missing or damaged.
        """
        wanted = ["group", "key", "size_bytes", "version", *(["split", "manifest_source"] if labelled else [])]
        prefix = pa.scalar(self.uri(""))
        for file in self.contents.files:
            try:
                with self._opened(file) as stream:
                    # Dictionaries hold a repeated text once, however long it is.
                    metadata = pq.ParquetFile(stream).metadata
                    there = {metadata.schema.column(at).path for at in range(metadata.num_columns)}
                    parquet = pq.ParquetFile(
                        stream,
                        metadata=metadata,
                        read_dictionary=[name for name in _TEXTS if name in there],
                        page_checksum_verification=True,
                        pre_buffer=True,
                    )
                    rows = metadata.num_rows
                    found = _columns(parquet)
                    named = {"path": found.path or "", **({"label": found.label} if found.label and labelled else {})}
                    columns = [
                        *(name for name in wanted if name in there or name != "manifest_source"),
                        *named.values(),
                    ]
                    if rows == file.rows:
                        for group in range(metadata.num_row_groups):
                            check_group(metadata.row_group(group), columns)
                        for batch in text_batches(parquet, columns, _ROWS_AT_ONCE):
                            yield _as_catalogue(batch, prefix, found, labelled=labelled)
            except (pa.ArrowException, OSError, KeyError) as exc:
                first = (str(exc).splitlines() or [type(exc).__name__])[0]
                raise CatalogueError(
                    f"pack '{self.root}': its file '{file.name}' cannot be read ({first}); {ADVICE}"
                ) from exc
            if rows != file.rows:
                raise CatalogueError(
                    f"pack '{self.root}': its file '{file.name}' holds {counted(rows, 'photo')}, not {file.rows:,}; {ADVICE}"
                )

    def read(self, path: str) -> bytes:
        """Return the bytes of a photo after verifying its checksum.

        Raises
        ------
        AbsentError
            If the pack has no such photo.
        StoreError
            If its data file is missing, or bytes are damaged.
        """
        try:
            return self._groups.get(self._number(path)).read(path)
        except AbsentError:
            # The pack may have been replaced since it was opened, and its old files deleted: use the new contents.
            contents = read_contents(self._objects)
            if contents is None or contents == self.contents:
                raise
            self._use(contents)
            return self._groups.get(self._number(path)).read(path)

    def expect(self, path: str, executor: Executor) -> None:
        """Prefetch the row group of a photo that will be read, if it is the next one."""
        self._groups.expect(bisect_right(self._firsts, path) - 1, executor)

    def row_groups(self) -> Iterator[RowGroup]:
        """Yield every row group, one at a time."""
        return (self._load(number) for number in range(len(self._places)))

    def _number(self, path: str) -> int:
        """Return the number of the row group in whose range a path lies."""
        if (number := bisect_right(self._firsts, path) - 1) < 0:
            raise AbsentError(f"pack '{self.root}' has no photo '{path}'")
        return number

    def _opened(self, file: PackFile) -> Any:
        path = self._objects.local_path(file.name)
        if path is None:
            return self._objects.open(file.name)
        descriptor = open_regular(str(path), inside(self._objects))
        try:
            # Arrow opens the checked file, not one that may have taken its name since.
            opened_one = Path(f"/proc/self/fd/{descriptor}")
            return pa.OSFile(str(opened_one if opened_one.exists() else path))
        finally:
            os.close(descriptor)

    def _load(self, number: int) -> RowGroup:
        file, group = self._places[number]
        try:
            with self._opened(file) as stream:
                # No verification of page checksums: one damaged photo must not fail its row group.
                parquet = pq.ParquetFile(stream, metadata=self._footers.get(file.name), pre_buffer=True)
                # Footers are fetched once per file, because files are read one after the other.
                self._footers = {file.name: parquet.metadata}
                return RowGroup.read_from(parquet, group, _columns(parquet), packed=True)
        except AbsentError:
            raise
        except FileNotFoundError as exc:
            raise AbsentError(f"the file '{file.name}' of pack '{self.root}' is gone") from exc
        except StoreError:
            raise
        except (pa.ArrowException, OSError, IndexError) as exc:
            first = (str(exc).splitlines() or [type(exc).__name__])[0]
            raise StoreError(f"the file '{file.name}' of pack '{self.root}' is damaged ({first}); {ADVICE}") from exc


def _columns(parquet: pq.ParquetFile) -> Columns:
    try:
        found = Columns.of(parquet.schema_arrow)
    except CatalogueError as exc:
        raise pa.ArrowInvalid(str(exc)) from exc
    if found is None or found.path is None:
        raise pa.ArrowInvalid("no column of photos with their paths")
    return found


def _as_catalogue(batch: pa.RecordBatch, prefix: pa.Scalar, found: Columns, *, labelled: bool) -> pa.RecordBatch:
    columns = {name: batch.column(name) for name in ("group", "key", "size_bytes")}
    if not labelled:
        columns["group"] = columns["key"]  # as for unlabelled photos in folders
    columns["version"] = short(batch.column("version")).cast(pa.string())
    columns["uri"] = pc.binary_join_element_wise(prefix, short(leaf(batch, found.path or "")).cast(pa.string()), "")
    none = pa.nulls(batch.num_rows, pa.dictionary(pa.int32(), pa.string()))
    for name in ("split", "manifest_source"):
        columns[name] = short(batch.column(name)) if name in batch.schema.names else none
    columns["label"] = found.label_of(leaf(batch, found.label)) if found.label and labelled else none
    short(columns["label"])
    return pa.RecordBatch.from_pydict(columns)
