"""Classification metrics, with the names and definitions of Spark ML.

The definitions are those of ``MulticlassClassificationEvaluator`` (with beta = 1), so that numbers can be compared. Also top-3
accuracy, expected calibration error and confused pairs of labels. Independent of the kind of head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Fewest photos for a meaningful share: with 29 of 30 right, the true accuracy may be anything from 83 to 99 %.
FEWEST_PHOTOS: Final = 30
_CALIBRATION_BINS: Final = 15
#: Spark's bound on probabilities in the log loss.
_EPSILON: Final = 1e-15


@dataclass(frozen=True, slots=True)
class Confusion:
    """Photos of one label that were predicted as another.

    Attributes
    ----------
    label, predicted : int
    count : int
        Number of photos.
    share : float
        Share of the label's photos.
    """

    label: int
    predicted: int
    count: int
    share: float


def evaluate(probabilities: NDArray[np.float32], labels: NDArray[np.int64], names: list[str]) -> dict[str, Any]:
    """Return all metrics of predicted probabilities.

    Parameters
    ----------
    probabilities : array, shape (n, c)
        Rows sum to 1; n is at least 1.
    labels : int array, shape (n,)
        True labels, 0 to c - 1.
    names : list of str
        Names of the c labels.

    Returns
    -------
    dict
        ``f1, accuracy, weightedPrecision, weightedRecall, weightedFMeasure, hammingLoss, logLoss`` (logarithms are
        natural); ``precisionByLabel, recallByLabel, fMeasureByLabel``, each a dict over the labels that occur in
        ``labels``; ``top3Accuracy``; ``expectedCalibrationError``.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", for the calibration error: 15 bins of equal width.
    """
    n, c = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    right = predicted == labels
    true_count = np.bincount(labels, minlength=c).astype(np.float64)
    predicted_count = np.bincount(predicted, minlength=c).astype(np.float64)
    hits = np.bincount(labels[right], minlength=c).astype(np.float64)
    precision = _ratio(hits, predicted_count)
    recall = _ratio(hits, true_count)
    f_measure = _ratio(2 * precision * recall, precision + recall)
    weight = true_count / n
    accuracy = float(right.mean())
    own = np.clip(probabilities[np.arange(n), labels].astype(np.float64), _EPSILON, 1 - _EPSILON)
    occurring = np.flatnonzero(true_count)
    f1 = float((weight * f_measure).sum())
    return {
        "f1": f1,
        "accuracy": accuracy,
        "weightedPrecision": float((weight * precision).sum()),
        "weightedRecall": float((weight * recall).sum()),
        "weightedFMeasure": f1,
        "hammingLoss": 1.0 - accuracy,
        "logLoss": float(-np.log(own).mean()),
        "precisionByLabel": {names[label]: float(precision[label]) for label in occurring},
        "recallByLabel": {names[label]: float(recall[label]) for label in occurring},
        "fMeasureByLabel": {names[label]: float(f_measure[label]) for label in occurring},
        "top3Accuracy": float((best_labels(probabilities, 3) == labels[:, None]).any(axis=1).mean()),
        "expectedCalibrationError": expected_calibration_error(probabilities.max(axis=1), right),
    }


def expected_calibration_error(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Return the mean distance between confidence and accuracy over 15 bins, weighted by photos, in [0, 1]."""
    bins = _calibration_bin(confidence)
    confidence_sum = np.bincount(bins, weights=confidence, minlength=_CALIBRATION_BINS)
    right_sum = np.bincount(bins, weights=right, minlength=_CALIBRATION_BINS)
    return float(np.abs(confidence_sum - right_sum).sum() / len(confidence))


def calibration_bins(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> list[dict[str, float | int | None]]:
    """Return the 15 bins of the calibration error: ``low, high, photos``, means (None if empty)."""
    bins = _calibration_bin(confidence)
    found: list[dict[str, float | int | None]] = []
    for number in range(_CALIBRATION_BINS):
        inside = bins == number
        of = {"confidence": confidence, "accuracy": right}
        means = {name: float(values[inside].mean()) if inside.any() else None for name, values in of.items()}
        edges = {"low": number / _CALIBRATION_BINS, "high": (number + 1) / _CALIBRATION_BINS}
        found.append({**edges, "photos": int(inside.sum()), **means})
    return found


def _calibration_bin(confidence: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.clip(np.ceil(confidence * _CALIBRATION_BINS).astype(np.int64) - 1, 0, _CALIBRATION_BINS - 1)


def best_labels(probabilities: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the most probable labels, best first, shape (n, min(count, c)); ties in ascending order."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]


def confusions(predicted: NDArray[np.int64], labels: NDArray[np.int64], c: int) -> list[Confusion]:
    """Return all confused pairs of labels, most photos first."""
    total = np.bincount(labels, minlength=c)
    wrong = predicted != labels
    pairs, counts = np.unique(labels[wrong] * c + predicted[wrong], return_counts=True)
    found = [
        Confusion(int(pair // c), int(pair % c), int(count), float(count / total[pair // c]))
        for pair, count in zip(pairs, counts, strict=True)
    ]
    return sorted(found, key=lambda pair: (-pair.count, -pair.share, pair.label, pair.predicted))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
