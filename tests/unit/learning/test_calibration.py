"""How sure an answer may sound: a temperature found again, a limit that keeps its word, and what chance alone misses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.learning.calibration import (
    DEFAULT_CERTAIN,
    LEAST_PROBABLE,
    calibration_floor,
    certain_from,
    precision_by_coverage,
    sure_precision,
    temperature,
)
from fruits.learning.heads import softmax
from fruits.learning.metrics import expected_calibration_error


def calibrated(seed: int, n: int = 5000, c: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose probabilities are true, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(n, c))).astype(np.float32)
    truth = (softmax(logits).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return logits, truth


# --- Temperature --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_temperature", [0.3, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_temperature_is_found_again(given_temperature: float, seed: int) -> None:
    logits, truth = calibrated(seed)
    found = temperature(logits * np.float32(given_temperature), truth)
    # Of 5,000 photos, known to about 2 %; label smoothing adds one or two.
    assert found == pytest.approx(given_temperature, rel=0.06)


def test_dividing_by_the_temperature_mends_the_calibration() -> None:
    logits, truth = calibrated(7)
    bold = logits * np.float32(3)
    errors = []
    for one in (bold, bold / np.float32(temperature(bold, truth))):
        probabilities = softmax(one)
        errors.append(expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth))
    assert errors[0] > 0.15
    # What chance leaves of 5,000 photos, and a temperature that is out by 6 %.
    assert errors[1] < 0.03


def test_answers_that_are_all_right_do_not_make_certainty_without_end() -> None:
    truth = np.arange(500) % 5
    logits = 3 * np.eye(5, dtype=np.float32)[truth]
    found = temperature(logits, truth)
    probability = softmax(logits / np.float32(found)).max(axis=1)
    # Label smoothing of two in a thousand, so at most about that much certainty.
    assert (probability > 0.99).all()
    assert (probability < 0.9995).all()


@given(st.integers(0, 1000), st.floats(-30, 30), st.integers(1, 30))
def test_temperature_is_positive_and_finite_and_depends_on_differences_only(seed: int, shift: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits, truth = rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, 4, n)
    found = temperature(logits, truth)
    assert 0 < found < 100
    # A shift of 30 costs float32 five of its 24 bits.
    assert temperature(logits + np.float32(shift), truth) == pytest.approx(found, rel=1e-2)


@pytest.mark.parametrize("size", [0.0, 1e6, 1e30])
def test_extreme_logits_give_a_finite_temperature(size: float) -> None:
    logits = np.float32(size) * np.eye(4, dtype=np.float32)
    for truth in (np.arange(4), (np.arange(4) + 1) % 4):
        assert 0 < temperature(logits, truth) < 100


# --- From where on an answer is certain -----------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(20, 400), st.floats(0.2, 3), st.sampled_from([2, 20, 1000]))
def test_answers_beyond_the_limit_are_right_often_enough(seed: int, n: int, slope: float, steps: int) -> None:
    rng = np.random.default_rng(seed)
    # In few steps, many answers are equally probable.
    probability = (np.ceil(rng.uniform(0.5, 1, n) * steps) / steps).astype(np.float32)
    right = rng.random(n) < probability**slope
    limit = certain_from(probability, right, 0.9)
    certain = probability >= limit
    assert limit >= 0.5
    if limit <= 1:
        assert certain.sum() >= 20
        assert right[certain].mean() >= 0.9
    else:
        assert not certain.any()


def test_limit_is_the_lowest_that_keeps_the_word() -> None:
    probability = np.linspace(1, 0.5, 500, dtype=np.float32)
    limit = certain_from(probability, probability > 0.75, 0.9)
    # All right down to 0.75 and none below: a share of 0.9 is met until a ninth more are wrong, less what could be luck.
    assert 0.75 - 0.25 / 9 < limit < 0.745
    share = np.mean(probability[probability >= limit] > 0.75)
    assert 0.9 <= share < 0.93


def test_order_of_the_photos_does_not_move_the_limit() -> None:
    rng = np.random.default_rng(0)
    probability = (rng.integers(10, 20, 300) / 20).astype(np.float32)
    right = rng.random(300) < probability
    order = rng.permutation(300)
    assert certain_from(probability[order], right[order], 0.9) == certain_from(probability, right, 0.9)


def test_where_every_answer_is_right_half_is_enough_and_no_less() -> None:
    probability = np.linspace(0.3, 1, 100, dtype=np.float32)
    assert certain_from(probability, np.ones(100, bool), 0.9) == 0.5
    assert certain_from(probability, np.ones(100, bool), 0.9, least=LEAST_PROBABLE) == pytest.approx(1 / 3, abs=0.01)


def test_where_no_answer_is_right_nothing_is_certain() -> None:
    limit = certain_from(np.ones(100, np.float32), np.zeros(100, bool), 0.9)
    assert limit > 1
    assert not (np.ones(1, np.float32) >= limit).any()


def test_too_few_photos_leave_the_limit_as_it_was() -> None:
    assert certain_from(np.ones(19, np.float32), np.ones(19, bool), 0.9) == DEFAULT_CERTAIN
    assert certain_from(np.empty(0, np.float32), np.empty(0, bool), 0.9) == DEFAULT_CERTAIN
    assert certain_from(np.ones(19, np.float32), np.ones(19, bool), 0.9, default=0.6) == 0.6


def test_photos_that_could_not_speak_for_a_high_precision_however_right_leave_the_limit_as_it_was() -> None:
    # Of 36 right answers of 36 the lower end is 36 / 37, less than what is asked; of 37 it is 37 / 38, enough.
    for n, limit in ((36, DEFAULT_CERTAIN), (37, 0.5)):
        assert certain_from(np.full(n, 0.45, np.float32), np.ones(n, bool), 36.5 / 37.5) == limit


def test_few_photos_that_are_wrong_leave_nothing_certain() -> None:
    probability = np.linspace(0.5, 1, 30, dtype=np.float32)
    assert certain_from(probability, np.ones(30, bool), 0.973) == DEFAULT_CERTAIN
    assert certain_from(probability, np.zeros(30, bool), 0.973) > 1
    # Nothing beyond the default was asked, so nothing speaks against it.
    assert certain_from(probability / 2, np.zeros(30, bool), 0.973) == DEFAULT_CERTAIN


def test_photos_that_no_answer_could_be_right_for_do_not_count() -> None:
    # Sixty photos, thirty of them with a variety; the others are never taken for one beyond the default.
    probability = np.r_[np.full(30, 0.95), np.full(30, 0.3)].astype(np.float32)
    right = np.arange(60) < 30
    assert certain_from(probability, right, 0.973) > 1
    assert certain_from(probability, right, 0.973, photos=30) == DEFAULT_CERTAIN
    # Where they are, they speak against it.
    assert certain_from(np.full(60, 0.95, np.float32), right, 0.973, photos=30) > 1


# --- Precision against coverage -------------------------------------------------------------------------------------------


def test_sure_answers_may_be_wrong_a_third_as_often() -> None:
    assert sure_precision(0.92) == pytest.approx(0.97333, abs=1e-5)
    assert sure_precision(0.7) == pytest.approx(0.9)


@given(st.integers(0, 10_000), st.integers(0, 600), st.integers(0, 50), st.sampled_from([3, 40, 100_000]))
def test_curve_says_what_each_limit_would_give(seed: int, n: int, silent: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    probability = (np.ceil(rng.uniform(0, 1, n) * steps) / steps).astype(np.float32)
    right = rng.random(n) < probability
    curve = precision_by_coverage(probability, right, n + silent)
    assert len(curve) <= 100
    assert (not curve) == (n < 20)
    for limit, coverage, precision in curve:
        answered = probability >= np.float32(limit)
        assert coverage == pytest.approx(answered.sum() / (n + silent))
        assert precision == pytest.approx(right[answered].mean())
    assert [point[0] for point in curve] == sorted((point[0] for point in curve), reverse=True)
    if curve:  # down to the last answer
        assert curve[-1][1] == pytest.approx(n / (n + silent))


# --- What chance alone misses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_floor_is_what_a_calibrated_recogniser_shows(n: int) -> None:
    # All in one bin: the mean distance of a binomial share from its expectation, sqrt(2 p q / (pi n)).
    expected = np.sqrt(2 * 0.8 * 0.2 / (np.pi * n))
    # The mean of 100 draws of a half normal: known to 0.76 / 10 of itself.
    assert calibration_floor(np.full(n, 0.8, np.float32)) == pytest.approx(expected, rel=0.2)


def test_floor_of_certain_answers_is_nought_and_it_is_the_same_every_time() -> None:
    assert calibration_floor(np.ones(50, np.float32)) == 0.0
    confidence = np.random.default_rng(0).uniform(0.4, 1, 200).astype(np.float32)
    assert calibration_floor(confidence) == calibration_floor(confidence)
    assert calibration_floor(confidence) > calibration_floor(np.repeat(confidence, 16)) > 0
