"""Principal components from moments: every k and the whole variance curve from one pass over the data.

Independent of the source of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fruits.errors import FruitsError, counted
from fruits.learning.moments import Moments, ShapeMismatchError
from fruits.monitoring.cores import usable_cores


class TooFewRowsError(FruitsError, ValueError):
    """There are too few rows to fit on."""


@dataclass(frozen=True, slots=True)
class PCA:
    """The principal axes of a set of rows, by falling variance.

    Attributes
    ----------
    mean : float64 array, shape (d,)
    axes : float64 array, shape (d, d)
        One axis per row, of length 1. Its element of largest magnitude is positive, so that the same data give the same
        axes everywhere.
    variances : float64 array, shape (d,)
        Variance explained by each axis, with n - 1 in the denominator, never negative.
    count : int
        Number n of rows it was fitted on.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    variances: NDArray[np.float64]
    count: int

    @classmethod
    def from_moments(cls, moments: Moments) -> PCA:
        """Compute the eigendecomposition of the covariance, in O(d^3).

        Raises
        ------
        TooFewRowsError
            If there are fewer than two rows.

        References
        ----------
        Jolliffe (2002), "Principal Component Analysis", section 3.1. Sign rule after Bro, Acar, Kolda (2008), in its
        simplest form.
        """
        if moments.count < 2:
            raise TooFewRowsError(f"PCA of {counted(moments.count, 'row')}; expected at least 2 training photos")
        from threadpoolctl import threadpool_limits  # noqa: PLC0415 - only fitting needs it

        # One thread: on a busy machine, two threads took four times as long (d = 1280: 2.8 s against 0.7 s).
        with threadpool_limits(1):
            values, vectors = np.linalg.eigh(moments.scatter / (moments.count - 1))
        axes = vectors.T[::-1]
        largest = np.abs(axes).argmax(axis=1)
        axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
        return cls(moments.mean, np.ascontiguousarray(axes), np.maximum(values[::-1], 0.0), moments.count)

    @classmethod
    def from_several(cls, moments: Sequence[Moments]) -> list[PCA]:
        """Compute several, side by side, each on one thread.

        Raises
        ------
        TooFewRowsError
            If one of them has fewer than two rows.
        """
        from threadpoolctl import threadpool_limits  # noqa: PLC0415

        # The limit is the process's: the first to end would lift it for the others, whose last bits would change.
        with threadpool_limits(1), ThreadPoolExecutor(min(len(moments), usable_cores())) as pool:
            return list(pool.map(cls.from_moments, moments))

    @property
    def explained_variance_ratio(self) -> NDArray[np.float64]:
        """Share of the variance that each axis explains, shape (d,); zeros if all rows are the same."""
        total = self.variances.sum()
        return self.variances / total if total > 0 else np.zeros_like(self.variances)

    @property
    def max_components(self) -> int:
        """Number of axes that the rows determine: min(n - 1, d)."""
        return min(self.count - 1, len(self.mean))

    def components_for(self, variance: float) -> int:
        """Return the smallest k whose axes together explain at least this share of the variance, in (0, 1]."""
        curve = np.cumsum(self.explained_variance_ratio)
        # By rounding, the full sum can be slightly below 1.
        return min(int(np.searchsorted(curve, variance - 1e-12)) + 1, self.max_components)

    def transform(self, rows: NDArray[np.float32], components: int) -> NDArray[np.float32]:
        """Project rows of shape (n, d) on the first axes; return features of shape (n, components), float32.

        Raises
        ------
        ShapeMismatchError
            If d differs.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ShapeMismatchError(f"rows of shape {rows.shape}; expected (n, {len(self.mean)})")
        return project(rows, self.mean.astype(np.float32), self.axes[:components].astype(np.float32))


def project(
    rows: NDArray[np.float32], mean: NDArray[np.float32], components: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return ``(rows - mean) @ components.T`` in float32: the projection shared by run, bundle and graph.

    Parameters
    ----------
    rows : array, shape (n, d)
    mean : array, shape (d,)
    components : array, shape (k, d)
    """
    return np.asarray((rows - mean) @ components.T, np.float32)
