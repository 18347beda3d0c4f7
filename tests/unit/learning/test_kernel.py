"""The kernel head: logistic regression and the votes of references, in numbers, and what is kept of the photos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fruits.errors import ConfigError
from fruits.learning.heads import LabelsError, get_head, kernel
from fruits.learning.heads.kernel import CONCENTRATION, STRENGTH, THINNED, KernelHead
from fruits.learning.heads.logistic import LogisticHead


def rings(n: int = 400, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Two labels that no line separates: one lies in two opposite clusters, the other between them."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    angle = np.where(labels == 0, 0, np.pi / 2) + np.pi * (np.arange(n) // 2 % 2)
    features = rng.normal(scale=0.3, size=(n, k))
    features[:, :2] += 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    return features.astype(np.float32), labels


def test_logits_are_those_of_the_line_and_a_multiple_of_the_logarithm_of_the_votes() -> None:
    features, labels = rings()
    head = KernelHead.fit(features, labels, setting=3)
    linear = LogisticHead.fit(features, labels, setting=3)
    np.testing.assert_array_equal(head.linear_part.weights, linear.weights)
    references = head.references * head.kernel[2]
    np.testing.assert_allclose(np.linalg.norm(references, axis=1), 1, atol=0.02)  # to a step of 1/127
    there = features @ head.axes - head.origin
    cosine = there @ references.T / np.linalg.norm(there, axis=1, keepdims=True)
    near = np.exp(CONCENTRATION * cosine)
    votes = np.stack([near[:, : head.counts[0]].sum(axis=1), near[:, head.counts[0] :].sum(axis=1)], 1)
    shares = votes / votes.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        head.logits(features), linear.logits(features) + STRENGTH * np.log(shares + 0.02), atol=1e-4
    )


def test_votes_tell_apart_what_no_line_separates() -> None:
    features, labels = rings()
    asked, truth = rings(200)
    asked += np.float32(0.05)
    linear = LogisticHead.fit(features, labels, setting=3).logits(asked).argmax(axis=1)
    assert (linear == truth).mean() < 0.8
    assert (KernelHead.fit(features, labels, setting=3).logits(asked).argmax(axis=1) == truth).mean() > 0.98


def test_references_are_bounded_and_not_alike_and_every_label_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(3), [600, 300, 1])
    features = rng.normal(size=(len(labels), 24)).astype(np.float32)
    features[:300] = features[0]  # one photo 300 times is one reference
    monkeypatch.setattr(kernel, "MAX_REFERENCES", 90)
    head = KernelHead.fit(features, labels, setting=3)
    assert head.counts.sum() <= 90
    assert head.counts[2] == 1
    assert head.counts.min() >= 1
    monkeypatch.undo()
    head = KernelHead.fit(features, labels, setting=3)
    rows = head.references[: head.counts[0]] * head.kernel[2]
    cosine = rows @ rows.T - 2 * np.eye(len(rows))
    assert cosine.max() < THINNED + 0.05  # rounding to 8 bits moves a cosine by less
    assert 200 < head.counts[0] <= 301


def test_many_labels_have_fewer_references_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = rings()
    monkeypatch.setattr(kernel, "_MOST_CELLS", 50)
    head = KernelHead.fit(features, labels, setting=3)
    assert 2 < head.counts.sum() <= 25
    assert np.isfinite(head.logits(features)).all()
    monkeypatch.setattr(kernel, "_MOST_CELLS", 3)
    with pytest.raises(ConfigError, match="2 labels; expected at most 1: take head='logistic'"):
        KernelHead.fit(features, labels, setting=3)


def test_labels_of_one_group_share_its_votes() -> None:
    features, labels = rings()
    four = labels + 2 * (features[:, 2] > 0)
    linear = LogisticHead.fit(features, four, setting=3)
    head = KernelHead.voting(
        linear, features, labels, directions=np.eye(5, dtype=np.float32), voted=np.array([0, 1, 0, 1])
    )
    gained = head.logits(features) - linear.logits(features)
    np.testing.assert_allclose(gained[:, :2], gained[:, 2:], atol=1e-5)
    assert np.abs(gained[:, 0] - gained[:, 1]).max() > 1


def test_answer_is_the_same_alone_and_among_others() -> None:
    features, labels = rings(600)
    head = KernelHead.fit(features, labels, setting=3)
    together = head.logits(features)
    np.testing.assert_allclose(head.logits(features[300:301]), together[300:301], atol=1e-4)  # sums of another order


def test_photo_without_features_gets_finite_numbers() -> None:
    features, labels = rings()
    head = KernelHead.fit(features, labels, setting=3)
    assert np.isfinite(head.predict_proba(np.zeros((2, 5), np.float32))).all()
    same = KernelHead.fit(np.r_[features[:1], features[:1] + 1e-3].astype(np.float32), np.array([0, 1]), setting=3)
    assert np.isfinite(same.predict_proba(features)).all()


def test_temperature_divides_all_of_the_logits() -> None:
    features, labels = rings()
    head = KernelHead.fit(features, labels, setting=3)
    np.testing.assert_allclose(
        head.temperature_scaled(2.0).scaled_logits(features), head.logits(features) / 2, atol=1e-5
    )
    np.testing.assert_allclose(
        head.temperature_scaled(2.0).linear_part.logits(features), head.linear_part.logits(features) / 2, atol=1e-5
    )


def test_solver_may_begin_at_another_setting() -> None:
    features, labels = rings()
    begun = KernelHead.fit(features, labels, setting=3, start={30: KernelHead.fit(features, labels, setting=30)})
    np.testing.assert_allclose(begun.weights, KernelHead.fit(features, labels, setting=3).weights, atol=1e-2)


def test_nothing_to_tell_apart_is_refused() -> None:
    features, labels = rings()
    with pytest.raises(LabelsError, match="same label"):
        KernelHead.fit(features, labels * 0, setting=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"counts": np.array([1, 1])}, "expected 1 or more per group"),
        ({"counts": np.array([], np.int64)}, "expected 1 or more per group"),
        ({"voted": np.array([0, 2])}, "expected groups that are there"),
        ({"voted": np.array([-1, 1])}, "expected groups that are there"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, np.ndarray], said: str) -> None:
    head = KernelHead.fit(*rings(), setting=3)
    with pytest.raises(ValueError, match=said):
        replace(head, **change)


def test_counts_of_a_stranger_cannot_ask_for_more_memory_than_the_references_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = KernelHead.fit(*rings(), setting=3)
    monkeypatch.setattr(kernel, "_MOST_CELLS", 10)
    with pytest.raises(ValueError, match="expected a product of at most 10"):
        replace(head)


def test_head_is_found_by_name_and_has_a_linear_part() -> None:
    assert get_head("kernel") is KernelHead
    assert get_head("kernel").linear
    line = LogisticHead.fit(*rings(), setting=3)
    assert line.linear_part is line
