"""Moments may be computed in any pieces and merged in any order: the same, up to rounding."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.decomposition import PCA as ReferencePCA

from fruits.learning.moments import Moments, ShapeMismatchError
from fruits.learning.pca import PCA

# float64 keeps 16 digits; sums of a few hundred products, taken in another order, lose at most a few of them. Relative to
# the largest entry: small entries are differences of large ones.
RELATIVE = 1e-10

numbers = st.floats(-1000, 1000, width=32)


@st.composite
def tables(draw: st.DrawFn) -> np.ndarray:
    """Rows of float32, (0 to 40, 1 to 6)."""
    shape = draw(st.tuples(st.integers(0, 40), st.integers(1, 6)))
    return draw(hnp.arrays(np.float32, shape, elements=numbers))


@st.composite
def three_tables(draw: st.DrawFn) -> list[np.ndarray]:
    d = draw(st.integers(1, 5))
    return [draw(hnp.arrays(np.float32, st.tuples(st.integers(0, 20), st.just(d)), elements=numbers)) for _ in range(3)]


def assert_same(one: Moments, other: Moments) -> None:
    assert one.count == other.count
    for left, right in ((one.mean, other.mean), (one.scatter, other.scatter)):
        scale = max(np.abs(left).max(), np.abs(right).max(), 1.0)
        np.testing.assert_allclose(left, right, rtol=0, atol=RELATIVE * scale)


@given(tables())
def test_moments_are_what_numpy_says(rows: np.ndarray) -> None:
    moments = Moments.from_rows(rows)
    assert moments.count == len(rows)
    if len(rows):
        exact = rows.astype(np.float64)
        centred = exact - exact.mean(axis=0)
        assert_same(moments, Moments(len(rows), exact.mean(axis=0), centred.T @ centred))


@given(three_tables())
def test_merge_is_associative(pieces: list[np.ndarray]) -> None:
    a, b, c = map(Moments.from_rows, pieces)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))


@pytest.mark.slow
@given(three_tables())
def test_merge_is_commutative(pieces: list[np.ndarray]) -> None:
    a, b, _ = map(Moments.from_rows, pieces)
    assert_same(a.merge(b), b.merge(a))


@given(tables())
def test_no_rows_are_the_identity_of_merge(rows: np.ndarray) -> None:
    moments, nothing = Moments.from_rows(rows), Moments.empty(rows.shape[1])
    for merged in (moments.merge(nothing), nothing.merge(moments)):
        assert merged.count == moments.count
        assert (merged.mean == moments.mean).all()
        assert (merged.scatter == moments.scatter).all()


@given(tables(), st.data())
def test_any_partition_gives_the_moments_of_the_whole(rows: np.ndarray, data: st.DataObject) -> None:
    owner = data.draw(hnp.arrays(np.int8, len(rows), elements=st.integers(0, 4)))
    pieces = [Moments.from_rows(rows[owner == piece]) for piece in range(5)]
    order = data.draw(st.permutations(pieces))
    assert_same(reduce(Moments.merge, order), Moments.from_rows(rows))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 300), st.integers(1, 20))
def test_pca_is_that_of_scikit_learn(seed: int, n: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)).astype(np.float32)
    ours = PCA.from_moments(Moments.from_rows(rows))
    reference = ReferencePCA(svd_solver="full").fit(rows.astype(np.float64))
    k = min(n - 1, d)  # beyond, scikit-learn's axes are arbitrary
    # Squared singular values against eigenvalues: relative to the largest, rounding is all that differs.
    largest = reference.explained_variance_[0]
    np.testing.assert_allclose(ours.variances[:k], reference.explained_variance_[:k], rtol=1e-8, atol=1e-12 * largest)
    np.testing.assert_allclose(ours.explained_variance_ratio[:k], reference.explained_variance_ratio_[:k], atol=1e-10)
    for axis, other, gap in zip(
        ours.axes[:k], reference.components_[:k], gaps(reference.explained_variance_[:k]), strict=True
    ):
        # Axes of nearly equal variance may be mixed at will; the error of an axis grows as the gap shrinks.
        if gap > 1e-4:
            assert abs(axis @ other) == pytest.approx(1, abs=1e-6)


def gaps(variances: np.ndarray) -> np.ndarray:
    """Distance of each variance to its nearest neighbour, relative to the largest."""
    padded = np.r_[np.inf, variances, 0.0]
    return np.minimum(padded[:-2] - padded[1:-1], padded[1:-1] - padded[2:]) / variances[0]


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_mean_a_million_times_the_spread_costs_no_digits_that_matter(seed: int, pieces: int) -> None:
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(500, 5)) * [1, 2, 3, 4, 5]
    rows = spread + 1e6
    moments = reduce(Moments.merge, map(Moments.from_rows, np.array_split(rows, pieces)))
    exact = np.cov(spread, rowvar=False)
    # rows themselves are rounded at 1e6 * 1e-16 = 1e-10; raw squares of 1e12 would leave 1e-4.
    np.testing.assert_allclose(moments.scatter / 499, exact, rtol=0, atol=1e-7)


def test_rows_beyond_one_block_are_all_counted() -> None:
    rows = np.random.default_rng(0).normal(size=(10_000, 3))
    moments = Moments.from_rows(rows)
    assert moments.count == 10_000
    np.testing.assert_allclose(moments.scatter / 9_999, np.cov(rows, rowvar=False), rtol=RELATIVE, atol=RELATIVE)


def test_merging_rows_of_another_size_is_refused() -> None:
    with pytest.raises(ShapeMismatchError, match="of 3 and of 4 numbers"):
        Moments.empty(3).merge(Moments.empty(4))


def test_rows_that_are_no_matrix_are_refused() -> None:
    with pytest.raises(ShapeMismatchError, match="matrix"):
        Moments.from_rows(np.zeros(3))
