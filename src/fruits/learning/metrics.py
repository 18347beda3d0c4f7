"""Classification metrics, with the names and definitions of Spark ML.

The definitions are those of ``MulticlassClassificationEvaluator`` (with beta = 1), so that numbers can be compared. Also top-3
accuracy, expected calibration error and confused pairs of labels. Independent of the kind of head.

Every metric comes from :class:`Counts`, which are integers: counts of parts of the photos merge to those of all photos, to the
bit, in whatever parts and order. Their size depends on the number of labels, not of photos.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

#: Fewest photos for a meaningful share: with 29 of 30 right, the true accuracy may be anything from 83 to 99 %.
FEWEST_PHOTOS: Final = 30
_CALIBRATION_BINS: Final = 15
#: Spark's bound on probabilities in the log loss.
_EPSILON: Final = 1e-15
#: Sums of reals are kept as integers, in these units, so that they do not depend on the order of the summands. Of probabilities,
#: for up to 2e9 photos in 64 bits; of logarithms, in a Python integer.
_SHARES: Final = 2**32
_NATS: Final = 2**40
#: Photos counted at a time, which bounds the temporary arrays.
_BLOCK: Final = 8192


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


@dataclass(frozen=True, slots=True)
class Bins:
    """The 15 bins of equal width of the calibration error, as sums that merge.

    Attributes
    ----------
    photos, right : int64 array, shape (15,)
        Number of photos by the probability of their answer, and of those that are right.
    confidence, variance : int64 array, shape (15,)
        Sum of these probabilities p, and of p (1 - p), in units of 2**-32.
    """

    photos: NDArray[np.int64]
    right: NDArray[np.int64]
    confidence: NDArray[np.int64]
    variance: NDArray[np.int64]

    @classmethod
    def of(cls, confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> Self:
        """Count answers: the probability of each, shape (n,), and whether it is right. n may be 0."""
        sums = np.zeros((4, _CALIBRATION_BINS), np.int64)
        for start in range(0, len(right), _BLOCK):
            block = confidence[start : start + _BLOCK]
            bins = np.clip(np.ceil(block * _CALIBRATION_BINS).astype(np.int64) - 1, 0, _CALIBRATION_BINS - 1)
            p = block.astype(np.float64)
            values = (np.ones(len(p)), right[start : start + _BLOCK], p * _SHARES, p * (1 - p) * _SHARES)
            # Exact: less than 2**53 in a block.
            sums += [np.bincount(bins, np.rint(value), _CALIBRATION_BINS).astype(np.int64) for value in values]
        return cls(*sums)

    def merge(self, other: Self) -> Self:
        """Return the bins of both."""
        return type(self)(
            self.photos + other.photos,
            self.right + other.right,
            self.confidence + other.confidence,
            self.variance + other.variance,
        )

    def to_bytes(self) -> bytes:
        """Return the sums as bytes; see :meth:`from_bytes`."""
        return np.stack([self.photos, self.right, self.confidence, self.variance]).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the bins that :meth:`to_bytes` wrote."""
        return cls(*np.frombuffer(data, np.int64).reshape(4, _CALIBRATION_BINS))

    @property
    def error(self) -> float:
        """Mean distance between confidence and accuracy over the bins, weighted by photos, in [0, 1]; NaN without photos."""
        n = int(self.photos.sum())
        return float(np.abs(self.confidence / _SHARES - self.right).sum() / n) if n else float("nan")

    @property
    def floor(self) -> float:
        """Error that is expected of true probabilities, as in :func:`fruits.learning.calibration.calibration_floor`.

        In closed form: the number of right answers in a bin is taken as normal, which holds for bins of many photos.
        """
        n = int(self.photos.sum())
        return float(np.sqrt(2 / np.pi * self.variance / _SHARES).sum() / n) if n else float("nan")

    def rows(self) -> list[dict[str, float | int | None]]:
        """Return for each bin ``low, high, photos`` and the means ``confidence`` and ``accuracy``, None if it is empty."""
        found: list[dict[str, float | int | None]] = []
        for number, photos in enumerate(self.photos.tolist()):
            sums = {"confidence": self.confidence[number] / _SHARES, "accuracy": self.right[number]}
            means = {name: float(value / photos) if photos else None for name, value in sums.items()}
            edges = {"low": number / _CALIBRATION_BINS, "high": (number + 1) / _CALIBRATION_BINS}
            found.append({**edges, "photos": photos, **means})
        return found


@dataclass(frozen=True, slots=True)
class Counts:
    """What all metrics are computed from: integers of which those of parts of the photos add up to those of all.

    Attributes
    ----------
    c : int
        Number of labels.
    pairs : int64 array, shape (m,)
        The pairs that occur of true and of most probable label, as ``true * c + predicted``, ascending: the confusion matrix
        without its zeros.
    photos : int64 array, shape (m,)
        Number of photos of each pair.
    top3 : int
        Number of photos whose label is among the three most probable.
    log_loss : int
        Sum of the negative natural logarithms of the probabilities of the true labels, in units of 2**-40.
    bins : Bins
    """

    c: int
    pairs: NDArray[np.int64]
    photos: NDArray[np.int64]
    top3: int
    log_loss: int
    bins: Bins

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> Self:
        """Count predictions.

        Parameters
        ----------
        probabilities : float32 array, shape (n, c)
            Rows sum to 1; n may be 0.
        labels : int64 array, shape (n,)
            True labels, 0 to c - 1.
        """
        n, c = probabilities.shape
        top3, log_loss = 0, 0
        predicted, confidence = np.empty(n, np.int64), np.empty(n, np.float32)
        for start in range(0, n, _BLOCK):
            block, truth = probabilities[start : start + _BLOCK], labels[start : start + _BLOCK]
            predicted[start : start + _BLOCK] = block.argmax(axis=1)
            confidence[start : start + _BLOCK] = block.max(axis=1)
            own = block[np.arange(len(truth)), truth]
            before = (block > own[:, None]) | ((block == own[:, None]) & (np.arange(c) < truth[:, None]))
            top3 += int((before.sum(axis=1) < 3).sum())
            nats = -np.log(np.clip(own.astype(np.float64), _EPSILON, 1 - _EPSILON))
            log_loss += int(np.rint(nats * _NATS).astype(np.int64).sum())
        pairs, photos = np.unique(labels * c + predicted, return_counts=True)
        return cls(c, pairs, photos, top3, log_loss, Bins.of(confidence, predicted == labels))

    @classmethod
    def none(cls, c: int) -> Self:
        """Return the counts of no photos of c labels, with which a merge begins."""
        return cls.of(np.empty((0, c), np.float32), np.empty(0, np.int64))

    def merge(self, other: Self) -> Self:
        """Return the counts of both, which are of the same labels."""
        pairs, at = np.unique(np.concatenate([self.pairs, other.pairs]), return_inverse=True)
        photos = np.zeros(len(pairs), np.int64)
        np.add.at(photos, at, np.concatenate([self.photos, other.photos]))
        return replace(
            self,
            pairs=pairs,
            photos=photos,
            top3=self.top3 + other.top3,
            log_loss=self.log_loss + other.log_loss,
            bins=self.bins.merge(other.bins),
        )

    def to_bytes(self) -> bytes:
        """Return the counts as bytes, such as for a column that an engine carries; see :meth:`from_bytes`."""
        few = np.array([self.c, self.top3], np.int64).tobytes()
        pairs = np.concatenate([self.pairs, self.photos]).tobytes()
        return self.log_loss.to_bytes(16, "little") + few + self.bins.to_bytes() + pairs

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the counts that :meth:`to_bytes` wrote."""
        numbers = np.frombuffer(data, np.int64, offset=16)
        c, top3 = int(numbers[0]), int(numbers[1])
        bins = Bins.from_bytes(numbers[2 : 2 + 4 * _CALIBRATION_BINS].tobytes())
        pairs, photos = numbers[2 + 4 * _CALIBRATION_BINS :].reshape(2, -1)
        return cls(c, pairs, photos, top3, int.from_bytes(data[:16], "little"), bins)

    @property
    def n(self) -> int:
        """Number of photos."""
        return int(self.photos.sum())

    @property
    def by_label(self) -> NDArray[np.int64]:
        """Number of photos of each label, shape (c,)."""
        return self._summed(self.pairs // self.c)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Number of photos predicted as each label, shape (c,)."""
        return self._summed(self.pairs % self.c)

    @property
    def right(self) -> NDArray[np.int64]:
        """Number of photos of each label that are predicted as such, shape (c,)."""
        return self._summed(self.pairs // self.c, self.pairs // self.c == self.pairs % self.c)

    def confusions(self) -> list[Confusion]:
        """Return all confused pairs of labels, most photos first."""
        total = self.by_label
        pairs = zip((self.pairs // self.c).tolist(), (self.pairs % self.c).tolist(), self.photos.tolist(), strict=True)
        found = [
            Confusion(label, predicted, photos, float(photos / total[label]))
            for label, predicted, photos in pairs
            if label != predicted
        ]
        return sorted(found, key=lambda pair: (-pair.count, -pair.share, pair.label, pair.predicted))

    def _summed(self, labels: NDArray[np.int64], among: NDArray[np.bool_] | slice = slice(None)) -> NDArray[np.int64]:
        counts = np.zeros(self.c, np.int64)
        np.add.at(counts, labels[among], self.photos[among])
        return counts


Metric = Callable[[Counts], float | NDArray[np.float64]]
M = TypeVar("M", bound=Metric)
#: All metrics by name, in the order of the record. A metric is a function of the counts of at least one photo. It returns one
#: number, or an array of shape (c,) with one number per label.
METRICS: Final[dict[str, Metric]] = {}


def wilson_interval(right: int, photos: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share, by default of 95 %; from 0 to 1 without photos.

    Parameters
    ----------
    right, photos : int
        ``right`` of ``photos`` independent photos.
    z : float
        Standard errors on either side.

    References
    ----------
    Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if photos < 1:
        return 0.0, 1.0
    share, more = right / photos, z * z / photos
    middle = (share + more / 2) / (1 + more)
    half = z * float(np.sqrt(share * (1 - share) / photos + more / (4 * photos))) / (1 + more)
    # Rounding must not put the share itself outside.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def metric(name: str) -> Callable[[M], M]:
    """Return a decorator that registers a function as a metric, for ``run.json`` and the table of the report."""

    def add(function: M) -> M:
        METRICS[name] = function
        return function

    return add


def evaluate(counts: Counts, names: list[str]) -> dict[str, Any]:
    """Return all metrics of predictions.

    Parameters
    ----------
    counts : Counts
        Of at least one photo.
    names : list of str
        Names of the c labels.

    Returns
    -------
    dict
        Name of each metric to its number (None if not finite); for metrics by label, to a dict over the labels that occur.
    """
    occurring = np.flatnonzero(counts.by_label)
    found: dict[str, Any] = {}
    for name, function in METRICS.items():
        value = function(counts)
        if np.ndim(value):
            found[name] = {names[label]: _number(np.asarray(value)[label]) for label in occurring}
        else:
            found[name] = _number(value)
    return found


@metric("f1")
def f1(counts: Counts) -> float:
    """Return the mean F-measure over labels, weighted by their number of photos."""
    return _weighted(f_measure_by_label, counts)


@metric("accuracy")
def accuracy(counts: Counts) -> float:
    """Return the share of photos whose most probable label is right."""
    return float(counts.right.sum() / counts.n)


@metric("weightedPrecision")
def weighted_precision(counts: Counts) -> float:
    """Return the mean precision over labels, weighted by their number of photos."""
    return _weighted(precision_by_label, counts)


@metric("weightedRecall")
def weighted_recall(counts: Counts) -> float:
    """Return the mean recall over labels, weighted by their number of photos."""
    return _weighted(recall_by_label, counts)


@metric("weightedFMeasure")
def weighted_f_measure(counts: Counts) -> float:
    """Return :func:`f1`, which Spark ML has under both names."""
    return f1(counts)


@metric("hammingLoss")
def hamming_loss(counts: Counts) -> float:
    """Return the share of photos whose most probable label is wrong."""
    return 1.0 - accuracy(counts)


@metric("logLoss")
def log_loss(counts: Counts) -> float:
    """Return the mean negative natural logarithm of the probability of the true label."""
    return counts.log_loss / _NATS / counts.n


@metric("precisionByLabel")
def precision_by_label(counts: Counts) -> NDArray[np.float64]:
    """Return the precision of each label, shape (c,): the share of the photos predicted as the label that have it."""
    return _ratio(counts.right, counts.predicted)


@metric("recallByLabel")
def recall_by_label(counts: Counts) -> NDArray[np.float64]:
    """Return the recall of each label, shape (c,): the share of its photos that are predicted as the label."""
    return _ratio(counts.right, counts.by_label)


@metric("fMeasureByLabel")
def f_measure_by_label(counts: Counts) -> NDArray[np.float64]:
    """Return the harmonic mean of precision and recall of each label, shape (c,)."""
    precision, recall = precision_by_label(counts), recall_by_label(counts)
    return _ratio(2 * precision * recall, precision + recall)


@metric("top3Accuracy")
def top3_accuracy(counts: Counts) -> float:
    """Return the share of photos whose label is among the three most probable."""
    return counts.top3 / counts.n


@metric("expectedCalibrationError")
def calibration_error(counts: Counts) -> float:
    """Return the expected calibration error, with 15 bins of equal width.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks".
    """
    return counts.bins.error


def expected_calibration_error(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Return the mean distance between confidence and accuracy over 15 bins, weighted by photos, in [0, 1]."""
    return Bins.of(confidence, right).error


def best_labels(probabilities: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the most probable labels, best first, shape (n, min(count, c)); ties in ascending order."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]


def _number(value: Any) -> float | None:
    """Return a plain number for JSON; None if it is not finite."""
    return float(value) if np.isfinite(value) else None


def _weighted(by_label: Callable[[Counts], NDArray[np.float64]], counts: Counts) -> float:
    """Return the mean over labels, each weighted by its share of the photos."""
    return float((counts.by_label / counts.n * by_label(counts)).sum())


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0), np.float64)
