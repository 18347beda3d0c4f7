"""Counts in tenths of the training photos tell photos of the same sort from others."""

from __future__ import annotations

import numpy as np
import pytest

from fruits.learning.drift import Drift

RNG = np.random.default_rng(7)


def photos(n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    features = RNG.normal(size=(n, 20)).astype(np.float32)
    features[:, 3] += shift
    return features, (np.abs(features[:, :2]).sum(axis=1) + shift).astype(np.float32)


def counted(drift: Drift, features: np.ndarray, ood_score: np.ndarray) -> np.ndarray:
    bins = drift.bins(features, ood_score)
    return np.stack([np.bincount(column, minlength=10) for column in bins.T])


def test_training_photos_fill_every_tenth_the_same() -> None:
    drift = Drift.of(*photos(5000))
    assert drift.edges.shape == (17, 9)
    np.testing.assert_allclose(drift.shares, 0.1, atol=0.002)


def test_photos_of_the_same_sort_show_what_chance_gives_and_others_stand_out() -> None:
    drift = Drift.of(*photos(20_000))
    same = drift.psi(counted(drift, *photos(2000)))
    assert same.mean() == pytest.approx(drift.chance(2000), rel=0.5)
    moved = drift.psi(counted(drift, *photos(2000, shift=1.0)))
    assert moved[0] > 0.25  # out-of-distribution score
    assert moved[4] > 0.25  # the feature that moved
    assert np.delete(moved, [0, 4]).max() < 0.1


def test_counts_add_up_over_days() -> None:
    drift = Drift.of(*photos(1000))
    features, ood_score = photos(300)
    parts = counted(drift, features[:100], ood_score[:100]) + counted(drift, features[100:], ood_score[100:])
    np.testing.assert_array_equal(parts, counted(drift, features, ood_score))


def test_no_photos_and_equal_numbers_are_no_drift() -> None:
    flat = np.zeros((50, 2), np.float32)
    drift = Drift.of(flat, flat[:, 0])
    assert drift.psi(np.zeros((3, 10), np.int64)).tolist() == [0, 0, 0]
    np.testing.assert_allclose(drift.psi(counted(drift, flat, flat[:, 0])), 0, atol=0.05)
    assert np.isfinite(drift.psi(counted(drift, flat + 1, flat[:, 0] + 1))).all()


def test_few_photos_fall_into_the_bins_that_they_would_among_many() -> None:
    rng = np.random.default_rng(3)
    features, scores = (np.round(rng.normal(size=shape), 1).astype(np.float32) for shape in ((300, 20), (300,)))
    scores[:3] = np.nan, np.inf, -np.inf  # on edges, too, of which rounded numbers hit many
    drift = Drift.of(features[3:], scores[3:])
    alone = np.concatenate([drift.bins(features[row : row + 1], scores[row : row + 1]) for row in range(300)])
    np.testing.assert_array_equal(alone, drift.bins(features, scores))
    assert alone.dtype == np.int64
    assert {0, 9} <= set(alone.ravel().tolist())
