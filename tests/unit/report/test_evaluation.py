"""Scores on harder tests, answers and calibration: what the record lacks is absent, what flatters is not shown."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pages import ATTACKS, NO_BREAK, THIN, WORDS, Page, a_record, alien_words, has_only_own_code, page_of

from fruits.report import render
from fruits.report.answers import view_calibration, view_coverage
from fruits.report.evaluation import view_evaluation


def a_protocol(protocol: str = "official", **changes: Any) -> dict[str, Any]:
    """A score of 97.3 % by label and 98.5 % by kind, without a leak."""
    return {
        "protocol": protocol,
        "seen": False,
        "photos": 6640,
        "left_out": 348,
        "folds": 1,
        "groups": 212,
        "grouped_by": "sequence",
        "accuracy": 0.973,
        "low": 0.961,
        "high": 0.983,
        "kind_accuracy": 0.985,
        "kind_low": 0.974,
        "kind_high": 0.993,
        "leakage": 0.01,
    } | changes


def an_evaluation(*protocols: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What ``fruits evaluate`` measured."""
    return {
        "format": 1,
        "identity": "0" * 64,
        "started": "2026-11-22T13:10:00+00:00",
        "backbone": "mobilenet_v2_imagenet",
        "size": 224,
        "components": 192,
        "photos": 26300,
        "near_duplicates": {"threshold": 0.067, "copies": 0.067, "other_labels": 0.141, "chance": 0.004},
        "seen": {"checked": True, "photos": 0, "share": 0.0, "of": "ImageNet"},
        "protocols": list(protocols or (a_protocol(),)),
        "not_applicable": [{"protocol": "axis", "reason": "no label has two image sequences"}],
        "seconds": 41.2,
    } | changes


def of_sources(*sources: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Scores by kind of two sources and of both together, and one that the network has seen."""
    by_kind = dict.fromkeys(("accuracy", "low", "high"))
    three = {"kind_top3_accuracy": 0.995, "kind_top3_low": 0.991, "kind_top3_high": 0.998}
    none = dict.fromkeys((*three, "kind_accuracy", "kind_low", "kind_high"))
    about = {"left_out": 0, "too_few_to_say": False, "seen": False}
    home = about | three | {"kind_accuracy": 0.9, "kind_low": 0.85, "kind_high": 0.94, "source": "home", "photos": 400}
    shop = home | {"source": "shop", "photos": 12, "too_few_to_say": True}
    seen = about | none | {"source": "web", "photos": 1234, "seen": True}
    given = {"folds": 2, "photos": 412, "grouped_by": "photo", "sources": list(sources or (home, shop, seen))}
    return a_protocol("source", **(by_kind | three | given | changes))


def with_answers(**changes: Any) -> dict[str, Any]:
    """A record whose 12 scored photos were answered with labels of 2 kinds."""
    record = a_record(
        kinds=2,
        kind_metrics={"accuracy": 0.98, "top3Accuracy": 0.99, "expectedCalibrationError": 0.0123, "kinds": 2},
        balanced=True,
        calibration={
            "temperature": 0.72,
            "validation_photos": 3800,
            "expectedCalibrationError": 0.0061,
            "uncalibrated": 0.031,
            "noise_floor": 0.0049,
            "bins": [
                {"low": 0.0, "high": 0.5, "photos": 0, "confidence": None, "accuracy": None},
                {"low": 0.5, "high": 0.75, "photos": 2, "confidence": 0.6, "accuracy": 0.5},
                {"low": 0.75, "high": 1.0, "photos": 10, "confidence": 0.96, "accuracy": 1.0},
            ],
        },
        coverage={
            "photos": 3800,
            "min_precision": 0.92,
            "curve": [
                {"limit": 0.9, "coverage": 0.2, "precision": 1.0},
                {"limit": 0.6, "coverage": 0.5, "precision": 0.97},
                {"limit": 0.42, "coverage": 0.75, "precision": 0.93},
                {"limit": 0.2, "coverage": 0.95, "precision": 0.84},
            ],
            "sure": {"coverage": 0.48, "precision": 0.976},
            "named": {"coverage": 0.75, "precision": 0.93},
        },
        answers={
            "thresholds": {
                "variety": 0.71,
                "kind": 0.55,
                "probable": 0.42,
                "unknown": 12.3,
                "dark": 0.2,
                "blurred": None,
                "small": 50,
            },
            "outcomes": [
                {"outcome": "variety", "photos": 8, "share": 0.667, "right": 0.99},
                {"outcome": "kind", "photos": 1, "share": 0.083, "right": 0.97},
                {"outcome": "probable", "photos": 1, "share": 0.083, "right": 0.88},
                {"outcome": "unsure", "photos": 1, "share": 0.083, "right": 0.83},
                {"outcome": "unknown", "photos": 1, "share": 0.083, "right": None},
            ],
            "accepted": 0.951,
        },
    )
    return record | changes


def section(page: Page, language: str = "en", title: str = "evaluation") -> str:
    """What a reader sees from the title of a section on, without the list of contents."""
    return page.text(language).rpartition(WORDS[language][title])[2]


# How good it really is


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        (
            "en",
            [
                "The given split 97.3% 96.1% to 98.3% 98.5% 97.4% to 99.3% 1.0%",
                "6,640 photos, 212 image sequences, 348 left",
            ],
        ),
        ("en", ["no further apart than 95% of photos", "(0.067)", "(0.141)", "0.4% have a near-duplicate of another"]),
        ("en", ["not of single photos", "224 × 224 pixels, by the network mobilenet_v2_imagenet and 192 components"]),
        ("en", ["Not possible here One axis of rotation – no label has two image sequences"]),
        (
            "fr",
            [f"Le partage donné 97,3{THIN}% 96,1{THIN}% à 98,3{THIN}%", "Un axe de rotation – aucune étiquette n’a"],
        ),
        ("fr", [f"6{THIN}640 photos, 212 séquences d’images, 348 laissées de côté", f"41,2{NO_BREAK}s"]),
    ],
)
def test_evaluation_says_what_was_measured_and_how(language: str, sentences: list[str]) -> None:
    seen = section(page_of(render, a_record(), {}, an_evaluation()), language)
    for sentence in sentences:
        assert sentence in seen


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ({"out": "out"}, "fruits evaluate out"),
        ({"out": "my results"}, "fruits evaluate 'my results'"),
        (None, "fruits evaluate OUT"),
    ],
)
def test_page_without_evaluation_says_how_to_get_one(config: dict[str, str] | None, command: str) -> None:
    page = page_of(render, a_record(config=config), {})
    for language in ("en", "fr"):
        assert f"{WORDS[language]['evaluation_none']} {command} " in page.text(language)
    assert page.n("tfoot") == 2
    assert any(attrs.get("id") == "evaluation" for _, attrs in page.tags)


def test_score_on_photos_that_made_the_network_is_never_a_number() -> None:
    # The numbers are there by mistake: what flatters is not shown even then.
    page = page_of(render, a_record(), {}, an_evaluation(a_protocol("arc", seen=True), a_protocol()))
    words = section(page)
    assert "A quarter of each turn seen seen 1.0%" in words
    assert "The network was trained on these photos." in words
    assert "Un quart de chaque tour déjà vues déjà vues" in section(page, "fr")
    assert words.count("97.3%") == 1
    assert page.n("path") - page_of(render, a_record(), {}).n("path") == 2, (
        "one in the legend, one for the other protocol"
    )


def test_no_scale_is_drawn_where_there_is_no_score() -> None:
    given = an_evaluation(a_protocol(seen=True, **dict.fromkeys(("accuracy", "kind_accuracy"))))
    assert page_of(render, a_record(), {}, given).n("tfoot") == 2
    view = view_evaluation(given)
    assert view is not None
    assert view.ticks == []


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        (
            {"checked": True, "photos": 19312, "share": 0.734, "of": "Fruits-360"},
            "19,312 (73.4%) are training photos of the",
        ),
        ({"checked": True, "photos": 19312, "share": 0.734, "of": "Fruits-360"}, "Trained on: Fruits-360."),
        (
            {"checked": True, "photos": 0, "share": 0.0, "of": None},
            "None of the 26,300 photos is a training photo",
        ),
        ({"checked": False, "photos": 0, "share": 0.0, "of": "ImageNet"}, "is not known: its card does not list"),
        ({"checked": False, "photos": 0, "share": 0.0, "of": "ImageNet"}, "Trained on: ImageNet."),
    ],
)
def test_evaluation_says_what_the_network_has_seen(seen: dict[str, Any], sentence: str) -> None:
    assert sentence in section(page_of(render, a_record(), {}, an_evaluation(seen=seen)))


@pytest.mark.parametrize(("leakage", "is_marked"), [(0.81, True), (0.0501, True), (0.05, False), (None, False)])
def test_leak_is_marked_with_a_word_and_not_by_colour_alone(leakage: float | None, is_marked: bool) -> None:
    page = page_of(render, a_record(), {}, an_evaluation(a_protocol(leakage=leakage)))
    assert ("▲ leaks" in section(page)) is is_marked
    assert ("▲ fuite" in section(page, "fr")) is is_marked
    assert ("part of the score is memory" in section(page)) is is_marked


def test_protocol_scored_by_kind_only_has_a_dash_by_label() -> None:
    variety = a_protocol("variety", accuracy=None, low=None, high=None, grouped_by="variety", groups=71, folds=5)
    seen = section(page_of(render, a_record(), {}, an_evaluation(variety)))
    assert "Whole varieties – 98.5% 97.4% to 99.3%" in seen
    assert "71 varieties, 5 folds" in seen


def test_scores_by_kind_are_left_out_where_they_say_nothing_new() -> None:
    same = a_protocol(kind_accuracy=0.973, kind_low=0.961, kind_high=0.983)
    assert "By kind" not in page_of(render, a_record(), {}, an_evaluation(same)).text()
    assert "By kind" in page_of(render, a_record(), {}, an_evaluation(a_protocol())).text()


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        (
            "en",
            [
                "412 photos, each photo is a group, 2 folds, 348 left out, 1 of 3 sources seen",
                "trained on photos of 1 of the 3 sources: that one has no score, and the total is of the others alone.",
                "home 400 90.0% 85.0% to 94.0% 99.5% 99.1% to 99.8%",
                "shop 12 too few to say 85.0% to 94.0% too few to say 99.1% to 99.8%",
                "web 1,234 seen seen",
                "Sources not seen 412 98.5% 97.4% to 99.3% 99.5% 99.1% to 99.8%",
                "The network was trained on these photos.",
            ],
        ),
        ("fr", ["1 source déjà vue sur 3", f"web 1{THIN}234 déjà vues déjà vues", "Sources jamais vues 412"]),
        ("es", ["1 fuente ya vista de 3", "web 1234 ya vistas ya vistas", "Fuentes no vistas 412"]),
    ],
)
def test_each_source_has_its_score_or_was_seen(language: str, sentences: list[str]) -> None:
    said = section(page_of(render, a_record(), {}, an_evaluation(of_sources())), language)
    for sentence in sentences:
        assert sentence in said, said


def test_sources_of_an_older_evaluation_are_shown_without_what_it_lacks() -> None:
    older = {"source": "home", "photos": 400, "left_out": 0, "too_few_to_say": False, "kind_top3_accuracy": 0.995}
    older |= {"kind_accuracy": 0.9, "kind_low": 0.85, "kind_high": 0.94}
    total = of_sources(older, older | {"source": "shop"}, kind_top3_low=None, kind_top3_high=None)
    said = section(page_of(render, a_record(), {}, an_evaluation(total)))
    assert "home 400 90.0% 85.0% to 94.0% 99.5% shop 400" in said
    assert "All sources 412 98.5% 97.4% to 99.3% 99.5%" in said
    assert WORDS["en"]["seen_why"] not in said


def test_sources_that_were_all_seen_are_not_listed() -> None:
    all_seen = of_sources({"source": "web", "photos": 1234, "seen": True, "left_out": 0}, seen=True)
    page = page_of(render, a_record(), {}, an_evaluation(all_seen))
    assert "Whole sources seen seen" not in section(page), "there is no column of kinds without scores"
    assert "Whole sources seen" in section(page)
    assert WORDS["en"]["by_source"] not in page.text()


@pytest.mark.parametrize(("low", "begin"), [(0.96, 0.95), (0.93, 0.9), (0.5, 0.5), (0.2, 0.0), (0.0, 0.0)])
def test_axis_begins_below_every_interval_and_ends_at_all(low: float, begin: float) -> None:
    view = view_evaluation(an_evaluation(a_protocol(low=low), a_protocol(low=0.97)))
    assert view is not None
    assert (view.ticks[0].value, view.ticks[0].at) == (begin, 0)
    assert (view.ticks[-1].value, view.ticks[-1].at) == (pytest.approx(1), 100)
    for protocol in view.protocols:
        for score in (protocol.label, protocol.kind):
            assert score.start is not None
            assert score.width is not None
            assert score.at is not None
            assert 0 <= score.start <= score.at <= score.start + score.width <= 100


@pytest.mark.parametrize("missing", ["near_duplicates", "seen", "not_applicable", "protocols"])
def test_evaluation_without_a_part_leaves_a_whole_page(missing: str) -> None:
    for empty in (None, {}, []):
        given = {**an_evaluation(), missing: empty}
        page_of(render, a_record(), {}, given)


# What a person is told


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        (
            "en",
            [
                "12 test photos = 8 a variety + 1 a kind + 1 probably + 1 not sure + 1 none I know",
                "66.7% 99.0%",
                "8.3% –",
            ],
        ),
        (
            "en",
            [
                "95.1% of these photos",
                "probability of 71.0% on",
                "out-of-distribution score of 12.30",
                "less than 50 pixels",
            ],
        ),
        ("en", ["without correction 3.10%", "as answered 0.61%", "of a perfectly calibrated recogniser 0.49%"]),
        (
            "en",
            [
                "temperature of 0.72, chosen on 3,800 validation photos, makes the answers more confident",
                "75% to 100% 10 96.0%",
            ],
        ),
        ("fr", ["12 photos de test = 8 une variété", f"95,1{THIN}% de ces photos", f"sans correction 3,10{THIN}%"]),
        ("en", ["From a probability of 42.0% on, the answer is “probably” and the kind; below that, “not sure”."]),
        ("fr", [f"À partir d’une probabilité de 42,0{THIN}%, la réponse est"]),
        (
            "fr",
            [f"à partir d’une probabilité de 71,0{THIN}%", "score hors distribution de 12,30", "moins de 50 pixels"],
        ),
    ],
)
def test_answers_are_told_with_their_limits_and_how_often_they_are_right(language: str, sentences: list[str]) -> None:
    seen = section(page_of(render, with_answers(), {}), language, "answers")
    for sentence in sentences:
        assert sentence in seen


def test_answers_that_do_not_make_the_scored_photos_are_shown_as_such() -> None:
    outcomes = with_answers()["answers"]["outcomes"][:4]
    seen = page_of(render, with_answers(answers={"thresholds": {}, "outcomes": outcomes}), {}).text()
    assert "This does not add up: the parts make 11, not 12." in seen


@pytest.mark.parametrize(
    ("thresholds", "sentence"),
    [
        ({"unknown": None}, "“None of the things I know” is never the answer"),
        ({"kind": 0.9, "probable": 0.9}, "“Probably” is never the answer"),
        ({"kind": 1.1, "probable": 1.1}, "“Probably” is never the answer"),
        ({"kind": 1.1, "probable": 0.4}, "From a probability of 40.0% on, the answer is “probably”"),
        ({"small": 1}, "less than 1 pixel."),
        ({"blurred": 0.31}, "blurred below a sharpness of 0.31."),
    ],
)
def test_limits_are_said_in_words(thresholds: dict[str, Any], sentence: str) -> None:
    page = page_of(render, with_answers(answers={"thresholds": thresholds, "outcomes": []}), {})
    assert sentence in page.text()
    assert "None" not in page.text().replace("“None of the things", "").replace("None: ", "")


def test_curve_and_its_chosen_points_lie_where_coverage_and_precision_say() -> None:
    view = view_coverage(with_answers())
    assert view is not None
    # The scale begins at 80 %, the whole tenth below what is shown.
    assert view.line == "20.00,0 50.00,15 75.00,35 95.00,80"
    assert [(point.name, point.x, point.y) for point in view.points] == [("sure", 48, 12), ("named", 75, 35)]
    assert view.asked == 40
    assert view.levels[0] == (0, 1)
    assert view.levels[-1][0] == 100
    assert view.levels[-1][1] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["Of 3,800 validation photos", "Requested: 92.0% of the answers", "and 97.3% of the sure ones"]),
        ("en", ["Sure: a variety or a kind 48.0% 97.6%", "With “probably”: all that name something 75.0% 93.0%"]),
        ("fr", [f"Demandé{NO_BREAK}: 92,0{THIN}% de réponses justes", f"48,0{THIN}% 97,6{THIN}%"]),
    ],
)
def test_owner_sees_how_many_answers_there_are_and_how_good(language: str, sentences: list[str]) -> None:
    seen = section(page_of(render, with_answers(), {}), language, "answers")
    for sentence in sentences:
        assert sentence in seen


def test_points_that_would_hide_each_other_are_marked_as_one() -> None:
    same = {"coverage": 0.75, "precision": 0.93}
    view = view_coverage(with_answers(coverage=with_answers()["coverage"] | {"sure": same}))
    assert view is not None
    assert [point.name for point in view.points] == ["both"]


@pytest.mark.parametrize("nothing", [{"curve": []}, {"sure": {"coverage": 0.0, "precision": None}}])
def test_where_nothing_is_answered_nothing_is_marked(nothing: dict[str, Any]) -> None:
    record = with_answers(coverage=with_answers()["coverage"] | nothing)
    view = view_coverage(record)
    assert [point.name for point in view.points] == ["named"] if view else nothing == {"curve": []}
    page_of(render, record, {})


def test_dots_fall_where_probability_and_share_of_right_answers_meet() -> None:
    view = view_calibration(with_answers())
    assert view is not None
    assert [(dot.x, dot.y) for dot in view.dots] == [(96, 0), (60, 50)]
    assert view.dots[0].radius > view.dots[1].radius
    assert [(error.name, error.width) for error in view.errors] == [("before", 100), ("after", 19.68), ("floor", 15.81)]


def test_high_temperature_makes_answers_less_sure() -> None:
    calibration = with_answers()["calibration"] | {"temperature": 1.4}
    assert "makes the answers less confident" in page_of(render, with_answers(calibration=calibration), {}).text()


def test_scores_by_kind_stand_beside_those_by_label() -> None:
    seen = page_of(render, with_answers(), {}).text()
    assert "The right kind, out of 2, was given to 98.0% of the test photos." in seen
    assert "Share of photos given the right label. 0.9167 0.9800" in seen
    assert "weights in training kinds and sources count the same" in seen


@pytest.mark.parametrize("changes", [{"kinds": 3}, {"kinds": None}, {"kind_metrics": None}])
def test_kinds_that_are_labels_are_not_mentioned(changes: dict[str, Any]) -> None:
    seen = page_of(render, with_answers(**changes), {}).text()
    assert "right kind, out of" not in seen
    assert "By kind" not in seen


@pytest.mark.parametrize("missing", ["kinds", "kind_metrics", "calibration", "answers", "coverage", "balanced"])
def test_record_without_a_new_part_leaves_a_whole_page(missing: str) -> None:
    without = with_answers()
    del without[missing]
    page_of(render, without, {})
    page_of(render, with_answers(**{missing: None}), {})


def test_older_record_has_no_section_of_answers() -> None:
    page = page_of(render, a_record(), {})
    assert WORDS["en"]["answers"] not in page.text()
    assert not [attrs for _, attrs in page.tags if attrs.get("id") == "answers" or attrs.get("href") == "#answers"]


@pytest.mark.parametrize("part", ["calibration", "answers", "coverage"])
def test_section_of_answers_holds_what_there_is(part: str) -> None:
    page = page_of(render, a_record(**{part: with_answers()[part]}), {})
    assert [attrs for _, attrs in page.tags if attrs.get("id") == "answers"]


# Both


def test_hostile_evaluation_adds_nothing_that_acts() -> None:
    rows = [a_protocol(attack, grouped_by=attack) for attack in ATTACKS]
    rows.append(of_sources(*({"source": text, "photos": 1, "seen": text == ATTACKS[0]} for text in ATTACKS)))
    attack = ATTACKS[1]
    given = an_evaluation(
        *rows,
        backbone=attack,
        started=attack,
        seen={"checked": True, "photos": 1, "share": 0.1, "of": attack},
        not_applicable=[{"protocol": text, "reason": text} for text in ATTACKS],
    )
    outcomes = [{"outcome": text, "photos": 1, "share": 0.1, "right": 0.1} for text in ATTACKS]
    document = render(with_answers(answers={"thresholds": {}, "outcomes": outcomes}, config={"out": attack}), {}, given)
    assert has_only_own_code(Page(document))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", document)


def test_no_visible_text_of_the_new_sections_escapes_translation() -> None:
    given = an_evaluation(a_protocol(leakage=0.5), a_protocol("arc", seen=True), of_sources())
    assert not alien_words(page_of(render, with_answers(), {}, given))


@pytest.mark.parametrize("language", ["en", "es", "fr"])
def test_every_protocol_and_answer_has_its_name_and_its_explanation(language: str) -> None:
    names = ("official", "source", "axis", "arc", "variety", "groups")
    page = page_of(render, with_answers(), {}, an_evaluation(*map(a_protocol, names)))
    keys = [f"protocol_{name}" for name in names] + [
        f"answer_{name}" for name in ("variety", "kind", "probable", "unsure", "unknown")
    ]
    for key in keys:
        assert WORDS[language][key] in page.text(language)
        assert WORDS[language][f"{key}_why"] in page.text(language)


# --- Beside the headline --------------------------------------------------------------------------------------------------


def headline(*protocols: dict[str, Any]) -> str:
    said = page_of(render, a_record(), {}, an_evaluation(*protocols)).text("en")
    return said[: said.index("reduced from")]


def test_lowest_score_with_more_held_out_stands_beside_the_headline() -> None:
    harder = a_protocol("groups", accuracy=0.918, low=0.901, high=0.932)
    easier = a_protocol("arc", accuracy=0.95, low=0.94, high=0.96)
    told = headline(a_protocol(leakage=0.55), easier, harder)
    assert "In a harder test (Whole groups of photos): 91.8%, 95% interval 90.1% to 93.2%." in told


@pytest.mark.parametrize("change", [{"too_few_to_say": True}, {"seen": True}, {"accuracy": None}, {"leakage": 0.5}])
def test_score_that_says_little_does_not_stand_beside_the_headline(change: dict[str, Any]) -> None:
    assert "harder test" not in headline(a_protocol(), a_protocol("groups", **change))
    assert "harder test" not in headline(a_protocol())


def test_protocol_with_few_photos_gives_an_interval_and_no_score() -> None:
    said = page_of(render, a_record(), {}, an_evaluation(a_protocol(too_few_to_say=True, photos=12))).text("en")
    assert "too few to say" in said
    assert "97.3%" not in said
    assert "96.1% to 98.3%" in said
