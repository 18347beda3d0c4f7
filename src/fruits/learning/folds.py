"""Evaluation protocols as folds of rows.

A protocol that leaves neighbours of the test photos in training overstates accuracy; each protocol here excludes another kind of
neighbour. Works on rows, labels and groups, independent of embeddings and heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Number of arcs of a turn, held out one after the other, and the gap left out on both sides of an arc, as a share of the turn.
ARCS: Final = 4
GAP: Final = 1 / 16
FOLDS: Final = 5
_FEW_GROUPS: Final = 10
#: Counts that are drawn at a time while bootstrapping: 20,000 different groups would take 640 MB.
_COUNTS_AT_ONCE: Final = 1 << 20
#: Groups that are sorted at a time.
_GROUPS_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Fold:
    """Training and test rows of one fit.

    Attributes
    ----------
    train, test : int64 array
        Row numbers, disjoint. Labels of test rows may be missing from the training rows.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def rows_by(values: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows of each distinct value, in ascending order of the values."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    return np.split(order, np.flatnonzero(ascending[1:] != ascending[:-1]) + 1) if len(values) else []


def official(train: NDArray[np.bool_], test: NDArray[np.bool_]) -> list[Fold]:
    """Return the split of the data set as one fold."""
    return _folds([(train, test)])


def held_out_axis(axis: NDArray[np.int64], labels: NDArray[np.int64]) -> list[Fold]:
    """Hold out one sequence of every label that has several: the first of each, then the second, and so on.

    Parameters
    ----------
    axis : int64 array, shape (n,)
        Rank of each row's sequence among those of its label; -1 for rows in no sequence.
    labels : int64 array, shape (n,)

    Returns
    -------
    list of Fold
        Empty if no label has two sequences. Labels with one sequence are in the training rows of every fold and never tested.
    """
    # A label may lack the first axis and have others, so the number of sequences does not follow from ranks.
    distinct = {(label, number) for label, number in zip(labels.tolist(), axis.tolist(), strict=True) if number >= 0}
    sequences = np.bincount(np.array([label for label, _ in distinct], np.int64), minlength=labels.max(initial=-1) + 1)
    several = sequences[labels] > 1
    return _folds(
        [(~(several & (axis == number)), several & (axis == number)) for number in range(axis.max(initial=-1) + 1)]
    )


def held_out_arc(sequence: NDArray[np.int64], turn: NDArray[np.float64]) -> list[Fold]:
    """Hold out a quarter of each sequence at a time, and leave out a sixteenth of the turn on both sides of it.

    Parameters
    ----------
    sequence : int64 array, shape (n,)
        Number of the sequence; -1 for rows in none, which are trained on in every fold.
    turn : float64 array, shape (n,)
        Position in the sequence, from 0 to below 1. A sequence is taken as a full turn, so its end is next to its start.
    """
    if not (sequence >= 0).any():
        return []
    pairs = []
    for arc in range(ARCS):
        within = (turn - arc / ARCS) % 1.0
        test = (sequence >= 0) & (within < 1 / ARCS)
        gap = (sequence >= 0) & ~test & ((within < 1 / ARCS + GAP) | (within >= 1 - GAP))
        pairs.append((~test & ~gap, test))
    return _folds(pairs)


def held_out_variety(varieties: NDArray[np.int64], kinds: NDArray[np.int64]) -> list[Fold]:
    """Hold out varieties within their kinds, each once; at least one variety of the kind is always trained on.

    Parameters
    ----------
    varieties, kinds : int64 array, shape (n,)
        Variety and kind of each row; a variety belongs to one kind.

    Returns
    -------
    list of Fold
        Empty if no kind has two varieties. Kinds with one variety are trained on in every fold.
    """
    fold = np.full(varieties.max(initial=-1) + 1, -1, np.int64)
    for kind in np.unique(kinds):
        own = np.unique(varieties[kinds == kind])
        if len(own) > 1:
            fold[own] = np.arange(len(own)) % min(FOLDS, len(own))
    return _folds([(fold[varieties] != number, fold[varieties] == number) for number in range(FOLDS)])


def held_out_groups(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> list[Fold]:
    """Hold out whole groups, each once, in five folds; every label's groups are distributed evenly.

    Parameters
    ----------
    groups, labels : int64 array, shape (n,)
        A group may hold rows of several labels.
    """
    fold_of: dict[int, int] = {}
    for number, label in enumerate(np.unique(labels)):
        own, sizes = np.unique(groups[labels == label], return_counts=True)
        load = np.zeros(FOLDS, np.int64)
        sized = [(group, size) for group, size in zip(own.tolist(), sizes.tolist(), strict=True)]
        for group, size in sized:
            if group in fold_of:
                load[fold_of[group]] += size
        # The largest first, each to the least loaded fold. Labels start at different folds, to spread the small groups.
        for group, size in sorted(sized, key=lambda pair: (-pair[1], pair[0])):
            if group not in fold_of:
                fold_of[group] = int((np.argmin(np.roll(load, -number)) + number) % FOLDS)
                load[fold_of[group]] += size
    fold = np.array([fold_of[group] for group in groups.tolist()], np.int64)
    return _folds([(fold != number, fold == number) for number in range(FOLDS)])


def held_out_sources(source: NDArray[np.int64]) -> list[Fold]:
    """Hold out one source at a time, because the photos of users come from none of them.

    Parameters
    ----------
    source : int64 array, shape (n,)
        Photographer or publisher of each row; -1 if unknown, then trained on in every fold.

    Returns
    -------
    list of Fold
        In the order of the sources; empty if there are fewer than two. Labels with a single source cannot be recognised when it
        is held out; metrics should leave them out.
    """
    numbers = np.unique(source[source >= 0])
    return _folds([(source != number, source == number) for number in numbers]) if len(numbers) > 1 else []


def interval(
    right: NDArray[np.bool_], groups: NDArray[np.int64], *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return a 95 % interval of the accuracy, by bootstrapping whole groups.

    Photos of a group are correlated; resampling photos would make the interval too narrow by a factor of up to the square root of
    the group size. With fewer than ten groups, or if all or none is right, the interval is at least as wide as Wilson's for as
    many independent photos as there are groups.

    Parameters
    ----------
    right : bool array, shape (n,)
        Whether each answer is right; n is at least 1.
    groups : int64 array, shape (n,)

    References
    ----------
    Davison and Hinkley (1997), "Bootstrap methods and their application", section 3.8; percentiles. Wilson (1927).
    """
    return interval_of(group_counts(right, groups), draws=draws, seed=seed)


def group_counts(right: NDArray[np.bool_], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many groups have so many right answers of so many photos, shape (3, s): right answers, photos, groups.

    s does not depend on the number of photos. Counts of parts of the photos merge by :func:`merge_group_counts` if no group is
    in two parts.
    """
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    hits = np.bincount(number, weights=right).astype(np.int64)
    return count_groups(hits, sizes)


def count_groups(hits: NDArray[np.integer[Any]], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the same from the right answers and photos of each group, shape (g,); groups without photos are left out."""
    found = np.empty((3, 0), np.int64)
    for start in range(0, len(sizes), _GROUPS_AT_ONCE):
        some = np.flatnonzero(sizes[start : start + _GROUPS_AT_ONCE]) + start
        found = merge_group_counts(found, np.stack([hits[some], sizes[some], np.ones(len(some), np.int64)]))
    return found


def merge_group_counts(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Merge two results of :func:`group_counts`."""
    return _distinct(np.concatenate([left, right], axis=1))


def _distinct(counted: NDArray[np.int64]) -> NDArray[np.int64]:
    counts, at = np.unique(counted[:2], axis=1, return_inverse=True)
    return np.concatenate([counts, np.bincount(at.reshape(-1), counted[2], counts.shape[1]).astype(np.int64)[None]])


def interval_of(counts: NDArray[np.int64], *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the interval of :func:`interval` from the result of :func:`group_counts`, for at least one group."""
    # Groups of equal size and equal number of right answers are interchangeable: drawing their counts makes the cost independent
    # of the number of photos, and the result independent of the order of groups.
    (hits, sizes), repeats = counts[:2].astype(np.float64), counts[2]
    m = int(repeats.sum())
    rng, shares = np.random.default_rng(seed), np.empty(draws)
    at_once = max(1, _COUNTS_AT_ONCE // len(repeats))
    for start in range(0, draws, at_once):  # the numbers drawn are the same in parts
        drawn = rng.multinomial(m, repeats / m, size=min(at_once, draws - start))
        shares[start : start + at_once] = (drawn @ hits) / (drawn @ sizes)
    low, high = np.quantile(shares, (0.025, 0.975))
    share = float((hits @ repeats) / (sizes @ repeats))
    if m < _FEW_GROUPS or share in (0.0, 1.0):
        # The bootstrap underestimates the variance of few groups, or of groups that all agree.
        z = 1.96
        middle = (share + z * z / (2 * m)) / (1 + z * z / m)
        half = z * np.sqrt(share * (1 - share) / m + z * z / (4 * m * m)) / (1 + z * z / m)
        low, high = min(low, middle - half), max(high, middle + half)
    return max(0.0, float(low)), min(1.0, float(high))


def _folds(pairs: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> list[Fold]:
    """Return the folds with at least one training row and one test row."""
    return [Fold(np.flatnonzero(train), np.flatnonzero(test)) for train, test in pairs if train.any() and test.any()]
