from __future__ import annotations

import csv
import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruits.storage.sanitising import clean_line, clean_text, csv_cell, json_text, printable

ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Apple  Red-1", "Apple  Red-1"),
        ("  Pomme d'été\u0301  ", "Pomme d'été\u0301"),
        ("e\u0301", "é"),
        ("<b onclick=x>&amp;</b>", "<b onclick=x>&amp;</b>"),  # pages escape; what was said is kept
        ("a\r\nb\rc\u2028d\x0be", "a\nb\nc\nd\ne"),
        ("a\tb\x00\x1b[31m\x7f\x9f", "a b[31m"),
        ("\u202egpj.exe\u2066\u2069\u200e\u061c\ufeff", "gpj.exe"),
        ("e\u202e\u0301", "é"),  # composes only once the mark between is gone
        ("\ud800x\udfff", "x"),
        ("זית ירוק", "זית ירוק"),  # written from right to left by itself: that is text
        ("👩\u200d🌾", "👩\u200d🌾"),  # what joins is part of the letter
        ("", ""),
    ],
)
def test_text_is_kept_but_what_acts_is_not(given: str, kept: str) -> None:
    assert clean_text(given) == kept


def test_text_is_cut_and_a_line_is_one_line() -> None:
    assert clean_text("x" * 501) == "x" * 500
    assert clean_text("x" * 9 + " y", 10) == "x" * 9
    assert clean_line("a\nb\r\n c\t") == "a b  c"
    assert len(clean_text("\u0000" * 10_000_000 + "x")) <= 1  # what is far too long is not even looked at


@given(ANYTHING)
def test_cleaned_text_stays_as_it_is_and_holds_nothing_that_acts(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") and letter != "\n" for letter in once)
    assert not any(
        unicodedata.bidirectional(letter) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        for letter in once
    )
    once.encode()
    assert "\n" not in clean_line(text)
    assert clean_line(clean_line(text)) == clean_line(text)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "＝1"])
def test_no_cell_is_a_formula(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([csv_cell(text), "x"])
    (row,) = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert row[0] == f"'{text}"


@pytest.mark.parametrize("text", ["Apple", "1-2", "a=b", "", " a", "'=1"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert csv_cell(text) == text


def test_a_line_at_a_terminal_shows_what_would_act_on_it() -> None:
    assert printable("Pomme d'été ✓") == "Pomme d'été ✓"
    assert printable("a\x1b[2Jb\u202ec\nd\ud800") == "a\\x1b[2Jb\\u202ec\\nd\\ud800"


def test_numbers_that_are_not_finite_become_null_wherever_they_are() -> None:
    value = {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (-float("inf"), 2)}}
    assert json.loads(json_text(value)) == {"a": None, "b": [1.5, None], "c": {"d": [None, 2]}}
