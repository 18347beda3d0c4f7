"""The classifier on features: multinomial logistic regression, and how its two choices are made.

The number of components k and the strength of regularisation are chosen on groups of training photos that are held back
while choosing; test photos play no part. Knows nothing of files or engines; scikit-learn is imported only to fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.errors import FruitsError
from fruits.learning.pca import TooFewRowsError

#: Share of a label's groups that is held back while choosing.
HELD_BACK: Final = 0.2
#: Inverse strengths tried (scikit-learn's ``C``), for features scaled to a root mean square length of 1.
REGULARISATIONS: Final = (0.3, 3.0, 30.0, 300.0)
#: Label smoothing on the validation photos. They neighbour photos that are learnt, and the backbone may have been made
#: from them; then any head gets them right, plain log loss rewards certainty without end, and on other photos it is misplaced.
LABEL_SMOOTHING: Final = 0.01
#: Used while the number of components is chosen, and where photos held back cannot decide: between the two strengths that are
#: chosen most often.
DEFAULT_REGULARISATION: Final = 3.0
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

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, shape (n, c), of features of shape (n, k)."""
        return np.asarray(features @ self.weights.T + self.bias, np.float32)

    def temperature_scaled(self, temperature: float) -> Head:
        """Return the head whose logits are these divided by a temperature: the same answers, more or less sure of them."""
        scale = np.float32(1 / temperature)
        return Head(self.weights * scale, self.bias * scale, self.converged)

    def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities of shape (n, c), rows summing to 1, for features of shape (n, k)."""
        return softmax(self.logits(features))


@dataclass(frozen=True, slots=True)
class Trial:
    """One choice that was tried, and what it was worth on the photos held back.

    Attributes
    ----------
    components : int
    regularisation : float
    accuracy, log_loss : float
    smoothed_log_loss : float
        Log loss against labels smoothed by ``LABEL_SMOOTHING``: that share is spread over all labels.
    standard_error : float
        Of the accuracy, over groups: photos of one group are not independent.
    """

    components: int
    regularisation: float
    accuracy: float
    log_loss: float
    smoothed_log_loss: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What a head that was fitted on the rest says of the rows held back.

    Attributes
    ----------
    logits : float32 array, shape (m, c)
    truth : int64 array, shape (m,)
        Which of the c labels is right.
    labels : int64 array, shape (c,)
        The labels that were learnt.
    """

    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the most probable label is right, shape (m,)."""
        return np.asarray(self.logits.argmax(axis=1) == self.truth)


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
    weights : float64 array, shape (n,), optional
        What each row counts in a fit and in the loss.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    held_back: NDArray[np.bool_]
    weights: NDArray[np.float64] | None = None

    @property
    def possible(self) -> bool:
        """Whether there is something to learn from and something held back."""
        return bool(self.held_back.any()) and len(np.unique(self.labels[~self.held_back])) > 1

    def components(self, at_least: int = 1) -> tuple[int, list[Trial]]:
        """Return the smallest k at which accuracy no longer improves, and all that was tried.

        Tried are k = 8, 12, 16, 24, 32, ... upwards from ``at_least``, until three in a row bring nothing. Chosen is the
        smallest k whose distance to the best is at most half its standard error: the difference is likely chance (the rule of
        Breiman et al. 1984, section 3.4.3, on paired differences, since all were asked about the same photos; halved, because
        components cost little here and telling strange photos apart needs them, too).

        Parameters
        ----------
        at_least : int
            Fewest components tried. Photos held back resemble those that are learnt, so that a handful of components seems
            to be enough for them and is not for other photos.
        """
        k_max = self.features.shape[1]
        if not self.possible:
            return k_max, []
        trials: list[Trial] = []
        right: list[NDArray[np.bool_]] = []
        since_best = 0
        for k in _ladder(min(at_least, k_max), k_max):
            trial, answers = self._try(k, DEFAULT_REGULARISATION)
            better = not trials or trial.accuracy > max(t.accuracy for t in trials)
            since_best = 0 if better else since_best + 1
            trials.append(trial)
            right.append(answers.right)
            if since_best == 3:
                break
        return trials[self._simplest(right)].components, trials

    def regularisation(self, components: int, *, trusted: bool = True) -> tuple[float, list[Trial], Answers | None]:
        """Return the regularisation of lowest smoothed log loss, all that was tried, and what its head says.

        The log loss is explained at :class:`Trial`. What the head says is of the rows held back; None if there are none.

        Parameters
        ----------
        components : int
        trusted : bool
            Whether the rows held back can decide; else the default is the only one tried.
        """
        if not self.possible:
            return DEFAULT_REGULARISATION, [], None
        trials: list[Trial] = []
        best: Answers | None = None
        for strength in REGULARISATIONS if trusted else (DEFAULT_REGULARISATION,):
            trial, answers = self._try(components, strength)
            trials.append(trial)
            if trial is min(trials, key=lambda trial: trial.smoothed_log_loss):
                best = answers
        return min(trials, key=lambda trial: trial.smoothed_log_loss).regularisation, trials, best

    def _simplest(self, right: list[NDArray[np.bool_]]) -> int:
        """Return the first trial, simplest first, that is not clearly worse than the best."""
        best = max(right, key=lambda hits: hits.mean())
        groups = self.groups[self.held_back]
        losses = (best.astype(np.float64) - hits for hits in right)
        return next(i for i, loss in enumerate(losses) if loss.mean() <= _standard_error(loss, groups) / 2)

    def _try(self, components: int, regularisation: float) -> tuple[Trial, Answers]:
        features = np.ascontiguousarray(self.features[:, :components])
        held = self.held_back
        # Labels of the photos held back are numbered among those that are learnt; all have some that train.
        learnt, numbers = np.unique(self.labels[~held], return_inverse=True)
        weights = None if self.weights is None else self.weights[~held]
        head = fit(features[~held], numbers, regularisation=regularisation, weights=weights)
        answers = Answers(head.logits(features[held]), np.searchsorted(learnt, self.labels[held]), learnt)
        log_p = answers.logits - answers.logits.max(axis=1, keepdims=True)
        log_p = log_p - np.log(np.exp(log_p, dtype=np.float64).sum(axis=1, keepdims=True))
        log_p = np.maximum(log_p, np.log(_LEAST_PROBABILITY))
        weights = None if self.weights is None else self.weights[held]
        log_loss = -float(np.average(log_p[np.arange(len(log_p)), answers.truth], weights=weights))
        smoothed = (1 - LABEL_SMOOTHING) * log_loss - LABEL_SMOOTHING * float(
            np.average(log_p.mean(axis=1), weights=weights)
        )
        error = _standard_error(answers.right.astype(np.float64), self.groups[held])
        trial = Trial(components, regularisation, float(answers.right.mean()), log_loss, smoothed, error)
        return trial, answers


def hold_back(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 0) -> NDArray[np.bool_]:
    """Choose the rows held back: about a fifth of each label's groups, never all of a label.

    Of a label's rows always whole groups; a group that holds rows of several labels may be held back for one of them alone.

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


def hold_back_sources(labels: NDArray[np.int64], sources: NDArray[np.int64], seed: int = 0) -> NDArray[np.bool_]:
    """Choose the rows held back among labels of several sources: of each, about a fifth of the sources, never all.

    What a head says of photos of a source that it has learnt flatters: the next person's photos are of another. Labels of a
    single source hold back nothing.

    Parameters
    ----------
    labels, sources : int array, shape (n,)
        A negative source is not known; such rows are never held back.
    seed : int

    Returns
    -------
    bool array, shape (n,)
    """
    pairs = np.unique(np.stack([labels, sources]), axis=1)
    known = pairs[:, pairs[1] >= 0]
    several = np.isin(labels, np.flatnonzero(np.bincount(known[0], minlength=1) > 1)) & (sources >= 0)
    held = np.zeros(len(labels), bool)
    held[several] = hold_back(labels[several], sources[several], seed)
    return held


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities, rows summing to 1, of logits of shape (n, c)."""
    powers = logits - logits.max(axis=1, keepdims=True)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=1, keepdims=True)
    return np.asarray(powers, np.float32)


def balance(kinds: NDArray[np.int64], sources: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a weight per row, 1 on average: every kind has the same sum, and so has every source of photos within a kind.

    A studio that photographed one fruit 2,000 times then counts no more than a shop with 40 photos of it.

    Parameters
    ----------
    kinds, sources : int array, shape (n,)
    """
    if not len(kinds):
        return np.empty(0)
    _, kind = np.unique(kinds, return_inverse=True)
    _, cell, in_cell = np.unique(np.stack([kinds, sources]), axis=1, return_inverse=True, return_counts=True)
    cell = cell.reshape(-1)
    # Of each cell one row, to count the sources of a kind.
    _, first = np.unique(cell, return_index=True)
    sources_of_kind = np.bincount(kind[first], minlength=kind.max(initial=-1) + 1)
    weights = 1.0 / (in_cell[cell] * sources_of_kind[kind])
    return np.asarray(weights * (len(kinds) / weights.sum()), np.float64)


def fit(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    regularisation: float,
    weights: NDArray[np.float64] | None = None,
) -> Head:
    """Fit the head.

    Parameters
    ----------
    features : float32 array, shape (n, k)
    labels : int array, shape (n,)
        Every value from 0 to c - 1 occurs.
    regularisation : float
        Inverse strength (scikit-learn's ``C``), for features scaled to a root mean square length of 1.
    weights : float64 array, shape (n,), optional
        What each row counts; 1 on average.

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
    scale = scale_of(features)
    model = LogisticRegression(C=regularisation, max_iter=_MAX_ITERATIONS)
    # One thread: the products of a step are so small that handing them out costs more than it gains, ten times as much on a
    # busy machine (1.3 s against 10 s for 15,000 photos, 120 components, 114 labels).
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(np.ascontiguousarray(features * np.float32(scale)), labels, weights)
    slopes, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(slopes) == 1:
        # Two labels: scikit-learn gives one row, the log odds of the second.
        slopes, bias = np.vstack([-slopes / 2, slopes / 2]), np.r_[-bias / 2, bias / 2]
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return Head((slopes * scale).astype(np.float32), bias.astype(np.float32), converged)


def scale_of(features: NDArray[np.float32]) -> float:
    """Return what makes the root mean square length of features of shape (n, k) 1."""
    return 1.0 / max(float(np.sqrt(np.mean(np.square(features, dtype=np.float64).sum(axis=1)))), 1e-30)


def _ladder(k_min: int, k_max: int) -> Iterable[int]:
    """Yield k_min, then those of 8, 12, 16, 24, 32, 48, ... beyond it, and at last k_max."""
    if k_min >= 8 and k_min < k_max:
        yield k_min
    k = 8
    while k < k_max:
        if k > k_min:
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
