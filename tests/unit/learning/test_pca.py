"""Principal axes: how many, in which direction, and what happens where the rows leave them open."""

from __future__ import annotations

import numpy as np
import pytest

from fruits.learning.moments import Moments, ShapeMismatchError
from fruits.learning.pca import PCA, TooFewRowsError


def fitted(rows: np.ndarray) -> PCA:
    return PCA.from_moments(Moments.from_rows(rows))


def with_variances(*variances: float) -> PCA:
    """A PCA of 101 rows that explains exactly these variances."""
    return PCA.from_moments(Moments(101, np.zeros(len(variances)), 100 * np.diag(variances)))


@pytest.mark.parametrize(
    ("share", "components"), [(0.5, 1), (0.6, 1), (0.61, 2), (0.9, 2), (0.91, 3), (1.0, 4), (1e-9, 1)]
)
def test_fewest_components_that_explain_the_share(share: float, components: int) -> None:
    assert with_variances(6, 3, 0.9, 0.1).components_for(share) == components


def test_all_variance_is_reached_in_spite_of_rounding() -> None:
    pca = with_variances(*[0.1] * 10)  # ten times a tenth is not quite 1 in binary
    assert pca.components_for(1.0) == 10


def test_all_variance_of_degenerate_rows_needs_only_the_axes_that_vary() -> None:
    assert with_variances(2, 1, 0, 0).components_for(1.0) == 2


def test_axes_are_orthonormal_and_variances_fall() -> None:
    pca = fitted(np.random.default_rng(0).normal(size=(200, 12)) * np.arange(1, 13))
    np.testing.assert_allclose(pca.axes @ pca.axes.T, np.eye(12), atol=1e-12)
    assert (np.diff(pca.variances) <= 0).all()
    assert pca.explained_variance_ratio.sum() == pytest.approx(1)


def test_largest_number_of_every_axis_is_positive() -> None:
    pca = fitted(np.random.default_rng(1).normal(size=(50, 9)))
    assert (pca.axes[np.arange(9), np.abs(pca.axes).argmax(axis=1)] > 0).all()


def test_mirrored_rows_have_the_same_axes() -> None:
    rows = np.random.default_rng(2).normal(size=(60, 5)) * [5, 4, 3, 2, 1]
    np.testing.assert_allclose(fitted(rows).axes, fitted(-rows).axes, atol=1e-12)


def test_fewer_rows_than_numbers_determine_n_minus_one_axes() -> None:
    rows = np.random.default_rng(3).normal(size=(4, 10))
    pca = fitted(rows)
    assert pca.max_components == 3
    assert pca.components_for(1.0) == 3
    assert (pca.variances[3:] < 1e-12 * pca.variances[0]).all()
    back = pca.transform(rows.astype(np.float32), 3) @ pca.axes[:3] + pca.mean
    np.testing.assert_allclose(back, rows, atol=1e-5)  # float32 features


def test_constant_rows_explain_nothing_and_break_nothing() -> None:
    rows = np.full((20, 3), 7.0, np.float32)
    pca = fitted(rows)
    assert (pca.explained_variance_ratio == 0).all()
    assert 1 <= pca.components_for(0.99) <= pca.max_components
    assert (pca.transform(rows, 2) == 0).all()


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_rows_are_refused(n: int) -> None:
    with pytest.raises(TooFewRowsError, match="at least 2"):
        fitted(np.zeros((n, 3)))


def test_features_are_the_centred_rows_on_the_first_axes() -> None:
    rows = np.random.default_rng(4).normal(3, 1, size=(30, 6)).astype(np.float32)
    pca = fitted(rows)
    features = pca.transform(rows, 4)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, (rows - pca.mean) @ pca.axes[:4].T, atol=1e-5)  # float32 sums


def test_features_keep_the_variance_of_their_axes() -> None:
    rows = np.random.default_rng(5).normal(size=(500, 6)).astype(np.float32) * np.float32([6, 5, 4, 3, 2, 1])
    pca = fitted(rows)
    np.testing.assert_allclose(pca.transform(rows, 6).var(axis=0, ddof=1), pca.variances, rtol=1e-4)  # float32


@pytest.mark.parametrize("shape", [(3, 5), (6,), (2, 3, 6)])
def test_rows_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    pca = fitted(np.random.default_rng(6).normal(size=(30, 6)))
    with pytest.raises(ShapeMismatchError, match="expected"):
        pca.transform(np.zeros(shape, np.float32), 2)


@pytest.mark.parametrize("cores", [1, 2])
def test_several_at_once_have_the_bits_of_each_alone(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fruits.learning.pca.usable_cores", lambda: cores)
    rng = np.random.default_rng(7)
    moments = [Moments.from_rows(rng.normal(size=(n, d))) for n, d in ((400, 200), (60, 3), (300, 150))]
    for found, one in zip(PCA.from_several(moments), moments, strict=True):
        alone = PCA.from_moments(one)
        assert np.array_equal(found.axes, alone.axes)
        assert np.array_equal(found.variances, alone.variances)
