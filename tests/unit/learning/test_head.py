"""The classifier and its two choices."""

from __future__ import annotations

import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from fruits.learning.heads import LabelsError, softmax_regression
from fruits.learning.heads import logistic as heads
from fruits.learning.heads.logistic import LogisticHead, scale_of
from fruits.learning.pca import TooFewRowsError
from fruits.learning.validation import ModelSelection, balance, split_by_group


def clusters(c: int, per_label: int, k: int, *, distance: float = 4.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows around c centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(c, k)) * distance
    labels = np.repeat(np.arange(c), per_label)
    return (centres[labels] + rng.normal(size=(len(labels), k))).astype(np.float32), labels


@pytest.mark.parametrize("c", [2, 3, 12])
def test_separate_labels_are_told_apart(c: int) -> None:
    features, labels = clusters(c, 30, 6)
    probabilities = LogisticHead.fit(features, labels, setting=10.0).predict_proba(features)
    assert probabilities.shape == (30 * c, c)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert (probabilities.argmax(axis=1) == labels).all()


@pytest.mark.parametrize("c", [2, 5])
def test_probabilities_are_those_of_scikit_learn(c: int) -> None:
    features, labels = clusters(c, 40, 4, distance=1.0)
    scale = 1 / np.sqrt(np.mean(np.square(features).sum(axis=1)))
    reference = LogisticRegression(C=5.0, max_iter=1000).fit(features * scale, labels)
    ours = LogisticHead.fit(features, labels, setting=5.0)
    # Both stop when the gradient is small: scikit-learn below 1e-4, ours below half of that.
    np.testing.assert_allclose(ours.predict_proba(features), reference.predict_proba(features * scale), atol=2e-3)


def test_scale_of_the_features_does_not_change_the_answers() -> None:
    features, labels = clusters(4, 40, 5, distance=1.0)
    one, thousand = (
        LogisticHead.fit(features * np.float32(s), labels, setting=3.0).predict_proba(features * np.float32(s))
        for s in (1, 1000)
    )
    np.testing.assert_allclose(one, thousand, atol=2e-3)


def test_features_without_spread_give_a_head_that_guesses() -> None:
    labels = np.repeat(np.arange(3), 5)
    probabilities = LogisticHead.fit(np.zeros((15, 4), np.float32), labels, setting=1.0).predict_proba(
        np.zeros((2, 4), np.float32)
    )
    np.testing.assert_allclose(probabilities, 1 / 3, atol=1e-3)


def test_huge_features_give_finite_probabilities() -> None:
    features, labels = clusters(3, 20, 4)
    probabilities = LogisticHead.fit(features, labels, setting=10.0).predict_proba(features * np.float32(1e6))
    assert np.isfinite(probabilities).all()


def test_one_label_is_refused() -> None:
    with pytest.raises(LabelsError, match="at least two"):
        LogisticHead.fit(np.ones((5, 2), np.float32), np.zeros(5, np.int64), setting=1.0)


def test_no_rows_are_refused() -> None:
    with pytest.raises(TooFewRowsError, match="no training photos"):
        LogisticHead.fit(np.empty((0, 2), np.float32), np.empty(0, np.int64), setting=1.0)


def test_solver_that_stops_early_is_told_in_the_head_not_as_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters(5, 40, 8, distance=0.5)
    assert LogisticHead.fit(features, labels, setting=1.0).converged
    monkeypatch.setattr(heads, "_MAX_ITERATIONS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stopped = LogisticHead.fit(features, labels, setting=1e6)
    assert not stopped.converged
    assert np.isfinite(stopped.predict_proba(features)).all()


def test_weak_regularisation_is_solved_to_its_optimum() -> None:
    """A fixed limit of the gradient stops a fifth above the lowest loss."""
    features, labels = clusters(6, 80, 12, distance=3.0)
    rows = features * np.float32(scale_of(features))
    best = LogisticRegression(C=300.0, max_iter=5000, tol=1e-9).fit(rows, labels)
    lowest = log_loss(labels, best.predict_proba(rows))
    assert log_loss(labels, LogisticHead.fit(features, labels, setting=300.0).predict_proba(features)) < 1.02 * lowest


@pytest.mark.parametrize("c", [2, 6])
@pytest.mark.parametrize("cores", [1, 3])
def test_solution_has_the_same_bits_whatever_the_number_of_threads(
    c: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = clusters(c, 800, 9, distance=0.7)  # several blocks, the last one not full
    expected = LogisticHead.fit(features, labels, setting=30.0)
    monkeypatch.setattr(softmax_regression, "usable_cores", lambda: cores)
    found = LogisticHead.fit(features, labels, setting=30.0)
    assert np.array_equal(found.weights, expected.weights)
    assert np.array_equal(found.bias, expected.bias)


def test_few_gradients_wait_to_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is as large as the solution, and there is one per block."""
    submitted: list[int] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, work: Any, start: int, *args: Any) -> Any:
            submitted.append(start)
            return super().submit(work, start, *args)

    monkeypatch.setattr(softmax_regression, "ThreadPoolExecutor", Counting)
    monkeypatch.setattr(softmax_regression, "usable_cores", lambda: 2)
    features, labels = clusters(2, 20 * softmax_regression._BLOCK, 1)
    with softmax_regression._parts(features, labels, None, np.float32) as parts:
        for number, _ in enumerate(parts(np.zeros((2, 1)), np.zeros(2))):
            assert len(submitted) - number <= 6
    assert submitted == list(range(0, len(features), softmax_regression._BLOCK))


def test_scale_takes_less_memory_than_the_features() -> None:
    features = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float32)
    tracemalloc.start()
    try:
        scale = scale_of(features)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < features.nbytes / 2
    assert scale == 1 / np.sqrt(np.mean(np.square(features, dtype=np.float64).sum(axis=1)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    features, labels = clusters(3, 20, 4)
    features[7, 2] = value
    with pytest.raises(ValueError, match="infinite or not numbers"):
        LogisticHead.fit(features, labels, setting=3.0)


@pytest.mark.parametrize("c", [2, 6])
def test_gradient_is_that_of_the_weighted_loss(c: int) -> None:
    features, labels = clusters(c, 700, 4, distance=0.5)
    weights = np.random.default_rng(1).uniform(0.2, 3.0, len(labels))
    found = softmax_regression.solve(
        features, labels, regularisation=2.0, weights=weights, tolerance=1e-7, max_iterations=500
    )
    best = LogisticRegression(C=2.0, tol=1e-9, max_iter=5000).fit(features, labels, weights)
    slopes = np.vstack([-best.coef_ / 2, best.coef_ / 2]) if c == 2 else best.coef_
    # Features are float32 and the optimum is flat: what the processor's kernels round moves both solutions by up to 2e-4.
    np.testing.assert_allclose(found.slopes, slopes, atol=1e-3)
    assert found.converged


def test_solver_goes_on_with_more_digits_where_rounding_errors_stop_it() -> None:
    features, labels = clusters(4, 400, 5, distance=0.5)
    found = softmax_regression.solve(features, labels, regularisation=300.0, tolerance=1e-18, max_iterations=2000)
    best = LogisticRegression(C=300.0, tol=1e-12, max_iter=5000).fit(features.astype(np.float64), labels)
    np.testing.assert_allclose(found.slopes, best.coef_, atol=1e-5)  # float32 products alone: 2e-4


def test_solver_that_begins_at_another_setting_ends_at_the_same_optimum() -> None:
    features, labels = clusters(5, 120, 8, distance=0.8)
    near = LogisticHead.fit(features, labels, setting=3.0)
    begun, anew = (LogisticHead.fit(features, labels, setting=30.0, start=start) for start in ({3.0: near}, None))
    np.testing.assert_allclose(begun.predict_proba(features), anew.predict_proba(features), atol=2e-3)


def test_solver_that_begins_with_fewer_features_gives_the_others_their_part() -> None:
    """Features of small variance have a small gradient, and matter all the same."""
    features, labels = clusters(5, 120, 8, distance=0.8)
    features[:, 4:] *= 0.03
    few = LogisticHead.fit(features[:, :4], labels, setting=300.0)
    begun, anew = (LogisticHead.fit(features, labels, setting=300.0, start=start) for start in ({300.0: few}, None))
    np.testing.assert_allclose(begun.predict_proba(features), anew.predict_proba(features), atol=2e-3)
    assert np.abs(few.predict_proba(features[:, :4]) - anew.predict_proba(features)).max() > 0.02


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Settings for which the loss was computed, once per evaluation."""
    asked: list[float] = []
    evaluated = softmax_regression._Descent.__call__

    def counted(descent: Any, flat: np.ndarray) -> Any:
        asked.append(1 / (descent.penalty * descent.total))
        return evaluated(descent, flat)

    monkeypatch.setattr(softmax_regression._Descent, "__call__", counted)
    return asked


def test_two_settings_lead_to_a_third(evaluations: list[float]) -> None:
    features, labels = clusters(12, 80, 30, distance=0.4)
    needed = {}
    weak, strong = (LogisticHead.fit(features, labels, setting=setting) for setting in (3.0, 30.0))
    for name, start in (("one", {30.0: strong}), ("two", {3.0: weak, 30.0: strong})):
        evaluations.clear()
        LogisticHead.fit(features, labels, setting=300.0, start=start)
        needed[name] = len(evaluations)
    assert needed["two"] < needed["one"]


def test_weak_regularisation_is_reached_over_stronger_ones(evaluations: list[float]) -> None:
    features, labels = clusters(12, 80, 30, distance=0.4)
    LogisticHead.fit(features, labels, setting=300.0)
    assert sorted(set(np.round(evaluations, 3).tolist())) == [0.3, 3.0, 30.0, 300.0]
    evaluations.clear()
    LogisticHead.fit(features, labels, setting=3.0)
    assert set(np.round(evaluations, 3).tolist()) == {3.0}


def test_solver_needs_few_steps_where_features_differ_in_size(evaluations: list[float]) -> None:
    """As components of a PCA do."""
    features, labels = clusters(8, 100, 40, distance=0.5)
    features *= np.geomspace(1, 0.01, 40, dtype=np.float32)
    assert LogisticHead.fit(features, labels, setting=3.0).converged
    assert len(evaluations) < 60


def test_no_candidate_is_fitted_twice_and_each_begins_by_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[tuple[int, float]] = []
    starts: dict[tuple[int, float], set[tuple[int, float]]] = {}
    fit = LogisticHead.fit

    def counted(features: np.ndarray, *args: Any, **options: Any) -> LogisticHead:
        candidate = (features.shape[1], options["setting"])
        fitted.append(candidate)
        starts[candidate] = {(head.weights.shape[1], s) for s, head in options.get("start", {}).items()}
        return fit(features, *args, **options)

    monkeypatch.setattr(LogisticHead, "fit", counted)
    trying = selection(16, 8)
    k, trials = trying.components()
    tried = [trial.components for trial in trials]
    assert [starts[k, 3.0] for k in tried] == [set(), *({(k, 3.0)} for k in tried[:-1])]
    trying.setting(k)
    assert {(k, setting) for setting in heads.REGULARISATIONS} <= set(fitted)
    assert len(fitted) == len(set(fitted))
    assert starts[k, 0.3] == {(k, 3.0)}
    assert starts[k, 30.0] == {(k, 0.3), (k, 3.0)}
    assert starts[k, 300.0] == {(k, 0.3), (k, 3.0), (k, 30.0)}


def test_head_of_rotated_and_shifted_features_gives_the_same_logits() -> None:
    features, labels = clusters(4, 30, 6)
    head = LogisticHead.fit(features, labels, setting=3.0)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    other = (features - 0.5) @ rotation.T
    found = head.of_other_features(rotation.T, np.full(6, 0.5)).logits(other.astype(np.float32))
    np.testing.assert_allclose(found, head.logits(features), atol=1e-4)


def test_head_of_more_labels_gives_the_others_nothing_of_its_own() -> None:
    features, labels = clusters(3, 30, 6)
    head = LogisticHead.fit(features, labels, setting=3.0)
    more = head.of_labels(np.array([0, 2, 3]), 5).logits(features)
    np.testing.assert_array_equal(more[:, [0, 2, 3]], head.logits(features))
    assert set(more[:, [1, 4]].ravel().tolist()) == {float(head.bias.min())}


@pytest.mark.parametrize(("trusted", "expected"), [(True, set(heads.REGULARISATIONS)), (False, {300.0})])
def test_photos_that_the_backbone_has_seen_do_not_choose_the_regularisation(
    trusted: bool, expected: set[float]
) -> None:
    _, trials, _ = selection(16, 8).setting(8, trusted=trusted)
    assert {trial.setting for trial in trials} == expected


# --- Weights ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=1, max_size=120))
def test_every_kind_counts_the_same_and_so_does_every_source_within_a_kind(pairs: list[tuple[int, int]]) -> None:
    kinds, sources = np.array(pairs, np.int64).T
    weights = balance(kinds, sources)
    assert weights.mean() == pytest.approx(1)
    of_kind = {kind: weights[kinds == kind].sum() for kind in set(kinds.tolist())}
    assert list(of_kind.values()) == pytest.approx([len(pairs) / len(of_kind)] * len(of_kind))
    for kind, total in of_kind.items():
        cells = [weights[(kinds == kind) & (sources == s)] for s in set(sources[kinds == kind].tolist())]
        assert [cell.sum() for cell in cells] == pytest.approx([total / len(cells)] * len(cells))
        assert all(len(set(cell.tolist())) == 1 for cell in cells)


def test_no_rows_have_no_weights() -> None:
    assert balance(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []


def test_weight_of_two_is_the_row_given_twice() -> None:
    features, labels = clusters(3, 30, 4, distance=1.0)
    twice = np.arange(len(labels)) % 5 == 0
    weights = np.where(twice, 2.0, 1.0)
    repeated = np.concatenate([np.arange(len(labels)), np.flatnonzero(twice)])
    # The head is scaled by the features alone, and C counts against the sum of weights: both the same only if the repeated
    # rows leave the scale as it is, so it is set to 1 by rows of equal length.
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    one = LogisticHead.fit(features, labels, setting=3.0, weights=weights)
    other = LogisticHead.fit(features[repeated], labels[repeated], setting=3.0)
    # Both stop when the gradient is small, not at the same point.
    np.testing.assert_allclose(one.predict_proba(features), other.predict_proba(features), atol=2e-3)
    plain = LogisticHead.fit(features, labels, setting=3.0)
    assert np.abs(plain.predict_proba(features) - one.predict_proba(features)).max() > 5e-3


def test_equal_weights_change_nothing() -> None:
    features, labels = clusters(3, 30, 4, distance=1.0)
    one, other = (LogisticHead.fit(features, labels, setting=3.0, weights=w) for w in (None, np.ones(len(labels))))
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-5)


def test_cooler_head_gives_the_same_answers_less_surely() -> None:
    features, labels = clusters(4, 30, 5, distance=1.0)
    head = LogisticHead.fit(features, labels, setting=10.0)
    cool = head.temperature_scaled(2.5)
    np.testing.assert_allclose(cool.logits(features), head.logits(features) / 2.5, atol=1e-5)  # float32
    assert (cool.logits(features).argmax(axis=1) == head.logits(features).argmax(axis=1)).all()
    assert (cool.predict_proba(features).max(axis=1) <= head.predict_proba(features).max(axis=1)).all()
    stopped = LogisticHead(head.weights, head.bias, converged=False)
    assert not stopped.temperature_scaled(2.0).converged


# --- Held out --------------------------------------------------------------------------------------------------------

rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=120)


@given(rows, st.integers(0, 1000))
def test_no_label_is_held_out_whole(pairs: list[tuple[int, int]], seed: int) -> None:
    labels, groups = np.array(pairs).T
    held = split_by_group(labels, groups, seed)
    assert set(labels[~held]) == set(labels)


@given(rows, st.integers(0, 1000))
def test_groups_of_a_label_are_held_out_whole(pairs: list[tuple[int, int]], seed: int) -> None:
    labels, groups = np.array(pairs).T
    held = split_by_group(labels, groups, seed)
    for label in set(labels):
        of_label = labels == label
        if len(set(groups[of_label])) > 1:
            for group in set(groups[of_label]):
                assert len(set(held[of_label & (groups == group)])) == 1


@given(rows, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_change_which_groups_are_held_out(pairs: list, seed: int, random: object) -> None:
    labels, groups = np.array(pairs).T
    several = np.array([len(set(groups[labels == label])) > 1 for label in labels])
    order = np.array(random.sample(range(len(pairs)), len(pairs)))
    held = split_by_group(labels, groups, seed)
    assert (split_by_group(labels[order], groups[order], seed)[several[order]] == held[order][several[order]]).all()


def test_about_a_fifth_of_the_groups_is_held_out() -> None:
    labels, groups = np.repeat(np.arange(4), 500), np.tile(np.repeat(np.arange(50), 10), 4)
    held = split_by_group(labels, groups, 0)
    for label in range(4):
        assert len(set(groups[held & (labels == label)])) == 10


def test_label_of_a_single_group_holds_back_a_fifth_of_its_photos() -> None:
    held = split_by_group(np.repeat([0, 1], [10, 4]), np.repeat([7, 8], [10, 4]))
    assert held[:10].sum() == 2
    assert held[10:].sum() == 0


def test_another_seed_holds_back_other_groups() -> None:
    labels, groups = np.zeros(400, int), np.repeat(np.arange(40), 10)
    assert (split_by_group(labels, groups, 0) != split_by_group(labels, groups, 1)).any()


# --- Choices ----------------------------------------------------------------------------------------------------------


def selection(k_max: int, k_good: int, *, distance: float = 3.0, labels: int = 6) -> ModelSelection:
    """Only the first ``k_good`` components tell labels apart."""
    rng = np.random.default_rng(3)
    features, numbers = clusters(labels, 100, k_good, distance=distance, seed=2)
    noise = rng.normal(size=(len(features), k_max - k_good)).astype(np.float32)
    groups = np.arange(len(numbers)) // 10
    return ModelSelection(np.hstack([features, noise]), numbers, groups, split_by_group(numbers, groups))


def test_few_components_are_chosen_when_further_ones_are_noise() -> None:
    k, trials = selection(200, 8).components()
    assert k == 8
    assert len(trials) < 10  # it stops trying once nothing improves
    assert [trial.components for trial in trials] == sorted({trial.components for trial in trials})


def test_more_components_are_chosen_when_they_tell_labels_apart() -> None:
    k, _ = selection(64, 48, distance=0.45).components()
    assert 8 < k <= 64


def test_chosen_regularisation_has_the_lowest_smoothed_log_loss_of_all_tried() -> None:
    strength, trials, answers = selection(16, 8, distance=0.7).setting(12)
    assert answers is not None
    assert {trial.setting for trial in trials} == set(heads.REGULARISATIONS)
    assert strength == min(trials, key=lambda trial: trial.smoothed_log_loss).setting
    assert all(trial.components == 12 for trial in trials)


def test_certainty_without_end_is_not_chosen_where_every_head_is_right() -> None:
    strength, trials, _ = selection(16, 8, distance=8.0).setting(8)
    assert {trial.accuracy for trial in trials} == {1.0}
    assert min(trials, key=lambda trial: trial.log_loss).setting == max(heads.REGULARISATIONS)
    assert strength < max(heads.REGULARISATIONS)


def test_answers_are_those_of_a_head_that_has_not_seen_the_photos_held_out() -> None:
    some = selection(16, 8, distance=0.7)
    strength, trials, answers = some.setting(8)
    assert answers is not None
    best = next(trial for trial in trials if trial.setting == strength)
    assert answers.right.mean() == best.accuracy
    features = np.ascontiguousarray(some.features[:, :8])
    head = LogisticHead.fit(features[~some.held_out], some.labels[~some.held_out], setting=strength)
    # Within the solver's tolerance: it began by other settings. Logits are as large as 8.
    np.testing.assert_allclose(answers.logits, head.logits(features[some.held_out]), atol=2e-2)
    assert (answers.labels[answers.truth] == some.labels[some.held_out]).all()


def test_photos_of_little_weight_have_little_say_in_the_loss() -> None:
    some = selection(16, 8, distance=0.7)
    _, plain, _ = some.setting(8)
    _, _, answers = some.setting(8)
    assert answers is not None
    # Only the photos held out that are named wrongly count: the loss must rise.
    weights = np.ones(len(some.labels))
    weights[np.flatnonzero(some.held_out)[answers.right]] = 1e-9
    some.weights = weights
    _, weighted, _ = some.setting(8)
    assert min(trial.log_loss for trial in weighted) > max(trial.log_loss for trial in plain[:2])
    assert [trial.accuracy for trial in weighted] == [trial.accuracy for trial in plain]  # counts photos, as ever


def test_nothing_held_out_takes_every_component_and_tries_nothing() -> None:
    features, labels = clusters(2, 3, 5)
    undecided = ModelSelection(features, labels, np.zeros(6, np.int64), np.zeros(6, bool))
    assert undecided.components() == (5, [])
    strength, trials, answers = undecided.setting(5)
    assert strength > 0
    assert trials == []
    assert answers is None


def test_fewer_components_than_the_first_step_are_all_tried() -> None:
    k, trials = selection(5, 4).components()
    assert k == 5
    assert [trial.components for trial in trials] == [5]
