"""What decoding in a child process costs the embedding stage: photos per second with it, beside decoding in the worker itself.

    python -m benchmarks.decoder [PHOTOS] [--most 4000] [--repeat 5]

One worker is the stage called here; two are processes of the local engine, started before the clock. Both ways read, hash,
embed and commit the same photos, in turns; the way without a child is the loop as it was before there was one. What counts
is the median of the ratios of neighbouring repetitions, as whatever else the machine does slows both.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.photos import find_photos, spread
from benchmarks.quiet import wait_for_quiet
from fruits.embedding import stage as with_child
from fruits.embedding.backbone import BATCH_SIZE, Embedder, find_backbone
from fruits.embedding.model import ModelFile
from fruits.embedding.stage import EmbedStage
from fruits.engines.local import LocalEngine
from fruits.errors import ImageDecodeError
from fruits.photos.decoding.images import Preprocessing, to_network_input
from fruits.photos.decoding.quality import measure
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.tables.schemas import RECEIPT, WORK

TARGET = 1.05
_PHOTOS_PER_SHARD = 250


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoder", description=__doc__.partition("\n")[0])
    parser.add_argument("photos", nargs="?", type=Path, help="by default photos of generated fruit")
    parser.add_argument("--most", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    choices = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fruits-bench-") as scratch:
        photos, origin = find_photos(choices.photos, Path(scratch), at_least=choices.most)
        photos = spread(photos, choices.most)
        print(f"{len(photos):,} photos of {origin}, network fruits-small")
        for workers in choices.workers:
            seconds: dict[str, list[float]] = {"in process": [], "child": []}
            for repetition in range(choices.repeat):
                # The second of a pair finds warmer caches, so they change places.
                for way in sorted(seconds, reverse=bool(repetition % 2)):
                    wait_for_quiet()
                    seconds[way].append(_seconds(photos, Path(scratch), workers, child=way == "child"))
            _say(seconds, workers, len(photos))


def _say(seconds: dict[str, list[float]], workers: int, n: int) -> None:
    for way, times in seconds.items():
        each = " ".join(f"{n / one:,.0f}" for one in times)
        print(f"{workers} worker(s), {way:10}  best {n / min(times):7,.0f} photos per s   each: {each}")
    ratios = [child / own for own, child in zip(*seconds.values(), strict=True)]
    median, best = statistics.median(ratios), min(seconds["child"]) / min(seconds["in process"])
    verdict = "met" if median <= TARGET else "NOT met"
    print(
        f"{workers} worker(s), time with a child / without: median {median:.3f}, of the best {best:.3f}; {TARGET} {verdict}"
    )


def _seconds(photos: list[Path], scratch: Path, workers: int, *, child: bool) -> float:
    """Embed and commit the photos into an empty folder; the first shards, which start everything, are not timed."""
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    backbone = find_backbone("fruits-small")
    preprocessing = backbone.card.preprocessing(None, None)
    model = backbone.prepared(preprocessing)
    (out / "backbone.onnx").write_bytes(model)
    file = ModelFile(str(out), "backbone.onnx", hashlib.sha256(model).hexdigest())
    kind = EmbedStage if child else InProcessStage
    stage = kind(file, preprocessing, backbone.card.embedding_size, EmbeddingTable(str(out), "embeddings/benchmark"))
    shards = list(_shards(photos, workers))
    started = 0.0
    if workers == 1:
        for number, shard in enumerate(shards):
            if number == 1:
                started = time.perf_counter()
            list(stage(iter(shard.to_batches())))
        return time.perf_counter() - started
    receipts = 0
    for batch in LocalEngine(workers).map_batches(shards, stage, RECEIPT):
        receipts += batch.num_rows
        if receipts == workers:
            started = time.perf_counter()
        if pc.any(pc.greater(pc.add(batch["rejected"], batch["failed"]), 0)).as_py():
            raise SystemExit("some photos were not embedded: the photos are not comparable")
    return time.perf_counter() - started


def _shards(photos: list[Path], warm_up: int) -> Iterator[pa.Table]:
    """Deal the photos into shards, behind one small shard for each worker to start with."""
    pieces = [photos[:BATCH_SIZE]] * warm_up
    pieces += [photos[start : start + _PHOTOS_PER_SHARD] for start in range(0, len(photos), _PHOTOS_PER_SHARD)]
    for number, piece in enumerate(pieces):
        rows = [
            {"shard": f"00001-{number:05d}", "uri": str(path), "label": "x", "split": "train", "version": "1"}
            for path in piece
        ]
        yield pa.Table.from_pylist(rows, schema=WORK)


@dataclass(frozen=True, slots=True)
class InProcessStage(EmbedStage):
    """The stage as it would be without a child."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """As the real one, with the other loop."""
        child, with_child._embedded = with_child._embedded, _embedded
        try:
            yield from EmbedStage.__call__(self, batches)
        finally:
            with_child._embedded = child


def _embedded(
    groups: Iterator[Any],
    network: Callable[[], Embedder],
    preprocessing: Preprocessing,
    embedding_size: int,
    decoder: Any,
    access: Any,
) -> Iterator[Any]:
    """The loop of the version before the child: a thread reads the next batch while the network works."""
    pixels = np.empty((BATCH_SIZE, preprocessing.size, preprocessing.size, 3), np.uint8)
    source, embedder = with_child._Source(groups, decoder, access), network()
    source._has_started = True  # no child: that is the point
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(source.read)
        while (batch := coming.result()) is not None:
            started = time.perf_counter()
            columns = with_child.Columns.of(batch.rows)
            ok: list[int] = []
            for row, (data, error) in enumerate(batch.contents):
                if data is None:
                    columns.set_error(row, "failed", error)
                    continue
                columns.sha256[row] = hashlib.sha256(data).hexdigest()
                try:
                    photo = to_network_input(data, preprocessing)
                except ImageDecodeError as exc:
                    columns.set_error(row, "rejected", f"{exc.code}: {exc}")
                else:
                    columns.width[row], columns.height[row] = photo.width, photo.height
                    pixels[len(ok)] = photo.pixels
                    ok.append(row)
            decoded = time.perf_counter()
            # As the real one: the first batch of another shard may come only when this one is done.
            if not batch.last:
                coming = reader.submit(source.read)
            vectors = np.zeros((len(batch.rows), embedding_size), np.float32)
            if ok:
                vectors[ok] = embedder.embed(pixels[: len(ok)])
                columns.brightness[ok], columns.sharpness[ok] = measure(pixels[: len(ok)])
            batch.group.watch.decode += decoded - started
            batch.group.watch.infer += time.perf_counter() - decoded
            yield with_child._Part(batch.group, columns, vectors, batch.last)
            if batch.last:
                coming = reader.submit(source.read)


if __name__ == "__main__":
    main()
