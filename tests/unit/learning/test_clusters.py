"""Photos of a label that look alike, and whether the numbers in file names tell the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.learning.clusters import CLUSTERS, cluster, numbers_are_informative, sketch


def visits(
    labels: int, groups: int, per_group: int, *, within: float, seed: int = 0, k: int = 20
) -> tuple[np.ndarray, ...]:
    """Rows, labels and groups: each group of a label lies elsewhere, its rows ``within`` of each other."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(labels * groups, k))
    group = np.repeat(np.arange(labels * groups), per_group)
    rows = centres[group] + within * rng.normal(size=(len(group), k))
    return rows.astype(np.float32), group // groups, group


# --- Sketches -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 300), st.integers(1, 59))
def test_sketch_does_not_depend_on_the_batch(seed: int, n: int, d: int, cut: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    whole = sketch(rows)
    pieces = np.concatenate([sketch(rows[:cut]), sketch(rows[cut:])])
    assert whole.dtype == np.float32
    assert (whole == pieces).all()


def test_sketch_keeps_angles_roughly_and_forgets_length() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 300)).astype(np.float32)
    rows[20:] = rows[:20] + 0.5 * rows[20:]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    small = sketch(rows)
    # 64 random axes: an inner product is out by about 1/8.
    np.testing.assert_allclose(small @ small.T, unit @ unit.T, atol=0.6)
    assert np.abs(small @ small.T - unit @ unit.T).mean() < 0.15
    np.testing.assert_allclose(sketch(7 * rows), small, atol=2e-4)  # rounded to four digits


def test_sketch_of_nothing_but_noughts_is_nought() -> None:
    assert not sketch(np.zeros((2, 5), np.float32)).any()


# --- Whether numbers tell -------------------------------------------------------------------------------------------------


def test_numbers_tell_where_frames_of_a_span_are_alike() -> None:
    rows, labels, groups = visits(5, 6, 10, within=0.2)
    assert numbers_are_informative(rows, labels, groups)


def test_numbers_of_unrelated_photos_tell_nothing() -> None:
    rows, labels, groups = visits(5, 6, 10, within=0.2)
    assert not numbers_are_informative(rows, labels, np.random.default_rng(1).permutation(groups))


def test_photos_that_are_alone_in_their_group_tell_nothing() -> None:
    rows, labels, _ = visits(5, 6, 10, within=0.2)
    assert not numbers_are_informative(rows, labels, np.arange(len(rows)))


def test_groups_that_span_labels_are_looked_at_within_each() -> None:
    rows, labels, groups = visits(5, 6, 10, within=0.2)
    assert numbers_are_informative(rows, labels, groups % 6)


@pytest.mark.parametrize("n", [1, 2])
def test_very_few_photos_tell_nothing(n: int) -> None:
    labels = np.arange(4).repeat(n)
    rows = np.random.default_rng(0).normal(size=(4 * n, 5)).astype(np.float32)
    assert not numbers_are_informative(rows, labels, np.arange(4 * n))


def test_photos_that_are_all_the_same_tell_nothing() -> None:
    assert not numbers_are_informative(np.ones((20, 5), np.float32), np.arange(20) % 2, np.arange(20) // 4)


# --- Looks ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 1000))
def test_a_label_has_at_most_four_looks_and_shares_none(numbers: list[int], seed: int) -> None:
    labels = np.array(numbers, np.int64)
    rows = np.random.default_rng(seed).normal(size=(len(labels), 4)).astype(np.float32)
    groups = cluster(rows, labels)
    for label in set(numbers):
        own = set(groups[labels == label].tolist())
        assert 1 <= len(own) <= min(CLUSTERS, numbers.count(label))
        assert not own & set(groups[labels != label].tolist())
    assert (cluster(rows, labels) == groups).all()


def test_clusters_that_lie_apart_are_the_looks() -> None:
    rows, labels, groups = visits(3, CLUSTERS, 12, within=0.05)
    order = np.random.default_rng(2).permutation(len(rows))
    found = cluster(rows[order], labels[order])
    pairs = set(zip(found.tolist(), groups[order].tolist(), strict=True))
    assert len(pairs) == 3 * CLUSTERS == len(set(found.tolist()))


def test_photos_that_are_all_the_same_have_one_look() -> None:
    assert len(set(cluster(np.ones((9, 3), np.float32), np.zeros(9, np.int64)).tolist())) == 1


def test_fewer_photos_than_looks_are_fine() -> None:
    assert len(set(cluster(np.eye(2, 3, dtype=np.float32), np.zeros(2, np.int64)).tolist())) == 2
