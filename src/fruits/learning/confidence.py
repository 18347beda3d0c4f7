"""How sure may an answer sound? Temperature, and from which probability on an answer counts as certain.

Both are learnt on photos held back within Training: what a recogniser says of photos it has learnt is no measure of anything.
Knows nothing of labels' meaning or of files.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.metrics import expected_calibration_error

#: How far the photos held back are not believed, see ``learning.head.DOUBT``. Less than there: that one decides how bold a
#: head may be fitted, this one only bounds what it says when no photo held back was wrong.
DOUBT: Final = 0.002
#: An answer counts as certain where at least this share of such answers was right.
CERTAIN: Final = 0.9
#: Below an even chance nothing is certain, however well the photos held back went.
_LEAST_CERTAIN: Final = 0.5
#: What counts as certain when no photo could be held back.
DEFAULT_CERTAIN: Final = 0.9
_FEWEST_ANSWERS: Final = 20
_LARGEST_LOG_TEMPERATURE: Final = 3.0


def temperature(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """Return what logits are to be divided by, so that probabilities mean what they say.

    Minimises the log loss against truth with ``DOUBT``.

    Parameters
    ----------
    logits : float32 array, shape (m, c)
        Of photos that were not learnt, m at least 1.
    truth : int64 array, shape (m,)
        0 to c - 1.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", section 4.2.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - a third of a second that a run without news need not spend

    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    own = np.arange(len(truth)), truth

    def loss(log_temperature: float) -> float:
        scaled = centred / np.exp(log_temperature)
        log_p = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return float(-(1 - DOUBT) * log_p[own].mean() - DOUBT * log_p.mean())

    bounds = (-_LARGEST_LOG_TEMPERATURE, _LARGEST_LOG_TEMPERATURE)
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def certain_from(probability: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Return the lowest probability from which on answers are right often enough, at least 1/2.

    Parameters
    ----------
    probability : array, shape (m,)
        Of the answer to each photo held back.
    right : bool array, shape (m,)

    Returns
    -------
    float
        Of the answers at least this probable, a share of ``CERTAIN`` was right, less what could be luck: the lower end of
        Wilson's interval of one standard error. Above 1, so that none is certain, if no limit
        does that for at least 20 answers; ``DEFAULT_CERTAIN`` if there are fewer than 20 photos.
    """
    if len(right) < _FEWEST_ANSWERS:
        return DEFAULT_CERTAIN
    order = np.argsort(-probability, kind="stable")
    asked = np.arange(1, len(order) + 1)
    share = np.cumsum(right[order]) / asked
    # Wilson (1927) with z = 1.
    low = (share + 1 / (2 * asked) - np.sqrt(share * (1 - share) / asked + 1 / (4 * asked**2))) / (1 + 1 / asked)
    # A limit lets in all answers that are equally probable, so only behind the last of them can one be drawn.
    last = np.r_[np.diff(probability[order]) != 0, True]
    good = np.flatnonzero((low >= CERTAIN) & last & (asked >= _FEWEST_ANSWERS))
    if not len(good):
        return float(np.nextafter(np.float32(1), np.float32(2)))
    return max(_LEAST_CERTAIN, float(probability[order[good[-1]]]))


def calibration_floor(confidence: NDArray[np.float32], *, draws: int = 100, seed: int = 0) -> float:
    """Return the calibration error that a perfectly calibrated recogniser would show on so many photos, on average.

    A photo is right or wrong, so even true probabilities are missed by chance, the more the fewer photos there are.
    """
    rng = np.random.default_rng(seed)
    return float(
        np.mean(
            [expected_calibration_error(confidence, rng.random(len(confidence)) < confidence) for _ in range(draws)]
        )
    )
