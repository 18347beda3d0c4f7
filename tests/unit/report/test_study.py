"""The page of a study of networks: positions computed by hand, every value in every language, and nothing but its own code."""

from __future__ import annotations

from typing import Any

import pytest
from pages import ATTACKS, NO_BREAK, THIN, WORDS, Page, alien_words, has_only_own_code

from fruits.report import render_study
from fruits.report.study import plot_costs, ticks_within


def a_score(accuracy: float | None, low: float, high: float, **changes: Any) -> dict[str, Any]:
    return {
        "accuracy": accuracy, "low": low, "high": high, "kind_accuracy": None, "kind_low": None, "kind_high": None,
        "calibration_error": 0.0123, "leakage": 0.0, "seen": False, "photos": 100, "groups": 50, "too_few_to_say": False,
    } | changes  # fmt: skip


def a_network(name: str, cost: float, score: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    protocols = {"groups": score or a_score(None, 0.8, 0.95, seen=True)}
    return {
        "name": name, "title": name, "backbone": name, "size": 100, "number_format": "int8", "device": "cpu", "run": name * 8,
        "file_bytes": 3_765_071, "embedding_size": 1280, "components": 118, "embedding_bytes_per_million": 5_120_000_000,
        "components_for": [{"share": s, "components": k} for s, k in ((0.9, 40), (0.95, 81), (0.99, None))],
        "feature_bytes_per_million": 472_000_000, "protocols": protocols, "score": score, "frontier": False,
        "measured_photos": 256, "photos_per_s": 1000 / cost, "photos_per_s_low": 900 / cost, "photos_per_s_high": 1100 / cost,
        "core_s_per_1000": cost, "peak_memory_mb": 234, "seconds_of_run": 10.0,
    } | changes  # fmt: skip


def a_study(**changes: Any) -> dict[str, Any]:
    rows = [
        a_network("small", 1.0, a_score(0.8, 0.75, 0.85), frontier=True),
        a_network("middle", 4.0, a_score(0.7, 0.6, 0.75)),
        a_network("large", 16.0, a_score(0.9, 0.85, 0.95), frontier=True),
        a_network("known", 2.0, None),
    ]
    return {
        "format": 1, "study": "backbones", "fruits": "0.1.0", "command": "fruits study backbones photos --to out",
        "started": "2026-11-29T05:00:00+00:00", "machine": {"cpu": "A processor", "cores": 2, "load": 9.3, "busy": True},
        "out": "out", "sources": [{"source": "photos", "photos": 1972}], "photos": 1972, "labels": 81, "repeats": 5,
        "protocol": "groups", "rows": rows, "recommended": "large" * 8, "seconds": {"total": 61.3},
    } | changes  # fmt: skip


def test_points_lie_where_cost_and_accuracy_put_them() -> None:
    plot = plot_costs(a_study())
    assert plot is not None
    # The axis of cost goes from 1 / 1.25 to 16 * 1.25, a factor of 25: 1 lies at log 1.25 / log 25 = 6.93 %, 4 at 50 %.
    assert [point.x for point in plot.points] == [6.93, 50.0, 93.07]
    # The lowest bound is 0.6, so the axis of accuracy goes from 0.5 to 1: 0.8 lies 40 % from the top.
    assert [(point.y, point.low, point.high) for point in plot.points] == [
        (40.0, 50.0, 30.0),
        (60.0, 80.0, 50.0),
        (20.0, 30.0, 10.0),
    ]
    assert plot.line == "6.93,40 93.07,20", "the frontier leaves out the network that is dearer and worse"
    assert [point.number for point in plot.points if point.recommended] == [3]


def test_an_axis_of_less_than_a_decade_has_a_tick_per_digit() -> None:
    assert ticks_within(0.8, 20) == [1, 2, 5, 10, 20]
    assert ticks_within(2.5, 8.2) == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["90.0% right labels with large at 100 pixels", "85.0% to 95.0%", "0.012", "234 MB", "3.8 MB", "5.12 GB", "81"]),
        ("en", ["load 9.3 on 2 cores", "k for 99%", "fruits runs out --use largelargela", "known", "seen"]),
        ("fr", [f"90,0{THIN}% d'étiquettes justes avec large", "0,012", "5,12 Go", "4 réseaux comparés", f"61,3{NO_BREAK}s"]),
        ("es", ["de etiquetas correctas con large a 100 píxeles", "recomendada", "4 redes comparadas"]),
    ],
)  # fmt: skip
def test_page_shows_what_was_measured(language: str, sentences: list[str]) -> None:
    seen = Page(render_study(a_study())).text(language)
    for sentence in sentences:
        assert sentence in seen


def test_a_study_without_any_score_says_why_and_shows_the_rest() -> None:
    page = Page(render_study(a_study(rows=[a_network("known", 2.0, None)], recommended=None, protocol=None)))
    assert WORDS["en"]["study_no_score"] in page.text()
    assert page.text().count(WORDS["en"]["study_no_score_why"]) == 2
    assert page.n("circle") == 0
    assert "500" in page.text(), "photos per second are measured all the same"


def test_page_says_everything_in_every_language() -> None:
    assert not alien_words(Page(render_study(a_study())))


@pytest.mark.parametrize("attack", ATTACKS)
def test_names_cannot_become_code(attack: str) -> None:
    row = a_network(attack, 1.0, a_score(0.8, 0.75, 0.85), run="ab" * 20, number_format=attack, frontier=True)
    study = a_study(rows=[row], recommended="ab" * 20, command=attack, out=attack)
    study["machine"]["cpu"] = attack
    assert has_only_own_code(Page(render_study(study)))
