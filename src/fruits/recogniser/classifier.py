"""From embeddings to numbers and decisions: the arrays of a bundle without its network, small enough to send to every worker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fruits.learning.heads import Head
from fruits.learning.out_of_distribution import OodDetector
from fruits.learning.pca import project
from fruits.recogniser.answers import Certainty, Decisions, decide
from fruits.recogniser.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True)
class Classifier:
    """PCA, head, out-of-distribution score and thresholds; can be pickled.

    Attributes
    ----------
    mean : float32 array, shape (d,)
    axes : float32 array, shape (k, d)
    head : Head
    ood_detector : OodDetector
    taxonomy : Taxonomy
        Taxonomy of the c labels.
    certainty : Certainty
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    head: Head
    ood_detector: OodDetector
    taxonomy: Taxonomy
    certainty: Certainty

    @property
    def components(self) -> int:
        """The number of features, k."""
        return len(self.axes)

    def project(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the features (n, k) of embeddings (n, d)."""
        return project(embeddings, self.mean, self.axes)

    def classify(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return probabilities (n, c) and out-of-distribution scores (n,) of features (n, k)."""
        probabilities = self.head.predict_proba(features)
        return probabilities, self.ood_detector.ood_score(features, probabilities)

    def decide(self, probabilities: NDArray[np.float32], ood_score: NDArray[np.float32]) -> Decisions:
        """Return the outcomes for probabilities (n, c) and scores (n,)."""
        return decide(probabilities, ood_score, self.taxonomy, self.certainty)
