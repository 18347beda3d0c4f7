"""Multinomial logistic regression: the default head.

Independent of files and engines; SciPy is imported only for fitting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.heads import Graph, Head, check_labels
from fruits.learning.heads.softmax_regression import Solution, solve

#: Inverse regularisation strengths that are tried (scikit-learn's ``C``), for features scaled to a root mean square length of 1.
REGULARISATIONS: Final = (0.3, 3.0, 30.0, 300.0)
#: Between the two values that are selected most often.
DEFAULT_REGULARISATION: Final = 3.0
#: Where the backbone was trained on the photos. Such embeddings cluster so tightly that any strength separates the training
#: photos; photos that the backbone has not seen lie between the clusters and need the weaker regularisation
#: (docs/evaluation.md, Calibration).
DEFAULT_REGULARISATION_SEEN: Final = 300.0
#: Share of the loss that is left to gain, by estimate, where the solver stops; and on its way to weak regularisation.
_TOLERANCE: Final = 1e-4
_TOLERANCE_ON_THE_WAY: Final = 1e-2
#: Where nothing is known, weak regularisation is reached in steps from strong regularisation, whose optimum is near zero.
_STEPS: Final = (1e-3, 1e-2, 1e-1)
_MAX_ITERATIONS: Final = 400
#: Rows whose lengths are computed at a time.
_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class LogisticHead(Head):
    """A fitted logistic regression.

    Attributes
    ----------
    weights : float32 array, shape (c, k)
    bias : float32 array, shape (c,)
    converged : bool
        False if the solver stopped at its limit of iterations; the head is then usable but not optimal.
    """

    arrays: ClassVar = {"weights": ("f4", ("c", "k")), "bias": ("f4", ("c",))}
    parameter: ClassVar = "regularisation"
    settings: ClassVar = REGULARISATIONS
    default: ClassVar = DEFAULT_REGULARISATION
    default_seen: ClassVar = DEFAULT_REGULARISATION_SEEN
    own_scale: ClassVar = True
    linear: ClassVar = True
    starts: ClassVar = True

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    converged: bool = True

    @classmethod
    def fit(
        cls,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        *,
        setting: float,
        weights: NDArray[np.float64] | None = None,
        start: Mapping[float, LogisticHead] | None = None,
    ) -> LogisticHead:
        """See :class:`fruits.learning.heads.Head`; the setting is the inverse regularisation strength (scikit-learn's ``C``).

        Features are scaled to a root mean square length of 1.

        Parameters
        ----------
        start : mapping of float to LogisticHead, optional
            Heads of the same labels by their setting, of these features or the first of them: the solver begins where they
            lead to.

        Raises
        ------
        ValueError
            If a feature is infinite or not a number, of which the solver would make a head that names anything the same.
        """
        check_labels(labels)
        # One scale for all components: whitening would amplify the noise of late components to the size of early ones.
        scale = scale_of(features)
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError("some features are infinite or not numbers; expected finite ones")
        rows = np.ascontiguousarray(features * np.float32(scale))
        k = rows.shape[1]
        known = {
            other: np.column_stack([np.pad(head.weights / scale, ((0, 0), (0, k - head.weights.shape[1]))), head.bias])
            for other, head in (start or {}).items()
        }

        def solution(setting: float, tolerance: float) -> Solution:
            return solve(
                rows,
                labels,
                regularisation=setting,
                weights=weights,
                start=_predicted(known, setting),
                tolerance=tolerance,
                max_iterations=_MAX_ITERATIONS,
            )

        if not known and setting > DEFAULT_REGULARISATION:
            for step in _STEPS:
                found = solution(step * setting, _TOLERANCE_ON_THE_WAY)
                known[step * setting] = np.column_stack([found.slopes, found.intercepts])
        found = solution(setting, _TOLERANCE)
        return cls((found.slopes * scale).astype(np.float32), found.intercepts.astype(np.float32), found.converged)

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, shape (n, c), of features of shape (n, k)."""
        return np.asarray(features @ self.weights.T + self.bias, np.float32)

    def add_to_graph(self, graph: Graph, features: str) -> str:
        """See :class:`fruits.learning.heads.Head`."""
        products = graph.node("MatMul", features, graph.constant("weights", self.weights.T))
        return graph.node("Add", products, graph.constant("bias", self.bias))

    def of_other_features(self, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> LogisticHead:
        """Return the head for other features, of which ``matrix @ other + shift`` are, about, the features of this one.

        Parameters
        ----------
        matrix : float64 array, shape (k, number of other features)
        shift : float64 array, shape (k,)
        """
        weights, bias = self.weights @ matrix, self.bias + self.weights @ shift
        return LogisticHead(weights.astype(np.float32), bias.astype(np.float32), self.converged)

    def of_labels(self, numbers: NDArray[np.int64], c: int) -> LogisticHead:
        """Return the head for c labels, of which this one's are those with these numbers; it gives others the least bias."""
        weights = np.zeros((c, self.weights.shape[1]), np.float32)
        bias = np.full(c, self.bias.min(), np.float32)
        weights[numbers], bias[numbers] = self.weights, self.bias
        return LogisticHead(weights, bias, self.converged)

    def temperature_scaled(self, temperature: float) -> LogisticHead:
        """Return the head with logits divided by a temperature, which is folded into the weights."""
        scale = np.float32(1 / temperature)
        return LogisticHead(self.weights * scale, self.bias * scale, self.converged)


def _predicted(
    known: Mapping[float, NDArray[np.floating[Any]]], setting: float
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]] | None:
    """Return slopes and intercepts at a setting from those at others: the line through the two nearest, over log C.

    On Fruits-360 that is within a percent of the lowest loss, where the nearest alone is 90 % above it (docs/benchmarks.md).
    """
    near = sorted(known, key=lambda other: (abs(math.log(setting / other)), other))[:2]
    if not near:
        return None
    point = known[near[0]]
    if len(near) == 2 and near[0] != setting:
        point = point + math.log(setting / near[0]) / math.log(near[0] / near[1]) * (point - known[near[1]])
    return point[:, :-1], point[:, -1]


def scale_of(features: NDArray[np.float32]) -> float:
    """Return the factor that scales features of shape (n, k) to a root mean square length of 1."""
    squares = np.empty(len(features))
    for start in range(
        0, len(features), _BLOCK
    ):  # all at once, squares in float64 take twice the memory of the features
        squares[start : start + _BLOCK] = np.square(features[start : start + _BLOCK], dtype=np.float64).sum(axis=1)
    return 1.0 / max(float(np.sqrt(np.mean(squares))), 1e-30)
