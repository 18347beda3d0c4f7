"""Multinomial logistic regression by L-BFGS, on all cores, in bounded memory.

The loss is a sum over blocks of rows, computed by threads and added in the order of the blocks, so that the number of threads
changes no bit. scikit-learn's solver minimises the same function on one thread, and starts at zero only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.heads import softmax
from fruits.monitoring.cores import usable_cores

#: Rows of a block: its products stay in the processor's cache.
_BLOCK: Final = 1024
#: Blocks per core that are computed, or wait to be, ahead of the one that is added.
_AHEAD: Final = 2
#: Steps that L-BFGS remembers, and steps of a line search, as in scikit-learn.
_MEMORY, _LINE_SEARCH = 10, 50
#: Where a step lowers the loss by less, float32 products have told what they can.
_FLOAT32_DIGITS: Final = 1e-10
#: What SciPy reports at its limit of iterations.
_PAUSED: Final = 1
#: Iterations before the curvature is estimated anew: few from zero, where the loss is far from a parabola.
_FIRST, _THEN = 10, 40
#: Rows on which it is estimated, and its least value as a share of the mean: a constant added to all intercepts changes no loss.
_ROWS_FOR_CURVATURE: Final = 4096
_LEAST_CURVATURE: Final = 1e-3
_SMALLEST: Final = float(np.finfo(np.float64).tiny)
#: What is left to gain is a sum over the coordinates: with fewer than this number, the tolerance is smaller in proportion.
_COORDINATES: Final = 10_000
#: Below this mean log loss the tolerance counts absolutely: nobody can tell such heads apart.
_LEAST_LOSS: Final = 1e-4

Part = tuple[float, NDArray[Any], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Solution:
    """Slopes, float64 of shape (c, k), and intercepts, shape (c,); whether the gradient fell below the tolerance."""

    slopes: NDArray[np.float64]
    intercepts: NDArray[np.float64]
    converged: bool


def solve(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    regularisation: float,
    weights: NDArray[np.float64] | None = None,
    start: tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]] | None = None,
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """Minimise the weighted mean log loss plus ``|slopes|^2 / (2 regularisation sum(weights))``.

    L-BFGS in coordinates in which the curvature is about the same in all directions (see :class:`_Curvature`). Products are
    float32, sums float64. If their rounding errors stop the solver, it goes on with float64 products.

    Parameters
    ----------
    features : float32 array, shape (n, k)
    labels : int array, shape (n,)
        Every value from 0 to c - 1 occurs.
    regularisation : float
        scikit-learn's ``C``. With two labels, as there, the slopes of the log odds are penalised.
    weights : float64 array, shape (n,), optional
    start : pair of arrays, optional
        Slopes and intercepts from which to start; zero by default.
    tolerance : float
        The solver stops where Newton's method, with the curvature of those coordinates, would lower the loss by at most this
        share, if there are 10,000 coordinates or more; with fewer, by less in proportion. That does not depend on the scale of
        the features, nor on the regularisation.
    max_iterations : int

    References
    ----------
    Liu, Nocedal (1989), "On the limited memory BFGS method for large scale optimization". Boyd, Vandenberghe (2004), "Convex
    optimization", section 9.5.1, has the stopping rule.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - only fitting needs it

    (n, k), c = features.shape, int(labels.max()) + 1
    total = float(n if weights is None else weights.sum())
    # Slopes of two labels are those of the log odds, halved with opposite signs: a quarter of the square each.
    penalty = (2.0 if c == 2 else 1.0) / (regularisation * total)
    point = np.zeros((c, k + 1))
    if start is not None:
        point[:, :k], point[:, k] = start
    left, pause, converged = max_iterations, _FIRST if start is None else _THEN, False
    for kind in (np.float32, np.float64):
        with _parts(features, labels, weights, kind) as parts:
            while left > 0:
                curvature = _Curvature.at(point, features, weights, penalty)
                descent = _Descent(parts, curvature, total, penalty, tolerance)
                found = minimize(
                    descent,
                    curvature.coordinates(point).ravel(),
                    jac=True,
                    method="L-BFGS-B",
                    callback=descent.check,
                    options={
                        "maxiter": min(left, pause),
                        "maxls": _LINE_SEARCH,
                        "maxcor": _MEMORY,
                        "gtol": 0.0,
                        "ftol": _FLOAT32_DIGITS if kind is np.float32 else 0.0,
                    },
                )
                point = curvature.point(found.x.reshape(c, k + 1))
                left -= max(1, int(found.nit))
                pause, converged = _THEN, descent.close or (found.status == 0 and kind is np.float64)
                if converged or found.status != _PAUSED:
                    break
        if converged:
            break
    return Solution(point[:, :k], point[:, k], converged)


@dataclass(frozen=True, slots=True)
class _Curvature:
    """Coordinates in which the curvature of the loss at a point is about the same in all directions.

    The curvature is the mean over rows of (covariance of the label) x (outer product of the features), approximated by the
    product of two means: that of the labels' covariances, c x c, and that of squared features, where each row weighs as much as
    it is uncertain. Features from a PCA are uncorrelated, so that only their squares are needed.

    References
    ----------
    Martens, Grosse (2015), "Optimizing neural networks with Kronecker-factored approximate curvature", section 3.
    """

    axes: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def at(
        cls,
        point: NDArray[np.float64],
        features: NDArray[np.float32],
        weights: NDArray[np.float64] | None,
        penalty: float,
    ) -> _Curvature:
        """Estimate it on rows at equal distances; ``point`` holds slopes and intercepts, shape (c, k + 1)."""
        some = np.linspace(0, len(features) - 1, min(len(features), _ROWS_FOR_CURVATURE)).astype(np.int64)
        rows = features[some]
        share = np.ones(len(rows)) if weights is None else weights[some]
        share = share / max(float(share.sum()), _SMALLEST)
        p = softmax((rows @ point[:, :-1].T.astype(np.float32)) + point[:, -1].astype(np.float32)).astype(np.float64)
        covariance = np.diag(share @ p) - (p * share[:, None]).T @ p
        uncertainty = share * np.maximum(1 - np.square(p).sum(axis=1), 0.0)
        squares = np.r_[uncertainty @ np.square(rows, dtype=np.float64), uncertainty.sum()]
        values, axes = np.linalg.eigh(covariance)
        values = np.maximum(values, _LEAST_CURVATURE * max(float(values.mean()), 0.0))
        product = np.outer(values, squares / max(float(uncertainty.sum()), _SMALLEST))
        return cls(axes, 1 / np.sqrt(product + penalty))

    def coordinates(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the coordinates of a point, shape (c, k + 1)."""
        return np.asarray((self.axes.T @ point) / self.scale)

    def point(self, coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the point of some coordinates."""
        return np.asarray(self.axes @ (coordinates * self.scale))

    def gradient(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gradient by the coordinates, from that by slopes and intercepts."""
        return np.asarray((self.axes.T @ gradient) * self.scale)


class _Descent:
    """The loss and its gradient as a function of the coordinates, and whether it is close enough to its minimum."""

    def __init__(self, parts: Parts, curvature: _Curvature, total: float, penalty: float, tolerance: float) -> None:
        self.parts, self.curvature, self.total, self.penalty = parts, curvature, total, penalty
        self.tolerance = tolerance * min(1.0, curvature.scale.size / _COORDINATES)
        self._value = self._decrement = np.inf

    def __call__(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        at = self.curvature.point(flat.reshape(self.curvature.scale.shape))
        gradient = np.zeros_like(at)
        value = 0.0
        for part, slopes, intercepts in self.parts(at[:, :-1], at[:, -1]):
            value += part
            gradient[:, :-1] += slopes
            gradient[:, -1] += intercepts
        gradient /= self.total
        gradient[:, :-1] += self.penalty * at[:, :-1]
        self._value = value / self.total + self.penalty / 2 * float(np.square(at[:, :-1]).sum())
        changed = self.curvature.gradient(gradient).ravel()
        self._decrement = float(changed @ changed) / 2
        return self._value, changed

    @property
    def close(self) -> bool:
        """Whether the point computed last, where an iteration arrives, is close enough to the minimum."""
        return self._decrement <= self.tolerance * max(self._value, _LEAST_LOSS)

    def check(self, _: NDArray[np.float64]) -> None:
        """Stop the solver after an iteration that came close enough."""
        if self.close:
            raise StopIteration


#: Function of slopes and intercepts that yields each block's loss and its gradient, in the order of the blocks.
Parts = Callable[[NDArray[np.float64], NDArray[np.float64]], Iterable[Part]]


@contextmanager
def _parts(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64] | None,
    kind: type[np.floating[Any]],
) -> Iterator[Parts]:
    """Yield the sum's terms as a function, which threads compute."""
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    starts = range(0, len(features), _BLOCK)

    def part(start: int, slopes: NDArray[Any], intercepts: NDArray[Any]) -> Part:
        rows, wanted = features[start : start + _BLOCK].astype(kind, copy=False), labels[start : start + _BLOCK]
        each = np.arange(len(rows))
        logits = rows @ slopes.T
        logits += intercepts
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[each, wanted].astype(np.float64)
        np.exp(logits, out=logits)
        sums = logits.sum(axis=1, keepdims=True)
        losses = np.log(sums[:, 0], dtype=np.float64) - right
        logits /= sums
        logits[each, wanted] -= 1
        if weights is not None:
            given = weights[start : start + _BLOCK]
            losses *= given
            logits *= given[:, None].astype(kind)
        return float(losses.sum()), logits.T @ rows, logits.sum(axis=0, dtype=np.float64)

    cores = usable_cores()
    # One thread per product: the last bits depend on how a product is split, and BLAS's own threads wait by spinning.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores, thread_name_prefix="head") as pool:

        def parts(slopes: NDArray[np.float64], intercepts: NDArray[np.float64]) -> Iterator[Part]:
            at, offset = slopes.astype(kind), intercepts.astype(kind)
            if len(starts) == 1:
                yield part(0, at, offset)
                return
            # A gradient is as large as the solution: only as many wait to be added as keep the cores busy.
            coming: deque[Future[Part]] = deque()
            for start in starts:
                coming.append(pool.submit(part, start, at, offset))
                if len(coming) > _AHEAD * cores:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

        yield parts
