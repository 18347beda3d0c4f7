"""The features of all photos that have an embedding: in memory while they are few, else in a temporary file.

Read by rows, as an array is; what asks for many rows asks for a block at a time.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fruits.engines import Engine
from fruits.learning.neighbours import FeatureRows
from fruits.learning.pca import PCA
from fruits.storage.embeddings.inventory import Inventory
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.tables.spool import on_disk, spans
from fruits.training.fitting.projection import project_on
from fruits.training.fitting.training_set import in_chunks, read_embeddings

#: Most bytes of features in memory.
IN_MEMORY: Final = 1 << 27
#: Up to this many photos, starting workers would take longer than a pass on the driver.
HERE: Final = 200_000
#: Rows that are read, or given on, at a time.
ROWS_PER_BLOCK: Final = 1 << 14


class Features:
    """A matrix of n photos and k numbers, float32, that is filled once.

    Parameters
    ----------
    n, k : int
    """

    def __init__(self, n: int, k: int) -> None:
        self.shape: tuple[int, ...] = (n, k)
        self._file: Any = None
        self._array: NDArray[np.float32] | None = None
        if 4 * n * k <= IN_MEMORY:
            self._array = np.empty((n, k), np.float32)
            return
        with on_disk():
            self._file = tempfile.TemporaryFile(prefix="fruits-features-")  # noqa: SIM115
            weakref.finalize(self, self._file.close)
            self._file.truncate(4 * n * k)

    @classmethod
    def of(cls, array: NDArray[np.float32]) -> Features:
        """Return a matrix in memory."""
        features = cls(0, array.shape[1])
        features.shape, features._array = (len(array), array.shape[1]), array
        return features

    def __len__(self) -> int:
        return self.shape[0]

    def put(self, rows: NDArray[Any], values: NDArray[np.float32]) -> None:
        """Set some rows, given in ascending order."""
        if self._array is not None:
            self._array[rows] = values
            return
        size = 4 * self.shape[1]
        with on_disk():
            for start, stop in spans(rows - np.arange(len(rows))):  # neighbours
                data = np.ascontiguousarray(values[start:stop], np.float32).data.cast("B")
                at = int(rows[start]) * size
                while data:  # a disk that gets full takes a part without an error
                    written = os.pwrite(self._file.fileno(), data, at)
                    data, at = data[written:], at + written

    def __getitem__(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return some rows, given by number or by a mask, shape (m, k)."""
        if self._array is not None:
            return np.asarray(self._array[rows])
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        found = np.empty((len(rows), self.shape[1]), np.float32)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        for start, stop in spans(ascending // ROWS_PER_BLOCK):
            first, last = int(ascending[start]), int(ascending[stop - 1])
            found[order[start:stop]] = self._read(first, last + 1)[ascending[start:stop] - first]
        return found

    def first(self, k: int) -> Features | Part:
        """Return the first k numbers of each photo."""
        return Part(self, None, k) if self._array is None else Features.of(self._array[:, :k])

    def _read(self, start: int, stop: int) -> NDArray[np.float32]:
        size = 4 * self.shape[1]
        with on_disk():
            data = os.pread(self._file.fileno(), (stop - start) * size, start * size)
        return np.frombuffer(data, np.float32).reshape(stop - start, self.shape[1])


class Part:
    """Some rows of features that may lie in a file, or their first numbers; read when they are asked for.

    Parameters
    ----------
    features : array or Features
    rows : int array, optional
        All rows by default.
    k : int, optional
        All numbers by default.
    """

    def __init__(self, features: FeatureRows, rows: NDArray[Any] | None = None, k: int | None = None) -> None:
        most = features.shape[1]
        self.shape: tuple[int, ...] = (features.shape[0] if rows is None else len(rows), min(k or most, most))
        self._features, self._rows = features, rows

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return some rows, given by number or by a mask, shape (m, k)."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        rows = rows if self._rows is None else self._rows[rows]
        found = np.empty((len(rows), self.shape[1]), np.float32)
        for at in range(0, len(rows), ROWS_PER_BLOCK):
            found[at : at + ROWS_PER_BLOCK] = self._features[rows[at : at + ROWS_PER_BLOCK]][:, : self.shape[1]]
        return found


def project_all(
    engine: Engine,
    stored: EmbeddingTable,
    inventory: Inventory,
    pca: PCA,
    components: int,
    wanted: NDArray[np.bool_],
    progress: Callable[[int], None] = lambda _: None,
) -> Features:
    """Return the features of some photos, in the catalogue's order; beyond ``HERE`` photos, workers compute them.

    Parameters
    ----------
    components : int
        k.
    wanted : bool array, shape (n,)
        Catalogue rows, all of which have an embedding.
    """
    place = positions(wanted)
    features = Features(int(wanted.sum()), components)
    if by_workers(sum(file.rows for file in inventory.files)):
        place[~wanted] = -1
        for numbers, values in project_on(engine, stored, inventory, pca, components, place):
            features.put(numbers, values)
            progress(len(numbers))
        return features
    with threadpool_limits(1, "blas"):  # as workers do: the last bits depend on how a product is split among threads
        for group in in_chunks(inventory):
            vectors, at = read_embeddings(stored, group)
            own = wanted[at]
            features.put(place[at[own]], pca.transform(vectors[own], components))
            progress(len(at))
    return features


def by_workers(photos: int) -> bool:
    """Return whether a pass over so many photos is one of the engine."""
    return photos > HERE


def positions(ok: NDArray[np.bool_]) -> NDArray[Any]:
    """Return for each catalogue row that is marked its number among these, shape (n,)."""
    place = np.cumsum(ok, dtype=np.int32 if len(ok) < 1 << 31 else np.int64)
    return np.asarray(np.subtract(place, 1, out=place))


def blocks(rows: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """Yield rows in blocks of at most ``size``."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
