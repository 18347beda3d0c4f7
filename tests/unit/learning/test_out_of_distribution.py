"""Out-of-distribution score: small for what was learnt, larger for what lies far or leaves the head undecided."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.learning.heads.logistic import LogisticHead
from fruits.learning.out_of_distribution import OodDetector, entropy

K, C = 6, 4


def clusters(seed: int = 0, per_label: int = 100, distance: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows around C centres, centred as features are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(C, K)) * distance
    labels = np.repeat(np.arange(C), per_label)
    rows = centres[labels] + rng.normal(size=(len(labels), K))
    return (rows - rows.mean(axis=0)).astype(np.float32), labels


@pytest.fixture(scope="module")
def learnt() -> tuple[np.ndarray, np.ndarray, LogisticHead, OodDetector]:
    features, labels = clusters()
    head = LogisticHead.fit(features, labels, setting=30.0)
    return features, labels, head, OodDetector.of(features, labels)


Learnt = tuple[np.ndarray, np.ndarray, LogisticHead, OodDetector]


# --- Entropy ------------------------------------------------------------------------------------------------------------


def test_entropy_is_nought_for_certainty_and_largest_for_none() -> None:
    probabilities = np.array([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]], np.float32)
    np.testing.assert_allclose(entropy(probabilities), [0, np.log(4), np.log(2)], atol=1e-6)  # float32


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(2, 30))
def test_entropy_is_that_of_its_definition(seed: int, n: int, c: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.full(c, 0.3), n).astype(np.float32)
    exact = probabilities.astype(np.float64)
    expected = -(exact * np.log(np.maximum(exact, 1e-12))).sum(axis=1)
    np.testing.assert_allclose(entropy(probabilities), expected, atol=1e-5)  # float32 sums of 30 numbers


# --- Distance -----------------------------------------------------------------------------------------------------------


def test_distance_is_that_to_the_nearest_label_less_that_to_photos_in_general(learnt: Learnt) -> None:
    features, labels, _, ood_detector = learnt
    exact = features.astype(np.float64)
    centres = np.stack([exact[labels == label].mean(axis=0) for label in range(C)])
    within = exact - centres[labels]
    scatter = within.T @ within / len(exact)
    scatter += 0.01 * np.trace(scatter) / K * np.eye(K)
    variance = exact.var(axis=0)
    variance += 0.01 * variance.mean()
    apart = exact[:, None] - centres[None]
    own = np.einsum("nck,kl,ncl->nc", apart, np.linalg.inv(scatter), apart).min(axis=1)
    # float32: distances are differences of squares of up to a few hundred.
    np.testing.assert_allclose(ood_detector.distance(features), own - np.square(exact) @ (1 / variance), atol=1e-3)


def test_the_farther_from_every_label_the_stranger(learnt: Learnt) -> None:
    features, _, _, ood_detector = learnt
    away = np.linspace(0, 40, 9, dtype=np.float32)[:, None] * np.eye(K, dtype=np.float32)[0] + features[:1]
    distance = ood_detector.distance(away)
    assert distance[-1] > distance[0]
    assert (np.diff(distance)[2:] > 0).all()  # once past the labels that lie on the way
    assert distance[-1] > ood_detector.distance(features).max()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_distance_does_not_depend_on_the_scale_of_the_features(learnt: Learnt, scale: float) -> None:
    features, labels, _, ood_detector = learnt
    scaled = features * np.float32(scale)
    np.testing.assert_allclose(
        OodDetector.of(scaled, labels).distance(scaled), ood_detector.distance(features), atol=1e-2
    )


@given(st.integers(0, 1000))
def test_distance_does_not_depend_on_order_or_sign_of_features_or_on_numbers_of_labels(seed: int) -> None:
    features, labels = clusters(3, per_label=20)
    rng = np.random.default_rng(seed)
    order, sign = rng.permutation(K), rng.choice(np.array([-1, 1], np.float32), K)
    changed = np.ascontiguousarray((features * sign)[:, order])
    renamed = rng.permutation(C)[labels]
    one, other = OodDetector.of(features, labels), OodDetector.of(changed, renamed)
    np.testing.assert_allclose(other.distance(changed), one.distance(features), atol=1e-3)


def test_labels_of_one_photo_each_give_finite_distances() -> None:
    features, _ = clusters(per_label=1)
    distance = OodDetector.of(features, np.arange(C)).distance(np.concatenate([features, 3 * features]))
    assert np.isfinite(distance).all()
    assert distance[:C].max() < distance[C:].min()


def test_features_that_are_all_the_same_give_finite_distances() -> None:
    ood_detector = OodDetector.of(np.zeros((10, K), np.float32), np.arange(10) % 2)
    assert (ood_detector.distance(np.zeros((2, K), np.float32)) == 0).all()


# --- Score --------------------------------------------------------------------------------------------------------------


def test_scaling_puts_each_sign_at_nought_for_half_and_one_for_a_twentieth(learnt: Learnt) -> None:
    _, _, head, ood_detector = learnt
    others, _ = clusters(per_label=250)
    probabilities = head.predict_proba(others)
    scaled = ood_detector.scaled(others, probabilities)
    signs = (scaled.entropy_scale * entropy(probabilities), scaled.distance_scale * ood_detector.distance(others))
    offset = 0.0
    for sign in signs:
        middle, high = np.quantile(sign, (0.5, 0.95))
        assert high - middle == pytest.approx(1, abs=1e-4)  # float32
        offset += middle
    assert scaled.offset == pytest.approx(offset, abs=1e-3)
    np.testing.assert_allclose(scaled.ood_score(others, probabilities), sum(signs) - offset, atol=1e-3)


def test_signs_without_spread_are_scaled_within_reason(learnt: Learnt) -> None:
    features, _, _, ood_detector = learnt
    sure = np.eye(C, dtype=np.float32)[np.zeros(len(features), int)]
    scaled = ood_detector.scaled(features[:1].repeat(len(features), axis=0), sure)
    assert 0 < scaled.entropy_scale <= 1000
    assert 0 < scaled.distance_scale <= 1000


def test_far_or_undecided_photos_are_stranger_than_nearly_all_known_ones(learnt: Learnt) -> None:
    features, _, head, ood_detector = learnt
    ood_detector = ood_detector.scaled(features, head.predict_proba(features))
    limit = np.quantile(ood_detector.ood_score(features, head.predict_proba(features)), 0.95)
    rng = np.random.default_rng(5)
    far = (rng.normal(size=(50, K)) * 40).astype(np.float32)
    # Far away the head is sure of itself, so that the distance alone must tell.
    certain = np.eye(C, dtype=np.float32)[head.predict_proba(far).argmax(axis=1)]
    assert (ood_detector.ood_score(far, certain) > limit).all()
    undecided = np.full((len(features), C), 1 / C, np.float32)
    assert (
        ood_detector.ood_score(features, undecided) > ood_detector.ood_score(features, head.predict_proba(features))
    ).all()
    assert (ood_detector.ood_score(features, undecided) > limit).all()


def test_scale_of_another_is_taken_and_nothing_else(learnt: Learnt) -> None:
    features, labels, head, ood_detector = learnt
    other = OodDetector.of(features[::2], labels[::2]).scaled(features[1::2], head.predict_proba(features[1::2]))
    taken = ood_detector.on_the_scale_of(other)
    assert (taken.entropy_scale, taken.distance_scale, taken.offset) == (
        other.entropy_scale, other.distance_scale, other.offset,
    )  # fmt: skip
    for name in ("whitening", "centres", "background"):
        assert getattr(taken, name) is getattr(ood_detector, name)
