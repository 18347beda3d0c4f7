"""Which labels look wrong: photos that a head, fitted on the others, takes for another label with confidence.

Knows features and labels, no file. A suspicion, not a verdict: near twins among labels are suspected, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.heads import logistic

_FOLDS: Final = 5
_REGULARISATION: Final = 3.0
#: How sure a head must be of another label, as a share of how sure it usually is of that label.
_CONFIDENT: Final = 0.75
#: Each head learns from at most this many photos.
_MAX_ROWS: Final = 50_000


@dataclass(frozen=True, slots=True)
class LabelErrors:
    """Rows whose label is doubted, the clearest first.

    Attributes
    ----------
    rows : int64 array, shape (m,)
    suggested : int64 array, shape (m,)
        The label they look like.
    given_probability, suggested_probability : float32 array, shape (m,)
    """

    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    given_probability: NDArray[np.float32]
    suggested_probability: NDArray[np.float32]


def find_label_errors(
    features: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> LabelErrors:
    """Find rows whose label looks wrong.

    Every row is asked of a head that has not learnt it. It is suspected if its most probable label is not its own and has at
    least three quarters of the probability that this label has on average for rows that carry it. A label that was not learnt
    beside the row, because no other row carries it, is not doubted.

    Parameters
    ----------
    features : float32 array, shape (n, k)
    labels : int64 array, shape (n,)
    groups : int64 array, shape (n,)
        Rows of a group are asked together: exact copies would vouch for each other.

    References
    ----------
    Northcutt, Jiang, Chuang (2021), "Confident learning: estimating uncertainty in dataset labels", section 3.1;
    there the whole of the average is asked for.
    """
    probabilities, learnable = out_of_fold(features, labels, groups)
    learnt = np.unique(labels)
    own = np.searchsorted(learnt, labels)
    given = probabilities[np.arange(len(labels)), own]
    count = np.bincount(own[learnable], minlength=len(learnt))
    average = np.bincount(own[learnable], weights=given[learnable], minlength=len(learnt)) / np.maximum(count, 1)
    best = probabilities.argmax(axis=1)
    best_probability = probabilities[np.arange(len(labels)), best]
    other = (best != own) & (best_probability > given) & (average[best] > 0)
    doubted = np.flatnonzero(other & learnable & (best_probability >= _CONFIDENT * average[best]))
    order = np.argsort(given[doubted] - best_probability[doubted], kind="stable")
    rows = doubted[order]
    return LabelErrors(rows, learnt[best[rows]], given[rows], best_probability[rows])


def out_of_fold(
    features: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return for each row the probabilities of a head that has not learnt it, and whether that head has learnt its label.

    Returns
    -------
    float32 array, shape (n, labels that occur)
    bool array, shape (n,)
    """
    learnt, numbers = np.unique(labels, return_inverse=True)
    _, group = np.unique(groups, return_inverse=True)
    fold = np.random.default_rng(0).permutation(group.max(initial=-1) + 1)[group] % _FOLDS
    probabilities, learnable = np.zeros((len(labels), len(learnt)), np.float32), np.zeros(len(labels), bool)
    for number in range(_FOLDS):
        train, asked = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if len(train) > _MAX_ROWS:
            train = np.sort(np.random.default_rng(number).choice(train, _MAX_ROWS, replace=False))
        known, targets = np.unique(numbers[train], return_inverse=True)
        if not len(asked) or len(known) < 2:
            continue
        head = logistic.fit(features[train], targets, regularisation=_REGULARISATION)
        probabilities[np.ix_(asked, known)] = head.predict_proba(features[asked])
        learnable[asked] = np.isin(numbers[asked], known)
    return probabilities, learnable
