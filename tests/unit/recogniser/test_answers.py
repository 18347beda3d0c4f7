"""What a person is told: the ladder from a variety down to nothing, and advice only where it helps."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fruits.photos.decoding.quality import Limits
from fruits.recogniser.answers import BEST, OUTCOMES, Answer, Certainty, answers, decide
from fruits.recogniser.taxonomy import NONE, Taxonomy

LABELS = ["Apple Golden 1", "Apple Golden 2", "Apple Red 1", "Lemon", "Lemon Meyer", "Moon Pear"]
TAXONOMY = Taxonomy.of(LABELS)
LIMITS = Limits(dark=0.2, blurred=0.3, small=50)
CERTAINTY = Certainty(variety=0.7, kind=0.8, probable=0.6, ood_limit=2.0, limits=LIMITS)


def told(
    probabilities: list[float],
    ood_score: float = 0.0,
    *,
    taxonomy: Taxonomy = TAXONOMY,
    certainty: Certainty = CERTAINTY,
    advice: tuple[str, ...] = ("blurred",),
) -> Answer:
    """What is said of one photo."""
    given_probabilities, scores = np.array([probabilities], np.float32), np.array([ood_score], np.float32)
    decisions = decide(given_probabilities, scores, taxonomy, certainty)
    (answer,) = answers(decisions, scores, np.zeros((1, 2), np.float32), taxonomy, [advice])
    return answer


# --- The ladder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probabilities", "ood_score", "outcome", "named", "probability"),
    [
        ([0.9, 0, 0, 0.1, 0, 0], 0, "variety", "apple/golden-delicious", 0.9),
        # Two labels of one variety count together.
        ([0.4, 0.4, 0, 0.2, 0, 0], 0, "variety", "apple/golden-delicious", 0.8),
        # No variety is certain, the kind is.
        ([0.3, 0.2, 0.4, 0.1, 0, 0], 0, "kind", "apple", 0.9),
        # A label that names no variety: its kind is all there is to say.
        ([0, 0, 0, 1, 0, 0], 0, "kind", "lemon", 1.0),
        ([0, 0, 0, 0, 0, 1], 0, "kind", "Moon Pear", 1.0),
        ([0.3, 0.1, 0.1, 0.3, 0.1, 0.1], 0, "unsure", "", 0.5),
        # Not certain, but more likely than not.
        ([0.3, 0.2, 0.1, 0.4, 0, 0], 0, "probable", "apple", 0.6),
        ([0, 0, 0, 0.25, 0.5, 0.25], 0, "probable", "lemon", 0.75),
        # However sure: above the limit it is none of the things that were learnt.
        ([1, 0, 0, 0, 0, 0], 2.1, "unknown", "", 1.0),
        ([0.3, 0.1, 0.1, 0.3, 0.1, 0.1], 9, "unknown", "", 0.5),
        ([1, 0, 0, 0, 0, 0], 2.0, "variety", "apple/golden-delicious", 1.0),
    ],
)
def test_outcome_is_the_most_that_can_be_said(
    probabilities: list[float], ood_score: float, outcome: str, named: str, probability: float
) -> None:
    answer = told(probabilities, ood_score)
    assert answer.outcome == outcome
    assert (answer.variety if outcome == "variety" else answer.kind) == named
    assert answer.kind == named.partition("/")[0]
    assert answer.probability == pytest.approx(probability, abs=1e-6)  # float32
    assert (answer.name is None) == (outcome in ("unsure", "unknown"))
    assert answer.ood_score == np.float32(ood_score)


def test_name_is_that_of_what_is_said() -> None:
    assert told([0.9, 0, 0, 0.1, 0, 0]).name == TAXONOMY.varieties[TAXONOMY.variety_ids.index("apple/golden-delicious")]
    assert told([0, 0, 0, 1, 0, 0]).name == TAXONOMY.kinds[TAXONOMY.kind_ids.index("lemon")]


def test_limits_themselves_count_as_certain() -> None:
    assert told([0.75, 0, 0, 0.25, 0, 0], certainty=Certainty(0.75, 0.8, 0.6, math.inf, LIMITS)).outcome == "variety"
    assert told([0, 0, 0.25, 0.75, 0, 0], certainty=Certainty(0.9, 0.75, 0.6, math.inf, LIMITS)).outcome == "kind"
    assert told([0, 0, 0.25, 0.75, 0, 0], certainty=Certainty(0.9, 0.8, 0.75, math.inf, LIMITS)).outcome == "probable"


def test_where_probable_begins_at_certain_there_is_none() -> None:
    for p in (0.1, 0.5, 0.79, 0.8, 1.0):
        answer = told([0, 0, 0, p, 0, 1 - p], certainty=Certainty(0.7, 0.8, 0.8, math.inf, LIMITS))
        assert answer.outcome in ("kind", "unsure")


def test_without_varieties_only_kinds_are_named() -> None:
    taxonomy = Taxonomy.of(LABELS, NONE)
    answer = told([0.9, 0, 0, 0.1, 0, 0], taxonomy=taxonomy)
    assert (answer.outcome, answer.kind, answer.variety) == ("kind", "Apple Golden 1", "")
    assert told([0.5, 0.5, 0, 0, 0, 0], taxonomy=taxonomy).outcome == "unsure"


def test_best_kinds_and_labels_are_given_whatever_the_outcome() -> None:
    answer = told([0.3, 0.1, 0.1, 0.3, 0.1, 0.1])
    assert [kind for kind, _, _ in answer.kinds] == ["apple", "lemon", "Moon Pear"]
    assert [p for _, _, p in answer.kinds] == pytest.approx([0.5, 0.4, 0.1])
    assert answer.kinds[0][1]["fr"] == "Pomme"
    assert answer.labels == ("Apple Golden 1", "Lemon", "Apple Golden 2")
    assert answer.probabilities == pytest.approx((0.3, 0.3, 0.1))


@pytest.mark.parametrize(
    ("probabilities", "ood_score", "advised"),
    [
        ([0.9, 0, 0, 0.1, 0, 0], 0, False),
        ([0, 0, 0, 1, 0, 0], 0, False),
        ([0.3, 0.1, 0.1, 0.3, 0.1, 0.1], 0, True),
        ([0.3, 0.2, 0.1, 0.4, 0, 0], 0, True),
        ([1, 0, 0, 0, 0, 0], 5, True),
    ],
)
def test_advice_is_given_only_where_nothing_is_certain(
    probabilities: list[float], ood_score: float, advised: bool
) -> None:
    assert told(probabilities, ood_score, advice=("dark", "blurred")).advice == (("dark", "blurred") if advised else ())


@given(
    hnp.arrays(np.float64, (7, len(LABELS)), elements=st.floats(0.01, 1)),
    hnp.arrays(np.float32, 7, elements=st.floats(-5, 5, width=32)),
    st.floats(0.5, 1),
    st.floats(0.5, 1),
    st.floats(0.3, 1),
    st.floats(-1, 3) | st.just(math.inf),
)
def test_every_answer_holds_together(
    raw: np.ndarray, ood_score: np.ndarray, variety: float, kind: float, probable: float, ood_limit: float
) -> None:
    # Sharpened, so that all outcomes occur.
    probabilities = np.asarray(raw**6 / (raw**6).sum(axis=1, keepdims=True), np.float32)
    certainty = Certainty(variety, kind, min(probable, kind), ood_limit, LIMITS)
    decisions = decide(probabilities, ood_score, TAXONOMY, certainty)
    found = answers(decisions, ood_score, np.zeros((7, 1), np.float32), TAXONOMY, [()] * 7)
    for row, answer in enumerate(found):
        best_kind = answer.kinds[0]
        assert answer.outcome == OUTCOMES[decisions.outcome[row]]
        assert (answer.outcome == "unknown") == (ood_score[row] > certainty.ood_limit)
        if answer.outcome == "variety":
            assert answer.probability >= variety
            # More than half of all, or a half against a half: then the kind is the best one, too.
            assert answer.kind == best_kind[0] or answer.probability <= 0.5 + 1e-6
            assert answer.variety.startswith(answer.kind + "/")
        elif answer.outcome in ("kind", "probable"):
            assert (answer.kind, answer.name, answer.probability) == best_kind
            assert (answer.probability >= kind) == (answer.outcome == "kind")
            assert answer.probability >= certainty.probable
            assert decisions.variety_probability[row] < variety
        else:
            assert (answer.name, answer.kind, answer.variety) == (None, "", "")
            if answer.outcome == "unsure":
                assert answer.probability < certainty.probable
        assert len(answer.kinds) == min(BEST, len(TAXONOMY.kinds))
        assert len(answer.labels) == BEST
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)


@given(st.integers(0, 1000), st.integers(1, 20))
def test_answers_do_not_depend_on_the_batch(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(len(LABELS), 0.3), n).astype(np.float32)
    ood_score = rng.normal(1, 1, n).astype(np.float32)
    whole = decide(probabilities, ood_score, TAXONOMY, CERTAINTY)
    for row in range(n):
        one = decide(probabilities[row : row + 1], ood_score[row : row + 1], TAXONOMY, CERTAINTY)
        for name in ("outcome", "kinds", "labels", "variety"):
            assert (getattr(one, name)[0] == getattr(whole, name)[row]).all()


def test_fewer_labels_than_are_named_at_most_are_all_named() -> None:
    answer = told([0.4, 0.6], taxonomy=Taxonomy.of(["Lemon", "Moon Pear"]))
    assert answer.labels == ("Moon Pear", "Lemon")
    assert len(answer.kinds) == 2


# --- Stored -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ood_limit", [1.5, math.inf])
def test_certainty_is_plain_json_and_back(ood_limit: float) -> None:
    certainty = Certainty(0.7, 0.8, 0.6, ood_limit, LIMITS)
    text = json.dumps(certainty.as_dict(), allow_nan=False)
    assert Certainty.parse(json.loads(text)) == certainty


def test_certainty_of_an_older_version_knows_no_probably() -> None:
    stored = {name: value for name, value in CERTAINTY.as_dict().items() if name != "probable"}
    assert Certainty.parse(stored) == Certainty(0.7, 0.8, 0.8, 2.0, LIMITS)


@pytest.mark.parametrize(
    "change",
    [
        {"variety": "high"},
        {"kind": None},
        {"probable": None},
        {"ood_limit": []},
        {"limits": None},
        {"limits": {"dark": 0.1}},
    ],
    ids=str,
)
def test_damaged_certainty_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Certainty.parse({**CERTAINTY.as_dict(), **change})
