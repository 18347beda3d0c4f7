"""Writing photos into a pack, and extracting the photos of a pack.

A pack is valid once its ``pack.json`` is written, last and atomically. Names of data files contain an id of the attempt, so a
killed or concurrent ``fruits pack`` to the same place never gives a mixture. Memory: one row group, and the paths of a few
hundred thousand photos, whatever their number: more are sorted in a temporary file.
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fruits.config import is_utf8
from fruits.errors import CatalogueError, ConfigError, StoreError, counted
from fruits.monitoring.clock import Clock, Progress, Silent
from fruits.photos.catalogue.builder import CatalogueBuilder
from fruits.photos.catalogue.listing import add_sources
from fruits.photos.reading.access import Access
from fruits.photos.reading.columns import metadata
from fruits.photos.reading.packs import MANIFEST, SCHEMA, VERSION_DIGITS, Contents, PackFile, find_pack, read_contents
from fruits.photos.reading.reading import read_rows
from fruits.storage.objects import Objects, is_remote, reach
from fruits.storage.outputs.marker import claim
from fruits.storage.tables.spool import SortedRuns

#: Bytes of photos per data file: large enough to keep the number of objects low, small enough to retry after a broken connection.
TARGET_BYTES: Final = 128 << 20
_GROUP_BYTES: Final = 4 << 20
_GROUP_ROWS: Final = 4096
#: A data file that no pack.json names may belong to a pack being written. After this time it is garbage.
_STALE_AFTER: Final = timedelta(days=1)
_NAMED: Final = 20
_DATA: Final = "data"
#: What is packed of a photo, beside its bytes.
_PACKED: Final = ["uri", "path", "label", "split", "group", "manifest_source", "key"]


def pack(
    sources: Sequence[str],
    to: str,
    *,
    labelled: bool = True,
    access: Access | None = None,
    target_bytes: int = TARGET_BYTES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the photos of all sources, with their labels, splits and groups, into a few files.

    Parameters
    ----------
    sources : sequence of str
        Sources as for ``fruits run``. With several, paths in the pack begin with the source's name.
    to : str
        A folder or a prefix of a bucket: new, empty, or an existing pack, which is replaced.
    labelled : bool
        Whether photos need a label. An unlabelled pack is for ``fruits apply``.
    access : Access, optional
        Where links and manifests may lead; by default within the sources.
    target_bytes : int
        A data file ends at this many bytes of photos, 1 or more.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts, sizes, the photos that could not be read (the first 20 by name) and seconds.

    Raises
    ------
    CatalogueError
        If a source cannot be used, or there is nothing to pack.
    StoreError
        If the pack cannot be written, ``to`` holds something else, or no photo can be read. An existing pack stays unchanged.
    """
    if not to or not is_utf8(to):
        raise ConfigError(f"--to {to!r}: expected a folder or a prefix of a bucket for the pack")
    if target_bytes < 1:
        raise ConfigError(f"target of {target_bytes} bytes: expected 1 or more")
    reach(to)
    objects = Objects(to)
    claim(objects, "pack")  # refuse a folder of photos or of results: data files would be mixed with them
    progress, clock = progress or Silent(), Clock()
    with clock.step("catalogue"):
        progress.start("catalogue", None)
        builder = CatalogueBuilder(labelled=labelled, progress=progress.advance)
        access = Access.to(sources) if access is None else access
        add_sources(builder, sources, access)
        photos = _Photos.of(builder)
        for warning in builder.warnings:
            progress.note(f"warning: {warning}")
    if not photos.count:
        skipped = f" ({builder.skipped_text()})" if builder.skipped else ""
        raise CatalogueError(
            f"no photos to pack in {', '.join(map(repr, sources))}{skipped}; expected what 'fruits run' takes"
        )
    with clock.step("pack"):
        progress.start("pack", photos.count)
        writing = _Writing(objects, photos, target_bytes, access, progress)
        try:
            files = tuple(writing.files())
            if not files:
                raise StoreError(
                    f"none of {counted(photos.count, 'photo')} could be read ({writing.unreadable[0]['reason']})"
                )
        except BaseException:
            writing.delete_written()
            raise
        packed = sum(file.rows for file in files)
        contents = Contents(packed, writing.photo_bytes, labelled, builder.from_manifest, files)
        before = _named_before(objects)
        # No undo from here on: after an error the new pack.json may be written nevertheless.
        objects.write(MANIFEST, contents.to_json())
        _clean_up(objects, before, contents)
    return {
        "pack": to,
        "photos": packed,
        "labels": len(builder.codes["label"]),
        "photo_bytes": writing.photo_bytes,
        "files": len(files),
        "row_groups": sum(len(file.first) for file in files),
        "pack_bytes": sum(file.size_bytes for file in files),
        "unreadable": writing.unreadable_count,
        "unreadable_photos": writing.unreadable,
        "skipped": dict(sorted(builder.skipped.items())),
        "warnings": builder.warnings,
        "seconds": {**clock.seconds, "total": clock.total()},
    }


def unpack(root: str, to: str, *, overwrite: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Extract the photos of a pack into files, verifying their checksums.

    Parameters
    ----------
    root : str
        The pack.
    to : str
        A local folder; created if absent.
    overwrite : bool
        Whether an existing file of different content is replaced. If not, it is kept and reported as failed.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts: ``written``, ``there_already`` (the same bytes), ``failed`` (the first 20 by name, with the reason).

    Raises
    ------
    CatalogueError
        If there is no pack, or it is damaged or of another version.
    StoreError
        If a row group cannot be read, or the folder cannot be created.
    """
    if not to or is_remote(to):
        raise ConfigError(f"--to {to!r}: expected a local folder")
    progress, clock = progress or Silent(), Clock()
    found = find_pack(root.rstrip("/") or root) if is_remote(root) else find_pack(str(Path(root).absolute()))
    if found is None:
        raise CatalogueError(f"'{root}' is no pack; expected a folder or prefix with the {MANIFEST} of 'fruits pack'")
    folder = _Folder(to, overwrite=overwrite)
    with clock.step("unpack"):
        progress.start("unpack", found.contents.photos)
        for group in found.row_groups():
            for path, digest, data in zip(group.paths or (), group.sha256 or (), group.contents, strict=True):
                folder.add(path.as_py(), digest.as_py(), data.as_py() or b"")
            progress.advance(len(group.contents))
        folder.close()
    return {
        "folder": to,
        "photos": found.contents.photos,
        "written": folder.written,
        "there_already": folder.there_already,
        "failed": folder.failed_count,
        "failed_photos": folder.failed,
        "labels_elsewhere": found.from_manifest,
        "seconds": {**clock.seconds, "total": clock.total()},
    }


class _Photos:
    """The photos to pack, sorted by their path in it.

    Attributes
    ----------
    count : int
    labels : list of str
        The labels that occur, sorted.
    """

    def __init__(self, count: int, names: dict[str, list[str]], labels: list[str], paths: SortedRuns) -> None:
        self.count, self.labels = count, labels
        self._names, self._paths = names, paths

    @classmethod
    def of(cls, builder: CatalogueBuilder) -> _Photos:
        """Give the photos of a builder their paths, and sort them."""
        paths, used = SortedRuns("path"), np.empty(0, np.int64)
        for table in builder.merged():
            used = np.union1d(used, table["label"].drop_null().to_numpy())
            for batch in _with_paths(table, builder).select(_PACKED).to_batches():
                paths.add(batch)
        names = {name: list(codes) for name, codes in builder.codes.items()}
        return cls(paths.num_rows, names, sorted(names["label"][code] for code in used), paths)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the photos in the order of their paths; once.

        Raises
        ------
        CatalogueError
            If two of them have the same path.
        """
        before = None
        for table in self._paths.merged():
            for batch in table.to_batches(_GROUP_ROWS):
                for row in batch.to_pylist():
                    if row["path"] == before:
                        raise CatalogueError(
                            f"two photos would both be '{before}' in the pack; pack their sources one by one"
                        )
                    before = row["path"]
                    named = {
                        name: None if row[name] is None else self._names[name][row[name]]
                        for name in ("label", "split", "manifest_source")
                    }
                    yield row | named


def _with_paths(table: pa.Table, builder: CatalogueBuilder) -> pa.Table:
    """Add the column ``path``, unique within the pack."""
    uris = paths = table["uri"]
    for source, name in _names(list(builder.roots)).items():
        root = builder.roots[source]
        mine = pc.equal(table["source"], builder.codes["source"][source])
        below = pc.and_(mine, pc.starts_with(uris, root))
        prefix, nothing = _text(f"{name}/" if len(builder.roots) > 1 else ""), _text("")
        within = pc.binary_join_element_wise(prefix, pc.utf8_slice_codeunits(uris, len(root)), nothing)
        # A photo outside the manifest's folder keeps its whole path, below "elsewhere/".
        whole = pc.replace_substring_regex(uris, r"^(pack:|tar:|parquet:)?([a-z0-9]+://)?/*", "")
        beyond = pc.binary_join_element_wise(prefix, _text("elsewhere/"), whole, nothing)
        paths = pc.if_else(mine, pc.if_else(below, within, beyond), paths)
    return table.append_column("path", paths).combine_chunks()


def _text(value: str) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())


def _names(sources: list[str]) -> dict[str, str]:
    """Return a unique name for each source."""
    names: dict[str, str] = {}
    for source in sources:
        name = source.rstrip("/").rpartition("/")[2] if is_remote(source) else Path(source).resolve().name
        name, number = name or "photos", 1
        while (unique := name if number == 1 else f"{name}-{number}") in names.values():
            number += 1
        names[source] = unique
    return names


class _Writing:
    """Writes data files and collects the photos that could not be read."""

    def __init__(
        self, objects: Objects, photos: _Photos, target_bytes: int, access: Access, progress: Progress
    ) -> None:
        self.photo_bytes = 0
        self.unreadable: list[dict[str, str]] = []
        self.unreadable_count = 0
        self._objects, self._photos, self._target, self._progress = objects, photos, target_bytes, progress
        self._access = access
        self._codes: dict[str | None, int] = {label: code for code, label in enumerate(photos.labels)}
        schema = SCHEMA if photos.labels else SCHEMA.remove(SCHEMA.get_field_index("label"))
        self._schema = schema.with_metadata(metadata(schema, photos.labels))
        self._attempt = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"
        self._begun: list[str] = []

    def files(self) -> Iterator[PackFile]:
        """Write the data files one after the other; yield an entry for each."""
        groups = self._groups()
        for first in groups:
            name = f"{_DATA}/{self._attempt}-{len(self._begun):05d}.parquet"
            self._begun.append(name)
            paths, rows, held = [], 0, 0
            group: pa.Table | None = first
            with self._objects.writer(name) as sink:
                hashed = _Hashed(sink)
                with _parquet(hashed, self._schema) as writer:
                    while group is not None:
                        writer.write_table(group, row_group_size=group.num_rows)
                        paths.append(group["image"][0]["path"].as_py())
                        rows += group.num_rows
                        held += pc.sum(group["size_bytes"]).as_py()
                        group = next(groups, None) if held < self._target else None
            self.photo_bytes += held
            yield PackFile(name, hashed.size, hashed.digest.hexdigest(), rows, tuple(paths))

    def delete_written(self) -> None:
        """Delete the data files written so far."""
        for name in self._begun:
            with suppress(StoreError):
                self._objects.delete(name)

    def _groups(self) -> Iterator[pa.Table]:
        rows: list[dict[str, Any]] = []
        size = 0
        for row, (data, error) in read_rows(self._photos.rows(), self._access):
            self._progress.advance(1)
            if data is None:
                self._miss(row, error)
                continue
            digest = hashlib.sha256(data).hexdigest()
            about = {"size_bytes": len(data), "version": digest[:VERSION_DIGITS], "sha256": digest}
            image = {"bytes": data, "path": row["path"]}
            rows.append({**row, **about, "label": self._codes.get(row["label"]), "image": image})
            size += len(data)
            if size >= min(_GROUP_BYTES, self._target) or len(rows) >= _GROUP_ROWS:
                yield pa.Table.from_pylist(rows, schema=self._schema)
                rows, size = [], 0
        if rows:
            yield pa.Table.from_pylist(rows, schema=self._schema)

    def _miss(self, row: dict[str, Any], reason: str) -> None:
        self.unreadable_count += 1
        if len(self.unreadable) < _NAMED:
            self.unreadable.append({"uri": row["uri"], "reason": reason})
            self._progress.note(f"not packed: {row['uri']!r}: {reason}")


class _Hashed(io.RawIOBase):
    """A file that computes its size and checksum while it is written."""

    def __init__(self, sink: io.RawIOBase) -> None:
        self.size, self.digest = 0, hashlib.sha256()
        self._sink = sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        data = memoryview(data)
        self.digest.update(data)
        self.size += len(data)
        self._sink.write(data)
        return len(data)


def _parquet(sink: io.RawIOBase, schema: pa.Schema) -> pq.ParquetWriter:
    small = [*(name for name in schema.names if name != "image"), "image.path"]
    return pq.ParquetWriter(
        sink,
        schema,
        # Photos are compressed already; their statistics would be whole photos.
        compression={**dict.fromkeys(small, "zstd"), "image.bytes": "none"},
        use_dictionary=["label", "split", "manifest_source"],
        write_statistics=["image.path", "label", "split"],
        write_page_checksum=True,
    )


def _named_before(objects: Objects) -> set[str]:
    try:
        contents = read_contents(objects)
    except CatalogueError:
        return set()
    return {file.name for file in contents.files} if contents else set()


def _clean_up(objects: Objects, before: Iterable[str], contents: Contents) -> None:
    """Delete the files of the replaced pack and stale files of killed attempts."""
    named = {file.name for file in contents.files}
    limit = f"{datetime.now(UTC) - _STALE_AFTER:%Y%m%dT%H%M%S}"
    stale = {found.key for found in objects.list(_DATA) if found.key.rpartition("/")[2][: len(limit)] < limit}
    # Another pack to the same place may have finished a moment later: keep the files that its pack.json names.
    for name in sorted((set(before) | stale) - named - _named_before(objects)):
        objects.delete(name)


class _Folder:
    """A folder that photos are extracted to, never outside it."""

    def __init__(self, root: str, *, overwrite: bool) -> None:
        self.written = self.there_already = self.failed_count = 0
        self.failed: list[dict[str, str]] = []
        self._overwrite = overwrite
        try:
            Path(root).mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreError(f"'{root}' cannot be made ({exc.strerror}); choose another folder with --to") from exc
        self._root = Path(root).resolve()
        self._safe: set[str] = set()  # folders that were checked
        self._unfinished = self._root / f".unpack-{uuid.uuid4().hex[:12]}"

    def add(self, path: str, digest: str, data: bytes) -> None:
        """Write a photo unless it is there already; count and name the failures."""
        if hashlib.sha256(data).hexdigest() != digest:
            self._fail(path, "damaged in its pack: its bytes have another checksum")
            return
        parts = path.split("/")
        if not all(parts) or not {".", ".."}.isdisjoint(parts) or "\0" in path:
            self._fail(path, "its path would leave the folder, or is none")
            return
        try:
            target = self._root / path
            if not self._is_within(target.parent):
                self._fail(path, "a link in the folder leads out of it")
            elif target.is_symlink() or (target.exists() and target.read_bytes() != data and not self._overwrite):
                self._fail(path, "there is another file of that name; --overwrite replaces it")
            elif target.exists() and target.read_bytes() == data:
                self.there_already += 1
            else:
                self._unfinished.write_bytes(data)  # atomic, also when killed
                self._unfinished.replace(target)
                self.written += 1
        except OSError as exc:
            self._fail(path, exc.strerror or str(exc))

    def close(self) -> None:
        """Remove the temporary file."""
        self._unfinished.unlink(missing_ok=True)

    def _is_within(self, folder: Path) -> bool:
        name = os.fspath(folder)
        if name not in self._safe:
            # Checked before it is created: mkdir would follow the link.
            if not folder.resolve().is_relative_to(self._root):
                return False
            folder.mkdir(parents=True, exist_ok=True)
            self._safe.add(name)
        return True

    def _fail(self, path: str, reason: str) -> None:
        self.failed_count += 1
        if len(self.failed) < _NAMED:
            self.failed.append({"path": path, "reason": reason})
