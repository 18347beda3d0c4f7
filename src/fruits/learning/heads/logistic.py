"""Multinomial logistic regression: the default head.

Independent of files and engines; scikit-learn is imported only for fitting.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.heads import Graph, Head, check_labels

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
_TOLERANCE: Final = 1e-4
_MAX_ITERATIONS: Final = 400


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
    ) -> LogisticHead:
        """See :class:`fruits.learning.heads.Head`; the setting is the inverse regularisation strength (scikit-learn's ``C``).

        Features are scaled to a root mean square length of 1. Solver: L-BFGS of SciPy, through scikit-learn.
        """
        from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - the import takes a second, and only fitting needs it
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
        from threadpoolctl import threadpool_limits  # noqa: PLC0415

        check_labels(labels)
        # One scale for all components: whitening would amplify the noise of late components to the size of early ones.
        scale = scale_of(features)
        tolerance = _TOLERANCE * min(1.0, DEFAULT_REGULARISATION / setting)
        model = LogisticRegression(C=setting, max_iter=_MAX_ITERATIONS, tol=tolerance)
        # One thread: the products of a step are so small that the overhead of threads exceeds the gain, up to tenfold on a busy
        # machine (1.3 s against 10 s for 15,000 photos, 120 components, 114 labels).
        with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(np.ascontiguousarray(features * np.float32(scale)), labels, weights)
        slopes, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
        if len(slopes) == 1:
            # With two labels, scikit-learn gives one row, the log odds of the second.
            slopes, bias = np.vstack([-slopes / 2, slopes / 2]), np.r_[-bias / 2, bias / 2]
        converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        return cls((slopes * scale).astype(np.float32), bias.astype(np.float32), converged)

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
    return 1.0 / max(float(np.sqrt(np.mean(np.square(features, dtype=np.float64).sum(axis=1)))), 1e-30)
