"""Embeddings as a Delta table that any Delta reader can open, written by many workers and committed by the driver.

``embeddings/<job>/`` holds Parquet files and the log ``_delta_log`` (reader version 1, writer version 2). A worker writes the
rows of a shard to a file; the driver commits files in waves. A file counts once the log names it. Its name ends with the sha256
of its bytes: readers can verify it, and the same rows written twice are one file, so that repeating a commit changes nothing.

Names start with the *chunk* of the rows, the leaf of the tree along which moments are merged, see
:mod:`fruits.storage.embeddings.inventory`. They also hold the *epoch*, a number that a vacuum raises in the table's metadata.
The log refuses a commit that was prepared before such a change, and a vacuum deletes only files of earlier epochs, so that no
file that is still to be committed is deleted.
"""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fruits.config import check_place
from fruits.errors import PermanentStoreError, StoreError, counted, option
from fruits.storage.objects import AbsentError, ObjectInfo, Objects, is_remote, uri_of
from fruits.storage.objects.buckets import delta_options
from fruits.storage.objects.failures import error_of
from fruits.storage.sanitising import json_text
from fruits.storage.tables.parquet import read_table
from fruits.storage.tables.schemas import embeddings

if TYPE_CHECKING:
    from deltalake import DeltaTable

LOG: Final = "_delta_log"
#: Commits between checkpoints of the log: a reader loads the last checkpoint and at most this many commits.
_CHECKPOINT_INTERVAL: Final = 20
#: Attempts of a commit, each on the newest state, and longest pause between two. A commit of another writer costs one.
_ATTEMPTS: Final = 30
_LONGEST_PAUSE_S: Final = 3.0
_EPOCH: Final = "fruits.epoch"
#: Key in a file's metadata: numbers per embedding. Files have plain lists, as the log says; other readers refuse another type.
_SIZE: Final = b"fruits.embedding_size"
_NAME: Final = re.compile(
    r"(?P<chunk>[0-9a-f]{8}-\d{6})-(?P<first>\d{4})-(?P<epoch>\d{4,18})-(?P<sha256>[0-9a-f]{64})\.parquet"
)


class DamagedError(StoreError):
    """Stored bytes are damaged; run again with ``repair``."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the table.

    Attributes
    ----------
    name : str
        Relative to the table's folder.
    size_bytes, rows : int
    modified_ms : int
        When it was written, in milliseconds since 1970.
    """

    name: str
    size_bytes: int
    rows: int
    modified_ms: int

    @property
    def chunk(self) -> str:
        """The chunk that its rows belong to."""
        return self.name[:15]

    @property
    def shard(self) -> str:
        """The chunk and the place of its first row in it."""
        return self.name[:20]

    @property
    def epoch(self) -> int:
        """The epoch in which it was written; from 10,000 on it takes more than four digits of the name."""
        return int(self.name[21:-73])

    @property
    def sha256(self) -> str:
        """The checksum of its bytes."""
        return self.name[-72:-8]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the table at one version of its log.

    Attributes
    ----------
    version : int
        -1 if there is no table.
    epoch : int
    files : dict
        Files by name.
    """

    version: int
    epoch: int
    files: dict[str, File]


class EmbeddingTable:
    """The embeddings of one job under one prefix.

    Parameters
    ----------
    root : str
        Folder of the results.
    prefix : str
        Prefix of all keys, such as ``embeddings/<job>``.
    """

    def __init__(self, root: str, prefix: str) -> None:
        check_place(root)
        self.objects = Objects(root)
        self.root = self.objects.root
        self.prefix = prefix
        self._copies: str | None = None
        self._copying = threading.Lock()

    def __reduce__(self) -> tuple[type[EmbeddingTable], tuple[str, str]]:
        return EmbeddingTable, (self.root, self.prefix)

    @property
    def uri(self) -> str:
        """Where a Delta reader opens the table."""
        return uri_of(self.root, self.prefix)

    def key(self, name: str) -> str:
        """Return the key of a file."""
        return f"{self.prefix}/{name}"

    def snapshot(self) -> Snapshot:
        """Return the present state.

        Raises
        ------
        DamagedError
            If the log cannot be read.
        """
        opened = self._open()
        return Snapshot(-1, 0, {}) if opened is None else self._state(opened)

    def write(self, shard: str, rows: pa.Table, epoch: int) -> File:
        """Write the rows of a shard to a file, which counts once it is committed; called by workers.

        Parameters
        ----------
        shard : str
            Chunk and first row in it, such as ``0a1b2c3d-000001-0064``.
        rows : pyarrow.Table
            Schema ``embeddings``.
        epoch : int
            Epoch of the snapshot that the work is based on.
        """
        size = rows.schema.field("embedding").type.list_size
        rows = rows.cast(_stored_schema()).replace_schema_metadata({_SIZE: str(size)})
        # Embeddings do not compress; trying costs more than the rest of the write.
        compressed = {name: "none" if name == "embedding" else "zstd" for name in rows.column_names}
        compressed["embedding.list.element"] = compressed.pop("embedding")
        texts, out = ["status", "error"], BytesIO()
        pq.write_table(
            rows, out, compression=compressed, use_dictionary=texts, write_statistics=False, write_page_checksum=True
        )
        data = out.getvalue()
        name = f"{shard}-{epoch:04d}-{hashlib.sha256(data).hexdigest()}.parquet"
        self.objects.write(self.key(name), data)
        return File(name, len(data), rows.num_rows, int(time.time() * 1000))

    def written(self, shard: str, work: list[dict[str, Any]], epoch: int) -> tuple[File, pa.Table] | None:
        """Return the file in which another attempt or another run wrote the rows of a shard, and its keys; called by workers.

        None if there is none, it is not whole, holds other photos, or some of them failed.
        """
        key = self.objects.first_below(self.prefix, f"{shard}-{epoch:04d}-")
        if key is None or not _NAME.fullmatch(name := key.rpartition("/")[2]) or (file := self.measured(name)) is None:
            return None
        keys = self.read_keys(file, ["uri", "version", "status"])
        photos = [(row["uri"], row["version"]) for row in work]
        same = list(zip(keys["uri"].to_pylist(), keys["version"].to_pylist(), strict=True)) == photos
        return (file, keys) if same and "failed" not in keys["status"].to_pylist() else None

    def measured(self, name: str) -> File | None:
        """Return the file of a name, with its size; None if its bytes do not match the name."""
        found = self.objects.stat(self.key(name))
        if found is None:
            return None
        file = File(name, found.size_bytes, 0, int(found.modified_s * 1000))
        if (data := self.bytes_of(file)) is None:
            return None
        return replace(file, rows=pq.read_metadata(pa.BufferReader(data)).num_rows)

    def commit(self, added: Sequence[File], removed: Sequence[File] = (), *, epoch: int) -> bool:
        """Add and remove files in one step; may be repeated. Called by the driver.

        Returns
        -------
        bool
            False if nothing was changed, because a vacuum has run since ``epoch`` or another process removed one of the files:
            take the inventory again.
        """
        from deltalake.exceptions import CommitFailedError  # noqa: PLC0415 - workers and services need no Delta

        for attempt in range(_ATTEMPTS):
            if (opened := self._open()) is None:
                self.create(epoch)
                continue
            now = self._state(opened)
            new = [file for file in added if file.name not in now.files]
            gone = [file for file in removed if file.name in now.files]
            if not new and not gone:
                return True
            if now.epoch != epoch or len(gone) < len(removed):
                return False
            try:
                with _translated("write", self.uri):
                    self._transact(opened, new, gone)
                return True
            except StoreError as exc:
                # Another writer was first, or the response was lost: the newest state says which.
                if isinstance(exc, PermanentStoreError) or not (
                    isinstance(exc.__cause__, CommitFailedError) or is_remote(self.root)
                ):
                    raise
                if attempt + 1 == _ATTEMPTS:
                    raise
            _pause(attempt)
        raise AssertionError("unreachable")

    def next_epoch(self) -> int | None:
        """Begin a new epoch and return it: files written before can no longer be committed. None without a table."""
        from deltalake.exceptions import CommitFailedError  # noqa: PLC0415

        for attempt in range(_ATTEMPTS):
            if (opened := self._open()) is None:
                return None
            epoch = self._state(opened).epoch + 1
            try:
                with _translated("write", self.uri):
                    opened.alter.set_table_properties({_EPOCH: str(epoch)}, raise_if_not_exists=False)
                return epoch
            except StoreError as exc:
                lasting = isinstance(exc, PermanentStoreError | DamagedError) or not (
                    isinstance(exc.__cause__, CommitFailedError) or is_remote(self.root)
                )
                if lasting or attempt + 1 == _ATTEMPTS:
                    raise
            _pause(attempt)
        raise AssertionError("unreachable")

    def checkpoint(self) -> None:
        """Write a checkpoint of the log, so that readers need not read the commits before."""
        if (opened := self._open()) is not None:
            with _translated("write", self.uri):
                opened.create_checkpoint()

    def read(self, file: File, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of a file after comparing all of its bytes with the checksum in its name.

        Raises
        ------
        DamagedError
            If they differ, or the file is gone.
        """
        data = self.bytes_of(file)
        if data is None:
            raise self.damaged(file)
        rows = read_table(data, columns)
        at = rows.schema.get_field_index("embedding")
        if at < 0:
            return rows
        size = int((rows.schema.metadata or {})[_SIZE])
        return rows.set_column(
            at, pa.field("embedding", pa.list_(pa.float32(), size)), _of_size(rows["embedding"], size)
        )

    def read_keys(self, file: File, columns: list[str]) -> pa.Table:
        """Return some small columns of a file without reading the embeddings; pages are compared with their checksums.

        Raises
        ------
        DamagedError
            If a page differs, or the file is gone.
        """
        try:
            with self.objects.open(self.key(file.name)) as source:
                found = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False)
                rows = found.read(columns, use_threads=False)
        except (pa.ArrowException, OSError, StoreError) as exc:
            if isinstance(exc, StoreError) and self.objects.stat(self.key(file.name)) is not None:
                raise  # the store cannot be reached
            raise self.damaged(file) from exc
        if rows.num_rows != file.rows:
            raise self.damaged(file)
        return rows

    def bytes_of(self, file: File) -> bytes | None:
        """Return the bytes of a file if they match its name and the log, else None.

        Every pass reads every file, so files in a bucket are cached on the local disk during the run.
        """
        copy = None
        if not self.objects.is_local:
            with self._copying:  # with two folders, one would be deleted while in use
                if self._copies is None:
                    self._copies = tempfile.mkdtemp(prefix="fruits-embeddings-")
                    weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)
            copy = Path(self._copies, file.sha256)
        if copy and copy.is_file():
            data: bytes | None = copy.read_bytes()
        else:
            data = self.objects.read_if_present(self.key(file.name))
        if data is None or len(data) != file.size_bytes or hashlib.sha256(data).hexdigest() != file.sha256:
            return None
        if copy and not copy.is_file():
            with suppress(OSError):  # a full disk only costs time
                copy.with_suffix(".new").write_bytes(data)
                copy.with_suffix(".new").rename(copy)
        return data

    def damaged(self, file: File) -> StoreError:
        """Return the error for a file that is damaged or gone."""
        if self.objects.stat(self.key(file.name)) is None and file.name not in self.snapshot().files:
            return StoreError(
                f"file '{self.key(file.name)}' has left the embeddings of '{self.root}' while they were read, and "
                f"'fruits vacuum' has deleted it; run again: nothing else is lost"
            )
        return DamagedError(
            f"file '{self.key(file.name)}' of the embeddings is damaged or gone; expected {file.size_bytes:,} bytes of the "
            f"checksum in its name: run again with {option('repair', True)}, which computes its "
            f"{counted(file.rows, 'photo')} again and nothing else"
        )

    def below(self) -> Iterator[ObjectInfo]:
        """Yield everything in the table's folder, the log included; nothing if there is no folder."""
        with suppress(AbsentError):
            yield from self.objects.list(self.prefix)

    def stored(self) -> Iterator[str]:
        """Yield the names of all data files in the folder, committed or not."""
        for found in self.below():
            name = found.key.removeprefix(f"{self.prefix}/")
            if _NAME.fullmatch(name):
                yield name

    def create(self, epoch: int = 0) -> None:
        """Create the table, without files; nothing happens if there is one."""
        from deltalake import DeltaTable, Schema  # noqa: PLC0415
        from deltalake.exceptions import CommitFailedError  # noqa: PLC0415

        for attempt in range(_ATTEMPTS):
            try:
                with _translated("write", self.uri):
                    DeltaTable.create(
                        self.uri,
                        schema=Schema.from_arrow(_stored_schema()),
                        mode="ignore",
                        configuration={"delta.checkpointInterval": str(_CHECKPOINT_INTERVAL), _EPOCH: str(epoch)},
                        raise_if_key_not_exists=False,
                        storage_options=delta_options(self.uri),
                    )
                return
            except StoreError as exc:
                if isinstance(exc.__cause__, CommitFailedError):  # another process created it
                    return
                lasting = isinstance(exc, PermanentStoreError | DamagedError) or not is_remote(self.root)
                if lasting or attempt + 1 == _ATTEMPTS:
                    raise
            _pause(attempt)

    def _open(self) -> DeltaTable | None:
        from deltalake import DeltaTable  # noqa: PLC0415
        from deltalake.exceptions import TableNotFoundError  # noqa: PLC0415

        for attempt in range(_ATTEMPTS):
            try:
                with _translated("open", self.uri):
                    return DeltaTable(self.uri, storage_options=delta_options(self.uri))
            except StoreError as exc:
                if isinstance(exc.__cause__, TableNotFoundError):
                    return None
                lasting = isinstance(exc, PermanentStoreError | DamagedError) or not is_remote(self.root)
                if lasting or attempt + 1 == _ATTEMPTS:
                    raise
            _pause(attempt)
        raise AssertionError("unreachable")

    def _state(self, opened: DeltaTable) -> Snapshot:
        with _translated("read", self.uri):
            actions = pa.table(opened.get_add_actions(flatten=True))
            epoch = opened.metadata().configuration.get(_EPOCH, "0")
        columns = [actions[name].to_pylist() for name in ("path", "size_bytes", "modification_time")]
        rows = actions["num_records"].to_pylist() if "num_records" in actions.column_names else [None] * len(actions)
        files = {}
        for name, size, modified, count in zip(*columns, rows, strict=True):
            if not _NAME.fullmatch(name) or count is None or not epoch.isdecimal():
                raise DamagedError(
                    f"the log of '{self.uri}' names '{name}', which fruits did not write; run again with "
                    f"{option('repair', True)}: its photos are computed again"
                )
            files[name] = File(name, size, count, modified)
        return Snapshot(opened.version(), int(epoch), files)

    def _transact(self, opened: DeltaTable, added: list[File], removed: list[File]) -> None:
        from deltalake import Schema  # noqa: PLC0415
        from deltalake.transaction import AddAction, RemoveAction  # noqa: PLC0415

        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [
            AddAction(file.name, file.size_bytes, {}, file.modified_ms, True, json_text({"numRecords": file.rows}))
            for file in added
        ]
        actions += [RemoveAction(file.name, True, now, file.size_bytes, {}) for file in removed]
        opened.create_write_transaction(actions, "append", Schema.from_arrow(_stored_schema()))


def epoch_of(name: str) -> int | None:
    """Return the epoch in the name of a data file; None if the table's files have no such name."""
    found = _NAME.fullmatch(name)
    return int(found["epoch"]) if found else None


def _of_size(column: pa.ChunkedArray, size: int) -> pa.Array:
    """Return a column of lists as lists of fixed size; the values of null are undefined."""
    lists = column.combine_chunks()
    values = lists.flatten()
    if not lists.null_count:
        return pa.FixedSizeListArray.from_arrays(values, size)
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    rows = np.zeros((len(lists), size), np.float32)
    rows[there] = values.to_numpy().reshape(-1, size)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), size, mask=pa.array(~there))


def _stored_schema() -> pa.Schema:
    """Return the table's schema: Delta has no lists of fixed size."""
    schema = embeddings(1)
    at = schema.get_field_index("embedding")
    return schema.set(at, pa.field("embedding", pa.list_(pa.float32())))


def _pause(attempt: int) -> None:
    """Wait before another attempt, at random: several writers may have collided."""
    time.sleep(random.uniform(0.3, 1.0) * min(0.02 * 2**attempt, _LONGEST_PAUSE_S))  # noqa: S311


@contextmanager
def _translated(verb: str, uri: str) -> Iterator[None]:
    """Raise errors of delta-rs as a :class:`StoreError`, with the cause; one of its log's content as a :class:`DamagedError`."""
    from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError  # noqa: PLC0415

    try:
        yield
    except (CommitFailedError, TableNotFoundError) as exc:
        raise StoreError(f"cannot {verb} '{uri}': {_first_line(exc)}; run again, what is done is kept") from exc
    except (DeltaError, OSError, ValueError) as exc:
        text = str(exc)
        if is_remote(uri) and re.search(r"Generic \w+ error|status code|error sending request|timed? ?out", text):
            raise error_of(verb, uri, exc) from exc
        if isinstance(exc, OSError) or "No space" in text or "ermission" in text:
            raise error_of(verb, uri, exc) from exc
        raise _log_damaged(uri, exc) from exc
    except BaseException as exc:
        if type(exc).__name__ == "PanicException":  # of Rust, on some damaged logs
            raise _log_damaged(uri, exc) from exc
        raise


def _log_damaged(uri: str, exc: BaseException) -> DamagedError:
    return DamagedError(
        f"the log '{uri_of(uri, LOG)}' of the embeddings is damaged ({_first_line(exc)}); run again with "
        f"{option('repair', True)}: it is made again of the files beside it"
    )


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:300]
