"""Out-of-distribution score: one number per photo, to detect photos that show none of the labels.

The sum of two signals: the entropy of the head's probabilities, and the relative Mahalanobis distance (distance to the nearest
label, relative to photos of all labels). Each detects photos that the other misses; docs/evaluation.md has the comparison with
energy, nearest neighbours, residuals and others. Independent of files and of the use of the score.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.moments import sums

#: Share of the mean variance added to each axis (shrinkage), so that directions of little variance do not dominate.
_SHRINKAGE: Final = 0.01
#: Absolute floor of the variance, and least variance within labels as a share of the total variance.
_LEAST_VARIANCE: Final = 1e-6
_LEAST_WITHIN: Final = 1e-3
#: Share of known photos that must be accepted as known.
ACCEPTED: Final = 0.95
LEAST_PROBABILITY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class OodDetector:
    """Distribution of the training photos, and the score derived from it.

    Attributes
    ----------
    whitening : float32 array, shape (k, k)
        ``features @ whitening`` has unit variance within labels in all directions.
    centres : float32 array, shape (c, k)
        Means of the labels, whitened.
    background : float32 array, shape (k,)
        Inverse variance of each feature over photos of all labels.
    entropy_scale, distance_scale : float
        Factors of the two signals.
    offset : float
        Subtracted from the sum.

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
    def of(cls, features: NDArray[np.float32], labels: NDArray[np.int64]) -> OodDetector:
        """Fit the distribution, with the default scale, in O(n k^2 + k^3).

        Parameters
        ----------
        features : float32 array, shape (n, k)
        labels : int64 array, shape (n,)
            Every value from 0 to c - 1 occurs.
        """
        k = features.shape[1]
        total, count = sums(features, labels)
        centres = total / count[:, None]
        within = (features - centres.astype(np.float32)[labels]).astype(np.float32)
        scatter = (within.T @ within).astype(np.float64) / len(features)
        variance = np.square(features - features.mean(axis=0), dtype=np.float64).mean(axis=0)
        # With one photo per label, the variance within labels is 0; then use a share of the total variance.
        spread = max(float(np.trace(scatter)), _LEAST_WITHIN * float(variance.sum()))
        # If all photos are the same, the total variance is 0 too: then any difference gives a high but finite score.
        least = _LEAST_VARIANCE if variance.sum() < _LEAST_VARIANCE else np.finfo(np.float32).tiny
        scatter[np.diag_indices(k)] += _SHRINKAGE * spread / k + least
        values, axes = np.linalg.eigh(scatter)
        whitening = axes / np.sqrt(np.maximum(values, least))
        variance += _SHRINKAGE * variance.mean() + least
        return cls(
            whitening.astype(np.float32), (centres @ whitening).astype(np.float32), (1 / variance).astype(np.float32)
        )

    def scaled(self, features: NDArray[np.float32], probabilities: NDArray[np.float32]) -> OodDetector:
        """Return a copy with both signals on one scale: the median of known photos is at 0, their 95 % quantile at 1.

        Parameters
        ----------
        features : float32 array, shape (m, k)
            Features of validation photos; m is at least 1.
        probabilities : float32 array, shape (m, c)
        """
        offset, scales = 0.0, []
        for sign in (entropy(probabilities), self.distance(features)):
            middle, high = np.quantile(sign.astype(np.float64), (0.5, ACCEPTED))
            scales.append(1 / max(float(high - middle), 1e-3))
            offset += float(middle) * scales[-1]
        return replace(self, entropy_scale=scales[0], distance_scale=scales[1], offset=offset)

    def on_the_scale_of(self, other: OodDetector) -> OodDetector:
        """Return a copy with the scale of another instance, which was fitted on validation photos."""
        return replace(
            self, entropy_scale=other.entropy_scale, distance_scale=other.distance_scale, offset=other.offset
        )

    def ood_score(self, features: NDArray[np.float32], probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the out-of-distribution score of photos, shape (n,); higher for unknown photos. Overflow gives the largest
        float.

        Parameters
        ----------
        features : float32 array, shape (n, k)
        probabilities : float32 array, shape (n, c)
            Calibrated probabilities.
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
        """Return the squared distance to the nearest label minus that to the background, shape (n,)."""
        white = features @ self.whitening
        to_centre = np.square(self.centres).sum(axis=1) - 2 * (white @ self.centres.T)
        own = np.square(white).sum(axis=1) + to_centre.min(axis=1)
        return np.asarray(own - np.square(features) @ self.background, np.float32)


def entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the entropy of probabilities (n, c) in nats, shape (n,)."""
    log_p = np.log(np.maximum(probabilities, np.float32(LEAST_PROBABILITY)))
    return np.asarray(-(probabilities * log_p).sum(axis=1), np.float32)
