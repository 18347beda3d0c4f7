"""Calibration of probabilities: temperature, and the thresholds above which answers are certain or probable.

Both are fitted on validation photos within Training, because probabilities on photos that were trained on are too high.
Independent of the meaning of labels and of files.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fruits.learning.metrics import expected_calibration_error

#: Label smoothing on the validation photos. Less than ``learning.validation.LABEL_SMOOTHING``: that one selects the setting of
#: the head, this one only bounds the confidence if no validation photo is wrong.
LABEL_SMOOTHING: Final = 0.002
#: Lower bounds of the thresholds, whatever the validation photos give: 1/2 for certain, 1/3 for probable.
LEAST_CERTAIN: Final = 0.5
LEAST_PROBABLE: Final = 1 / 3
#: Thresholds for certain and for probable if there are too few validation photos.
DEFAULT_CERTAIN: Final = 0.9
DEFAULT_PROBABLE: Final = 0.6
#: Most points of a curve: enough for a smooth plot, few enough for a readable record.
_MOST_POINTS: Final = 100
_FEWEST_ANSWERS: Final = 20
_LARGEST_LOG_TEMPERATURE: Final = 3.0


def temperature(logits: NDArray[np.float32], truth: NDArray[np.int64], *, own_scale: bool = True) -> float:
    """Fit the temperature by which logits are divided so that probabilities are calibrated.

    Minimises the log loss against truth with ``LABEL_SMOOTHING``.

    Parameters
    ----------
    logits : float32 array, shape (m, c)
        Logits of validation photos; m is at least 1.
    truth : int64 array, shape (m,)
        0 to c - 1.
    own_scale : bool
        Whether softmax of the logits approximates probabilities already. If not, logits may be of any magnitude.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", section 4.2.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - a third of a second, not needed by an up-to-date run

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
    """Return the precision required of certain answers, given that required of all answers that name something."""
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
    """Return the lowest threshold at which answers reach a precision.

    Parameters
    ----------
    probability : array, shape (m,)
        Probability of the answer to each validation photo.
    right : bool array, shape (m,)
        Whether each answer is right.
    precision : float
        Required precision, in (0, 1).
    least : float
        Lower bound of the result.
    default : float
        Result if there are too few photos.
    photos : int, optional
        Number of the m photos that can be answered correctly, if not all: some show nothing that has a variety.

    Returns
    -------
    float
        Threshold on the probability. The precision of the answers above it is at least ``precision``, measured by the lower end
        of Wilson's interval of one standard error. Above 1, so that no answer is certain, if no threshold reaches that with at
        least 20 answers. ``default`` if there are fewer than 20 photos; also if there are so few that even all right answers
        would not reach it, provided that the answers above the default do not contradict it.
    """
    none = float(np.nextafter(np.float32(1), np.float32(2)))
    if len(right) < _FEWEST_ANSWERS:
        return default
    # If all of n are right, the lower end is n / (n + 1).
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
    """Return the curve of precision against coverage for falling thresholds.

    Parameters
    ----------
    probability, right : arrays, shape (m,)
        Probability of each answer, and whether it is right.
    photos : int
        Number of photos, m or more: some get no answer at any threshold.

    Returns
    -------
    list of (float, float, float)
        Threshold (falling), coverage (growing) and precision. Points of fewer than 20 answers are left out.
    """
    order, asked, share = _ranked(probability, right)
    at = np.flatnonzero(_last(probability[order]) & (asked >= _FEWEST_ANSWERS))
    if len(at) > _MOST_POINTS:
        wanted = np.linspace(asked[at[0]], asked[at[-1]], _MOST_POINTS)
        at = np.unique(at[np.searchsorted(asked[at], wanted)])
    return [(float(probability[order[row]]), float(asked[row] / photos), float(share[row])) for row in at]


def _wilson(share: NDArray[np.float64], asked: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both ends of Wilson's (1927) interval of one standard error."""
    middle, half = share + 1 / (2 * asked), np.sqrt(share * (1 - share) / asked + 1 / (4 * asked**2))
    return (middle - half) / (1 + 1 / asked), (middle + half) / (1 + 1 / asked)


def _ranked(
    probability: NDArray[np.float32], right: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the order of answers by falling probability, the cumulative count, and the cumulative share that is right."""
    order = np.argsort(-probability, kind="stable")
    asked = np.arange(1, len(order) + 1)
    return order, asked, np.cumsum(right[order]) / asked


def _last(ranked: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which answers are the last among equal probabilities: a threshold includes all of them."""
    return np.asarray(np.r_[np.diff(ranked) != 0, np.ones(min(1, len(ranked)), bool)], bool)


def calibration_floor(confidence: NDArray[np.float32], *, draws: int = 100, seed: int = 0) -> float:
    """Return the expected calibration error of a perfectly calibrated recogniser on a sample with these confidences.

    An answer is right or wrong, so a finite sample deviates from true probabilities by chance, more so the smaller it is.

    Parameters
    ----------
    confidence : float32 array, shape (n,)
    draws : int
        Number of simulated samples.
    seed : int
    """
    rng = np.random.default_rng(seed)
    return float(
        np.mean(
            [expected_calibration_error(confidence, rng.random(len(confidence)) < confidence) for _ in range(draws)]
        )
    )
