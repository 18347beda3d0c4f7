"""The classifier on features: multinomial logistic regression, and how its two choices are made.

The number of components k and the strength of regularisation are chosen on groups of training photos that are held back
while choosing; test photos play no part. Knows nothing of files or engines; scikit-learn is imported only to fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.errors import FruitsError
from fruits.learning.pca import TooFewRowsError

#: Share of a label's groups that is held back while choosing.
HELD_BACK: Final = 0.2
#: Inverse strengths tried (scikit-learn's ``C``), for features scaled to a root mean square length of 1.
REGULARISATIONS: Final = (0.3, 3.0, 30.0, 300.0)
#: How far the photos held back are not believed. They neighbour photos that are learnt, and the backbone may have been made
#: from them; then any head gets them right, plain log loss rewards certainty without end, and on other photos it is misplaced.
DOUBT: Final = 0.01
#: Used while the number of components is chosen.
_FIRST_REGULARISATION: Final = 3.0
#: The head learns from at most this many photos: beyond, memory and time grow and the few numbers of a linear head do not.
MAX_ROWS: Final = 200_000
_MAX_ITERATIONS: Final = 400
_LEAST_PROBABILITY: Final = 1e-15


class LabelsError(FruitsError, ValueError):
    """The labels leave nothing to tell apart."""


@dataclass(frozen=True, slots=True)
class Head:
    """A fitted head.

    Attributes
    ----------
    weights : float32 array, shape (c, k)
    bias : float32 array, shape (c,)
    converged : bool
        False if the solver stopped at its limit of iterations; the head is then usable, if not the best.
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    converged: bool = True

    def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities of shape (n, c), rows summing to 1, for features of shape (n, k)."""
        logits = features @ self.weights.T + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        return np.asarray(logits, np.float32)


@dataclass(frozen=True, slots=True)
class Trial:
    """One choice that was tried, and what it was worth on the photos held back.

    Attributes
    ----------
    components : int
    regularisation : float
    accuracy, log_loss : float
    doubted_log_loss : float
        Log loss against truth with ``DOUBT``: the share ``1 - DOUBT`` for the right label, the rest spread over all labels.
    standard_error : float
        Of the accuracy, over groups: photos of one group are not independent.
    """

    components: int
    regularisation: float
    accuracy: float
    log_loss: float
    doubted_log_loss: float
    standard_error: float


@dataclass(slots=True)
class Choosing:
    """Features of training photos for choosing, with some groups held back.

    Attributes
    ----------
    features : float32 array, shape (n, k_max)
        From a PCA that has not seen the rows held back.
    labels : int array, shape (n,)
    groups : int array, shape (n,)
    held_back : bool array, shape (n,)
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    held_back: NDArray[np.bool_]
    progress: Callable[[str], None] = field(default=lambda _: None)

    @property
    def possible(self) -> bool:
        """Whether there is something to learn from and something held back."""
        return bool(self.held_back.any()) and len(np.unique(self.labels[~self.held_back])) > 1

    def components(self) -> tuple[int, list[Trial]]:
        """Return the smallest k at which accuracy no longer improves, and all that was tried.

        Tried are k = 8, 12, 16, 24, 32, ... upwards, until three in a row bring nothing. Chosen is the smallest k whose
        distance to the best is at most its standard error: the difference could be chance (the rule of Breiman et al.
        1984, section 3.4.3, on paired differences, since all were asked about the same photos).
        """
        k_max = self.features.shape[1]
        if not self.possible:
            return k_max, []
        trials: list[Trial] = []
        right: list[NDArray[np.bool_]] = []
        since_best = 0
        for k in _ladder(k_max):
            trial, hits = self._try(k, _FIRST_REGULARISATION)
            better = not trials or trial.accuracy > max(t.accuracy for t in trials)
            since_best = 0 if better else since_best + 1
            trials.append(trial)
            right.append(hits)
            if since_best == 3:
                break
        return trials[self._simplest(right)].components, trials

    def regularisation(self, components: int) -> tuple[float, list[Trial]]:
        """Return the regularisation of lowest doubted log loss (see :class:`Trial`), and all that was tried."""
        if not self.possible:
            return _FIRST_REGULARISATION, []
        trials = [self._try(components, strength)[0] for strength in REGULARISATIONS]
        return min(trials, key=lambda trial: trial.doubted_log_loss).regularisation, trials

    def _simplest(self, right: list[NDArray[np.bool_]]) -> int:
        """Return the first trial, simplest first, that is not clearly worse than the best."""
        best = max(right, key=lambda hits: hits.mean())
        groups = self.groups[self.held_back]
        losses = (best.astype(np.float64) - hits for hits in right)
        return next(i for i, loss in enumerate(losses) if loss.mean() <= _standard_error(loss, groups))

    def _try(self, components: int, regularisation: float) -> tuple[Trial, NDArray[np.bool_]]:
        self.progress(f"{components} components, C = {regularisation:g}")
        features = np.ascontiguousarray(self.features[:, :components])
        held = self.held_back
        # Labels of the photos held back are numbered among those that are learnt; all have some that train.
        learnt, numbers = np.unique(self.labels[~held], return_inverse=True)
        head = fit(features[~held], numbers, regularisation=regularisation)
        position = np.searchsorted(learnt, self.labels[held])
        probabilities = head.predict_proba(features[held])
        right = probabilities.argmax(axis=1) == position
        log_p = np.log(np.maximum(probabilities, _LEAST_PROBABILITY), dtype=np.float64)
        log_loss = float(-log_p[np.arange(len(position)), position].mean())
        doubted = (1 - DOUBT) * log_loss - DOUBT * float(log_p.mean())
        error = _standard_error(right.astype(np.float64), self.groups[held])
        return Trial(components, regularisation, float(right.mean()), log_loss, doubted, error), right


def hold_back(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 0) -> NDArray[np.bool_]:
    """Choose the rows held back: about a fifth of each label's groups, always whole groups, never all of a label.

    A label with a single group holds back a fifth of its photos instead, from five photos on: better a flattering word
    about it than none.

    Parameters
    ----------
    labels, groups : int array, shape (n,)
    seed : int

    Returns
    -------
    bool array, shape (n,)
    """
    held = np.zeros(len(labels), bool)
    # A bijection on 64 bits that mixes in the seed: the choice depends on the groups themselves, not on their order.
    mixed = (groups.astype(np.uint64) ^ np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0]) if len(labels) else np.array([], int)
    for rows in np.split(order, starts[1:]):
        distinct = np.unique(mixed[rows])
        if len(distinct) > 1:
            take = max(1, round(HELD_BACK * len(distinct)))
            held[rows] = np.isin(mixed[rows], distinct[:take])
        elif len(rows) >= 5:
            held[rows[:: round(1 / HELD_BACK)]] = True
    return held


def fit(features: NDArray[np.float32], labels: NDArray[np.int64], *, regularisation: float) -> Head:
    """Fit the head.

    Parameters
    ----------
    features : float32 array, shape (n, k)
    labels : int array, shape (n,)
        Every value from 0 to c - 1 occurs.
    regularisation : float
        Inverse strength (scikit-learn's ``C``), for features scaled to a root mean square length of 1.

    Raises
    ------
    TooFewRowsError
        If there are no rows.
    LabelsError
        If there is only one label.

    References
    ----------
    Solver: L-BFGS of SciPy, through scikit-learn's ``LogisticRegression``.
    """
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - a second of import that only fitting needs
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    if not len(features):
        raise TooFewRowsError("no training photos; expected some for every label")
    if labels.max() == 0:
        raise LabelsError("all training photos have the same label; expected at least two to tell apart")
    # One scale for all components: whitening would blow the noise of late components up to the size of early ones.
    scale = 1.0 / max(float(np.sqrt(np.mean(np.square(features, dtype=np.float64).sum(axis=1)))), 1e-30)
    model = LogisticRegression(C=regularisation, max_iter=_MAX_ITERATIONS)
    # One thread: the products of a step are so small that handing them out costs more than it gains, ten times as much on a
    # busy machine (1.3 s against 10 s for 15,000 photos, 120 components, 114 labels).
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(np.ascontiguousarray(features * np.float32(scale)), labels)
    weights, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(weights) == 1:
        # Two labels: scikit-learn gives one row, the log odds of the second.
        weights, bias = np.vstack([-weights / 2, weights / 2]), np.r_[-bias / 2, bias / 2]
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return Head((weights * scale).astype(np.float32), bias.astype(np.float32), converged)


def _ladder(k_max: int) -> Iterable[int]:
    """Yield 8, 12, 16, 24, 32, 48, ... and at last k_max."""
    k = 8
    while k < k_max:
        yield k
        k = k * 3 // 2 if k & (k - 1) == 0 else k * 4 // 3
    yield k_max


def _standard_error(values: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """Return the standard error of a mean over groups of unequal size (linearised ratio estimator; Cochran 1977, 6.3)."""
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return 0.0
    residual = np.bincount(number, weights=values) - values.mean() * sizes
    m = len(sizes)
    return float(np.sqrt(np.square(residual).sum() * m / (m - 1)) / sizes.sum())
