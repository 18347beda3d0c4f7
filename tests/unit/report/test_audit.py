"""The page of an audit shows what stands out, side by side, and passes no verdict."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pages import ATTACKS, NO_BREAK, THIN, WORDS, Page, a_photo, alien_words, has_only_own_code, page_of

from fruits.report import render_audit

SORTS = ("exact_duplicate", "near_duplicate", "label", "blurred", "dark", "odd_size", "unreadable")


def a_suspect(name: str = "1.jpg", label: str = "Apple", split: str = "train", **changes: Any) -> dict[str, Any]:
    return {"uri": f"/photos/{label}/{name}", "label": label, "split": split} | changes


def a_group(*photos: dict[str, Any], **changes: Any) -> dict[str, Any]:
    given = {
        "photos": list(photos),
        "size": len(photos),
        "distance": 0.0,
        "across_splits": False,
        "across_labels": False,
    }
    return given | changes


def an_audit(**changes: Any) -> dict[str, Any]:
    """An audit that found something of every sort."""
    record: dict[str, Any] = {
        "format": 1,
        "fruits": "0.1.0",
        "started": "2026-11-22T09:00:00+00:00",
        "command": "fruits audit photos --to audit",
        "sources": [{"source": "photos", "photos": 50}],
        "photos": 50,
        "ok": 48,
        "rejected": 2,
        "failed": 0,
        "labels": 3,
        "splits": {"train": 38, "test": 12},
        "backbone": {"name": "fruits-small", "size": 100},
        "near_duplicates": {"threshold": 0.067, "copies": 0.067, "other_labels": 0.141, "chance": 0.004},
        "counts": {
            "exact_duplicate": {"photos": 2, "groups": 1, "across_splits": 1, "across_labels": 0},
            "near_duplicate": {"photos": 1234, "groups": 200, "across_splits": 7, "across_labels": 1},
            "label": {"photos": 1},
            "blurred": {"photos": 1},
            "dark": {"photos": 1},
            "odd_size": {"photos": 1},
            "unreadable": {"photos": 2},
        },
        "findings": {
            "exact_duplicate": [a_group(a_suspect(), a_suspect("2.jpg", split="test"), across_splits=True)],
            "near_duplicate": [
                a_group(a_suspect(), a_suspect("3.jpg", "Pear"), size=41, distance=0.0312, across_labels=True)
            ],
            "label": [a_suspect(suggested="Plum", given_probability=0.0112, suggested_probability=0.97)],
            "blurred": [a_suspect(value=0.12, limit=0.31)],
            "dark": [a_suspect(value=0.05, limit=0.2)],
            "odd_size": [a_suspect(width=12, height=15, why="small")],
            "unreadable": [{"uri": "a/1.jpg", "label": "Apple", "code": "damaged", "message": "cut short"}] * 2,
        },
        "seconds": {"catalogue": 0.4, "total": 61.3},
        "peak_memory_mb": 811,
    }
    return record | changes


THUMBNAILS = {"/photos/Apple/1.jpg": a_photo("green"), "/photos/Pear/3.jpg": a_photo("yellow")}


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["1,242 findings in 50 photos", "50 photos with 3 labels, looked at in 61.3", "50 photos = 48 read"]),
        ("en", ["Exact duplicates 2 1 1 0 Near-duplicates 1,234 200 7 1 Possible label errors 1 Blurred photos 1"]),
        (
            "en",
            [
                "2 photos across splits Apple training 1.jpg no photo Apple test 2.jpg",
                "2 of 41 photos across labels distance",
            ],
        ),
        ("en", ["200 groups of 1,234 photos, 7 across splits, 1 across labels. Here are 1 of 200."]),
        ("en", ["says Apple 1.1% looks like Plum 97.0%", "sharpness 0.12, limit 0.31", "brightness 0.05, limit 0.20"]),
        ("en", ["very small 12 × 15 pixels", "a/1.jpg Apple damaged cut short", "not a verdict", "findings.parquet"]),
        ("fr", [f"1{THIN}242 constats sur 50 photos", "2 photos rôles différents Apple entraînement 1.jpg"]),
        (
            "fr",
            [f"étiquetée Apple 1,1{THIN}% ressemble à Plum 97,0{THIN}%", "netteté 0,12, limite 0,31", "pas un verdict"],
        ),
        ("fr", [f"passées en revue en 61,3{NO_BREAK}s", "très petite 12 × 15 pixels", "Rien n’a été modifié"]),
    ],
)
def test_page_shows_what_was_found(language: str, sentences: list[str]) -> None:
    seen = page_of(render_audit, an_audit(), THUMBNAILS).text(language)
    for sentence in sentences:
        assert sentence in seen


@pytest.mark.parametrize(
    ("flagged", "english", "french"),
    [
        (1, "1 of 50 photos deserves a look", "1 photo sur 50 mérite"),
        (9, "9 of 50 photos deserve a", "9 photos sur 50"),
    ],
)
def test_photos_that_deserve_a_look_are_counted_once_where_the_record_does(
    flagged: int, english: str, french: str
) -> None:
    page = page_of(render_audit, an_audit(flagged=flagged), {})
    assert english in page.text()
    assert french in page.text("fr")


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("en", "Near-duplicates are counted apart: 1,234 photos in 200 groups."),
        ("es", "Los casi duplicados se cuentan aparte: 1234 fotos en 200 grupos."),
        ("fr", f"Les quasi-doublons sont comptés à part : 1{THIN}234 photos en 200 groupes."),
    ],
)
def test_photos_that_deserve_a_look_and_near_duplicates_are_told_apart(language: str, sentence: str) -> None:
    seen = page_of(render_audit, an_audit(flagged=9), {}).text(language)
    assert sentence.replace(" :", f"{NO_BREAK}:") in seen or sentence in seen
    none = an_audit(flagged=9)
    none["counts"]["near_duplicate"] = {"photos": 0, "groups": 0, "across_splits": 0, "across_labels": 0}
    assert sentence[:20] not in page_of(render_audit, none, {}).text(language)


def test_first_findings_stand_open_and_the_rest_is_folded() -> None:
    record = an_audit()
    record["findings"]["label"] *= 20
    page = render_audit(record, {})
    assert page.index('<section id="overview"') < page.index('<section id="label"') < page.index('class="folded"')
    assert page.index('class="folded"') < page.index('id="near_duplicate"')
    assert "14 more" in Page(page).text()


@pytest.mark.parametrize("language", ["en", "es", "fr"])
def test_every_sort_is_explained_and_comes_with_advice(language: str) -> None:
    seen = page_of(render_audit, an_audit(), {}).text(language)
    for sort in SORTS:
        assert WORDS[language][f"sort_{sort}"] in seen
        assert WORDS[language][f"about_{sort}"] in seen
        assert WORDS[language][f"advice_{sort}"].replace("`", "") in seen


@pytest.mark.parametrize("empty", [{"counts": {}, "findings": {}}, {"counts": None, "findings": None}])
def test_empty_sections_say_that_there_is_nothing(empty: dict[str, Any]) -> None:
    page = page_of(render_audit, an_audit(**empty), THUMBNAILS)
    assert page.text().count(WORDS["en"]["audit_none"]) == len(SORTS)
    assert page.text("fr").count(WORDS["fr"]["audit_none"]) == len(SORTS)
    assert WORDS["en"]["advice"] not in page.text()
    assert page.n("figure") == page.n("img") == 0
    assert "0 findings in 50 photos" in page.text()


def test_sections_stand_alone() -> None:
    for sort in SORTS:
        findings = {sort: an_audit()["findings"][sort]}
        counts = {sort: an_audit()["counts"][sort]}
        page = page_of(render_audit, an_audit(findings=findings, counts=counts), THUMBNAILS)
        assert page.text().count(WORDS["en"]["audit_none"]) == len(SORTS) - 1


def test_missing_thumbnail_leaves_its_place_and_its_name() -> None:
    page = page_of(render_audit, an_audit(), {})
    assert page.n("img") == 0
    assert page.text().count(WORDS["en"]["pair_no_photo"]) == 8
    pictured = [
        attrs for tag, attrs in page_of(render_audit, an_audit(), THUMBNAILS).tags if tag == "img" and attrs["alt"]
    ]
    assert [attrs["alt"] for attrs in pictured] == ["1.jpg", "1.jpg", "1.jpg", "3.jpg", "1.jpg", "1.jpg", "1.jpg"]


@pytest.mark.parametrize("missing", ["near_duplicates", "backbone", "splits", "sources", "peak_memory_mb"])
def test_record_without_a_part_leaves_a_whole_page(missing: str) -> None:
    page_of(render_audit, an_audit(**{missing: None}), THUMBNAILS)


def test_whole_address_of_a_photo_is_kept_beside_its_short_name() -> None:
    titles = [attrs.get("title") for tag, attrs in page_of(render_audit, an_audit(), {}).tags if tag == "code"]
    assert "/photos/Pear/3.jpg" in titles


def test_hostile_audit_adds_nothing_that_acts() -> None:
    suspects = [a_suspect(text, text, text) | {"uri": text} for text in ATTACKS]
    numbers = {"value": 0.1, "limit": 0.2, "width": 1, "height": 1}
    record = an_audit(
        command=ATTACKS[1],
        fruits=ATTACKS[1],
        started=ATTACKS[2],
        sources=[{"source": text, "photos": 1} for text in ATTACKS],
        backbone={"name": ATTACKS[0], "size": 100},
        findings={
            "exact_duplicate": [a_group(*suspects)],
            "near_duplicate": [a_group(*suspects)],
            "label": [{**row, "suggested": row["label"], "given_probability": None} for row in suspects],
            **{sort: [{**row, **numbers, "why": row["label"]} for row in suspects] for sort in ("blurred", "odd_size")},
            "unreadable": [{"uri": text, "label": text, "code": text, "message": text} for text in ATTACKS],
        },
    )
    document = render_audit(record, dict.fromkeys(ATTACKS, a_photo("red")))
    assert has_only_own_code(Page(document))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", document)
    assert document == render_audit(record, dict.fromkeys(ATTACKS, a_photo("red")))


def test_policy_is_that_of_the_report() -> None:
    tags = page_of(render_audit, an_audit(), {}).tags
    policy = next(a["content"] or "" for tag, a in tags if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert len(re.findall(r"'sha256-[\w+/]{43}='", policy)) == 2


def test_no_visible_text_escapes_translation() -> None:
    assert not alien_words(page_of(render_audit, an_audit(), THUMBNAILS))
