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

from fruits.monitoring.cores import usable_cores

#: Rows of a block: its products stay in the processor's cache.
_BLOCK: Final = 1024
#: Blocks per core that are computed, or wait to be, ahead of the one that is added.
_AHEAD: Final = 2
#: Steps that L-BFGS remembers, and steps of a line search, as in scikit-learn.
_MEMORY, _LINE_SEARCH = 10, 50
_FLOAT64_DIGITS: Final = 64 * float(np.finfo(np.float64).eps)
#: What SciPy reports when no step along the search direction lowers the loss: its rounding errors are larger than what is left.
_NO_PROGRESS: Final = 2

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

    Products are float32, sums float64. If their rounding errors stop the solver, it goes on with float64 products.

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
        Largest element of the gradient at which the solver stops.
    max_iterations : int

    References
    ----------
    Liu, Nocedal (1989), "On the limited memory BFGS method for large scale optimization".
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - only fitting needs it

    (n, k), c = features.shape, int(labels.max()) + 1
    total = float(n if weights is None else weights.sum())
    # Slopes of two labels are those of the log odds, halved with opposite signs: a quarter of the square each.
    penalty = (2.0 if c == 2 else 1.0) / (regularisation * total)
    point = np.zeros((c, k + 1))
    if start is not None:
        point[:, :k], point[:, k] = start
    left, status = max_iterations, _NO_PROGRESS
    for kind in (np.float32, np.float64):
        with _parts(features, labels, weights, kind) as parts:

            def loss(flat: NDArray[np.float64], parts: Parts = parts) -> tuple[float, NDArray[np.float64]]:
                at = flat.reshape(c, k + 1)
                gradient = np.zeros_like(at)
                value = 0.0
                for part, slopes, intercepts in parts(at[:, :k], at[:, k]):
                    value += part
                    gradient[:, :k] += slopes
                    gradient[:, k] += intercepts
                gradient /= total
                gradient[:, :k] += penalty * at[:, :k]
                return value / total + penalty / 2 * float(np.square(at[:, :k]).sum()), gradient.ravel()

            found = minimize(
                loss,
                point.ravel(),
                jac=True,
                method="L-BFGS-B",
                options={
                    "maxiter": left,
                    "maxls": _LINE_SEARCH,
                    "maxcor": _MEMORY,
                    "gtol": tolerance,
                    "ftol": _FLOAT64_DIGITS,
                },
            )
        point, status = found.x.reshape(c, k + 1), int(found.status)
        left -= int(found.nit)
        if status != _NO_PROGRESS or left <= 0:
            break
    return Solution(point[:, :k], point[:, k], status == 0)


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
