"""The report in the reader's order: what to do next before everything else, details folded, every option explained."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from pages import ATTACKS, a_record, page_of

from fruits.config import RunConfig
from fruits.messages import LANGUAGES, catalogue
from fruits.report import render
from fruits.report.next_steps import next_steps


def _commands(record: dict[str, Any], *, evaluated: bool = False) -> list[str]:
    return [step.command for step in next_steps(record, evaluated=evaluated) if step.command]


def test_sections_come_in_the_order_of_the_reader() -> None:
    page = render(a_record(), {})
    found = re.findall(r'<section id="(\w+)"(?: class="(folded)")?', page)
    assert [name for name, _ in found][:3] == ["next", "confusions", "per_label"]
    assert [folded for _, folded in found] == ["", "", "", *["folded"] * (len(found) - 3)]
    assert {"evaluation", "metrics", "notes", "rejections", "counts", "curve", "seconds", "making"} <= {
        name for name, _ in found
    }


def test_score_from_memory_is_to_be_measured_again_first() -> None:
    leaky = a_record(leakage={"photos": 12, "share": 0.5, "high": True})
    seen = page_of(render, leaky, {}).text()
    assert "this score is too high. fruits evaluate out" in seen
    assert _commands(leaky)[0] == "fruits evaluate out"
    assert "fruits evaluate out" not in _commands(leaky, evaluated=True), "it was done"


def test_commands_name_the_photos_and_the_results_of_the_run() -> None:
    record = a_record(config={"sources": ["my photos", "s3://b/p"], "out": "out; ls"})
    assert _commands(record, evaluated=True) == [
        "fruits audit 'my photos' s3://b/p --to 'out; ls-audit'",
        "fruits serve 'out; ls'",
    ]


def test_weak_labels_and_unusable_photos_are_named_with_their_place() -> None:
    rows = a_record()["per_label"]
    rows[1] |= {"recall": 0.2, "evaluated": 40}
    rows[2] |= {"recall": 0.1, "evaluated": 2}  # of so few nothing is said
    record = a_record(per_label=rows, rejections_total=7, labels_without_training=[{"label": "Walnut", "photos": 83}])
    steps = {step.at: step for step in next_steps(record, evaluated=True) if step.at}
    assert steps["per_label"].label == "Pear"
    assert (steps["confusions"].label, steps["confusions"].other) == ("Apple", "Pear")
    assert "7 photos could not be used" in str(steps["rejections"].text.forms["en"])
    assert "1 label has no training photos" in str(steps["notes"].text.forms["en"])


def test_run_without_a_test_is_told_how_to_get_a_score() -> None:
    steps = next_steps(a_record(metrics=None, evaluated=None), evaluated=False)
    assert "folder Test" in str(steps[0].text.forms["en"])


def test_hostile_labels_stay_text_in_what_to_do() -> None:
    record = a_record(ATTACKS, config={"sources": list(ATTACKS), "out": ATTACKS[0]})
    page = page_of(render, record, {})
    assert page.n("script") == page_of(render, a_record(), {}).n("script")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_option_of_a_run_is_explained(language: str) -> None:
    said = catalogue(language)
    for option in dataclasses.fields(RunConfig):
        assert f"report.config_{option.name}" in said, option.name
        if language != "en":
            key = f"report.config_{option.name}"
            assert said.pattern(key, 1) != catalogue("en").pattern(key, 1), f"{option.name} is not translated"


def test_yes_no_and_nothing_are_said_in_the_language_of_the_reader() -> None:
    seen = page_of(render, a_record(config={"balance": True, "repair": False, "only": []}), {}).text("fr")
    assert re.search(r"balance .*? oui only .*? non précisé repair .*? non", seen)
