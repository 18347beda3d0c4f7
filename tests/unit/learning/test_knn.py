"""The head of nearest neighbours: what its logits are, how many references it keeps, and that it is chosen like any head."""

from __future__ import annotations

import numpy as np
import pytest

from fruits.learning.calibration import temperature
from fruits.learning.heads import LabelsError, get_head, knn
from fruits.learning.heads.knn import KnnHead
from fruits.learning.pca import TooFewRowsError
from fruits.learning.validation import ModelSelection, split_by_group


def clusters(counts: list[int], k: int = 6, *, distance: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows around a centre per label."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(len(counts), k)) * distance
    labels = np.repeat(np.arange(len(counts)), counts)
    return (centres[labels] + rng.normal(size=(len(labels), k))).astype(np.float32), labels


def test_logit_of_a_label_is_the_mean_cosine_with_its_nearest_rows() -> None:
    features, labels = clusters([30, 3, 12])
    asked = clusters([5, 5, 5])[0] + np.float32(0.3)
    head = KnnHead.fit(features, labels, setting=4)
    length = np.linalg.norm
    for row, found in zip(asked, head.logits(asked), strict=True):
        for label in range(3):
            own = features[labels == label]
            cosine = np.sort(own @ row / length(own, axis=1) / length(row))[::-1][:4]  # a label of 3 rows averages 3
            assert found[label] == pytest.approx(cosine.mean(), abs=1e-6)


def test_references_are_bounded_and_even_over_labels_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "MAX_REFERENCES", 30)
    features, labels = clusters([500, 40, 4])
    head = KnnHead.fit(features, labels, setting=2)
    assert head.counts.tolist() == [10, 10, 4]
    weights = np.where(np.arange(len(labels)) < 250, 1e-9, 1.0)
    weighted = KnnHead.fit(features, labels, setting=2, weights=weights)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    rows = [int(np.abs(unit - reference).sum(axis=1).argmin()) for reference in weighted.references[:10]]
    assert min(rows) >= 250  # rows that count for nothing are not kept in the place of those that do
    assert len(set(rows)) == 10


def test_more_labels_than_references_keep_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "MAX_REFERENCES", 2)
    assert KnnHead.fit(*clusters([3, 3, 3]), setting=1).counts.tolist() == [1, 1, 1]


def test_nothing_to_tell_apart_is_refused() -> None:
    features, labels = clusters([4])
    with pytest.raises(LabelsError, match="same label"):
        KnnHead.fit(features, labels, setting=1)
    with pytest.raises(TooFewRowsError, match="no training photos"):
        KnnHead.fit(features[:0], labels[:0], setting=1)


@pytest.mark.parametrize(("counts", "neighbours"), [([2, 0], 1), ([1, 2], 1), ([2, -1, 1], 1), ([], 1), ([1, 1], 0)])
def test_arrays_that_do_not_fit_are_refused(counts: list[int], neighbours: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        KnnHead(np.ones((2, 3), np.float32), np.array(counts, np.int64), np.array([neighbours]))


def test_counts_of_a_stranger_cannot_ask_for_more_memory_than_the_references_have() -> None:
    counts = np.ones(3000, np.int64)
    counts[0] = 3000
    with pytest.raises(ValueError, match="expected at most"):
        KnnHead(np.ones((5999, 3), np.float32), counts, np.array([1]))


def test_number_of_neighbours_is_rounded_to_one_or_more() -> None:
    assert KnnHead.fit(*clusters([8, 8]), setting=0.5).neighbours.tolist() == [1]
    assert KnnHead.fit(*clusters([8, 8]), setting=2.7).neighbours.tolist() == [3]


def test_photo_without_features_gets_finite_numbers() -> None:
    head = KnnHead.fit(*clusters([8, 8]), setting=3)
    assert np.isfinite(head.predict_proba(np.zeros((2, 6), np.float32))).all()


def test_answer_is_the_same_alone_and_among_others() -> None:
    features, labels = clusters([300, 300])
    head = KnnHead.fit(features, labels, setting=5)
    together = head.logits(features)
    np.testing.assert_allclose(
        head.logits(features[300:301]), together[300:301], atol=1e-6
    )  # float32 sums of another order


def test_neighbours_are_chosen_on_rows_held_out_after_temperature_scaling() -> None:
    features, labels = clusters([200] * 5, distance=0.8)
    groups = np.arange(len(labels)) // 10
    some = ModelSelection(features, labels, groups, split_by_group(labels, groups), head=KnnHead)
    chosen, trials, answers = some.setting(6)
    assert {trial.setting for trial in trials} == set(KnnHead.settings)
    assert chosen == min(trials, key=lambda trial: trial.smoothed_log_loss).setting
    assert chosen > 1  # labels overlap, so that one neighbour alone is often wrong
    assert answers is not None
    found = temperature(answers.logits, answers.truth, own_scale=False)
    head = KnnHead.fit(features, labels, setting=chosen).temperature_scaled(found)
    # Cosines lie between -1 and 1; undivided, softmax would say nearly the same of every label.
    probable = head.predict_proba(features).max(axis=1)
    right = head.predict_proba(features).argmax(axis=1) == labels
    assert abs(probable.mean() - right.mean()) < 0.15
    assert some.setting(6, trusted=False)[0] == KnnHead.default


def test_temperatures_multiply() -> None:
    head = KnnHead.fit(*clusters([8, 8]), setting=3)
    assert head.temperature_scaled(0.5).temperature_scaled(0.2).temperature == pytest.approx(0.1)
    assert head.temperature == 1


def test_temperature_of_logits_of_any_magnitude_is_found() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 500)
    logits = rng.normal(size=(500, 4)).astype(np.float32)
    logits[np.arange(500), truth] += 1
    plain = temperature(logits, truth, own_scale=False)
    for scale in (1e-6, 1e6):
        assert temperature(logits * np.float32(scale), truth, own_scale=False) == pytest.approx(plain * scale, rel=1e-2)


def test_both_heads_are_found_by_name() -> None:
    assert get_head("knn") is KnnHead
    assert not get_head("knn").linear
    assert get_head("logistic").linear
