"""Arithmetic of studies: frontier, recommendation, k for a share, and the protocol by which networks are compared."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import TensorProto, helper

from fruits.assessment.study.backbones import StudyOptions, common_protocol, number_format
from fruits.assessment.study.frontier import components_for, frontier, recommended
from fruits.assessment.study.machine import processor_s
from fruits.embedding.backbone import find_backbone
from fruits.errors import ConfigError

# By hand: B costs more than A and is better; C costs more than B and is worse; D is the best; E costs as much as D and is worse.
COSTS = [1.0, 2.0, 3.0, 4.0, 4.0]
VALUES = [0.70, 0.80, 0.75, 0.90, 0.85]


def test_the_frontier_holds_what_no_other_beats_in_both() -> None:
    assert frontier(COSTS, VALUES) == [True, True, False, True, False]


def test_equal_choices_are_on_the_frontier_together() -> None:
    assert frontier([1.0, 1.0, 1.0], [0.5, 0.5, 0.4]) == [True, True, False]
    assert frontier([], []) == []


def test_of_equally_accurate_networks_the_cheaper_one_is_on_the_frontier() -> None:
    assert frontier([2.0, 1.0], [0.9, 0.9]) == [False, True]


@pytest.mark.parametrize(
    ("low_of_best", "expected"),
    [(0.89, 3), (0.80, 1), (0.76, 1), (0.70, 0), (0.50, 0)],
)
def test_the_cheapest_within_the_interval_of_the_best_is_recommended(low_of_best: float, expected: int) -> None:
    assert recommended(COSTS, VALUES, [0.0, 0.0, 0.0, low_of_best, 0.0]) == expected


def test_k_is_the_fewest_components_that_explain_a_share() -> None:
    # Cumulative: 0.6, 0.9, 0.96, 0.98.
    assert components_for([0.6, 0.3, 0.06, 0.02], [0.5, 0.9, 0.95, 0.99]) == [1, 2, 3, None]


def scores(accuracy: float | None, leakage: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"accuracy": accuracy, "leakage": leakage, "seen": False, "too_few_to_say": False, **more}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # The strictest of those without leakage.
        ([{"official": scores(0.9), "axis": scores(0.6)}, {"official": scores(0.95), "axis": scores(0.7)}], "axis"),
        # A score that is memory of near-duplicates does not count where there is another one.
        ([{"official": scores(0.5, leakage=0.9), "groups": scores(0.8)}], "groups"),
        ([{"official": scores(0.9, leakage=0.9)}], "official"),
        # A protocol that scores both networks goes before one that scores the first alone.
        ([{"official": scores(0.9), "axis": scores(0.6)}, {"official": scores(0.95)}], "official"),
        # By kind alone, seen, or of too few photos: no score to compare by.
        (
            [{"variety": scores(None), "official": scores(0.9, seen=True), "groups": scores(0.9, too_few_to_say=True)}],
            None,
        ),
    ],
)
def test_networks_are_compared_by_one_honest_protocol(found: list[dict[str, Any]], expected: str | None) -> None:
    assert common_protocol(found) == expected


def test_the_number_format_is_that_of_most_weights() -> None:
    assert number_format(find_backbone("fruits-small").network) == "int8"
    half = helper.make_tensor("half", TensorProto.FLOAT16, [4], [1.0] * 4)
    whole = helper.make_tensor("whole", TensorProto.FLOAT, [3], [1.0] * 3)
    node = helper.make_node("Identity", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    for weights, expected in (([half, whole], "float16"), ([whole], "float32"), ([], "other")):
        graph = helper.make_graph([node], "tiny", [x], [y], weights)
        assert number_format(helper.make_model(graph).SerializeToString()) == expected


def test_a_measurement_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="repeats=0: expected 1 or more"):
        StudyOptions(repeats=0)
    with pytest.raises(ConfigError, match="expected one of official"):
        StudyOptions(protocols=("offical",))


def test_processor_time_of_little_work_is_more_than_nothing() -> None:
    """The system tells hundredths of a second of other processes, in which sixteen small photos are done."""
    before = processor_s()
    sum(range(20_000))
    assert processor_s() - before > 0
