"""Classification metrics, with the names and definitions of Spark ML.

The definitions are those of ``MulticlassClassificationEvaluator`` (with beta = 1), so that numbers can be compared. Also top-3
accuracy, expected calibration error and confused pairs of labels. Independent of the kind of head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

#: Fewest photos for a meaningful share: with 29 of 30 right, the true accuracy may be anything from 83 to 99 %.
FEWEST_PHOTOS: Final = 30
_CALIBRATION_BINS: Final = 15
#: Spark's bound on probabilities in the log loss.
_EPSILON: Final = 1e-15
Metric = Callable[[NDArray[np.float32], NDArray[np.int64]], float | NDArray[np.float64]]
M = TypeVar("M", bound=Metric)


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


#: All metrics by name, in the order of the record. A metric is a function of probabilities, shape (n, c), rows summing to 1, n at
#: least 1, and of true labels, shape (n,). It returns one number, or an array of shape (c,) with one number per label.
METRICS: Final[dict[str, Metric]] = {}


def metric(name: str) -> Callable[[M], M]:
    """Return a decorator that registers a function as a metric, for ``run.json`` and the table of the report."""

    def add(function: M) -> M:
        METRICS[name] = function
        return function

    return add


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
        Name of each metric to its number (None if not finite); for metrics by label, to a dict over the labels that occur in
        ``labels``.
    """
    occurring = np.unique(labels)
    found: dict[str, Any] = {}
    for name, function in METRICS.items():
        value = function(probabilities, labels)
        if np.ndim(value):
            found[name] = {names[label]: _number(np.asarray(value)[label]) for label in occurring}
        else:
            found[name] = _number(value)
    return found


@metric("f1")
def f1(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the mean F-measure over labels, weighted by their number of photos."""
    return _weighted(f_measure_by_label, probabilities, labels)


@metric("accuracy")
def accuracy(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the share of photos whose most probable label is right."""
    return float((probabilities.argmax(axis=1) == labels).mean())


@metric("weightedPrecision")
def weighted_precision(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the mean precision over labels, weighted by their number of photos."""
    return _weighted(precision_by_label, probabilities, labels)


@metric("weightedRecall")
def weighted_recall(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the mean recall over labels, weighted by their number of photos."""
    return _weighted(recall_by_label, probabilities, labels)


@metric("weightedFMeasure")
def weighted_f_measure(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return :func:`f1`, which Spark ML has under both names."""
    return f1(probabilities, labels)


@metric("hammingLoss")
def hamming_loss(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the share of photos whose most probable label is wrong."""
    return 1.0 - accuracy(probabilities, labels)


@metric("logLoss")
def log_loss(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the mean negative natural logarithm of the probability of the true label."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(own, _EPSILON, 1 - _EPSILON)).mean())


@metric("precisionByLabel")
def precision_by_label(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the precision of each label, shape (c,): the share of the photos predicted as the label that have it."""
    predicted = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]).astype(np.float64)
    return _ratio(_hits(probabilities, labels), predicted)


@metric("recallByLabel")
def recall_by_label(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the recall of each label, shape (c,): the share of its photos that are predicted as the label."""
    return _ratio(_hits(probabilities, labels), _counts(probabilities, labels))


@metric("fMeasureByLabel")
def f_measure_by_label(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the harmonic mean of precision and recall of each label, shape (c,)."""
    precision, recall = precision_by_label(probabilities, labels), recall_by_label(probabilities, labels)
    return _ratio(2 * precision * recall, precision + recall)


@metric("top3Accuracy")
def top3_accuracy(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the share of photos whose label is among the three most probable."""
    return float((best_labels(probabilities, 3) == labels[:, None]).any(axis=1).mean())


@metric("expectedCalibrationError")
def calibration_error(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the expected calibration error, with 15 bins of equal width.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks".
    """
    return expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)


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


def _number(value: Any) -> float | None:
    """Return a plain number for JSON; None if it is not finite."""
    return float(value) if np.isfinite(value) else None


def _counts(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.bincount(labels, minlength=probabilities.shape[1]).astype(np.float64)


def _hits(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    return _counts(probabilities, labels[probabilities.argmax(axis=1) == labels])


def _weighted(
    by_label: Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float64]],
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> float:
    """Return the mean over labels, each weighted by its share of the photos."""
    return float((_counts(probabilities, labels) / len(labels) * by_label(probabilities, labels)).sum())


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
