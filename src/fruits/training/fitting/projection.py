"""Projection of stored embeddings by workers, when they are many.

:class:`ProjectStage` yields labelled features, on all of which the engine then fits a head. :class:`FeatureStage` yields the
features of the rows asked for, which go to the driver: k numbers per photo, not d. Independent of how photos were chosen and of
what is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fruits.engines import Engine
from fruits.learning.pca import PCA, project
from fruits.storage.embeddings.inventory import Inventory
from fruits.storage.embeddings.table import EmbeddingTable, File
from fruits.storage.tables.spool import spans
from fruits.training.fitting.training_set import in_chunks, vectors_of

#: One row per file of the table: its properties, and of each of its rows the label index (int32, -1: left out) and the weight
#: (float64).
PROJECTED: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ms", pa.int64(), nullable=False),
        pa.field("labels", pa.binary(), nullable=False),
        pa.field("weights", pa.binary(), nullable=False),
    ]
)
LABELLED: Final = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("features", pa.list_(pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class _Stage:
    """Stage that projects embeddings.

    Parameters
    ----------
    stored : EmbeddingTable
    mean : float32 array, shape (d,)
    axes : float32 array, shape (k, d)
    """

    stored: EmbeddingTable
    mean: NDArray[np.float32]
    axes: NDArray[np.float32]


class ProjectStage(_Stage):
    """Stage that reads files and projects the selected rows."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take rows of ``PROJECTED``; yield one batch of ``LABELLED`` per file with selected rows."""
        for batch in batches:
            for row in batch.to_pylist():
                labels = np.frombuffer(row["labels"], np.int32)
                wanted = labels >= 0
                if not wanted.any():
                    continue
                file = File(row["uri"], row["size_bytes"], len(labels), row["modified_ms"])
                table = self.stored.read(file, ["embedding"])
                features = project(vectors_of(table)[wanted], self.mean, self.axes)
                offsets = np.arange(len(features) + 1, dtype=np.int32) * features.shape[1]
                yield pa.RecordBatch.from_arrays(
                    [
                        pa.array(labels[wanted]),
                        pa.array(np.frombuffer(row["weights"])[wanted]),
                        pa.ListArray.from_arrays(pa.array(offsets), pa.array(features.reshape(-1))),
                    ],
                    schema=LABELLED,
                )


def shards_of(
    inventory: Inventory, labels: NDArray[np.int64], weights: NDArray[np.float64] | None
) -> Iterator[pa.Table]:
    """Yield one shard for the stage per file.

    Parameters
    ----------
    labels : int64 array, shape (n,)
        Label index of each catalogue row, -1 for rows to leave out.
    weights : float64 array, shape (n,), optional
        Weight of each catalogue row; 1 by default.
    """
    for entry in inventory.file_rows:
        held = entry.catalogue_rows >= 0
        own = np.where(held, labels[entry.catalogue_rows], -1).astype(np.int32)
        counts = np.ones(len(own)) if weights is None else np.where(held, weights[entry.catalogue_rows], 0.0)
        row = {
            "uri": entry.file.name,
            "size_bytes": entry.file.size_bytes,
            "modified_ms": entry.file.modified_ms,
            "labels": own.tobytes(),
            "weights": counts.tobytes(),
        }
        yield pa.Table.from_pylist([row], schema=PROJECTED)


#: One row per photo of the files of a group of chunks, so that engines see how much a shard is: its file, and the number of its
#: features (-1: left out).
_ASKED: Final = pa.schema(
    [
        pa.field("uri", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ms", pa.int64(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
    ]
)
#: One row per shard: numbers (int64, ascending) and features (float32, k for each).
_FOUND: Final = pa.schema(
    [pa.field("places", pa.binary(), nullable=False), pa.field("features", pa.binary(), nullable=False)]
)


class FeatureStage(_Stage):
    """Stage that reads the files of a group of chunks and projects the rows asked for.

    A group is one product, of rows in the catalogue's order, on one thread: bits depend on nothing else.
    """

    @property
    def bytes_per_row(self) -> int:
        """Bytes of an answer per photo."""
        return 8 + 4 * len(self.axes)

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take the photos of a group, schema ``_ASKED``; yield one row of ``_FOUND``."""
        photos = pa.Table.from_batches(list(batches), _ASKED).unify_dictionaries().combine_chunks()
        if not photos.num_rows:
            return
        names = photos["uri"].combine_chunks()
        vectors, numbers = [], []
        for start, stop in spans(names.indices.to_numpy()):
            places = photos["place"].slice(start, stop - start).to_numpy()
            size, modified = (photos[name][start].as_py() for name in ("size_bytes", "modified_ms"))
            file = File(names[start].as_py(), size, stop - start, modified)
            vectors.append(vectors_of(self.stored.read(file, ["embedding"]))[places >= 0])
            numbers.append(places[places >= 0])
        every = np.concatenate(numbers)
        order = np.argsort(every)
        with threadpool_limits(1, "blas"):
            features = project(np.concatenate(vectors)[order], self.mean, self.axes)
        found = {"places": [every[order].tobytes()], "features": [features.tobytes()]}
        yield pa.RecordBatch.from_pydict(found, schema=_FOUND)


def project_on(
    engine: Engine, stored: EmbeddingTable, inventory: Inventory, pca: PCA, components: int, place: NDArray[Any]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield features of photos, computed by the engine, with their numbers in ascending order; groups come in any order.

    Parameters
    ----------
    components : int
        k.
    place : integer array, shape (n,)
        Number of each catalogue row that is asked for and has an embedding, -1 for others; ascending.
    """
    stage = FeatureStage(stored, pca.mean.astype(np.float32), pca.axes[:components].astype(np.float32))
    for batch in engine.map_batches(_asked(inventory, place), stage, _FOUND):
        for row in batch.to_pylist():
            numbers = np.frombuffer(row["places"], np.int64)
            yield numbers, np.frombuffer(row["features"], np.float32).reshape(len(numbers), components)


def _asked(inventory: Inventory, place: NDArray[Any]) -> Iterator[pa.Table]:
    """Yield a shard per group of chunks, without files in which nothing is asked for."""
    for group in in_chunks(inventory):
        tables = []
        for entry in group:
            places = np.where(entry.catalogue_rows >= 0, place[entry.catalogue_rows], -1)
            if (places >= 0).any():
                n, file = len(places), entry.file
                name = pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [file.name])
                about = (np.full(n, file.size_bytes), np.full(n, file.modified_ms), places.astype(np.int64))
                tables.append(pa.Table.from_arrays([name, *map(pa.array, about)], schema=_ASKED))
        if tables:
            yield pa.concat_tables(tables).unify_dictionaries().combine_chunks()
