"""Detection of drift: whether incoming photos are distributed like the training photos.

Each of a few numbers per photo falls into one of ten bins, each of which holds a tenth of the training photos. Counts of days or
machines can be summed; nothing else of a photo needs to be stored. Independent of files and of the service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 10
#: Number of features used: the first ones, along which photos differ most.
_FEATURES: Final = 16
#: Photos for which comparing with every edge is quicker than a search in each number's edges.
_FEW: Final = 64
#: Added to the count of each bin, so that an empty bin does not give infinity.
_PRIOR: Final = 0.5


@dataclass(frozen=True, slots=True)
class Drift:
    """Distribution of the training photos in m numbers per photo: out-of-distribution score, then the first features.

    Attributes
    ----------
    edges : float32 array, shape (m, 9)
        Edges between bins, ascending; a number on an edge belongs to the bin below.
    shares : float32 array, shape (m, 10)
        Share of the training photos in each bin: a tenth, except for ties.
    """

    edges: NDArray[np.float32]
    shares: NDArray[np.float32]

    @classmethod
    def of(cls, features: NDArray[np.float32], ood_score: NDArray[np.float32]) -> Drift:
        """Fit the bins to training photos.

        Parameters
        ----------
        features : float32 array, shape (n, k)
        ood_score : float32 array, shape (any,)
            Out-of-distribution scores of validation photos if there are some: scores of trained photos are too low.
        """
        numbers = [ood_score, *features[:, :_FEATURES].T]
        at = np.arange(1, BINS) / BINS
        edges = np.stack([np.quantile(values, at) for values in numbers]).astype(np.float32)
        counts = np.stack(
            [np.bincount(_bins(values, of), minlength=BINS) for values, of in zip(numbers, edges, strict=True)]
        )
        return cls(edges, (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32))

    def bins(self, features: NDArray[np.float32], ood_score: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the bin, 0 to 9, of each of the m numbers of n photos, shape (n, m)."""
        numbers = np.column_stack([ood_score, features[:, : len(self.edges) - 1]])
        if len(numbers) > _FEW:
            return np.stack([_bins(values, of) for values, of in zip(numbers.T, self.edges, strict=True)], axis=1)
        # As a search of each: a number that is not above an edge is in the bin below it, and NaN in the last one.
        return np.asarray((~(numbers[:, :, None] <= self.edges)).sum(axis=2), np.int64)

    def psi(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the population stability index of counts, shape (m, 10), for each number, shape (m,); zeros without photos.

        By convention, an index below 0.1 means no change, and above 0.25 a large change. Without drift, it is :meth:`chance` on
        average.

        References
        ----------
        Siddiqi (2006), "Credit risk scorecards"; the symmetric Kullback-Leibler divergence of Jeffreys (1946).
        """
        photos = counts.sum(axis=1, keepdims=True)
        # The same prior on both sides, so that counts as expected give 0, however few they are.
        seen = (counts + _PRIOR) / (photos + BINS * _PRIOR)
        expected = (self.shares.astype(np.float64) * photos + _PRIOR) / (photos + BINS * _PRIOR)
        index = ((seen - expected) * np.log(seen / expected)).sum(axis=1)
        return np.asarray(index, np.float64)

    @staticmethod
    def chance(photos: int) -> float:
        """Return the expected index of ``photos`` photos without drift."""
        return (BINS - 1) / photos if photos else float("inf")


def _bins(values: NDArray[np.float32], edges: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.searchsorted(edges, values, side="left").astype(np.int64)
