"""The embedding stage: record batches of catalogue rows to record batches of embedding rows.

A photo that fails is a row with the reason. The signature is that of Spark's ``mapInArrow``, so every engine can run it. While
the network computes one batch, a child process decodes the next, and a thread reads the one after that, also over the end of a
shard; what waits is bounded in photos and in bytes. Independent of workers and of how shards are assigned.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruits.embedding.backbone import BATCH_SIZE, Embedder, no_embedding, usable
from fruits.embedding.columns import Columns
from fruits.embedding.model import ModelFile
from fruits.photos.decoding.decoder import Decoder, Decoding, own_decoder
from fruits.photos.decoding.images import Preprocessing
from fruits.photos.decoding.quality import measure
from fruits.photos.reading.access import NO_LINKS, Access
from fruits.photos.reading.reading import Content, read_photos, will_never_work
from fruits.storage.embeddings.table import EmbeddingTable, File
from fruits.storage.tables.schemas import RECEIPT

#: A batch ends early at this many bytes of files, so that memory does not grow with the size of photos.
MAX_BATCH_BYTES: Final = 16 << 20


@dataclass(slots=True)
class Stopwatch:
    """Seconds by kind of work, summed over threads and the decoding process."""

    read: float = 0.0
    decode: float = 0.0
    infer: float = 0.0
    write: float = 0.0


@dataclass(frozen=True, slots=True)
class EmbedStage:
    """Embeds photos and writes their rows to files, shard by shard; the driver commits the files.

    Parameters
    ----------
    model : ModelFile
        A prepared backbone.
    preprocessing : Preprocessing
    embedding_size : int
    stored : EmbeddingTable
        Where the rows are written.
    epoch : int
        Epoch of the table when the work was planned.
    access : Access
        Where links among the photos may lead.
    device : str
        Device of the network, as returned by :func:`fruits.embedding.session.usable_device`.
    """

    model: ModelFile
    preprocessing: Preprocessing
    embedding_size: int
    stored: EmbeddingTable
    epoch: int = 0
    access: Access = NO_LINKS
    device: str = "cpu"

    #: Whole shards may come one after the other in one call, see :meth:`fruits.engines.Engine.map_batches`.
    streams: ClassVar[bool] = True

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Map batches of ``WORK`` rows, whole shards one after the other, to one ``RECEIPT`` row per shard."""
        shards = (self._begun(name, rows) for name, rows in _shards(batches))
        for part in _embedded(
            shards,
            lambda: _embedder(self.model, self.device),
            self.preprocessing,
            self.embedding_size,
            own_decoder(),
            self.access,
        ):
            part.group.parts.append(part)
            if part.last:
                yield self._receipt(part.group)

    def _begun(self, shard: str, rows: list[dict[str, Any]]) -> _Group:
        """Look whether another attempt, or another run on this output, has written the shard already."""
        there = self.stored.written(shard, rows, self.epoch)
        return _Group([] if there else rows, Stopwatch(), shard, there)

    def _receipt(self, group: _Group) -> pa.RecordBatch:
        """Write a shard unless it is there, and say what became of its photos."""
        if group.there is not None:
            file, rows = group.there
        else:
            # One batch for all: Arrow's code has to come into the processor's cache for each.
            columns = Columns.joined([part.columns for part in group.parts])
            whole = columns.to_batch(np.concatenate([part.vectors for part in group.parts]))
            rows = pa.Table.from_batches([whole])
            started = time.perf_counter()
            file = self.stored.write(group.shard, rows, self.epoch)
            group.watch.write = time.perf_counter() - started
        counts = Counter(rows["status"].to_pylist())
        receipt: dict[str, Any] = {
            "file": file.name,
            "size_bytes": file.size_bytes,
            "modified_ms": file.modified_ms,
            **{status: counts[status] for status in ("ok", "rejected", "failed")},
        }
        seconds = {f"seconds_{name}": getattr(group.watch, name) for name in ("read", "decode", "infer", "write")}
        return pa.RecordBatch.from_pylist([receipt | seconds], schema=RECEIPT)


def embed_rows(
    rows: Iterable[dict[str, Any]],
    embedder: Embedder,
    preprocessing: Preprocessing,
    embedding_size: int,
    *,
    watch: Stopwatch | None = None,
    decoder: Decoder | None = None,
    access: Access = NO_LINKS,
) -> Iterator[pa.RecordBatch]:
    """Read, decode and embed photos.

    Parameters
    ----------
    rows : iterable of dict
        With ``uri`` and ``version``.
    embedder : Embedder
    preprocessing : Preprocessing
    embedding_size : int
        Size d of the embedding.
    watch : Stopwatch, optional
        Collects seconds by kind of work.
    decoder : Decoder, optional
        By default the shared decoder of this process, which stays open.
    access : Access
        Where links among the photos may lead.

    Yields
    ------
    RecordBatch
        Schema ``embeddings(d)``, rows in the given order; at most ``BATCH_SIZE`` each. Values do not depend on batch
        boundaries.
    """
    group = _Group(rows, watch or Stopwatch())
    for part in _embedded(
        iter([group]), lambda: embedder, preprocessing, embedding_size, decoder or own_decoder(), access
    ):
        if part.columns.uri:
            yield part.columns.to_batch(part.vectors)


@dataclass(slots=True)
class _Group:
    """Photos that are read one after the other: a shard, or the rows of a caller; what has been found so far.

    Attributes
    ----------
    rows : iterable of dict
        With ``uri`` and ``version``.
    watch : Stopwatch
    shard : str
        Its name.
    there : tuple of File and pyarrow.Table, optional
        The file in which its rows are already, and its keys.
    parts : list of _Part
    """

    rows: Iterable[dict[str, Any]]
    watch: Stopwatch
    shard: str = ""
    there: tuple[File, pa.Table] | None = None
    parts: list[_Part] = field(default_factory=list)


@dataclass(slots=True)
class _Part:
    """Columns and embeddings of one batch, and whether it is the last one of its group."""

    group: _Group
    columns: Columns
    vectors: NDArray[np.float32]
    last: bool


def _embedded(
    groups: Iterator[_Group],
    network: Callable[[], Embedder],
    preprocessing: Preprocessing,
    embedding_size: int,
    decoder: Decoder,
    access: Access,
) -> Iterator[_Part]:
    """Yield one batch after the other; a group without photos has one that is empty.

    Parameters as in :func:`embed_rows`, but for ``network``, which opens it; it is called once there is a photo.
    """
    source = _Source(groups, decoder, access)
    reader = ThreadPoolExecutor(1, thread_name_prefix="read")
    embedder: Embedder | None = None

    def hand(batch: _Batch | None) -> _Handed | None:
        return None if batch is None else _Handed(batch, decoder, preprocessing)

    try:
        handed = hand(reader.submit(source.read).result())
        coming = reader.submit(source.read)
        while (now := handed) is not None:
            batch, columns = now.batch, now.columns
            if embedder is None and batch.rows:
                embedder = network()  # while the child starts
            outcomes = now.decoding.outcomes()
            # Before anything else, so that the child decodes while the network computes. The first batch of another group is
            # not waited for: an engine may have to know that this group is done before it gives another.
            if in_time := not batch.last or coming.done():
                handed = hand(coming.result())
            ok = columns.set_outcomes(now.given, outcomes)
            pixels = now.decoding.pixels(preprocessing.size)
            started = time.perf_counter()
            # While the network computes, the thread that reads has Python's lock to itself; before, the two would pass it on
            # at each call of the system.
            if in_time:
                coming = reader.submit(source.read)
            found = embedder.embed(pixels) if ok and embedder else np.zeros((0, embedding_size), np.float32)
            if len(ok) == len(batch.rows):
                vectors = found
                columns.brightness, columns.sharpness = measure(pixels)
            else:
                vectors = np.zeros((len(batch.rows), embedding_size), np.float32)
                if ok:
                    vectors[ok] = found
                    columns.brightness[ok], columns.sharpness[ok] = measure(pixels)
            for row in np.flatnonzero(~usable(vectors)).tolist():
                columns.set_error(row, "rejected", f"{(why := no_embedding()).code}: {why}")
            now.decoding.release()
            batch.group.watch.decode += now.decoding.seconds
            batch.group.watch.infer += time.perf_counter() - started if batch.rows else 0.0
            yield _Part(batch.group, columns, vectors, batch.last)
            if not in_time:
                handed = hand(coming.result())
                coming = reader.submit(source.read)
    finally:
        # After an error, it may wait for a group that will not come.
        reader.shutdown(wait=False, cancel_futures=True)


class _Handed:
    """A batch submitted to the decoder; hashes are computed while it decodes, then the files are released."""

    def __init__(self, batch: _Batch, decoder: Decoder, preprocessing: Preprocessing) -> None:
        self.batch = batch
        self.columns = Columns.of(batch.rows)
        contents = {row: data for row, (data, _) in enumerate(batch.contents) if data is not None}
        self.given = list(contents)
        self.decoding: Decoding = decoder.begin(list(contents.values()), preprocessing)
        for row, (data, error) in enumerate(batch.contents):
            if data is None:
                self.columns.set_error(row, "rejected" if will_never_work(error) else "failed", error)
            else:
                self.columns.sha256[row] = hashlib.sha256(data).hexdigest()
        batch.contents = []


@dataclass(slots=True)
class _Batch:
    """Rows with the bytes of their files, or with the reason if a file cannot be read."""

    group: _Group
    rows: list[dict[str, Any]] = field(default_factory=list)
    contents: list[Content] = field(default_factory=list)
    last: bool = False


class _Source:
    """Reads the photos of one group after the other, batch by batch; one thread at a time."""

    def __init__(self, groups: Iterator[_Group], decoder: Decoder, access: Access) -> None:
        self._groups, self._decoder, self._access = groups, decoder, access
        self._photos: _Photos | None = None
        self._group: _Group | None = None
        self._has_started = False

    def read(self) -> _Batch | None:
        """Read the next photos: at most ``BATCH_SIZE``, and no further one after ``MAX_BATCH_BYTES``; None at the end."""
        if self._group is None or self._photos is None:
            if (group := next(self._groups, None)) is None:
                return None
            self._group, self._photos = group, _Photos(group.rows, self._access)
            if self._photos.are_left and not self._has_started:
                self._decoder.start()  # its imports run while the first photos are read
                self._has_started = True
        started = time.perf_counter()
        batch, size = _Batch(self._group), 0
        for row, content in self._photos:
            batch.rows.append(row)
            batch.contents.append(content)
            size += len(content[0] or b"")
            if len(batch.rows) >= BATCH_SIZE or size >= MAX_BATCH_BYTES:
                break
        if not self._photos.are_left:
            batch.last, self._photos = True, None
        self._group.watch.read += time.perf_counter() - started
        return batch


class _Photos:
    """Rows with the bytes of their photos; those in buckets are fetched ahead."""

    def __init__(self, rows: Iterable[dict[str, Any]], access: Access) -> None:
        self._rows = iter(rows)
        self._next = next(self._rows, None)
        self._asked: deque[dict[str, Any]] = deque()
        self._contents = read_photos(self._uris(), access)

    @property
    def are_left(self) -> bool:
        """Whether there is a further one."""
        return bool(self._asked) or self._next is not None

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Content]]:
        for content in self._contents:
            yield self._asked.popleft(), content

    def _uris(self) -> Iterator[str]:
        while (row := self._next) is not None:
            self._next = next(self._rows, None)
            self._asked.append(row)
            yield row["uri"]


def _shards(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the name of each shard with its rows. An empty batch ends a shard, before the next one is there."""
    name, rows = "", list[dict[str, Any]]()
    for batch in batches:
        for row in batch.to_pylist():
            if rows and row["shard"] != name:
                yield name, rows
                rows = []
            name = row["shard"]
            rows.append(row)
        if rows and not batch.num_rows:
            yield name, rows
            rows = []
    if rows:
        yield name, rows


def start_early() -> None:
    """Start what a worker needs whatever the photos; called by an engine that has no work for it yet."""
    own_decoder().start()


@lru_cache(maxsize=1)
def _embedder(model: ModelFile, device: str) -> Embedder:
    """Open the network once per worker process."""
    return Embedder(model.fetch(), device)
