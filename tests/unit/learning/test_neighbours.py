"""Nearest rows, against brute force; chains of near ones; and from where on photos count as near-duplicates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.learning import neighbours
from fruits.learning.moments import unit
from fruits.learning.neighbours import NearDuplicates, connected_groups, groups_within, nearest, nearest_distance

# Cosines in float32: rows of up to 20 numbers of length 1, summed in another order.
ROUNDING = 1e-6


def directions(seed: int, n: int, k: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, k)).astype(np.float32))


def at_angles(*degrees: float) -> np.ndarray:
    """Unit rows in a plane."""
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def apart(degrees: float) -> float:
    """Distance of two rows at that angle."""
    return float(1 - np.cos(np.radians(degrees)))


# --- Nearest ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 50))
def test_nearest_are_those_of_brute_force(seed: int, m: int, n: int, k: int, count: int) -> None:
    queries, bank = directions(seed, m, k), directions(seed + 1, n, k)
    distance, index = nearest(queries, bank, count=count)
    expected = 1 - queries.astype(np.float64) @ bank.astype(np.float64).T
    assert distance.shape == index.shape == (m, min(count, n))
    assert all(len(set(row)) == len(row) for row in index.tolist())
    np.testing.assert_allclose(distance, np.sort(expected, axis=1)[:, :count], atol=ROUNDING)
    np.testing.assert_allclose(distance, np.take_along_axis(expected, index, 1), atol=ROUNDING)
    assert (distance >= 0).all()


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 30), st.integers(1, 4), st.integers(1, 6))
def test_rows_of_the_same_mark_are_never_neighbours(seed: int, m: int, n: int, marks: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    queries, bank = directions(seed, m, 5), directions(seed + 1, n, 5)
    own, theirs = rng.integers(0, marks, m), rng.integers(0, marks, n)
    distance, index = nearest(queries, bank, count=count, other_than=(own, theirs))
    expected = np.where(own[:, None] == theirs[None], np.inf, 1 - queries.astype(np.float64) @ bank.T)
    np.testing.assert_allclose(distance, np.sort(expected, axis=1)[:, :count], atol=ROUNDING)
    found = np.isfinite(distance)
    assert (theirs[index[found]] != np.repeat(own, found.sum(axis=1))).all()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=400), st.integers(1, 10))
def test_of_equally_near_rows_the_lower_number_comes_first(tens: list[int], count: int) -> None:
    _, index = nearest(at_angles(0), at_angles(*(10 * angle for angle in tens)), count=count)
    assert index.tolist() == [sorted(range(len(tens)), key=lambda row: (tens[row], row))[:count]]


def test_more_queries_than_a_block_are_all_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank = directions(0, 50, 8), directions(1, 60, 8)
    marks = np.arange(50) % 3, np.arange(60) % 3
    whole = nearest(queries, bank, count=3, other_than=marks)
    monkeypatch.setattr(neighbours, "_BLOCK", 7)
    pieces = nearest(queries, bank, count=3, other_than=marks)
    np.testing.assert_allclose(pieces[0], whole[0], atol=ROUNDING)
    assert (pieces[1] == whole[1]).all()


def test_no_queries_have_no_neighbours() -> None:
    distance, index = nearest(np.empty((0, 3), np.float32), directions(0, 4, 3), count=2)
    assert distance.shape == index.shape == (0, 2)


def test_distance_to_a_bank_is_the_same_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(50, 6)).astype(np.float32)
    bank, marks = rng.permutation(50)[:37], rng.integers(0, 4, 50)
    queries = unit(rows[:20])
    whole = nearest(queries, unit(rows[bank]), other_than=(marks[:20], marks[bank]))[0][:, 0]
    monkeypatch.setattr(neighbours, "_CHUNK", 5)
    found = nearest_distance(queries, rows, bank, other_than=(marks[:20], marks[bank]))
    np.testing.assert_allclose(found, whole, atol=ROUNDING)


def test_unit_rows_have_length_one_and_nought_stays() -> None:
    rows = np.array([[3, 4], [0, 0], [1e-5, 0]], np.float32)
    np.testing.assert_allclose(unit(rows), [[0.6, 0.8], [0, 0], [1, 0]], atol=ROUNDING)


# --- Groups ---------------------------------------------------------------------------------------------------------------


def test_rows_are_chained_even_where_the_ends_are_far_apart() -> None:
    rows = at_angles(0, 90, 2, 4, 91, 6, 180, 8)
    groups = groups_within(rows, apart(2.5))
    assert groups.tolist() == [0, 1, 0, 0, 1, 0, 2, 0]
    assert groups_within(rows, apart(0.5)).tolist() == list(range(8))


def test_single_row_is_a_group() -> None:
    assert groups_within(at_angles(0), 0.1).tolist() == [0]
    assert groups_within(np.empty((0, 2), np.float32), 0.1).tolist() == []


def test_many_copies_of_one_row_are_one_group() -> None:
    assert set(groups_within(np.repeat(at_angles(0, 90), 40, axis=0), 1e-6)[:40].tolist()) == {0}


@given(st.integers(0, 10_000), st.integers(1, 40), st.floats(0, 0.5))
def test_groups_are_those_of_all_pairs_within(seed: int, n: int, threshold: float) -> None:
    rows = directions(seed, n, 3)
    # No pair so close to the threshold that rounding decides.
    distance = 1 - rows.astype(np.float64) @ rows.T
    clear = np.abs(distance - threshold) > 2 * ROUNDING
    groups = groups_within(rows, threshold, count=n)
    near = (distance <= threshold) & clear
    assert (groups[np.nonzero(near)[0]] == groups[np.nonzero(near)[1]]).all()
    if clear.all():
        reached = np.linalg.matrix_power((near | np.eye(n, dtype=bool)).astype(float), n) > 0
        assert ((groups[:, None] == groups[None]) == reached).all()


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30), st.randoms(use_true_random=False))
def test_chains_do_not_depend_on_the_order_of_the_pairs(pairs: list[tuple[int, int]], random: object) -> None:
    def numbered(some: list[tuple[int, int]]) -> list[int]:
        left, right = np.array(some, np.int64).reshape(-1, 2).T
        return connected_groups(left, right, 20).tolist()

    groups = numbered(pairs)
    assert groups == numbered([pair[::-1] for pair in random.sample(pairs, len(pairs))])
    # Numbered in the order of the rows: every group's first row comes after the first rows of lower groups.
    assert list(dict.fromkeys(groups)) == list(range(max(groups) + 1))


# --- Near-duplicates --------------------------------------------------------------------------------------------------------


def test_threshold_lets_copies_in_and_other_labels_out() -> None:
    originals = at_angles(*range(20))
    copies = at_angles(*(angle + 3 for angle in range(20)))
    rows, labels = at_angles(*range(20), *range(60, 80)), np.repeat([0, 1], 20)
    found = NearDuplicates.derive(originals, copies, rows, labels)
    assert found.copies == pytest.approx(apart(3), rel=1e-3)  # a cosine near 1, in float32
    # The nearest of another label: 41 degrees for the rows at 19 and 60, one more for each step away.
    assert apart(41) < found.other_labels < apart(43)
    assert found.threshold == found.copies
    assert found.chance == 0.0


def test_threshold_stays_below_what_other_labels_allow() -> None:
    originals, copies = at_angles(*range(20)), at_angles(*(angle + 30 for angle in range(20)))
    rows, labels = at_angles(*range(40)), np.arange(40) % 2
    found = NearDuplicates.derive(originals, copies, rows, labels)
    # Labels alternate, a degree apart: within the threshold of copies everything would be a near-duplicate.
    assert found.threshold == found.other_labels == pytest.approx(apart(1), rel=1e-2)
    assert found.threshold < found.copies


def test_chance_is_the_share_of_photos_so_near_to_another_label() -> None:
    rng = np.random.default_rng(0)
    rows, labels = directions(1, 400, 4), rng.integers(0, 3, 400)
    originals = rows[:100]
    copies = unit(originals + rng.normal(scale=0.1, size=originals.shape).astype(np.float32))
    found = NearDuplicates.derive(originals, copies, rows, labels)
    distance = nearest(rows, rows, other_than=(labels, labels))[0][:, 0]
    assert found.threshold == min(found.copies, found.other_labels)
    assert found.chance == np.mean(distance <= found.threshold)
    assert found.chance <= 0.05 + 1 / 400  # of 400 photos, the one at the quantile itself


def test_files_under_two_labels_do_not_lower_the_threshold_of_a_sample() -> None:
    originals, copies = at_angles(0, 0, 0), at_angles(2, 2, 2)
    others = np.array([0.0, 0.0, 0.0, apart(40), apart(50)], np.float32)
    assert NearDuplicates.of(originals, copies, others).threshold == pytest.approx(apart(2), abs=ROUNDING)
    assert NearDuplicates.of(originals, copies, others[:3]).threshold == pytest.approx(apart(2), abs=ROUNDING)


def test_a_single_label_leaves_the_word_to_the_copies() -> None:
    rows = at_angles(*range(30))
    found = NearDuplicates.derive(rows, at_angles(*(angle + 1 for angle in range(30))), rows, np.zeros(30, np.int64))
    assert (found.threshold, found.other_labels, found.chance) == (found.copies, 2.0, 0.0)
