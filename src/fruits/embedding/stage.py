"""The embedding stage: record batches of catalogue rows to record batches of embedding rows.

A photo that fails is a row with the reason. The signature is that of Spark's ``mapInArrow``, so every engine can run it. While
the network computes one batch, a child process decodes the next, and a thread reads the one after that; what waits is bounded in
photos and in bytes. Independent of workers and of how shards are assigned.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruits.embedding.backbone import BATCH_SIZE, Embedder, no_embedding, usable
from fruits.embedding.model import ModelFile
from fruits.errors import ImageDecodeError
from fruits.photos.decoding.decoder import Decoder, Decoding, Size, own_decoder
from fruits.photos.decoding.images import Preprocessing
from fruits.photos.decoding.quality import measure
from fruits.photos.reading.access import NO_LINKS, Access
from fruits.photos.reading.reading import Content, read_photos, will_never_work
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.tables.schemas import RECEIPT, embeddings

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

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Map batches of ``WORK`` rows, whole shards one after the other, to one ``RECEIPT`` row per shard."""
        rows = (row for batch in batches for row in batch.to_pylist())
        for shard, work in groupby(rows, key=lambda row: row["shard"]):
            watch, photos = Stopwatch(), list(work)
            # Another attempt, or another run on this output, may have written the shard already.
            if (there := self.stored.written(shard, photos, self.epoch)) is not None:
                file, rows_there = there
            else:
                embedder = _embedder(self.model, self.device)
                found = _embedded(
                    photos, embedder, self.preprocessing, self.embedding_size, watch, own_decoder(), self.access
                )
                columns, vectors = zip(*found, strict=True)
                # One batch for all: Arrow's code has to come into the processor's cache for each.
                whole = _Columns.joined(columns).to_batch(np.concatenate(vectors))
                rows_there = pa.Table.from_batches([whole])
                started = time.perf_counter()
                file = self.stored.write(shard, rows_there, self.epoch)
                watch.write = time.perf_counter() - started
            counts = Counter(rows_there["status"].to_pylist())
            receipt: dict[str, Any] = {
                "file": file.name,
                "size_bytes": file.size_bytes,
                "modified_ms": file.modified_ms,
                **{status: counts[status] for status in ("ok", "rejected", "failed")},
            }
            seconds = {f"seconds_{name}": getattr(watch, name) for name in ("read", "decode", "infer", "write")}
            yield pa.RecordBatch.from_pylist([receipt | seconds], schema=RECEIPT)


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
    decoder = decoder or own_decoder()
    for columns, vectors in _embedded(
        rows, embedder, preprocessing, embedding_size, watch or Stopwatch(), decoder, access
    ):
        yield columns.to_batch(vectors)


def _embedded(
    rows: Iterable[dict[str, Any]],
    embedder: Embedder,
    preprocessing: Preprocessing,
    embedding_size: int,
    watch: Stopwatch,
    decoder: Decoder,
    access: Access,
) -> Iterator[tuple[_Columns, NDArray[np.float32]]]:
    """Yield the columns and embeddings of one batch after the other; parameters as in :func:`embed_rows`."""
    decoder.start()  # its imports run while the first photos are read
    source = _contents(rows, access)
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        handed = _Handed(reader.submit(_read_batch, source, watch).result(), decoder, preprocessing)
        coming = reader.submit(_read_batch, source, watch)
        while (batch := handed).rows:
            outcomes = batch.decoding.outcomes()
            # Before anything else, so that the child decodes while the network computes.
            handed = _Handed(coming.result(), decoder, preprocessing)
            columns = batch.columns
            ok = columns.set_outcomes(batch.given, outcomes)
            pixels = batch.decoding.pixels(preprocessing.size)
            started = time.perf_counter()
            # While the network computes, the thread that reads has Python's lock to itself; before, the two would pass it on
            # at each call of the system.
            coming = reader.submit(_read_batch, source, watch)
            found = embedder.embed(pixels) if ok else np.zeros((0, embedding_size), np.float32)
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
            batch.decoding.release()
            watch.decode += batch.decoding.seconds
            watch.infer += time.perf_counter() - started
            yield columns, vectors
        handed.decoding.release()


class _Handed:
    """A batch submitted to the decoder; hashes are computed while it decodes, then the files are released."""

    def __init__(self, batch: _Batch, decoder: Decoder, preprocessing: Preprocessing) -> None:
        self.rows = batch.rows
        self.columns = _Columns.of(batch.rows)
        contents = {row: data for row, (data, _) in enumerate(batch.contents) if data is not None}
        self.given = list(contents)
        self.decoding: Decoding = decoder.begin(list(contents.values()), preprocessing)
        for row, (data, error) in enumerate(batch.contents):
            if data is None:
                self.columns.set_error(row, "rejected" if will_never_work(error) else "failed", error)
            else:
                self.columns.sha256[row] = hashlib.sha256(data).hexdigest()


@dataclass(slots=True)
class _Batch:
    """Rows with the bytes of their files, or with the reason if a file cannot be read."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    contents: list[Content] = field(default_factory=list)


def _contents(rows: Iterable[dict[str, Any]], access: Access) -> Iterator[tuple[dict[str, Any], Content]]:
    """Yield rows with the bytes of their photos; photos in buckets are fetched ahead."""
    asked: deque[dict[str, Any]] = deque()

    def uris() -> Iterator[str]:
        for row in rows:
            asked.append(row)
            yield row["uri"]

    for content in read_photos(uris(), access):
        yield asked.popleft(), content


def _read_batch(source: Iterator[tuple[dict[str, Any], Content]], watch: Stopwatch) -> _Batch:
    """Read the files of the next rows: at most ``BATCH_SIZE``, and no further one after ``MAX_BATCH_BYTES``."""
    started = time.perf_counter()
    batch, size = _Batch(), 0
    while len(batch.rows) < BATCH_SIZE and size < MAX_BATCH_BYTES and (found := next(source, None)) is not None:
        row, content = found
        batch.rows.append(row)
        batch.contents.append(content)
        size += len(content[0] or b"")
    watch.read += time.perf_counter() - started
    return batch


@dataclass(slots=True)
class _Columns:
    """The columns of some embedding rows while they are being filled."""

    uri: list[str]
    version: list[str]
    sha256: list[str | None]
    width: list[int | None]
    height: list[int | None]
    brightness: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    status: list[str]
    error: list[str | None]

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> _Columns:
        """Return columns in which no photo has been looked at."""
        n = len(rows)
        return cls(
            uri=[row["uri"] for row in rows],
            version=[row["version"] for row in rows],
            sha256=[None] * n,
            width=[None] * n,
            height=[None] * n,
            brightness=np.full(n, np.nan, np.float32),
            sharpness=np.full(n, np.nan, np.float32),
            status=["ok"] * n,
            error=[None] * n,
        )

    @classmethod
    def joined(cls, parts: Sequence[_Columns]) -> _Columns:
        """Return the columns of several batches, one after the other; the first takes up the others."""
        whole = parts[0]
        for part in parts[1:]:
            for name in ("uri", "version", "sha256", "width", "height", "status", "error"):
                getattr(whole, name).extend(getattr(part, name))
        whole.brightness = np.concatenate([part.brightness for part in parts])
        whole.sharpness = np.concatenate([part.sharpness for part in parts])
        return whole

    def set_error(self, row: int, status: str, error: str) -> None:
        self.status[row], self.error[row] = status, error

    def set_outcomes(self, rows: list[int], outcomes: list[Size | ImageDecodeError]) -> list[int]:
        """Enter what the decoder found for some rows; return those that have pixels."""
        ok = []
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, ImageDecodeError):
                self.set_error(row, "rejected", f"{outcome.code}: {outcome}")
            else:
                self.width[row], self.height[row] = outcome
                ok.append(row)
        return ok

    def to_batch(self, vectors: NDArray[np.float32]) -> pa.RecordBatch:
        d = vectors.shape[1]
        bad = pa.array([status != "ok" for status in self.status])
        arrays = [
            pa.array(self.uri, pa.string()),
            pa.array(self.version, pa.string()),
            pa.array(self.sha256, pa.string()),
            pa.array(self.width, pa.int32()),
            pa.array(self.height, pa.int32()),
            pa.array(self.brightness, from_pandas=True),  # NaN becomes null
            pa.array(self.sharpness, from_pandas=True),
            pa.array(self.status, pa.string()),
            pa.array(self.error, pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), d, mask=bad),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=embeddings(d))


@lru_cache(maxsize=1)
def _embedder(model: ModelFile, device: str) -> Embedder:
    """Open the network once per worker process."""
    return Embedder(model.fetch(), device)
