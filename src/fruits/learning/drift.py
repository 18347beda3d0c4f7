"""Do photos that come in still look like those that were learnt? Counts in tenths of the training photos, and their distance.

Each of a few numbers per photo falls into one of ten bins that hold a tenth of the training photos each. Counts of days or of
machines add up; nothing else need be kept of a photo. Knows nothing of files or of who counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 10
#: Of the features, the first: those along which photos differ most.
_FEATURES: Final = 16
#: What is added to each bin, so that an empty one is no infinity.
_PRIOR: Final = 0.5


@dataclass(frozen=True, slots=True)
class Drift:
    """Where the training photos lie, for m numbers per photo: strangeness, then the first features.

    Attributes
    ----------
    edges : float32 array, shape (m, 9)
        Between bins, ascending; a number on an edge belongs to the bin below.
    shares : float32 array, shape (m, 10)
        Of the training photos in each bin: a tenth, but for ties.
    """

    edges: NDArray[np.float32]
    shares: NDArray[np.float32]

    @classmethod
    def of(cls, features: NDArray[np.float32], strangeness: NDArray[np.float32]) -> Drift:
        """Learn the bins from training photos.

        Parameters
        ----------
        features : float32 array, shape (n, k)
        strangeness : float32 array, shape (any,)
            Of known photos that were not learnt, as far as there are some: learnt ones are too familiar.
        """
        numbers = [strangeness, *features[:, :_FEATURES].T]
        at = np.arange(1, BINS) / BINS
        edges = np.stack([np.quantile(values, at) for values in numbers]).astype(np.float32)
        counts = np.stack(
            [np.bincount(_bins(values, of), minlength=BINS) for values, of in zip(numbers, edges, strict=True)]
        )
        return cls(edges, (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32))

    def bins(self, features: NDArray[np.float32], strangeness: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the bin, 0 to 9, of each number of n photos, shape (n, m)."""
        numbers = [strangeness, *features[:, : len(self.edges) - 1].T]
        return np.stack([_bins(values, of) for values, of in zip(numbers, self.edges, strict=True)], axis=1)

    def psi(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the population stability index of counts, shape (m, 10), for each number, shape (m,); zeros for no photos.

        By custom, below 0.1 nothing has changed, above 0.25 much has. Photos of the same sort as in training give about
        :meth:`chance` by chance alone.

        References
        ----------
        Siddiqi (2006), "Credit risk scorecards"; the symmetric Kullback-Leibler divergence of Jeffreys (1946).
        """
        photos = counts.sum(axis=1, keepdims=True)
        # The same prior on both sides: counts just as expected give 0, however few.
        seen = (counts + _PRIOR) / (photos + BINS * _PRIOR)
        expected = (self.shares.astype(np.float64) * photos + _PRIOR) / (photos + BINS * _PRIOR)
        index = ((seen - expected) * np.log(seen / expected)).sum(axis=1)
        return np.asarray(index, np.float64)

    @staticmethod
    def chance(photos: int) -> float:
        """Return the index that so many photos without any drift give on average."""
        return (BINS - 1) / photos if photos else float("inf")


def _bins(values: NDArray[np.float32], edges: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.searchsorted(edges, values, side="left").astype(np.int64)
