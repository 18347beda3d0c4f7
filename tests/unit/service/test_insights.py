from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fruits.learning.calibration import certain_from, precision_by_coverage
from fruits.learning.metrics import wilson_interval
from fruits.learning.similarity import same_label_cosine, similar_groups
from fruits.recogniser.taxonomy import Taxonomy
from fruits.service.insights import (
    LIMITS,
    Kinds,
    curve_of_record,
    curve_of_reviewed,
    groups_of,
    min_precision_for,
    names_not_known,
    scores,
)
from fruits.service.submissions.reviewed.evaluations import Reviewed, Scored, UnknownPhoto

DAY_S = 86_400
KINDS = Kinds(Taxonomy.of(["Apple Red 1", "Apple Golden 1", "Pear 1", "Banana 1"]))


def test_wilsons_interval_is_that_of_the_literature() -> None:
    # Newcombe (1998), table I: 81 of 263, and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_a_bundle_has_a_score_from_thirty_test_photos_on() -> None:
    few = [Scored("b" * 16, "Pear 1", "pear", "Pear 1", 20 * DAY_S) for _ in range(29)]
    many = [Scored("a" * 16, "Apple Golden 1", "apple", "Apple Red 1", 40 * DAY_S) for _ in range(20)]
    many += [Scored("a" * 16, "Banana 1", "banana", "Quince", 41 * DAY_S) for _ in range(10)]
    first, second = scores([*many, *few], KINDS)
    assert (first.identity, first.photos, first.kind, first.label) == ("b" * 16, 29, None, None)
    assert (second.identity, second.photos, second.since) == ("a" * 16, 30, "1970-02-10")
    assert second.kind is not None
    assert second.label is not None
    assert second.kind.share == pytest.approx(2 / 3), "the kind counts, whatever the variety"
    assert (second.kind.low, second.kind.high) == pytest.approx(wilson_interval(20, 30))
    assert second.label.share == 0


def test_the_curve_of_a_record_says_what_the_run_counted() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(600, np.float32)
    right = rng.random(600) < probability
    points = precision_by_coverage(probability, right, 700)
    record = {
        "coverage": {
            "photos": 700,
            "curve": [dict(zip(("limit", "coverage", "precision"), point, strict=True)) for point in points],
        }
    }
    curve = curve_of_record(record)
    assert curve is not None
    assert [point.limit for point in curve.points] == list(LIMITS)
    for point in curve.points:
        answered = probability >= point.limit
        if answered.sum() < 20:
            assert point.coverage is None or point.answered >= 20
            continue
        assert point.answered == pytest.approx(answered.sum(), abs=7), "the record has 100 points of the curve"
        if point.precision is not None:
            assert point.precision.share == pytest.approx(right[answered].mean(), abs=0.05)
            assert point.precision.low <= point.precision.share <= point.precision.high
    for nothing in (None, {}, {"coverage": None}, {"coverage": {"photos": 0, "curve": []}}):
        assert curve_of_record(nothing) is None


def test_the_option_that_is_named_leads_a_run_to_that_limit_or_to_one_as_right() -> None:
    rng = np.random.default_rng(1)
    probability = (0.34 + 0.66 * rng.random(3000)).astype(np.float32)
    right = rng.random(3000) < probability**0.5
    points = precision_by_coverage(probability, right, 3000)
    curve = curve_of_record(
        {
            "coverage": {
                "photos": 3000,
                "curve": [dict(zip(("limit", "coverage", "precision"), p, strict=True)) for p in points],
            }
        }
    )
    assert curve is not None
    for limit in (0.4, 0.6, 0.8, 0.9):
        value = min_precision_for(curve, limit)
        assert value is not None
        chosen = certain_from(probability, right, value, least=1 / 3)
        assert chosen <= limit + 0.02
        assert right[probability >= chosen].mean() >= right[probability >= limit].mean() - 0.01


def test_no_option_leads_to_a_limit_at_which_hardly_anything_is_right() -> None:
    reviewed = [Reviewed("Pear 1", "pear", 0.9, 1.0, "Banana 1") for _ in range(50)]
    curve = curve_of_reviewed(reviewed, KINDS, float("inf"))
    assert curve is not None
    assert min_precision_for(curve, 0.5) is None


def test_reviewed_photos_are_right_by_kind_and_those_out_of_distribution_get_no_answer() -> None:
    reviewed = [
        Reviewed("Apple Red 1", "apple", 0.9, 1.0, "Apple Golden 1"),
        Reviewed("Pear 1", None, 0.5, 1.0, "Pear 1"),  # nothing was named: the best label tells the kind
        Reviewed("Pear 1", "pear", 0.5, 1.0, "Quince"),
        Reviewed("Banana 1", "banana", 0.99, 9.0, "Banana 1"),
    ]
    curve = curve_of_reviewed(reviewed, KINDS, 5.0)
    assert curve is not None
    by_limit = {point.limit: (point.answered, point.right) for point in curve.points}
    assert (by_limit[0.4], by_limit[0.6], by_limit[0.95]) == ((3, 2), (1, 1), (0, 0))
    assert curve.points[-1].precision is None
    assert curve_of_reviewed([], KINDS, 5.0) is None


def bundle(rows: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Any:
    return SimpleNamespace(components=rows.shape[1], gallery=SimpleNamespace(features=rows, labels=labels))


def around(centres: np.ndarray[Any, Any], counts: list[int], seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    rows = np.concatenate([centre + 0.4 * rng.normal(size=(n, 16)) for centre, n in zip(centres, counts, strict=True)])
    return rows.astype(np.float32)


def test_photos_that_are_not_known_are_grouped_by_likeness() -> None:
    centres = 3 * np.eye(8, 16)
    gallery = bundle(around(centres[:4], [20] * 4, 0), np.repeat(np.arange(4), 20))
    rows = around(centres[4:], [9, 5, 2, 1], 1)
    kinds = np.repeat(["dog", "shoe", "cup", "hat"], [9, 5, 2, 1])
    order = np.random.default_rng(4).permutation(len(rows))
    photos = [
        UnknownPhoto(f"{kinds[row]}-{row}", 0, "Pear 1", "Dog" if kinds[row] == "dog" else None, None, rows[row])
        for row in order
    ]
    photos[0] = photos[0]._replace(decision="corrected")
    photos.append(photos[0]._replace(features=np.zeros(3, np.float32)))  # of a bundle with other components
    found = groups_of(photos, gallery)
    assert [group.photos for group in found] == [9, 5, 2], "one that is alone makes no group"
    for group, kind in zip(found, ("dog", "shoe", "cup"), strict=True):
        assert len(group.samples) == min(6, group.photos)
        assert all(name.startswith(kind) for name in group.samples)
    assert found[0].said == [("Dog", 9)]
    assert found[0].nearest == "Pear 1"
    assert sum(group.reviewed for group in found) + (kinds[order[0]] == "hat") == 1
    assert groups_of(photos[:1], gallery) == []


def test_groups_do_not_depend_on_order_and_few_labelled_rows_tell_nothing() -> None:
    rows = around(np.random.default_rng(5).normal(size=(3, 16)), [6, 4, 3], 2)
    order = np.random.default_rng(6).permutation(len(rows))
    assert similar_groups(rows[order], 0.5).tolist() == similar_groups(rows, 0.5)[order].tolist()
    assert similar_groups(rows[:1], 0.5).tolist() == [0]
    assert similar_groups(np.zeros((3, 4), np.float32), 0.5).tolist() != [0, 0, 0]
    assert same_label_cosine(rows[:4], np.arange(4)) == 0.5
    assert 0.2 <= same_label_cosine(rows, np.repeat(np.arange(3), [6, 4, 3])) <= 0.9


def test_names_that_are_not_known_are_counted_across_spellings() -> None:
    said = [("Quince", 2), ("quince", 3), ("QUÍNCE ", 1), ("Apple Red 1", 9), ("pear", 4), ("Poire", 4), ("Medlar", 1)]
    assert names_not_known(said, KINDS) == [("quince", 6), ("Medlar", 1)]
