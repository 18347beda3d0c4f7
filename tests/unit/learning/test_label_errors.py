"""Labels that look wrong are found, right ones are left in peace."""

from __future__ import annotations

import numpy as np
import pytest

from fruits.learning.label_errors import find_label_errors, out_of_fold


def clouds(seed: int, labels: int = 4, each: int = 60, spread: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows around one axis per label."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(labels), each)
    rows = np.eye(labels, 8)[truth] + rng.normal(0, spread, (len(truth), 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), truth


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_moved_labels_are_found_with_what_they_were(seed: int) -> None:
    rows, truth = clouds(seed)
    moved = np.random.default_rng(seed).choice(len(truth), 12, replace=False)
    given = truth.copy()
    given[moved] = (truth[moved] + 1) % 4
    found = find_label_errors(rows, given, np.arange(len(truth)))
    assert set(found.rows.tolist()) == set(moved.tolist())
    assert (found.suggested == truth[found.rows]).all()
    assert (found.suggested_probability > found.given_probability).all()


def test_right_labels_are_not_suspected() -> None:
    rows, truth = clouds(3)
    assert len(find_label_errors(rows, truth, np.arange(len(truth))).rows) == 0


def test_the_clearest_case_comes_first() -> None:
    rows, truth = clouds(4)
    given = truth.copy()
    given[:5] = 1
    found = find_label_errors(rows, given, np.arange(len(truth)))
    certainty = found.suggested_probability - found.given_probability
    assert len(found.rows) >= 5
    assert (np.diff(certainty) <= 0).all()


def test_copies_do_not_vouch_for_each_other() -> None:
    """A wrong label on a photo and on its copies is found only if they are all asked of those that remain."""
    rows, truth = clouds(5)
    given = truth.copy()
    rows = np.concatenate([rows, np.repeat(rows[:1], 8, axis=0)])
    given = np.concatenate([given, np.full(8, 2)])
    given[0] = 2
    groups = np.r_[np.arange(len(truth)), np.zeros(8, int)]
    assert {0, *range(len(truth), len(rows))} <= set(find_label_errors(rows, given, groups).rows.tolist())


def test_every_row_gets_probabilities_of_a_head_that_has_not_learnt_it() -> None:
    rows, truth = clouds(6, each=15)
    parts = list(out_of_fold(rows, truth, np.arange(len(truth))))
    assert sorted(row for asked, _, _ in parts for row in asked.tolist()) == list(range(len(truth)))
    for _, known, probabilities in parts:
        assert known.tolist() == [0, 1, 2, 3]
        # float32 softmax over four labels
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    lone = np.r_[truth, 4]
    parts = list(out_of_fold(np.vstack([rows, rows[:1]]), lone, np.arange(len(lone))))
    (known,) = [known for asked, known, _ in parts if len(truth) in asked]
    assert known.tolist() == [0, 1, 2, 3], "a label of one photo is not learnt when that photo is asked"


def test_a_label_of_one_photo_is_never_an_error() -> None:
    rows, truth = clouds(7)
    found = find_label_errors(np.vstack([rows, rows[:1]]), np.r_[truth, 4], np.arange(len(truth) + 1))
    assert len(truth) not in found.rows
