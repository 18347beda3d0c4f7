"""Seasons, look-alikes and what tells them apart."""

from __future__ import annotations

import csv
from importlib import resources
from typing import Any

import numpy as np
import pytest

from fruits.messages import LANGUAGES
from fruits.recogniser import knowledge

KINDS = ("apple", "kiwi", "pear", "potato")
CENTRES = np.array([[0, 9], [10, 0], [1, 10], [10, 3], [0, 8]], np.float32)
KIND_OF = (0, 1, 2, 3, 0)


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(resources.files("fruits.recogniser").joinpath(name).read_text("utf-8").splitlines()))


def test_tables_are_of_kinds_of_the_taxonomy_and_complete() -> None:
    kinds = {row["kind"] for row in _rows("taxonomy.csv")}
    for row in _rows("seasons.csv"):
        assert row["kind"] in kinds
        months = knowledge.season(row["kind"])
        assert 1 <= len(set(months)) == len(months) < 12
    pairs = [frozenset((row["kind"], row["other"])) for row in _rows("apart.csv")]
    assert len(pairs) == len(set(pairs))
    for row in _rows("apart.csv"):
        assert {row["kind"], row["other"]} <= kinds
        assert all(row[language] for language in LANGUAGES), row


def test_season_crosses_the_new_year_and_may_have_two_parts() -> None:
    assert knowledge.season("kiwi") == (11, 12, 1, 2, 3, 4, 5)
    assert knowledge.season("spinach") == (3, 4, 5, 6, 9, 10, 11)
    assert knowledge.season("banana") == ()
    assert knowledge.season("no such kind") == ()


def test_difference_is_the_same_in_either_order() -> None:
    assert knowledge.difference("kiwi", "potato") == knowledge.difference("potato", "kiwi")
    assert knowledge.difference("kiwi", "watercress") is None


def test_confused_kinds_are_counted_and_bounded() -> None:
    truth = np.array([0] * 100 + [1] * 50 + [2] * 10)
    predicted = truth.copy()
    predicted[:8], predicted[8:10], predicted[10] = 2, 3, 1  # an apple that is a kiwi once may be an accident
    predicted[100:102] = 3
    found = knowledge.confused_kinds(predicted, truth, KINDS)
    assert found == {
        "apple": [{"kind": "pear", "photos": 8, "share": 0.08}, {"kind": "potato", "photos": 2, "share": 0.02}],
        "kiwi": [{"kind": "potato", "photos": 2, "share": 0.04}],
    }
    many = knowledge.confused_kinds(np.repeat(np.arange(1, 9), 5), np.zeros(40, int), [str(n) for n in range(9)])
    assert len(many["0"]) == knowledge.MOST


def test_look_alikes_are_those_counted_with_what_tells_them_apart() -> None:
    about = {"look_alikes": {"kiwi": [{"kind": "potato", "photos": 2, "share": 0.04}]}}
    found = knowledge.look_alikes(about, KINDS, KIND_OF, CENTRES)
    (one,) = found["kiwi"]
    assert (one["kind"], one["share"]) == ("potato", 0.04)
    assert set(one["apart"]) == set(LANGUAGES)


def test_kind_without_counts_has_the_kinds_of_the_most_similar_features_beside_counted_ones() -> None:
    about = {"look_alikes": {"kiwi": [{"kind": "apple", "photos": 2, "share": 0.04}]}}
    found = knowledge.look_alikes(about, KINDS, KIND_OF, CENTRES)
    assert [(one["kind"], one["share"]) for one in found["kiwi"]] == [("apple", 0.04)]
    assert [(one["kind"], one["share"]) for one in found["apple"]] == [("pear", None)]


def test_bundle_without_counts_has_the_kinds_of_the_most_similar_features() -> None:
    found = knowledge.look_alikes({}, KINDS, KIND_OF, CENTRES)
    assert [one["kind"] for one in found["apple"]] == ["pear"]
    assert [one["kind"] for one in found["kiwi"]] == ["potato"]
    assert {one["share"] for one in found["apple"]} == {None}
    assert knowledge.look_alikes({}, KINDS[:1], (0,), CENTRES[:1]) == {}


@pytest.mark.parametrize(
    "harm",
    [
        {"kiwi": "potato"},
        {"kiwi": [1, None, "potato"]},
        {"kiwi": [{"kind": "<script>", "share": 0.5}]},
        {"kiwi": [{"kind": ["potato"], "share": 0.5}]},
        {"kiwi": [{"kind": "potato", "share": "0.5"}]},
        {"kiwi": [{"kind": "potato", "share": float("nan")}]},
        {"kiwi": [{"kind": "potato", "share": 7}]},
        {"kiwi": [{"kind": "kiwi", "share": 0.5}]},
        {"<b>": [{"kind": "potato", "share": 0.5}]},
        {"kiwi": [{"kind": "potato", "share": 10**400}]},
    ],
)
def test_counts_that_are_not_well_formed_are_left_out(harm: dict[str, Any]) -> None:
    assert knowledge.look_alikes({"look_alikes": harm}, KINDS, KIND_OF, CENTRES) == knowledge.look_alikes(
        {}, KINDS, KIND_OF, CENTRES
    )
