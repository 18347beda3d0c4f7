"""Nearest neighbours by cosine distance, the threshold for near-duplicates, and groups of close rows.

Exact, by blocks of matrix products in O(n m k); for n = m = 26,000 and k = 256 a few seconds on two cores. The distance is
1 - cosine, from 0 (same direction) to 2. Independent of photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fruits.learning.moments import unit

#: Most rows per block, and most products of a block: 50 MB. Larger banks get smaller blocks.
_BLOCK: Final = 256
_PRODUCTS: Final = 256 * 50_000
#: Most rows, as a share, that a threshold from retouched copies may make near-duplicates of a row of another label.
_OTHER_LABEL_SHARE: Final = 0.05
#: Largest distance between identical rows, due to rounding.
_LEAST_THRESHOLD: Final = 1e-5
#: Rows of a bank that are scaled and compared at a time.
_CHUNK: Final = 16_384
#: Share of test photos with a near-duplicate in training from which a score is reported as partly memorised.
LEAK_LIMIT: Final = 0.05
#: Share of retouched copies that must be recognised as such.
COPIES_SHARE: Final = 0.95


class FeatureRows(Protocol):
    """Numbers of n photos, by row: an array of shape (n, k), or one that is read when rows are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, k)."""
        ...

    def __getitem__(self, rows: NDArray[Any], /) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Largest distance at which two photos count as near-duplicates, and its derivation.

    Attributes
    ----------
    threshold : float
        The smaller of ``copies`` and ``other_labels``.
    copies : float
        95 % quantile of the distance between a photo and a lightly retouched copy of it.
    other_labels : float
        5 % quantile of the distance to the nearest photo of another label.
    chance : float
        Share of photos with a photo of another label within the threshold: a lower bound of the rate of false positives.
    """

    threshold: float
    copies: float
    other_labels: float
    chance: float

    @classmethod
    def derive(
        cls,
        originals: NDArray[np.float32],
        copies: NDArray[np.float32],
        rows: NDArray[np.float32],
        labels: NDArray[np.int64],
    ) -> NearDuplicates:
        """Derive the threshold.

        Parameters
        ----------
        originals, copies : float32 array, shape (m, k)
            Unit features of photos and of their retouched copies, in the same order.
        rows : float32 array, shape (n, k)
            Unit features of photos of several labels, without exact copies: one file under two labels would distort distances.
        labels : int array, shape (n,)
        """
        return cls._derived(originals, copies, nearest(rows, rows, other_than=(labels, labels))[0][:, 0])

    @classmethod
    def of(
        cls, originals: NDArray[np.float32], copies: NDArray[np.float32], others: NDArray[np.float32]
    ) -> NearDuplicates:
        """Derive the threshold from a sample of photos.

        Parameters
        ----------
        originals, copies : float32 array, shape (m, k)
            As for :meth:`derive`.
        others : float32 array, shape (n,)
            Distance from some photos to the nearest photo of another label. Distances of zero are taken for one file under two
            labels, and left out.
        """
        others = others[others > _LEAST_THRESHOLD]
        return cls._derived(originals, copies, others if len(others) else np.full(1, 2.0, np.float32))

    @classmethod
    def _derived(
        cls, originals: NDArray[np.float32], copies: NDArray[np.float32], others: NDArray[np.float32]
    ) -> NearDuplicates:
        near = float(np.quantile(1 - (originals * copies).sum(axis=1), COPIES_SHARE))
        others = np.minimum(others, 2.0)
        far = float(np.quantile(others, _OTHER_LABEL_SHARE))
        threshold = max(min(near, far), _LEAST_THRESHOLD)
        return cls(threshold, near, far, float((others <= threshold).mean()))


def nearest(
    queries: NDArray[np.float32],
    bank: NDArray[np.float32],
    *,
    count: int = 1,
    other_than: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the nearest rows of a bank, nearest first.

    Parameters
    ----------
    queries : float32 array, shape (m, k)
        Unit rows.
    bank : float32 array, shape (n, k)
        Unit rows.
    count : int
        Number of neighbours; n at most.
    other_than : tuple of two int arrays, shapes (m,) and (n,), optional
        A mark per row: rows with the same mark are never neighbours.

    Returns
    -------
    float32 array, shape (m, min(count, n))
        Distances; infinite if there is no such row.
    int64 array, same shape
        Rows of the bank; ties are resolved to the lower number.
    """
    count = min(count, len(bank))
    distance = np.empty((len(queries), count), np.float32)
    index = np.empty((len(queries), count), np.int64)
    size = max(1, min(_BLOCK, _PRODUCTS // max(1, len(bank))))
    for start in range(0, len(queries), size):
        stop = min(start + size, len(queries))
        block = 1 - queries[start:stop] @ bank.T
        np.maximum(block, 0, out=block)
        if other_than is not None:
            block[other_than[0][start:stop, None] == other_than[1][None, :]] = np.inf
        if count == 1:
            best = block.argmin(axis=1)[:, None]
        else:
            best = np.argpartition(block, count - 1, axis=1)[:, :count]
            farthest = np.take_along_axis(block, best, 1).max(axis=1, keepdims=True)
            # The partition chooses arbitrarily among ties; they are rare enough to sort the rows with ties completely.
            tied = np.isfinite(farthest[:, 0]) & ((block <= farthest).sum(axis=1) > count)
            for row in np.flatnonzero(tied):
                best[row] = np.argsort(block[row], kind="stable")[:count]
            # Sort by number first, so that the order of ties does not depend on the partition.
            best.sort(axis=1)
            order = np.argsort(np.take_along_axis(block, best, 1), axis=1, kind="stable")
            best = np.take_along_axis(best, order, 1)
        distance[start:stop] = np.take_along_axis(block, best, 1)
        index[start:stop] = best
    return distance, index


def nearest_distance(
    queries: NDArray[np.float32],
    rows: FeatureRows,
    bank: NDArray[Any],
    *,
    other_than: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> NDArray[np.float32]:
    """Return the distance to the nearest row of a bank of any size, shape (m,); infinite if there is none.

    Parameters
    ----------
    queries : float32 array, shape (m, k)
        Unit rows.
    rows : array, or features that lie in a file, shape (n, k)
        Not normalised: scaled in chunks during the comparison, which avoids a copy of all rows.
    bank : int64 array
        Row numbers of the bank.
    other_than : tuple of two int arrays, shapes (m,) and that of bank, optional
        As for :func:`nearest`.
    """
    best = np.full(len(queries), np.inf, np.float32)
    for start in range(0, len(bank), _CHUNK):
        part = slice(start, start + _CHUNK)
        marks = None if other_than is None else (other_than[0], other_than[1][part])
        best = np.minimum(best, nearest(queries, unit(rows[bank[part]]), other_than=marks)[0][:, 0])
    return best


def groups_within(rows: NDArray[np.float32], threshold: float, *, count: int = 10) -> NDArray[np.int64]:
    """Return a group number per row: connected components of rows within the threshold (single linkage).

    Parameters
    ----------
    rows : float32 array, shape (n, k)
        Unit rows.
    threshold : float
    count : int
        Each row is linked to at most this many of its nearest neighbours.

    Returns
    -------
    int64 array, shape (n,)
        Numbered from 0 in the order of the rows.
    """
    own = np.arange(len(rows), dtype=np.int64)
    distance, index = nearest(rows, rows, count=count, other_than=(own, own))
    near = distance <= threshold
    return connected_groups(np.repeat(own, near.sum(axis=1)), index[near], len(rows))


def connected_groups(left: NDArray[np.int64], right: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return a group number for each of n rows, given linked pairs of rows; numbered in the order of the rows."""
    from scipy.sparse import coo_array  # noqa: PLC0415 - a quarter of a second, not needed by an up-to-date run
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    pairs = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(n, n))
    _, group = connected_components(pairs, directed=False)
    _, first, number = np.unique(group, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.asarray(rank[number], np.int64)
