"""Multinomial logistic regression: the default head.

Independent of files and engines; SciPy is imported only for fitting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.heads import Graph, Head, check_labels
from fruits.learning.heads.softmax_regression import solve

#: Inverse regularisation strengths that are tried (scikit-learn's ``C``), for features scaled to a root mean square length of 1.
REGULARISATIONS: Final = (0.3, 3.0, 30.0, 300.0)
#: Between the two values that are selected most often.
DEFAULT_REGULARISATION: Final = 3.0
#: Where the backbone was trained on the photos. Such embeddings cluster so tightly that any strength separates the training
#: photos; photos that the backbone has not seen lie between the clusters and need the weaker regularisation
#: (docs/evaluation.md, Calibration).
DEFAULT_REGULARISATION_SEEN: Final = 300.0
#: Largest gradient of the mean log loss at which the solver stops, up to the default strength. Weaker regularisation has smaller
#: gradients: with this limit it would stop far from its optimum.
_TOLERANCE: Final = 5e-5
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
        start: LogisticHead | None = None,
    ) -> LogisticHead:
        """See :class:`fruits.learning.heads.Head`; the setting is the inverse regularisation strength (scikit-learn's ``C``).

        Features are scaled to a root mean square length of 1.

        Parameters
        ----------
        start : LogisticHead, optional
            Of the same features and labels with another setting: where the solver begins.

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
        found = solve(
            np.ascontiguousarray(features * np.float32(scale)),
            labels,
            regularisation=setting,
            weights=weights,
            start=None if start is None else (start.weights / scale, start.bias),
            tolerance=_TOLERANCE * min(1.0, DEFAULT_REGULARISATION / setting),
            max_iterations=_MAX_ITERATIONS,
        )
        return cls((found.slopes * scale).astype(np.float32), found.intercepts.astype(np.float32), found.converged)

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, shape (n, c), of features of shape (n, k)."""
        return np.asarray(features @ self.weights.T + self.bias, np.float32)

    def add_to_graph(self, graph: Graph, features: str) -> str:
        """See :class:`fruits.learning.heads.Head`."""
        products = graph.node("MatMul", features, graph.constant("weights", self.weights.T))
        return graph.node("Add", products, graph.constant("bias", self.bias))

    def temperature_scaled(self, temperature: float) -> LogisticHead:
        """Return the head with logits divided by a temperature, which is folded into the weights."""
        scale = np.float32(1 / temperature)
        return LogisticHead(self.weights * scale, self.bias * scale, self.converged)


def scale_of(features: NDArray[np.float32]) -> float:
    """Return the factor that scales features of shape (n, k) to a root mean square length of 1."""
    squares = np.empty(len(features))
    for start in range(
        0, len(features), _BLOCK
    ):  # all at once, squares in float64 take twice the memory of the features
        squares[start : start + _BLOCK] = np.square(features[start : start + _BLOCK], dtype=np.float64).sum(axis=1)
    return 1.0 / max(float(np.sqrt(np.mean(squares))), 1e-30)
