"""How sure may an answer sound? Temperature, and from which probability on an answer counts as certain.

Both are learnt on photos held back within Training: what a recogniser says of photos it has learnt is no measure of anything.
Knows nothing of labels' meaning or of files.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.metrics import expected_calibration_error

#: Label smoothing on the validation photos. Less than ``learning.validation.LABEL_SMOOTHING``: that one decides how bold a
#: head may be fitted, this one only bounds what it says when no photo held back was wrong.
LABEL_SMOOTHING: Final = 0.002
#: Below an even chance nothing is certain, however well the photos held back went; nothing is probable below a third.
LEAST_CERTAIN: Final = 0.5
LEAST_PROBABLE: Final = 1 / 3
#: What counts as certain, as probable, when too few photos could be held back.
DEFAULT_CERTAIN: Final = 0.9
DEFAULT_PROBABLE: Final = 0.6
#: Points of a curve at most: enough that no corner shows, few enough for a record that people read.
_MOST_POINTS: Final = 100
_FEWEST_ANSWERS: Final = 20
_LARGEST_LOG_TEMPERATURE: Final = 3.0


def temperature(logits: NDArray[np.float32], truth: NDArray[np.int64], *, own_scale: bool = True) -> float:
    """Return what logits are to be divided by, so that probabilities mean what they say.

    Minimises the log loss against truth with ``LABEL_SMOOTHING``.

    Parameters
    ----------
    logits : float32 array, shape (m, c)
        Of photos that were not learnt, m at least 1.
    truth : int64 array, shape (m,)
        0 to c - 1.
    own_scale : bool
        Whether the logits are of a head whose probabilities mean something already; if not, of any magnitude.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", section 4.2.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - a third of a second that a run without news need not spend

    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    own = np.arange(len(truth)), truth
    spread = 1.0
    if not own_scale:
        spread = max(float(np.median(-centred.mean(axis=1))), 1e-9)
        centred /= spread

    def loss(log_temperature: float) -> float:
        scaled = centred / np.exp(log_temperature)
        log_p = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return float(-(1 - LABEL_SMOOTHING) * log_p[own].mean() - LABEL_SMOOTHING * log_p.mean())

    bounds = (-_LARGEST_LOG_TEMPERATURE, _LARGEST_LOG_TEMPERATURE)
    return spread * float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def sure_precision(min_precision: float) -> float:
    """Return which share of the sure answers must be right where ``min_precision`` of all answers that name something must."""
    return 1 - (1 - min_precision) / 3


def certain_from(
    probability: NDArray[np.float32],
    right: NDArray[np.bool_],
    precision: float,
    *,
    least: float = LEAST_CERTAIN,
    default: float = DEFAULT_CERTAIN,
    photos: int | None = None,
) -> float:
    """Return the lowest probability from which on answers are right often enough.

    Parameters
    ----------
    probability : array, shape (m,)
        Of the answer to each photo held back.
    right : bool array, shape (m,)
    precision : float
        How often is enough, in (0, 1).
    least : float
        What is returned at least.
    default : float
        What is returned if there are too few photos to tell.
    photos : int, optional
        How many of the m could be answered rightly, if not all: some show nothing that has a variety.

    Returns
    -------
    float
        Of the answers at least this probable, a share of ``precision`` was right, less what could be luck: the lower end of
        Wilson's interval of one standard error. Above 1, so that none is certain, if no limit does that for at least 20
        answers; ``default`` if there are fewer than 20 photos, or so few that they would not do it if all were answered
        rightly, and the answers beyond the default do not speak against it.
    """
    none = float(np.nextafter(np.float32(1), np.float32(2)))
    if len(right) < _FEWEST_ANSWERS:
        return default
    # All of n right have a lower end of n / (n + 1).
    if (len(right) if photos is None else photos) < max(_FEWEST_ANSWERS, precision / (1 - precision)):
        beyond = right[probability >= default]
        _, high = _wilson(np.array([beyond.mean()]), np.array([len(beyond)])) if len(beyond) else (0.0, 1.0)
        return default if high >= precision else none
    order, asked, share = _ranked(probability, right)
    low, _ = _wilson(share, asked)
    good = np.flatnonzero((low >= precision) & _last(probability[order]) & (asked >= _FEWEST_ANSWERS))
    if not len(good):
        return none
    return max(least, float(probability[order[good[-1]]]))


def precision_by_coverage(
    probability: NDArray[np.float32], right: NDArray[np.bool_], photos: int
) -> list[tuple[float, float, float]]:
    """Return which share of photos gets an answer, and which share of the answers is right, the lower the limit is set.

    Parameters
    ----------
    probability, right : arrays, shape (m,)
        Of the answers.
    photos : int
        That were asked about, m or more: some get no answer at any limit.

    Returns
    -------
    list of (float, float, float)
        Limit, coverage and precision; the limit falls, the coverage grows. Of the first few answers alone nothing is said.
    """
    order, asked, share = _ranked(probability, right)
    at = np.flatnonzero(_last(probability[order]) & (asked >= _FEWEST_ANSWERS))
    if len(at) > _MOST_POINTS:
        wanted = np.linspace(asked[at[0]], asked[at[-1]], _MOST_POINTS)
        at = np.unique(at[np.searchsorted(asked[at], wanted)])
    return [(float(probability[order[row]]), float(asked[row] / photos), float(share[row])) for row in at]


def _wilson(share: NDArray[np.float64], asked: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both ends of the interval of one standard error, after Wilson (1927)."""
    middle, half = share + 1 / (2 * asked), np.sqrt(share * (1 - share) / asked + 1 / (4 * asked**2))
    return (middle - half) / (1 + 1 / asked), (middle + half) / (1 + 1 / asked)


def _ranked(
    probability: NDArray[np.float32], right: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the order of answers, the most probable first, how many there are up to each, and the share that is right."""
    order = np.argsort(-probability, kind="stable")
    asked = np.arange(1, len(order) + 1)
    return order, asked, np.cumsum(right[order]) / asked


def _last(ranked: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which are the last of those that are equally probable: a limit lets in all of them."""
    return np.asarray(np.r_[np.diff(ranked) != 0, np.ones(min(1, len(ranked)), bool)], bool)


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
