"""Model selection within the training photos: validation rows, scores of each candidate, and weights of rows.

The number of components k and the setting of the head are selected on validation groups within the training photos; test photos
are not used. Independent of files, engines and the kind of head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.calibration import temperature
from fruits.learning.folds import rows_by
from fruits.learning.heads import Head
from fruits.learning.heads.logistic import LogisticHead

#: Share of a label's groups held out for validation.
VALIDATION_SHARE: Final = 0.2
#: Label smoothing on the validation photos. They may resemble training photos, and the backbone may have been trained on them.
#: Then any head gets them right, plain log loss favours unbounded confidence, and the head is overconfident on other photos.
LABEL_SMOOTHING: Final = 0.01
_LEAST_PROBABILITY: Final = 1e-15


@dataclass(frozen=True, slots=True)
class Trial:
    """Hyperparameters that were tried, and their scores on the validation photos.

    Attributes
    ----------
    components : int
    setting : float
        Setting of the head, such as its regularisation.
    accuracy, log_loss : float
    smoothed_log_loss : float
        Log loss against labels smoothed by ``LABEL_SMOOTHING``: that share is spread over all labels.
    standard_error : float
        Standard error of the accuracy, over groups: photos of one group are not independent.
    """

    components: int
    setting: float
    accuracy: float
    log_loss: float
    smoothed_log_loss: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Answers:
    """Predictions for the validation rows by a head fitted on the other rows.

    Attributes
    ----------
    logits : float32 array, shape (m, c)
    truth : int64 array, shape (m,)
        True label, as an index into ``labels``.
    labels : int64 array, shape (c,)
        Labels of the training rows.
    """

    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the most probable label is right, shape (m,)."""
        return np.asarray(self.logits.argmax(axis=1) == self.truth)


@dataclass(slots=True)
class ModelSelection:
    """Selection of hyperparameters on training photos, with some groups held out for validation.

    Attributes
    ----------
    features : float32 array, shape (n, k_max)
        From a PCA fitted without the validation rows.
    labels : int array, shape (n,)
    groups : int array, shape (n,)
    held_out : bool array, shape (n,)
        Marks the validation rows.
    weights : float64 array, shape (n,), optional
        Weight of each row in a fit and in the loss.
    head : type of Head
        Class of the head that is fitted.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    weights: NDArray[np.float64] | None = None
    head: type[Head] = LogisticHead
    _fitted: dict[tuple[int, float], Head] = field(default_factory=dict, init=False, repr=False)

    @property
    def possible(self) -> bool:
        """Whether there are validation rows, and training rows of at least two labels."""
        return bool(self.held_out.any()) and len(np.unique(self.labels[~self.held_out])) > 1

    def components(self, at_least: int = 1) -> tuple[int, list[Trial]]:
        """Select the smallest k at which accuracy no longer improves; return it with all trials.

        Tries k = 8, 12, 16, 24, 32, ... upwards from ``at_least`` until three in a row do not improve. Selects the smallest k
        whose difference to the best is at most half the standard error of that difference: the rule of Breiman et al. (1984),
        section 3.4.3, on paired differences, because all trials predict the same photos. Halved, because components cost little
        here, and detecting unknown photos needs them too.

        Parameters
        ----------
        at_least : int
            Fewest components tried. Validation photos resemble training photos, so a handful of components can seem to be enough
            although it is not for other photos.
        """
        k_max = self.features.shape[1]
        if not self.possible:
            return k_max, []
        trials: list[Trial] = []
        right: list[NDArray[np.bool_]] = []
        since_best = 0
        for k in _ladder(min(at_least, k_max), k_max):
            trial, answers = self._try(k, self.head.default)
            better = not trials or trial.accuracy > max(t.accuracy for t in trials)
            since_best = 0 if better else since_best + 1
            trials.append(trial)
            right.append(answers.right)
            if since_best == 3:
                break
        return trials[self._simplest(right)].components, trials

    def setting(self, components: int, *, trusted: bool = True) -> tuple[float, list[Trial], Answers | None]:
        """Select the setting of lowest smoothed log loss (see :class:`Trial`).

        Parameters
        ----------
        components : int
        trusted : bool
            Whether the validation rows can decide; False if the backbone was trained on them. Then only the head's default for
            that case is tried.

        Returns
        -------
        float
            The setting.
        list of Trial
            All trials.
        Answers or None
            Predictions of the selected head for the validation rows; None if there are none.
        """
        if not self.possible:
            return self.head.default, [], None
        trials: list[Trial] = []
        best: Answers | None = None
        default_seen = self.head.default if self.head.default_seen is None else self.head.default_seen
        for setting in self.head.settings if trusted else (default_seen,):
            trial, answers = self._try(components, setting)
            trials.append(trial)
            if trial is min(trials, key=lambda trial: trial.smoothed_log_loss):
                best = answers
        return min(trials, key=lambda trial: trial.smoothed_log_loss).setting, trials, best

    def fitted(self, components: int, setting: float) -> Head | None:
        """Return the head of a candidate that was tried, if its solver can begin by others."""
        return self._fitted.get((components, setting))

    def _simplest(self, right: list[NDArray[np.bool_]]) -> int:
        """Return the first trial, in ascending order of components, that is not clearly worse than the best."""
        best = max(right, key=lambda hits: hits.mean())
        groups = self.groups[self.held_out]
        losses = (best.astype(np.float64) - hits for hits in right)
        return next(i for i, loss in enumerate(losses) if loss.mean() <= _standard_error(loss, groups) / 2)

    def _try(self, components: int, setting: float) -> tuple[Trial, Answers]:
        features = np.ascontiguousarray(self.features[:, :components])
        held = self.held_out
        # Labels of validation rows are numbered as in training; every label has training rows.
        learnt, numbers = np.unique(self.labels[~held], return_inverse=True)
        head = self._fit(features[~held], numbers, setting)
        answers = Answers(
            np.asarray(head.logits(features[held]), np.float32), np.searchsorted(learnt, self.labels[held]), learnt
        )
        logits = answers.logits
        if not self.head.own_scale:
            logits = logits / np.float32(temperature(logits, answers.truth, own_scale=False))
        log_p = logits - logits.max(axis=1, keepdims=True)
        log_p = log_p - np.log(np.exp(log_p, dtype=np.float64).sum(axis=1, keepdims=True))
        log_p = np.maximum(log_p, np.log(_LEAST_PROBABILITY))
        weights = None if self.weights is None else self.weights[held]
        log_loss = -float(np.average(log_p[np.arange(len(log_p)), answers.truth], weights=weights))
        smoothed = (1 - LABEL_SMOOTHING) * log_loss - LABEL_SMOOTHING * float(
            np.average(log_p.mean(axis=1), weights=weights)
        )
        error = _standard_error(answers.right.astype(np.float64), self.groups[held])
        trial = Trial(components, setting, float(answers.right.mean()), log_loss, smoothed, error)
        return trial, answers

    def _fit(self, features: NDArray[np.float32], numbers: NDArray[np.int64], setting: float) -> Head:
        """Fit a head on the rows that are not held out, once per candidate.

        A solver that can begins by the heads of other settings with as many components, else by the one with most components.
        """
        weights = None if self.weights is None else self.weights[~self.held_out]
        if not self.head.starts:
            return self.head.fit(features, numbers, setting=setting, weights=weights)
        k = features.shape[1]
        if (k, setting) not in self._fitted:
            most = max((width for width, _ in self._fitted if width <= k), default=k)
            known = {other: head for (width, other), head in self._fitted.items() if width == most}
            more = {"start": known} if known else {}
            self._fitted[k, setting] = self.head.fit(features, numbers, setting=setting, weights=weights, **more)
        return self._fitted[k, setting]


def split_by_group(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 0) -> NDArray[np.bool_]:
    """Select the validation rows: about a fifth of each label's groups, never all rows of a label.

    Within a label, whole groups are selected; a group with rows of several labels may be selected for only one of them.

    Of a label with a single group and at least five photos, a fifth of the photos is selected instead: an optimistic score is
    better than none.

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
    for rows in rows_by(labels):
        mixed = (groups[rows].astype(np.uint64) ^ np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        distinct = np.unique(mixed)
        if len(distinct) > 1:
            take = max(1, round(VALIDATION_SHARE * len(distinct)))
            held[rows] = mixed <= distinct[take - 1]
        elif len(rows) >= 5:
            held[rows[:: round(1 / VALIDATION_SHARE)]] = True
    return held


def split_by_source(labels: NDArray[np.int64], sources: NDArray[np.int64], seed: int = 0) -> NDArray[np.bool_]:
    """Select the validation rows by source: of each label with several sources, about a fifth of the sources, never all.

    Scores on photos of a source in training are too high, because the photos of users are from other sources. Labels of a single
    source have no validation rows.

    Parameters
    ----------
    labels, sources : int array, shape (n,)
        A negative source is unknown; such rows are never selected.
    seed : int

    Returns
    -------
    bool array, shape (n,)
    """
    if not (sources >= 0).any():
        return np.zeros(len(labels), bool)
    pairs = np.unique(np.stack([labels, sources]), axis=1)
    known = pairs[:, pairs[1] >= 0]
    several = np.isin(labels, np.flatnonzero(np.bincount(known[0], minlength=1) > 1)) & (sources >= 0)
    held = np.zeros(len(labels), bool)
    held[several] = split_by_group(labels[several], sources[several], seed)
    return held


def balance(kinds: NDArray[np.int64], sources: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a weight per row, 1 on average, that balances kinds, and sources within each kind: their sums are equal.

    A studio with 2,000 photos of one fruit then has the same weight as a shop with 40 photos of it.

    Parameters
    ----------
    kinds, sources : int array, shape (n,)
    """
    if not len(kinds):
        return np.empty(0)
    _, kind = np.unique(kinds, return_inverse=True)
    _, cell, in_cell = np.unique(np.stack([kinds, sources]), axis=1, return_inverse=True, return_counts=True)
    cell = cell.reshape(-1)
    # One row of each cell, to count the sources of a kind.
    _, first = np.unique(cell, return_index=True)
    sources_of_kind = np.bincount(kind[first], minlength=kind.max(initial=-1) + 1)
    weights = 1.0 / (in_cell[cell] * sources_of_kind[kind])
    return np.asarray(weights * (len(kinds) / weights.sum()), np.float64)


def _ladder(k_min: int, k_max: int) -> Iterable[int]:
    """Yield k_min, then the values of 8, 12, 16, 24, 32, 48, ... above it, and finally k_max."""
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
