"""The report says what the record says, in both languages, and nothing that the record holds can act in it."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from pages import ATTACKS, NO_BREAK, THIN, WORDS, Page, a_photo, a_record, alien_words, an_attack, page_of

from fruits.report import render
from fruits.report.curve import plot_variance
from fruits.report.document import data_uri
from fruits.report.localisation import count, duration, localised, moment, share, visible


@pytest.fixture(scope="module")
def attacked() -> str:
    """The page of the hostile record."""
    return render(*an_attack())


# What the page says


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["91.7%", "of 12 test photos given the right label", "50 photos = 48 read + 1 rejected + 1 failed"]),
        ("en", ["50 photos = 48 computed + 2 reused", "50 photos = 38 training + 12 test", "Walnut 83"]),
        ("en", ["95 test photos = 12 scored + 83 left out", "1,204 not an image – for example README.md"]),
        (
            "en",
            [
                "1 of 4 photos 25.0% of the label",
                "a/1.jpg Apple rejected damaged cut short",
                f"in between 7.5{NO_BREAK}s",
            ],
        ),
        (
            "fr",
            [
                f"91,7{THIN}%",
                "de bonnes réponses sur 12 photos de test",
                "50 photos = 48 lues + 1 rejetée + 1 en échec",
            ],
        ),
        ("fr", [f"1{THIN}204 pas une image – par exemple README.md", "a/1.jpg Apple rejeté endommagé cut short"]),
        ("fr", ["22 novembre 2026, 09:00 UTC".replace(" ", NO_BREAK, 1), f"entre les étapes 7,5{NO_BREAK}s"]),
    ],
)
def test_page_says_what_the_record_says(language: str, sentences: list[str]) -> None:
    seen = page_of(render, a_record(), {}).text(language)
    for sentence in sentences:
        assert sentence in seen


def test_counts_that_do_not_add_up_are_shown_as_such() -> None:
    seen = page_of(render, a_record(rejected=3), {}).text()
    assert "This does not add up: the parts make 52, not 50." in seen
    assert "≠" in seen
    assert "≠" not in page_of(render, a_record(), {}).text()


def test_splits_may_be_counted_without_the_unreadable_photos() -> None:
    seen = page_of(render, a_record(splits={"train": 36, "val": 2, "test": 10}), {}).text()
    assert "48 photos read = 36 training + 2 validation + 10 test" in seen


@pytest.mark.parametrize("language", ["en", "es", "fr"])
def test_every_metric_is_there_under_its_own_name_and_explained(language: str) -> None:
    names = [key.removeprefix("metric_") for key in WORDS["en"] if key.startswith("metric_")]
    seen = page_of(render, a_record(metrics=dict.fromkeys([*names, "brandNew"], 0.5)), {}).text(language)
    for name in names:
        assert f"{name} {WORDS[language]['metric_' + name]}" in seen
    assert "brandNew" in seen


def test_run_without_anything_to_score_says_so() -> None:
    rows = [
        row | {"evaluated": 0, "precision": None, "recall": None, "fMeasure": None} for row in a_record()["per_label"]
    ]
    page = page_of(render, a_record(metrics=None, evaluated=None, confusions=[], per_label=rows), {})
    assert "No score for this run" in page.text()
    assert WORDS["en"]["meaning_none"] in page.text()
    assert WORDS["fr"]["confusions_unknown"] in page.text("fr")


def test_run_with_nothing_to_complain_about_says_so() -> None:
    record = a_record(rejections=[], rejections_total=0, confusions=[], skipped=[], labels_without_training=[])
    seen = page_of(render, record, {}).text()
    for key in ("rejections_none", "confusions_none", "notes_none"):
        assert WORDS["en"][key] in seen


def scored(photos: int = 480, leakage: float | None = None, **changes: Any) -> dict[str, Any]:
    """A record with an accuracy of 96.3 % and its interval."""
    record = a_record(
        evaluated={"split": "test", "photos": photos, "left_out_photos": 0, "too_few_to_say": photos < 30},
        leakage=None if leakage is None else {"share": leakage, "high": leakage > 0.05, "photos": photos},
        **changes,
    )
    record["metrics"] |= {"accuracy": 0.963, "accuracyInterval": [0.941, 0.978]}
    return record


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["96.3%", "95% interval: 94.1% to 97.8%"]),
        ("fr", [f"96,3{THIN}%", f"intervalle à 95{THIN}%{NO_BREAK}: de 94,1{THIN}% à 97,8{THIN}%"]),
    ],
)
def test_interval_stands_beside_the_score(language: str, sentences: list[str]) -> None:
    said = page_of(render, scored(), {}).text(language)
    assert all(sentence in said for sentence in sentences), said
    assert "fruits: 96.3% (94.1% to 97.8%) of 480 photos" in render(scored(), {})


@pytest.mark.parametrize(
    ("language", "sentence"),
    [("en", "Too few photos to say"), ("fr", "Trop peu de photos pour conclure")],
)
def test_few_photos_give_no_score(language: str, sentence: str) -> None:
    page = render(scored(27), {})
    said = Page(page).text(language)
    assert sentence in said
    assert "26" in said[said.index(sentence) :][:60], "how many were right, of how many, is told"
    assert '<span class="score">' not in page
    assert "96.3%" not in page


@pytest.mark.parametrize(("leakage", "warned"), [(0.55, True), (0.05, False), (None, False)])
def test_leakage_stands_beside_the_score_and_names_the_command(leakage: float | None, warned: bool) -> None:
    said = page_of(render, scored(leakage=leakage), {}).text("en")
    before = said[: said.index("reduced from")]
    assert ("part of this score is memory" in before) is warned
    assert ("fruits evaluate out" in before) is warned
    assert ("have a near-duplicate among the training photos" in before) is (leakage is not None)


def test_score_on_training_photos_is_not_praised() -> None:
    seen = page_of(render, a_record(evaluated={"split": "train", "photos": 36}), {}).text()
    assert "says little about other photos" in seen
    assert WORDS["en"]["meaning_views"] not in seen


@pytest.mark.parametrize("change", [{"head": None}, {"explained_variance_ratio": []}, {"peak_memory_mb": None}])
def test_absent_parts_of_the_record_leave_a_whole_page(change: dict[str, Any]) -> None:
    page_of(render, a_record(**change), {})


def test_mistaken_photos_stand_beside_photos_of_the_label_they_were_taken_for() -> None:
    examples = {"Apple": [a_photo("green")], "Pear": [a_photo("yellow")], "Apple\0Pear": [a_photo("red")] * 5}
    sides = [attrs for tag, attrs in page_of(render, a_record(), examples).tags if tag == "img" and attrs["alt"]]
    assert [side["alt"] for side in sides] == ["Apple", "Apple", "Apple", "Pear"]
    assert sides[0]["src"] != sides[3]["src"]
    assert all((side["src"] or "").startswith("data:image/jpeg;base64,") for side in sides)


def test_what_led_to_a_wrong_answer_stands_below_the_mistaken_photos() -> None:
    shown, seen = a_photo("red"), a_photo("green")
    examples = {"Apple\0Pear": [shown], "Apple\0Pear\0map": [seen]}
    page = page_of(render, a_record(), examples)
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img" and attrs["alt"] == "Apple"]
    assert pictures == [data_uri(shown), data_uri(seen)]
    assert WORDS["en"]["pair_map"] in page.text()
    assert WORDS["en"]["pair_map"] not in page_of(render, a_record(), {"Apple\0Pear": [shown]}).text()


def test_only_the_worst_pairs_are_pictured_and_the_others_listed() -> None:
    pairs = [{"label": f"L{i}", "predicted": "M", "count": 1, "share": 0.1} for i in range(30)]
    page = page_of(render, a_record(confusions=pairs), {})
    assert page.n("figure") == 24
    assert "26 more pairs" in page.text(), "eight of them with photos"
    assert "L29" in page.text()


def test_a_thousand_labels_render_in_one_page() -> None:
    labels = tuple(f"Label {i:04d}" for i in range(1000))
    seen = page_of(render, a_record(labels), {labels[7]: [a_photo()]}).text()
    assert all(label in seen for label in labels)
    assert "All 1,000 labels 12,000 4,000" in seen


def test_rejections_beyond_those_recorded_are_counted() -> None:
    many = [a_record()["rejections"][0] | {"uri": f"{i}.jpg"} for i in range(1000)]
    page = page_of(render, a_record(rejections=many, rejections_total=2345), {})
    assert "The first 1,000 of 2,345." in page.text()


def test_same_record_gives_the_same_page() -> None:
    record, examples = an_attack()
    assert render(record, examples) == render(record, examples)


# What the page does not do


def test_hostile_record_adds_no_element_and_no_attribute(attacked: str) -> None:
    page = Page(attacked)
    tame = page_of(render, a_record(tuple(f"Label {i}" for i in range(len(ATTACKS)))), {})
    assert page.n("script") == tame.n("script") == 1
    assert page.n("style") == 1
    assert not {name for _, attrs in page.tags for name in attrs if name.startswith("on")}
    assert {tag for tag, _ in page.tags} - {tag for tag, _ in tame.tags} <= {"img", "br"}
    assert all((attrs["src"] or "").startswith("data:image/jpeg;base64,") for tag, attrs in page.tags if tag == "img")


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_label_appears_as_text(attacked: str, attack: str) -> None:
    assert (
        f"<bdi>{html.escape(visible(attack)).replace('&quot;', '&#34;').replace('&#x27;', '&#39;')}</bdi>" in attacked
    )
    assert " ".join(visible(attack).split()) in Page(attacked).text()


def test_page_holds_no_character_that_hides_or_reorders_text(attacked: str) -> None:
    attacked.encode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]", attacked)


def test_page_loads_nothing(attacked: str) -> None:
    page = Page(attacked)
    addresses = [
        a[name] or "" for _, a in page.tags for name in ("src", "href", "srcset", "action", "data") if name in a
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    style = next(data for data, tags, _ in page.texts if "style" in tags)
    assert "url(" not in style
    assert "@import" not in style


def test_policy_allows_our_own_inline_code_and_nothing_else() -> None:
    tags = page_of(render, a_record(), {}).tags
    policy = next(a["content"] or "" for tag, a in tags if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert len(re.findall(r"'sha256-[\w+/]{43}='", policy)) == 2
    # The policy refuses style attributes; one that slipped in would be dead weight and an error in the console.
    assert not [attrs for _, attrs in tags if "style" in attrs]


# Every language


def test_no_visible_text_escapes_translation() -> None:
    assert not alien_words(page_of(render, a_record(), {}))


def test_every_sentence_is_used() -> None:
    folder = Path(str(files("fruits.report")))
    code = "".join(path.read_text() for path in [*folder.rglob("*.j2"), *folder.rglob("*.py")])
    written = set(re.findall(r"[\"']([A-Za-z]\w*)[\"']", code))
    prefixes = (
        "about",
        "advice",
        "answer",
        "skipped",
        "backbone",
        "calibration",
        "code",
        "config",
        "coverage",
        "curve_by",
    )
    prefixes += (
        "groups",
        "inapplicable",
        "limit",
        "metric",
        "origin",
        "part",
        "photos_of",
        "protocol",
        "sort",
        "stage",
    )
    prefixes += ("scaling_limit", "scaling_out", "scaling_part", "scaling_up", "treat", "work")
    families = tuple(
        f"{prefix}_" for prefix in (*prefixes, "codec", "kept", "status", "storage", "sum", "whole", "why")
    )
    assert [key for key in WORDS["en"] if key not in written and not key.startswith(families)] == []


@pytest.mark.parametrize(
    ("spoken", "english", "french"),
    [
        (count(1234567), "1,234,567", f"1{THIN}234{THIN}567"),
        (share(0.9167), "91.7%", f"91,7{THIN}%"),
        (share(0.99996), "99.996%", f"99,996{THIN}%"),
        (share(1.0), "100.0%", f"100,0{THIN}%"),
        (share(0.00004), "0.004%", f"0,004{THIN}%"),
        (share(None), "–", "–"),
        (share(float("nan")), "–", "–"),
        (duration(0.049), f"0.05{NO_BREAK}s", f"0,05{NO_BREAK}s"),
        (duration(192), f"3{NO_BREAK}min 12{NO_BREAK}s", f"3{NO_BREAK}min 12{NO_BREAK}s"),
        (duration(7500), f"2{NO_BREAK}h 05{NO_BREAK}min", f"2{NO_BREAK}h 05{NO_BREAK}min"),
        (moment("2026-11-22T09:00:00+02:00"), f"22{NO_BREAK}November 2026, 09:00 UTC+02:00", None),
        (moment("yesterday"), "<bdi>yesterday</bdi>", "<bdi>yesterday</bdi>"),
        (localised("rejections_show", n=1), "Show 1 file", "Voir 1 fichier"),
        (localised("n_photos", n=0), "0 photos", "0 photo"),
    ],
)
def test_numbers_and_plurals_follow_the_language(spoken: Any, english: str, french: str | None) -> None:
    assert html.unescape(spoken.forms["en"]) == english
    assert french is None or html.unescape(spoken.forms["fr"]) == french


# The curve


def test_curve_rises_from_the_first_component_to_the_last() -> None:
    curve = plot_variance([0.6, 0.3, 0.08, 0.02], 2)
    assert curve is not None
    assert curve.line.split() == ["0,40", "50,10", "79.25,2", "100,0"]
    assert curve.chosen is not None
    assert (curve.chosen.x, curve.chosen.y) == (50, 10)
    assert curve.milestones == [(0.5, 1), (0.8, 2), (0.9, 2), (0.95, 3), (0.99, 4)]


@pytest.mark.parametrize("size", [1, 2, 10, 256, 1280])
def test_curve_of_any_size_stays_small_and_inside_its_frame(size: int) -> None:
    curve = plot_variance([1 / size] * size, size)
    assert curve is not None
    numbers = [float(value) for point in curve.line.split() for value in point.split(",")]
    assert 0 <= min(numbers) <= max(numbers) <= 100
    assert len(numbers) <= 2 * 202
    assert curve.ticks[0].components == 1
    assert curve.ticks[-1].components == size


# In a real browser


@pytest.mark.parametrize(("fragment", "title"), [("#en", "fruits: 91.7% of 44 photos"), ("#fr", "fruits")])
def test_browser_shows_the_language_of_the_address_and_runs_nothing_foreign(
    tmp_path: Path, attacked: str, fragment: str, title: str
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip(
            "no browser: this test opens the report in one; install chromium (apt-get install chromium) to run it"
        )
    # As if an escape had failed: the policy is the second fence, and this holds it.
    broken = attacked.replace("<main", "<script>document.title='owned'</script><main", 1)
    page = tmp_path / "report.html"
    page.write_text(broken, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
    ran = subprocess.run(
        [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"{page.as_uri()}{fragment}"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    language = fragment[1:]
    assert f'<html lang="{language}" data-lang="{language}" class="scripted">' in ran.stdout
    shown = re.search(r"<title[^>]*>([^<]*)</title>", ran.stdout)
    assert shown is not None
    assert html.unescape(shown[1]).startswith(title)
    assert '<span id="labels-shown">11</span>' in ran.stdout
