"""Distances of a few photos to the nearest training photo: a pass over the features, block by block.

Beyond :data:`fruits.training.fitting.features.HERE` training photos, workers of the engine compare. Smallest distances merge, so
neither the engine nor the order of blocks matters. What the distances mean is decided in :mod:`fruits.training.scoring.leakage`.
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
from fruits.learning.neighbours import FeatureRows, nearest_distance
from fruits.training.fitting.feature_file import FeatureFile, in_blocks
from fruits.training.fitting.features import by_workers

#: One row per training photo of a block: its number in the features, and its label.
_COMPARED: Final = pa.schema(
    [pa.field("place", pa.int64(), nullable=False), pa.field("label", pa.int32(), nullable=False)]
)
#: One row per block: smallest distances, float32.
_FOUND: Final = pa.schema(
    [pa.field("others", pa.binary(), nullable=False), pa.field("nearest", pa.binary(), nullable=False)]
)

Distances = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class NearestQueries:
    """The photos whose nearest neighbours are wanted; picklable.

    Parameters
    ----------
    others : float32 array, shape (s, k)
        Unit features of training photos, to be compared with those of other labels.
    label : int array, shape (s,)
        Their labels.
    tested : float32 array, shape (t, k)
        Unit features of test photos, to be compared with all training photos.
    """

    others: NDArray[np.float32]
    label: NDArray[Any]
    tested: NDArray[np.float32]

    def nearest_in(self, features: NDArray[np.float32], label: NDArray[Any]) -> Distances:
        """Return the distances to the nearest of some training photos, shapes (s,) and (t,); infinite if there is none."""
        bank, features = np.arange(len(features)), features[:, : self.tested.shape[1]]
        others = nearest_distance(self.others, features, bank, other_than=(self.label, label))
        return others, nearest_distance(self.tested, features, bank)


@dataclass(frozen=True, slots=True)
class NearestStage:
    """Stage that reads a block of features and compares its training photos."""

    file: FeatureFile
    queries: NearestQueries

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take the training photos of a block, schema ``_COMPARED``; yield one row of ``_FOUND``."""
        photos = pa.Table.from_batches(list(batches), _COMPARED)
        if not photos.num_rows:
            return
        features = self.file.read(photos["place"].to_numpy())
        with threadpool_limits(1, "blas"):  # the last bits depend on how a product is split among threads
            others, nearest = self.queries.nearest_in(features, photos["label"].to_numpy())
        found = {"others": [others.tobytes()], "nearest": [nearest.tobytes()]}
        yield pa.RecordBatch.from_pydict(found, schema=_FOUND)


def nearest_distances(
    engine: Engine,
    file: FeatureFile | None,
    features: FeatureRows,
    queries: NearestQueries,
    *,
    train: NDArray[np.int64],
    place: NDArray[Any],
    label: NDArray[Any],
) -> Distances:
    """Return the distance of each photo to the nearest training photo, shapes (s,) and (t,); infinite if there is none.

    Parameters
    ----------
    engine : Engine
    file : FeatureFile, optional
        The features, for workers; without it, the driver compares.
    features : Features, shape (number of rows that are ok, k)
        The same, for the driver.
    queries : NearestQueries
    train : int64 array
        Catalogue rows of the training photos, ascending.
    place : integer array, shape (n,)
        Number of each catalogue row in the features.
    label : integer array, shape (n,)
        Label of each catalogue row.
    """
    found = (np.full(len(queries.others), np.inf, np.float32), np.full(len(queries.tested), np.inf, np.float32))
    if file is not None and by_workers(len(train)):
        for batch in engine.map_batches(_compared(train, place, label), NearestStage(file, queries), _FOUND):
            for row in batch.to_pylist():
                found = _merged(found, tuple(np.frombuffer(row[name], np.float32) for name in _FOUND.names))
        return found
    with threadpool_limits(1, "blas"):
        for some in in_blocks(train, place):
            rows = train[some]
            found = _merged(found, queries.nearest_in(features[place[rows]], label[rows]))
    return found


def _compared(train: NDArray[np.int64], place: NDArray[Any], label: NDArray[Any]) -> Iterator[pa.Table]:
    """Yield a shard per block with training photos."""
    for some in in_blocks(train, place):
        rows = train[some]
        columns = (place[rows].astype(np.int64), label[rows].astype(np.int32))
        yield pa.Table.from_arrays([pa.array(column) for column in columns], schema=_COMPARED)


def _merged(one: Distances, other: tuple[NDArray[np.float32], ...]) -> Distances:
    return np.minimum(one[0], other[0]), np.minimum(one[1], other[1])
