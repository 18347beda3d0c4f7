"""Protocols hold out what they say and nothing is both learnt and asked; intervals are those of whole groups."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.learning import folds as protocols
from fruits.learning.folds import ARCS, FOLDS, GAP, Fold


def assert_disjoint(folds: list[Fold], n: int) -> None:
    for fold in folds:
        assert len(fold.train) > 0 < len(fold.test)
        assert not set(fold.train.tolist()) & set(fold.test.tolist())
        for rows in (fold.train, fold.test):
            assert (np.diff(rows) > 0).all()
            assert ((rows >= 0) & (rows < n)).all()


def asked(folds: list[Fold]) -> Counter[int]:
    return Counter(row for fold in folds for row in fold.test.tolist())


def assert_asked_once(folds: list[Fold], rows: np.ndarray) -> None:
    assert asked(folds) == dict.fromkeys(rows.tolist(), 1)


# --- Official -----------------------------------------------------------------------------------------------------------


def test_official_split_is_taken_as_it_is() -> None:
    split = np.array(["train", "test", "val", "train", "test"])
    (fold,) = protocols.official(split == "train", split == "test")
    assert (fold.train.tolist(), fold.test.tolist()) == ([0, 3], [1, 4])


def test_split_with_nothing_to_ask_has_no_fold() -> None:
    assert protocols.official(np.array([True, True]), np.array([False, False])) == []
    assert protocols.official(np.array([False, False]), np.array([True, True])) == []


# --- Sources ------------------------------------------------------------------------------------------------------------


def test_every_source_is_asked_once_by_what_the_others_taught() -> None:
    source = np.array([2, 0, 0, -1, 1, 2, -1])
    folds = protocols.held_out_sources(source)
    assert_disjoint(folds, len(source))
    assert [fold.test.tolist() for fold in folds] == [[1, 2], [4], [0, 5]]
    assert all({3, 6} <= set(fold.train.tolist()) for fold in folds), "of unknown source: always learnt"


@pytest.mark.parametrize("source", [[-1, -1], [4, 4, 4], [4, -1]])
def test_fewer_than_two_sources_are_no_protocol(source: list[int]) -> None:
    assert protocols.held_out_sources(np.array(source)) == []


# --- Axes ---------------------------------------------------------------------------------------------------------------

# Rows of (label, axis), any axes: some sequences may have been taken out.
rows_of_sequences = st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 3)), min_size=1, max_size=60)


@given(rows_of_sequences)
def test_every_sequence_of_a_label_that_has_several_is_held_out_whole_and_once(pairs: list[tuple[int, int]]) -> None:
    labels, axis = np.array(pairs, np.int64).T
    several = {label for label in set(labels.tolist()) if len(set(axis[labels == label].tolist()) - {-1}) > 1}
    folds = protocols.held_out_axis(axis, labels)
    assert_disjoint(folds, len(labels))
    assert_asked_once(folds, np.flatnonzero(np.isin(labels, list(several)) & (axis >= 0)))
    for fold in folds:
        sequences = {(label, ax) for label, ax in zip(labels[fold.test], axis[fold.test], strict=True)}
        learnt = {(label, ax) for label, ax in zip(labels[fold.train], axis[fold.train], strict=True)}
        assert not sequences & learnt
        # All else is learnt, and of every label that is asked there is another sequence.
        assert len(fold.train) + len(fold.test) == len(labels)
        assert {label for label, _ in sequences} <= {label for label, ax in learnt if ax >= 0}


def test_labels_with_one_sequence_are_learnt_and_never_asked() -> None:
    labels, axis = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 0, -1, -1])
    folds = protocols.held_out_axis(axis, labels)
    assert [(fold.train.tolist(), fold.test.tolist()) for fold in folds] == [
        ([1, 2, 3, 4, 5], [0]),
        ([0, 2, 3, 4, 5], [1]),
    ]
    assert protocols.held_out_axis(np.zeros(6, np.int64), labels) == []
    assert protocols.held_out_axis(np.full(6, -1), labels) == []


# --- Arcs ---------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(-1, 3), st.floats(0, 1, exclude_max=True)), min_size=1, max_size=80),
)
def test_every_frame_is_asked_once_with_a_gap_to_all_that_is_learnt_of_its_sequence(
    pairs: list[tuple[int, float]],
) -> None:
    sequence, turn = np.array([sequence for sequence, _ in pairs], np.int64), np.array([turn for _, turn in pairs])
    folds = protocols.held_out_arc(sequence, turn)
    assert_disjoint(folds, len(sequence))
    for fold in folds:
        assert set(np.flatnonzero(sequence < 0).tolist()) <= set(fold.train.tolist())
        assert (sequence[fold.test] >= 0).all()
        same = sequence[fold.test][:, None] == sequence[fold.train][None]
        around = np.abs(turn[fold.test][:, None] - turn[fold.train][None])
        gap = np.minimum(around, 1 - around)
        assert (gap[same] >= GAP - 1e-12).all()  # remainders of float64
    # A fold without anything to learn is none; all others ask every frame once.
    assert set(asked(folds).values()) <= {1}
    assert set(asked(folds)) <= set(np.flatnonzero(sequence >= 0).tolist())


def test_arcs_of_a_full_turn_ask_every_frame_and_leave_a_sixteenth_out_on_both_sides() -> None:
    sequence, turn = np.repeat([0, 1], 320), np.tile(np.arange(320) / 320, 2)
    folds = protocols.held_out_arc(sequence, turn)
    assert len(folds) == ARCS
    assert_asked_once(folds, np.arange(640))
    for number, fold in enumerate(folds):
        assert sorted(set(turn[fold.test].tolist())) == [i / 320 for i in range(80 * number, 80 * (number + 1))]
        assert len(fold.train) == 640 - len(fold.test) - 2 * 2 * 20  # two sequences, two sides, a sixteenth of 320


def test_photos_without_sequences_have_no_arcs() -> None:
    assert protocols.held_out_arc(np.full(5, -1), np.zeros(5)) == []


# --- Varieties ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(1, 8))
def test_varieties_are_held_out_once_and_their_kind_is_always_learnt(varieties: list[int], kinds: int) -> None:
    variety = np.array(varieties, np.int64)
    kind = variety % kinds
    folds = protocols.held_out_variety(variety, kind)
    assert_disjoint(folds, len(variety))
    several = [k for k in set(kind.tolist()) if len(set(variety[kind == k].tolist())) > 1]
    assert_asked_once(folds, np.flatnonzero(np.isin(kind, several)))
    for fold in folds:
        assert not set(variety[fold.test].tolist()) & set(variety[fold.train].tolist())
        assert set(kind[fold.test].tolist()) <= set(kind[fold.train].tolist())
        assert len(fold.train) + len(fold.test) == len(variety)


def test_kinds_of_one_variety_are_learnt_in_every_fold() -> None:
    variety, kind = np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1])
    lonely = protocols.held_out_variety(np.array([*variety, 4]), np.array([*kind, 2]))
    assert all(4 in fold.train for fold in lonely)
    assert protocols.held_out_variety(variety, np.arange(4)) == []


# --- Groups ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 4)), min_size=1, max_size=100))
def test_groups_are_held_out_whole_and_once(pairs: list[tuple[int, int]]) -> None:
    groups, labels = np.array(pairs, np.int64).T
    folds = protocols.held_out_groups(groups, labels)
    assert_disjoint(folds, len(groups))
    if len(set(groups.tolist())) == 1:
        assert folds == []
        return
    assert_asked_once(folds, np.arange(len(groups)))
    for fold in folds:
        assert not set(groups[fold.test].tolist()) & set(groups[fold.train].tolist())
        assert len(fold.train) + len(fold.test) == len(groups)


def test_groups_of_a_label_are_dealt_evenly() -> None:
    labels = np.repeat(np.arange(6), 50)
    groups = np.arange(300) // 5
    folds = protocols.held_out_groups(groups, labels)
    assert len(folds) == FOLDS
    for fold in folds:
        assert np.bincount(labels[fold.test]).tolist() == [10] * 6


def test_labels_of_few_groups_do_not_all_fall_into_the_same_fold() -> None:
    labels = np.repeat(np.arange(10), 4)
    folds = protocols.held_out_groups(np.arange(40) // 2, labels)  # two groups each
    assert len(folds) == FOLDS
    assert {len(fold.test) for fold in folds} == {8}


# --- Intervals --------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 20))
def test_interval_is_a_share_and_exact_where_nothing_can_vary(seed: int, n: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    right, group = rng.random(n) < rng.random(), rng.integers(0, groups, n)
    low, high = protocols.interval(right, group, draws=300)
    assert 0 <= low <= high <= 1
    assert low <= right.mean() + 1e-9
    assert high >= right.mean() - 1e-9
    if right.all() or not right.any() or len(set(group.tolist())) == 1:
        assert high - low > 0.0, "nothing varies, but neither is anything certain"


def test_interval_of_one_right_photo_is_wide() -> None:
    low, high = protocols.interval(np.array([True]), np.array([0]))
    assert low < 0.25  # Wilson's interval of one success in one trial: 0.207 to 1
    assert high == 1.0


def test_interval_of_single_photos_is_that_of_the_binomial() -> None:
    right = np.arange(400) % 5 > 0
    low, high = protocols.interval(right, np.arange(400))
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    # 2,000 draws: the ends are known to about a tenth of the half width.
    assert low == pytest.approx(0.8 - half, abs=half / 8)
    assert high == pytest.approx(0.8 + half, abs=half / 8)


def test_fewer_groups_make_a_wider_interval() -> None:
    rng = np.random.default_rng(0)
    width = []
    for groups in (400, 100, 25):
        # Photos of a group stand or fall together.
        right = np.repeat(rng.random(groups) < 0.8, 400 // groups)
        low, high = protocols.interval(right, np.repeat(np.arange(groups), 400 // groups))
        width.append(high - low)
    assert width[0] * 1.5 < width[1] < width[2] / 1.5  # by the root of four, give or take


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        truth = rng.beta(16, 4, 60)  # of each group; 0.8 on average
        group = np.repeat(np.arange(60), 10)
        low, high = protocols.interval(rng.random(600) < truth[group], group, draws=400)
        covered += low <= 0.8 <= high
    # 95 of 100 give or take two standard errors of 2.2; percentiles of 60 groups are a little too narrow.
    assert covered >= 89


def test_interval_is_the_same_every_time() -> None:
    right, group = np.arange(50) % 3 > 0, np.arange(50) // 5
    assert protocols.interval(right, group) == protocols.interval(right, group)


def test_interval_does_not_depend_on_the_order_or_the_numbers_of_groups() -> None:
    rng = np.random.default_rng(2)
    right, group = rng.random(300) < 0.7, rng.integers(0, 40, 300)
    order = rng.permutation(300)
    assert protocols.interval(right[order], 1000 - group[order]) == protocols.interval(right, group)


def test_interval_of_a_million_single_photos_is_that_of_the_binomial() -> None:
    right = np.arange(1_000_000) % 100 > 0
    low, high = protocols.interval(right, np.arange(1_000_000))
    half = 1.96 * np.sqrt(0.99 * 0.01 / 1_000_000)
    assert (low, high) == pytest.approx((0.99 - half, 0.99 + half), abs=half / 8)


@given(st.integers(0, 1000), st.integers(1, 80), st.integers(1, 30))
def test_interval_of_merged_group_counts_is_that_of_all_photos(seed: int, n: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    right, group = rng.random(n) < rng.random(), rng.integers(0, groups, n)
    part = rng.integers(0, 3, groups)[group]  # whole groups
    parts = [protocols.group_counts(right[part == one], group[part == one]) for one in (2, 0, 1)]
    merged = protocols.merge_group_counts(parts[0], protocols.merge_group_counts(parts[1], parts[2]))
    assert merged.tolist() == protocols.group_counts(right, group).tolist()
    assert protocols.interval_of(merged) == protocols.interval(right, group)


def test_interval_is_the_same_if_its_draws_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    right, groups = rng.random(500) < 0.8, rng.integers(0, 120, 500)
    whole = protocols.interval(right, groups)
    monkeypatch.setattr(protocols, "_COUNTS_AT_ONCE", 100)
    assert protocols.interval(right, groups) == whole


def test_many_groups_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    group = np.unique(rng.integers(0, 90, 300), return_inverse=True)[1]
    right = rng.random(300) < 0.7
    hits, sizes = np.bincount(group, right).astype(np.int32), np.bincount(group)
    expected = protocols.group_counts(right, group)
    monkeypatch.setattr(protocols, "_GROUPS_AT_ONCE", 7)
    found = protocols.count_groups(hits, sizes)
    assert found.dtype == np.int64
    assert found.tolist() == expected.tolist() == protocols.count_groups(np.r_[0, hits], np.r_[0, sizes]).tolist()
