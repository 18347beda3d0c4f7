"""What tells the labels of a kind apart, without touching what is said of kinds.

The network's own classification layer of kinds was trained on cropped, recoloured and composited views; a head that is fitted on
whole photos that the network knows is worse on new sources (docs/backbones.md). So that layer decides between kinds, and what a
label adds to the logit of its kind is learnt among photos of the kind alone, and held to sum to nothing on all photos.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize


def fit_varieties(
    kind_of: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    *,
    slopes: np.ndarray,
    strength: float = 100.0,
    neutral: float = 0.03,
    iterations: int = 80,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each label adds to its kind's logit: slopes, shape (c, k), and intercepts, shape (c,).

    Minimises the log loss of the label given its kind, plus the mean square of what the labels of any kind together add to the
    log odds of that kind on any photo, plus an L2 penalty.

    Parameters
    ----------
    kind_of : int array, shape (c,)
        Ascending: labels of a kind stand together.
    features : float32 array, shape (n, k)
    labels : int array, shape (n,)
    weights : float array, shape (n,), 1 on average
    slopes : float array, shape (c, k)
        What the network's own layers for varieties add: the solution is drawn towards them, and to zero where there is none.
    strength : float
        Inverse of the L2 penalty, as scikit-learn's ``C``, for features of root mean square length 1.
    neutral : float
        Weight of the second term.
    """
    n, k = features.shape
    c = len(kind_of)
    scale = np.float32(1 / np.sqrt(np.square(features, dtype=np.float64).sum(axis=1).mean()))
    x = features * scale
    weights = np.asarray(weights, np.float32) / n
    starts = np.flatnonzero(np.r_[True, np.diff(kind_of) != 0])
    group = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, c]))
    rows, own = np.arange(n), group[labels]
    start = np.zeros((c, k + 1))
    start[:, :k] = drawn_to = slopes / scale
    start[:, k] = -np.log(np.bincount(group)[group])  # labels of a kind share its probability

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = flat.reshape(c, k + 1).astype(np.float32)
        added = x @ theta[:, :k].T + theta[:, k]
        highest = np.maximum.reduceat(added, starts, axis=1)
        share = np.exp(added - highest[:, group])
        total = np.add.reduceat(share, starts, axis=1)
        together = np.log(total) + highest  # log of the sum over the labels of each kind, shape (n, kinds)
        share /= total[:, group]
        value = float((weights * (together[rows, own] - added[rows, labels])).sum(dtype=np.float64))
        value += neutral / n * float(np.square(together, dtype=np.float64).sum())
        pull = (2 * neutral / n) * together
        pull[rows, own] += weights
        share *= pull[:, group]
        share[rows, labels] -= weights
        gradient = np.empty((c, k + 1))
        gradient[:, :k], gradient[:, k] = share.T @ x, share.sum(axis=0)
        away = flat.reshape(c, k + 1)[:, :k] - drawn_to
        penalty = 0.5 / (strength * n)
        gradient[:, :k] += 2 * penalty * away
        return value + penalty * float(np.square(away).sum()), gradient.ravel()

    found = minimize(
        loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxfun": 2 * iterations}
    )
    theta = found.x.reshape(c, k + 1)
    return (theta[:, :k] * scale).astype(np.float32), theta[:, k].astype(np.float32)
