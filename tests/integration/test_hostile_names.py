"""Folders and files may be called anything: what a run writes for people shows it and does nothing."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

LABELS = {
    "Apfelino Red 1": "=cmd|' %C calc'!A0",
    "Moon Pear 1": "<img src=x onerror=alert(1)>",
    "Starrib Yellow": "\u202eright to left\x1b[31m",
    "Tuskana Yellow": "@SUM(1)\nsecond line",
}


class Elements(HTMLParser):
    """Every attribute of a page's elements, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_names_are_shown_harmless_in_csv_page_and_terminal(
    own_photos: Path, fruits: Callable[..., Any], tmp_path: Path
) -> None:
    for folder in sorted(own_photos.glob("T*/*")):
        folder.rename(folder.with_name(LABELS[folder.name]))
    for label in LABELS.values():
        (own_photos / "Training" / label / "+broken\u202e\x1b[2J.jpg").write_bytes(b"\xff\xd8\xff broken")
    out = tmp_path / "out"
    done = fruits(
        "run", own_photos, "--to", out, "--backbone", "fruits-small", "--components", 8, "--max-rejected", 0.5
    )
    assert done.code == 0, done.stderr

    assert set(json.loads((out / "run.json").read_text("utf-8"))["config"]) >= {"sources"}
    data = (out / "rejected.csv").read_bytes().decode()
    rows = list(csv.DictReader(data.splitlines()))
    assert len(rows) == len(LABELS)
    assert {row["label"] for row in rows} == {
        "'=cmd|' %C calc'!A0", "<img src=x onerror=alert(1)>", "\\u202eright to left\\x1b[31m", "'@SUM(1)\\nsecond line",
    }  # fmt: skip
    for row in rows:
        assert not any(value.startswith(("=", "+", "-", "@", "\t")) for value in row.values())

    page = Elements()
    page.feed((out / "report.html").read_text("utf-8"))
    assert not [found for found in page.attributes if found[1].startswith("on") or "onerror" in (found[2] or "")]
    assert "<img src=x onerror=alert(1)>" in page.text, "it is shown as it is called"
    for text in (data, page.text, done.stdout, done.stderr):
        acting = {
            letter for letter in text if unicodedata.category(letter) in ("Cc", "Cf") and letter not in "\n\r\t\u200b"
        }
        assert acting == set()
