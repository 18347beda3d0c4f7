"""Groups of similar rows, for an unknown number of groups: average linkage by cosine.

The cosine at which rows belong together is taken from labelled rows. Exact, in O(n^2) time and memory: for a few thousand rows.
Independent of photos.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.moments import unit

#: Cosine if there are too few labelled rows to tell, and its bounds otherwise.
DEFAULT_COSINE: Final = 0.5
_BOUNDS: Final = (0.2, 0.9)
_FEWEST_PAIRS: Final = 50
_MOST_ROWS: Final = 1000


def similar_groups(rows: NDArray[np.float32], cosine: float) -> NDArray[np.int64]:
    """Return the number of the group of each row: rows of a group have at least this cosine on average.

    Parameters
    ----------
    rows : float32 array, shape (n, k)
    cosine : float
        Two groups are merged while the mean cosine between their rows is at least this.

    Returns
    -------
    int64 array, shape (n,)
        From 0, by falling size of the group.

    References
    ----------
    Sokal and Michener (1958): average linkage, UPGMA.
    """
    if len(rows) < 2:
        return np.zeros(len(rows), np.int64)
    from scipy.cluster.hierarchy import fcluster, linkage  # noqa: PLC0415 - a tenth of a second, for one page

    # Rows of length 0 have no direction; their distance to all others is 1.
    scaled = unit(rows).astype(np.float64)
    upper = np.triu_indices(len(rows), 1)
    distances = np.clip(1 - (scaled @ scaled.T)[upper], 0, 2)
    found = fcluster(linkage(distances, "average"), 1 - cosine, criterion="distance") - 1
    sizes = np.bincount(found)
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return np.asarray(rank[found], np.int64)


def same_label_cosine(rows: NDArray[np.float32], labels: NDArray[np.int64], *, seed: int = 0) -> float:
    """Return the cosine that best tells pairs of rows of one label from pairs of different labels.

    The threshold with the highest mean of the two shares that are told rightly, within 0.2 to 0.9; 0.5 if there are fewer than 50
    pairs of either sort.

    Parameters
    ----------
    rows : float32 array, shape (n, k)
        At most 1,000 of them are looked at, drawn at random.
    labels : int64 array, shape (n,)
    """
    if len(rows) > _MOST_ROWS:
        drawn = np.random.default_rng(seed).choice(len(rows), _MOST_ROWS, replace=False)
        rows, labels = rows[drawn], labels[drawn]
    scaled = unit(rows)
    upper = np.triu_indices(len(rows), 1)
    cosines, same = (scaled @ scaled.T)[upper], (labels[:, None] == labels)[upper]
    if min(same.sum(), (~same).sum()) < _FEWEST_PAIRS:
        return DEFAULT_COSINE
    steps = np.linspace(*_BOUNDS, 71)
    above, below = np.sort(cosines[same]), np.sort(cosines[~same])
    kept = 1 - np.searchsorted(above, steps) / len(above)
    apart = np.searchsorted(below, steps) / len(below)
    return float(steps[int((kept + apart).argmax())])
