"""Metrics by hand, against scikit-learn, and in Spark's definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from fruits.learning.calibration import calibration_floor
from fruits.learning.metrics import Bins, Counts, best_labels, expected_calibration_error
from fruits.learning.metrics import evaluate as evaluate_counts

NAMES = ["apple", "pear", "plum", "kiwi"]


def sure(predicted: list[int], c: int = 4) -> np.ndarray:
    """Probabilities that leave no doubt."""
    return np.eye(c, dtype=np.float32)[predicted]


def evaluate(probabilities: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, Any]:
    return evaluate_counts(Counts.of(probabilities, labels), names)


def random_probabilities(seed: int, n: int, c: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(c, 0.5), n).astype(np.float32)
    return probabilities, rng.integers(0, c, n)


def test_metrics_counted_by_hand() -> None:
    # apple: 3 photos, 2 found; pear: 2 photos, 1 found; plum: 1 photo, not found; kiwi never asked, never said.
    values = evaluate(sure([0, 0, 1, 1, 0, 1]), np.array([0, 0, 0, 1, 1, 2]), NAMES)
    assert values["accuracy"] == pytest.approx(3 / 6)
    assert values["hammingLoss"] == pytest.approx(3 / 6)
    assert values["precisionByLabel"] == pytest.approx({"apple": 2 / 3, "pear": 1 / 3, "plum": 0})
    assert values["recallByLabel"] == pytest.approx({"apple": 2 / 3, "pear": 1 / 2, "plum": 0})
    assert values["fMeasureByLabel"] == pytest.approx({"apple": 2 / 3, "pear": 2 / 5, "plum": 0})
    # Spark weighs by the true counts: 3, 2 and 1 of 6.
    assert values["weightedPrecision"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 3) / 6)
    assert values["weightedRecall"] == pytest.approx(values["accuracy"])
    assert values["f1"] == values["weightedFMeasure"] == pytest.approx((3 * 2 / 3 + 2 * 2 / 5) / 6)


@pytest.mark.slow
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 6))
def test_metrics_are_those_of_scikit_learn(seed: int, n: int, c: int) -> None:
    probabilities, labels = random_probabilities(seed, n, c)
    predicted = probabilities.argmax(axis=1)
    values = evaluate(probabilities, labels, [str(label) for label in range(c)])
    options = {"average": "weighted", "zero_division": 0.0, "labels": range(c)}
    assert values["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert values["f1"] == pytest.approx(reference.f1_score(labels, predicted, **options))
    assert values["weightedPrecision"] == pytest.approx(reference.precision_score(labels, predicted, **options))
    assert values["weightedRecall"] == pytest.approx(reference.recall_score(labels, predicted, **options))
    top3 = best_labels(probabilities, 3)
    assert values["top3Accuracy"] == pytest.approx(
        np.mean([label in row for label, row in zip(labels, top3, strict=True)])
    )


def test_log_loss_is_natural() -> None:
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32)
    values = evaluate(probabilities, np.array([0, 1]), NAMES[:3])
    assert values["logLoss"] == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2, rel=1e-6)  # float32 input


def test_log_loss_of_an_impossible_truth_is_finite_as_in_spark() -> None:
    values = evaluate(sure([1, 0], 2), np.array([0, 0]), NAMES[:2])
    assert values["logLoss"] == pytest.approx(-math.log(1e-15) / 2)


def test_perfect_answers_score_one() -> None:
    values = evaluate(sure([0, 1, 2, 3]), np.arange(4), NAMES)
    for name in ("accuracy", "f1", "weightedPrecision", "weightedRecall", "weightedFMeasure", "top3Accuracy"):
        assert values[name] == 1.0
    assert values["hammingLoss"] == 0.0
    assert values["expectedCalibrationError"] == 0.0
    assert values["logLoss"] == pytest.approx(0, abs=1e-12)


def test_label_that_is_never_predicted_has_precision_zero() -> None:
    values = evaluate(sure([0, 0], 2), np.array([0, 1]), NAMES[:2])
    assert values["precisionByLabel"]["pear"] == 0.0


def test_every_metric_is_a_plain_number() -> None:
    probabilities, labels = random_probabilities(0, 20, 4)
    for value in evaluate(probabilities, labels, NAMES).values():
        for number in value.values() if isinstance(value, dict) else [value]:
            assert type(number) is float


def test_calibration_error_by_hand() -> None:
    # Bin of 0.55: accuracy 1/2, bin of 0.95: accuracy 1. Distances 0.05 and 0.05.
    error = expected_calibration_error(
        np.array([0.55, 0.55, 0.95, 0.95], np.float32), np.array([True, False, True, True])
    )
    assert error == pytest.approx(0.05, abs=1e-6)


def test_calibration_error_at_the_edges_of_the_bins() -> None:
    assert expected_calibration_error(np.array([1.0, 0.0], np.float32), np.array([True, False])) == 0.0
    assert expected_calibration_error(np.array([1.0], np.float32), np.array([False])) == 1.0


@given(st.integers(0, 10_000), st.integers(1, 80))
def test_calibration_error_is_that_of_its_definition(seed: int, n: int) -> None:
    probabilities, labels = random_probabilities(seed, n, 3)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for i in range(15):
        inside = (confidence * 15 > i) & (confidence * 15 <= i + 1)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].astype(float).mean())
    assert expected_calibration_error(confidence, right) == pytest.approx(expected, abs=1e-6)  # float32 confidences


def test_of_equally_probable_labels_the_lower_number_comes_first() -> None:
    assert best_labels(np.full((1, 5), 0.2, np.float32), 3).tolist() == [[0, 1, 2]]


def test_fewer_labels_than_asked_for_are_all_given() -> None:
    assert best_labels(np.array([[0.3, 0.7]], np.float32), 3).tolist() == [[1, 0]]


def counts_of(predicted: np.ndarray, labels: np.ndarray, c: int) -> Counts:
    return Counts.of(np.eye(c, dtype=np.float32)[predicted], labels)


def test_confusions_count_each_pair_most_photos_first() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    counts = counts_of(np.array([1, 1, 0, 2, 1, 0, 2]), labels, 3)
    found = [(pair.label, pair.predicted, pair.count, pair.share) for pair in counts.confusions()]
    assert found == [(0, 1, 2, 0.5), (1, 0, 1, 0.5), (0, 2, 1, 0.25)]


@given(st.integers(0, 10_000), st.integers(1, 60))
def test_confusions_are_the_matrix_beside_its_diagonal(seed: int, n: int) -> None:
    probabilities, labels = random_probabilities(seed, n, 4)
    matrix = reference.confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(4))
    np.fill_diagonal(matrix, 0)
    found = np.zeros((4, 4), int)
    for pair in Counts.of(probabilities, labels).confusions():
        found[pair.label, pair.predicted] = pair.count
    assert (found == matrix).all()


def by_rows(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the metrics by their definitions over all rows at once, in float64."""
    n, c = probabilities.shape
    predicted, rows = probabilities.argmax(axis=1), np.arange(n)
    known, said = np.bincount(labels, minlength=c), np.bincount(predicted, minlength=c)
    hits = np.bincount(labels[predicted == labels], minlength=c).astype(float)
    precision = np.divide(hits, said, out=np.zeros(c), where=said > 0)
    recall = np.divide(hits, known, out=np.zeros(c), where=known > 0)
    both = precision + recall
    f = np.divide(2 * precision * recall, both, out=np.zeros(c), where=both > 0)
    confidence, right = probabilities.max(axis=1), predicted == labels
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    sums = [np.bincount(bins, weights=values, minlength=15) for values in (confidence, right)]
    own = np.clip(probabilities[rows, labels].astype(float), 1e-15, 1 - 1e-15)
    return {
        "f1": (known / n * f).sum(),
        "accuracy": right.mean(),
        "weightedPrecision": (known / n * precision).sum(),
        "weightedRecall": (known / n * recall).sum(),
        "weightedFMeasure": (known / n * f).sum(),
        "hammingLoss": 1 - right.mean(),
        "logLoss": -np.log(own).mean(),
        "top3Accuracy": (best_labels(probabilities, 3) == labels[:, None]).any(axis=1).mean(),
        "expectedCalibrationError": np.abs(sums[0] - sums[1]).sum() / n,
    }


@pytest.mark.parametrize(("n", "c"), [(1, 2), (29, 3), (1000, 131), (20_000, 7)])
def test_metrics_of_counts_are_those_of_all_rows(n: int, c: int) -> None:
    probabilities, labels = random_probabilities(n, n, c)
    probabilities[::3] = np.round(probabilities[::3], 1)  # ties, zeros, and edges of bins
    values = evaluate(probabilities, labels, [str(label) for label in range(c)])
    for name, expected in by_rows(probabilities, labels).items():
        assert values[name] == pytest.approx(expected, abs=1e-9, rel=0), name


@given(st.integers(0, 10_000), st.integers(0, 60), st.integers(1, 6), st.integers(1, 9))
def test_counts_do_not_depend_on_parts_and_their_order(seed: int, n: int, c: int, size: int) -> None:
    probabilities, labels = random_probabilities(seed, n, c)
    whole = Counts.of(probabilities, labels)
    order = np.random.default_rng(seed).permutation(n)
    merged = Counts.none(c)
    for start in range(0, n, size):
        at = order[start : start + size]
        merged = Counts.from_bytes(Counts.of(probabilities[at], labels[at]).to_bytes()).merge(merged)
    assert merged.to_bytes() == whole.to_bytes()
    assert (merged.n, merged.confusions()) == (n, whole.confusions())


def test_sums_of_a_billion_photos_do_not_overflow() -> None:
    counts = Counts.of(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    for _ in range(30):
        counts = counts.merge(counts)
    assert counts.n == 2**30
    values = evaluate_counts(Counts.from_bytes(counts.to_bytes()), NAMES[:2])
    assert values["logLoss"] == pytest.approx(-math.log(1e-15))
    assert values["expectedCalibrationError"] == 1.0


def test_bins_give_the_means_within_them() -> None:
    rows = Bins.of(np.array([0.55, 0.55, 0.95], np.float32), np.array([True, False, True])).rows()
    assert [row["photos"] for row in rows if row["photos"]] == [2, 1]
    assert rows[8] == {"low": 8 / 15, "high": 9 / 15, "photos": 2, "confidence": pytest.approx(0.55), "accuracy": 0.5}
    assert rows[0]["confidence"] is None


def test_error_expected_of_true_probabilities_is_close_to_the_simulated_one() -> None:
    confidence = np.random.default_rng(0).beta(4, 1, 20_000).astype(np.float32)
    bins = Bins.of(confidence, np.ones(len(confidence), bool))
    assert bins.floor == pytest.approx(calibration_floor(confidence), rel=0.1)
