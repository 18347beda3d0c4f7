"""What the tests of every page share: records, hostile and tame, and what a browser would find in a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

from PIL import Image

from fruits.messages import LANGUAGES, catalogue

#: The sentences of the report in each language, as said of several.
WORDS = {
    language: {
        key.removeprefix("report."): catalogue(language).pattern(key, 2)
        for key in catalogue(language).messages
        if key.startswith("report.")
    }
    for language in LANGUAGES
}
THIN, NO_BREAK = "\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}"
VOID = {"meta", "link", "img", "br", "input"}
INLINE = {"span", "b", "bdi", "code", "i", "img", "br"}
# Drawn shapes close themselves.
SHAPES = {"path", "rect", "line", "circle", "polyline", "polygon"}

ATTACKS = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</script><script>document.title='owned'</script>",
    "</style><svg onload=document.title='owned'>",
    "' onmouseover='document.title=1",
    "{{ 7 * 7 }}{% include 'page.py' %}",
    "invoice\u202egpj.exe",
    "isolated\u2066 and never popped",
    "bell\x07 null\x00 escape\x1b[31m line\nfeed",
    "not utf-8 \udcff",
    "https://example.invalid/a.js",
)


def a_record(labels: tuple[str, ...] = ("Apple", "Pear", "Plum"), **changes: Any) -> dict[str, Any]:
    """A finished run whose counts close, with one photo in four of the first label taken for the second."""
    rows = [
        {"label": label, "train": 12, "evaluated": 4, "precision": 0.8, "recall": 1.0, "fMeasure": 0.89}
        for label in labels
    ]
    n = len(labels)
    record: dict[str, Any] = {
        "format": 1,
        "fruits": "0.1.0",
        "started": "2026-11-22T09:00:00+00:00",
        "command": "fruits run photos --to out",
        "config": {"sources": ["photos"], "out": "out", "variance": 0.99, "components": None, "seed": 0},
        "sources": [{"source": "photos", "photos": 16 * n + 2}],
        "photos": 16 * n + 2,
        "ok": 16 * n,
        "rejected": 1,
        "failed": 1,
        "computed": 16 * n,
        "reused": 2,
        "labels": n,
        "splits": {"train": 12 * n + 2, "test": 4 * n},
        "split_origin": "folders",
        "skipped": [{"reason": "not an image", "count": 1204, "examples": ["README.md"]}],
        "labels_without_training": [{"label": "Walnut", "photos": 83}],
        "rejections": [
            {"uri": "a/1.jpg", "label": "Apple", "status": "rejected", "code": "damaged", "message": "cut short"},
            {"uri": "a/2.jpg", "label": "Pear", "status": "failed", "code": "timeout", "message": "no answer"},
        ],
        "rejections_total": 2,
        "backbone": {"name": "fruits-small", "licence": "Apache-2.0", "attribution": "Someone", "sha256": "0" * 64},
        "embedding_size": 4,
        "components": 2,
        "explained_variance": 0.9,
        "components_chosen_by": "validation",
        "explained_variance_ratio": [0.6, 0.3, 0.08, 0.02],
        "component_trials": [
            {"components": 1, "accuracy": 0.8, "standard_error": 0.01},
            {"components": 2, "accuracy": 0.9, "standard_error": 0.01},
        ],
        "head": {
            "regularisation": 1.0,
            "validation_accuracy": 0.9,
            "trials": [{"regularisation": 0.1, "accuracy": 0.88, "log_loss": 0.31}],
            "validation_groups": 6,
            "training_photos": 12 * n,
        },
        "seconds": {"catalogue": 0.4, "embeddings": 14.1, "total": 22.0},
        "peak_memory_mb": 1812,
        "evaluated": {"split": "test", "photos": 4 * n, "left_out_photos": 83},
        "metrics": {
            "f1": 0.9161,
            "accuracy": 0.9167,
            "weightedPrecision": 0.93,
            "hammingLoss": 0.0833,
            "logLoss": 0.2,
            "precisionByLabel": dict.fromkeys(labels, 0.8),
            "recallByLabel": dict.fromkeys(labels, 1.0),
        },
        "per_label": rows,
        "confusions": [{"label": labels[0], "predicted": labels[1], "count": 1, "share": 0.25}],
        "workers": 2,
        "engine": "local",
    }
    return record | changes


def an_attack() -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    """A record in which every text that comes from outside is hostile."""
    confusions = [{"label": a, "predicted": ATTACKS[i - 1], "count": 1, "share": 0.25} for i, a in enumerate(ATTACKS)]
    record = a_record(
        ATTACKS,
        command=" ".join(ATTACKS),
        fruits=ATTACKS[1],
        engine=ATTACKS[0],
        started=ATTACKS[2],
        sources=[{"source": text, "photos": 1} for text in ATTACKS],
        skipped=[{"reason": text, "count": 1, "examples": list(ATTACKS)} for text in ATTACKS],
        labels_without_training=[{"label": text, "photos": 1} for text in ATTACKS],
        rejections=[{"uri": t, "label": t, "status": t, "code": t, "message": t} for t in ATTACKS],
        config={text: list(ATTACKS) for text in ATTACKS},
        backbone=dict.fromkeys(ATTACKS, ATTACKS[1]),
        metrics=a_record()["metrics"] | dict.fromkeys(ATTACKS, 0.5),
        seconds=dict.fromkeys(ATTACKS, 1.0) | {"total": 20.0},
        split_origin=ATTACKS[1],
        components_chosen_by=ATTACKS[1],
        confusions=confusions,
    )
    examples = {label: [a_photo()] for label in ATTACKS}
    return record, examples | {f"{row['label']}\0{row['predicted']}": [a_photo("red")] for row in confusions}


def a_photo(colour: str = "green") -> bytes:
    """A small JPEG."""
    out = BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "JPEG")
    return out.getvalue()


_PAGES: dict[tuple[str, str], Page] = {}


class Page(HTMLParser):
    """What a browser would find in the page; refuses tags that do not pair up."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
        self.feed(document)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in INLINE:
            self.texts.append((" ", ("",), ()))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES, f"<{tag}/> closes nothing in HTML"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1][0] == tag, f"</{tag}> inside {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        languages = tuple(attrs["lang"] or "" for tag, attrs in self.open if tag in {"span", "svg"} and "lang" in attrs)
        self.texts.append((data, tuple(tag for tag, _ in self.open), languages))

    def text(self, language: str = "en") -> str:
        """What a reader of that language sees, spaces collapsed."""
        seen = (
            data
            for data, tags, languages in self.texts
            if not {"style", "script", "title"} & set(tags) and set(languages) <= {language}
        )
        return re.sub(r"[ \n]+", " ", "".join(seen))

    def n(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page_of(render: Callable[..., str], *given: Any) -> Page:
    """What a browser would find in the page of a record; the same records are rendered and read once."""
    key = (render.__name__, repr(given))
    if key not in _PAGES:
        _PAGES[key] = Page(render(*given))
    return _PAGES[key]


def alien_words(page: Page) -> set[str]:
    """Words that a reader of any language sees though only some languages have them."""
    alike = {
        word
        for key, text in WORDS["en"].items()
        if all(words[key] == text for words in WORDS.values())
        for word in re.findall(r"\w+", text)
    }
    names = {catalogue(language).name for language in LANGUAGES} | {language.upper() for language in LANGUAGES}
    allowed = alike | names | {"fruits", "s", "h", "min"}
    untrusted = {"bdi", "code", "style", "script", "title"}
    words = (
        re.findall(r"[^\W\d_]+", data)
        for data, tags, languages in page.texts
        if not languages and not untrusted & set(tags)
    )
    return {word for found in words for word in found} - allowed


def has_only_own_code(page: Page) -> bool:
    """Whether nothing of a record became an element that acts, an attribute that acts or an address outside."""
    addresses = [
        a[name] or "" for _, a in page.tags for name in ("src", "href", "srcset", "action", "data") if name in a
    ]
    return (
        page.n("script") == page.n("style") == 1
        and not {name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"}
        and all(address.startswith(("data:", "#")) for address in addresses)
    )
