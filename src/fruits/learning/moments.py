"""Mergeable count, mean and scatter of rows: the input of PCA.

Computed per shard and merged; accumulated in float64, and exact up to rounding for any split into shards. Independent of engines
and files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.errors import FruitsError

#: Rows converted to float64 at a time: enough for a fast product, and small in memory compared with the scatter.
_BLOCK: Final = 4096


class ShapeMismatchError(FruitsError, ValueError):
    """Two arrays have incompatible shapes."""


@dataclass(frozen=True, slots=True)
class Moments:
    """First and second moments of a set of rows.

    Attributes
    ----------
    count : int
        n, number of rows.
    mean : float64 array, shape (d,)
    scatter : float64 array, shape (d, d)
        Sum of outer products of the centred rows: the covariance times n - 1.
    """

    count: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def empty(cls, d: int) -> Moments:
        """Return the moments of no rows, the identity of :meth:`merge`."""
        return cls(0, np.zeros(d), np.zeros((d, d)))

    @classmethod
    def from_rows(cls, rows: NDArray[np.float32] | NDArray[np.float64]) -> Moments:
        """Compute the moments of rows of shape (n, d), in O(n d^2).

        Each block is centred on its own mean before squaring: summing raw squares would lose precision if the mean is large
        compared with the standard deviation.

        Raises
        ------
        ShapeMismatchError
            If ``rows`` is not a matrix.
        """
        if rows.ndim != 2:
            raise ShapeMismatchError(f"rows of shape {rows.shape}; expected a matrix (n, d)")
        total = cls.empty(rows.shape[1])
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].astype(np.float64)
            mean = block.mean(axis=0)
            block -= mean
            total = total.merge(cls(len(block), mean, block.T @ block))
        return total

    def merge(self, other: Moments) -> Moments:
        """Combine two disjoint sets of rows, in O(d^2).

        Parameters
        ----------
        other : Moments
            With the same d.

        Raises
        ------
        ShapeMismatchError
            If the two d differ.

        References
        ----------
        Chan, Golub, LeVeque (1983), "Algorithms for computing the sample variance", equation 2.1.
        """
        if self.mean.shape != other.mean.shape:
            raise ShapeMismatchError(f"rows of {len(self.mean)} and of {len(other.mean)} numbers; expected the same")
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        scatter = self.scatter + other.scatter
        scatter += np.outer(delta, delta * (self.count * other.count / count))
        return Moments(count, mean, scatter)


def sums(rows: NDArray[np.float32], groups: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of the rows of each group, shape (number of groups, d), and the counts, both float64.

    Parameters
    ----------
    rows : float32 array, shape (n, d)
    groups : int64 array, shape (n,)
        Every value from 0 up occurs.
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    return np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64), np.bincount(groups).astype(np.float64)


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows scaled to length 1; a row of zeros stays zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, np.float32(1e-12)), np.float32)
