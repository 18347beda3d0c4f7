"""How unlike everything learnt is a photo? One number per photo, for saying "none of the things I know".

Two signs are added up: the head cannot decide (entropy of its probabilities), and the features lie far from every label for
photos of any label (relative Mahalanobis distance). Alone, each misses what the other finds; docs/evaluation.md has the
comparison with energy, nearest neighbours, residuals and others. Knows nothing of files or of what is done with the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.moments import sums

#: Share of the mean variance added to each axis, so that directions in which few photos differ do not decide alone.
_SHRINKAGE: Final = 0.01
#: Photos of a label are taken to differ by at least this share of what photos of all labels do.
_LEAST_VARIANCE: Final = 1e-6
_LEAST_WITHIN: Final = 1e-3
#: Share of known photos that must be taken for known.
ACCEPTED: Final = 0.95
LEAST_PROBABILITY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Known:
    """Where the things that were learnt lie.

    Attributes
    ----------
    whitening : float32 array, shape (k, k)
        ``features @ whitening``: in these coordinates photos scatter around their label equally in all directions.
    centres : float32 array, shape (c, k)
        Of the labels, in these coordinates.
    background : float32 array, shape (k,)
        Inverse variance of each feature over photos of all labels.
    entropy_scale, distance_scale : float
        What each sign is multiplied by.
    offset : float
        What is subtracted.

    References
    ----------
    Lee et al. (2018), "A simple unified framework for detecting out-of-distribution samples and adversarial attacks"; Ren et al.
    (2021), "A simple fix to Mahalanobis distance for improving near-OOD detection".
    """

    whitening: NDArray[np.float32]
    centres: NDArray[np.float32]
    background: NDArray[np.float32]
    entropy_scale: float = 1.0
    distance_scale: float = 1.0
    offset: float = 0.0

    @classmethod
    def of(cls, features: NDArray[np.float32], labels: NDArray[np.int64]) -> Known:
        """Learn from features, shape (n, k), and labels, shape (n,), of which every value from 0 to c - 1 occurs; unscaled.

        O(n k^2 + k^3).
        """
        k = features.shape[1]
        total, count = sums(features, labels)
        centres = total / count[:, None]
        within = (features - centres.astype(np.float32)[labels]).astype(np.float32)
        scatter = (within.T @ within).astype(np.float64) / len(features)
        variance = np.square(features - features.mean(axis=0), dtype=np.float64).mean(axis=0)
        # Labels of one photo each scatter not at all; what all photos do is then the only scale there is.
        spread = max(float(np.trace(scatter)), _LEAST_WITHIN * float(variance.sum()))
        # Photos that are all the same leave no scale at all: then any difference is strange, but finite.
        least = _LEAST_VARIANCE if variance.sum() < _LEAST_VARIANCE else np.finfo(np.float32).tiny
        scatter[np.diag_indices(k)] += _SHRINKAGE * spread / k + least
        values, axes = np.linalg.eigh(scatter)
        whitening = axes / np.sqrt(np.maximum(values, least))
        variance += _SHRINKAGE * variance.mean() + least
        return cls(
            whitening.astype(np.float32), (centres @ whitening).astype(np.float32), (1 / variance).astype(np.float32)
        )

    def scaled(self, features: NDArray[np.float32], probabilities: NDArray[np.float32]) -> Known:
        """Return the same with both signs on one scale: 0 for a typical known photo, 1 for one of twenty.

        Parameters
        ----------
        features : float32 array, shape (m, k)
            Of known photos that were not learnt, m at least 1.
        probabilities : float32 array, shape (m, c)
        """
        offset, scales = 0.0, []
        for sign in (entropy(probabilities), self.distance(features)):
            middle, high = np.quantile(sign.astype(np.float64), (0.5, ACCEPTED))
            scales.append(1 / max(float(high - middle), 1e-3))
            offset += float(middle) * scales[-1]
        return replace(self, entropy_scale=scales[0], distance_scale=scales[1], offset=offset)

    def on_the_scale_of(self, other: Known) -> Known:
        """Return the same with the scale of another, which photos that were not learnt have given it."""
        return replace(
            self, entropy_scale=other.entropy_scale, distance_scale=other.distance_scale, offset=other.offset
        )

    def strangeness(self, features: NDArray[np.float32], probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how strange photos are, shape (n,); the larger, the stranger. What overflows is the largest number.

        Parameters
        ----------
        features : float32 array, shape (n, k)
        probabilities : float32 array, shape (n, c)
            Calibrated.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.asarray(
                np.float32(self.entropy_scale) * entropy(probabilities)
                + np.float32(self.distance_scale) * self.distance(features)
                - np.float32(self.offset),
                np.float32,
            )
        largest = float(np.finfo(np.float32).max)
        return np.nan_to_num(total, nan=largest, posinf=largest, neginf=-largest)

    def distance(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared distance to the nearest label less that to photos in general, shape (n,)."""
        white = features @ self.whitening
        to_centre = np.square(self.centres).sum(axis=1) - 2 * (white @ self.centres.T)
        own = np.square(white).sum(axis=1) + to_centre.min(axis=1)
        return np.asarray(own - np.square(features) @ self.background, np.float32)


def entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the entropy of probabilities (n, c) in nats, shape (n,)."""
    log_p = np.log(np.maximum(probabilities, np.float32(LEAST_PROBABILITY)))
    return np.asarray(-(probabilities * log_p).sum(axis=1), np.float32)
