"""Detection of label errors: photos for which a head, fitted on the others, confidently predicts another label.

Works on features and labels, independent of files. Results are candidates: photos of nearly identical labels are found too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.heads.logistic import LogisticHead

_FOLDS: Final = 5
_REGULARISATION: Final = 3.0
#: Least probability of another label, as a share of the average probability of that label on its own rows.
_CONFIDENT: Final = 0.75
#: Most training photos per head.
_MAX_ROWS: Final = 50_000


@dataclass(frozen=True, slots=True)
class LabelErrors:
    """Rows with probable label errors, the clearest first.

    Attributes
    ----------
    rows : int64 array, shape (m,)
    suggested : int64 array, shape (m,)
        The predicted label.
    given_probability, suggested_probability : float32 array, shape (m,)
        Probabilities of the given and of the predicted label.
    """

    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    given_probability: NDArray[np.float32]
    suggested_probability: NDArray[np.float32]


def find_label_errors(
    features: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> LabelErrors:
    """Find rows whose label is probably wrong.

    Every row is predicted by a head that was not trained on it (cross-validation). It is reported if its most probable label is
    another one, whose probability is at least three quarters of its average over the rows with that label. A row is not reported
    if its label is missing from the training rows of the head.

    Parameters
    ----------
    features : float32 array, shape (n, k)
    labels : int64 array, shape (n,)
    groups : int64 array, shape (n,)
        Rows of a group are in the same fold: exact copies would confirm each other's label.

    References
    ----------
    Northcutt, Jiang, Chuang (2021), "Confident learning: estimating uncertainty in dataset labels", section 3.1;
    there the threshold is the whole average.
    """
    learnt, own = np.unique(labels, return_inverse=True)
    n = len(labels)
    in_training, best = np.zeros(n, bool), np.zeros(n, np.int64)
    given, best_probability = np.zeros(n, np.float32), np.zeros(n, np.float32)
    for rows, known, probabilities in out_of_fold(features, labels, groups):
        best[rows], best_probability[rows] = known[probabilities.argmax(axis=1)], probabilities.max(axis=1)
        place = np.minimum(np.searchsorted(known, own[rows]), len(known) - 1)
        in_training[rows] = known[place] == own[rows]
        given[rows] = np.where(in_training[rows], probabilities[np.arange(len(rows)), place], 0)
    count = np.bincount(own[in_training], minlength=len(learnt))
    average = np.bincount(own[in_training], weights=given[in_training], minlength=len(learnt)) / np.maximum(count, 1)
    other = (best != own) & (best_probability > given) & (average[best] > 0)
    chosen = np.flatnonzero(other & in_training & (best_probability >= _CONFIDENT * average[best]))
    order = np.argsort(given[chosen] - best_probability[chosen], kind="stable")
    rows = chosen[order]
    return LabelErrors(rows, learnt[best[rows]], given[rows], best_probability[rows])


def out_of_fold(
    features: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Predict rows with heads that were not trained on them; yield some rows at a time, each in one part at most.

    Yields
    ------
    int64 array, shape (m,)
        Rows.
    int64 array, shape (l,)
        The labels that the head was trained on, as ranks among those that occur, ascending.
    float32 array, shape (m, l)
        Probabilities.
    """
    numbers = np.unique(labels, return_inverse=True)[1]
    _, group = np.unique(groups, return_inverse=True)
    fold = np.random.default_rng(0).permutation(group.max(initial=-1) + 1)[group] % _FOLDS
    for number in range(_FOLDS):
        train, asked = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if len(train) > _MAX_ROWS:
            train = np.sort(np.random.default_rng(number).choice(train, _MAX_ROWS, replace=False))
        known, targets = np.unique(numbers[train], return_inverse=True)
        if not len(asked) or len(known) < 2:
            continue
        head = LogisticHead.fit(features[train], targets, setting=_REGULARISATION)
        yield asked, known, head.predict_proba(features[asked])
