"""What does one run look like to the people who asked for it?

Turns the run record into one HTML document that loads nothing: the stylesheet, the script, the curve and the photos are
inside it, and its content security policy allows exactly those. Labels, file names and messages are untrusted text.
Computes no result: what the record does not say, the page does not know.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fruits.report.curve import plot_variance
from fruits.report.speech import (
    LANGUAGES,
    Spoken,
    count,
    decimal,
    duration,
    known,
    moment,
    plain,
    quoted,
    say,
    share,
    visible,
)
from fruits.report.words import WORDS

N_PICTURED_PAIRS = 12
_N_PHOTOS_PER_SIDE = 3
_N_PHOTOS_ON_TOP = 14
_N_REJECTIONS = 1000
_NARROWEST = 0.7
_CONFIG_IN_ORDER = (
    *("sources", "out", "backbone", "size", "fit", "variance", "components"),
    *("workers", "max_rejected", "only", "sample", "seed"),
)
_BACKBONE_IN_ORDER = (
    *("name", "title", "licence", "attribution", "embedding_size", "size", "fit", "kernel", "sha256"),
)
_METRICS_IN_ORDER = (
    *("accuracy", "f1", "weightedPrecision", "weightedRecall", "weightedFMeasure", "hammingLoss", "logLoss"),
    *("top3Accuracy", "expectedCalibrationError"),
)


@dataclass(frozen=True)
class Part:
    """One part of a total.

    Parameters
    ----------
    name : str
        Its key in the words, without the prefix; also names its colour in the stylesheet.
    photos : int
        How many.
    start, width : float
        Where its bar begins and how long it is, in per cent.
    """

    name: str
    photos: int
    start: float
    width: float


@dataclass(frozen=True)
class Sum:
    """A total and the parts that make it."""

    name: str
    whole: str
    total: int
    parts: Sequence[Part]

    @property
    def closes(self) -> bool:
        """Whether the parts make the total."""
        return sum(part.photos for part in self.parts) == self.total


@dataclass(frozen=True)
class Pair:
    """Photos of ``label`` beside photos of the label they were taken for; the photos are data URIs."""

    label: str
    predicted: str
    count: int
    of: int | None
    share: float | None
    mistaken: Sequence[str]
    others: Sequence[str]


@dataclass(frozen=True)
class StageTime:
    """Seconds of one stage; ``width`` is its bar, in per cent of the longest."""

    name: str
    seconds: float
    share: float
    width: float


def render(record: Mapping[str, Any], examples: Mapping[str, Sequence[bytes]]) -> str:
    """The report of one run.

    Parameters
    ----------
    record : Mapping[str, Any]
        The run record, format 1; ``metrics``, ``evaluated`` and the head may be null.
    examples : Mapping[str, Sequence[bytes]]
        Label to small JPEG images; labels may be missing. The key of a label, U+0000 and another label holds photos of
        the first that were taken for the second.

    Returns
    -------
    str
        A complete HTML document, the same for the same input; to be written as UTF-8.
    """
    style, script = _asset("report.css"), _asset("report.js")
    page = _environment().get_template("report.html.j2")
    return page.render(
        record=record,
        policy=_content_security_policy(style, script),
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        icon=_icon(),
        titles=_titles(record),
        on_top=_photos_on_top(record, examples),
        sums=_sums(record),
        metrics=_scalar_metrics(record.get("metrics") or {}),
        curve=plot_variance(
            record.get("explained_variance_ratio") or [],
            record.get("components"),
            trials=record.get("component_trials") or [],
        ),
        pairs=_pairs(record, examples),
        more_pairs=record["confusions"][N_PICTURED_PAIRS:],
        first_photo={label: _data_uri(photos[0]) for label, photos in examples.items() if photos},
        rejections=record["rejections"][:_N_REJECTIONS],
        stages=_stages(record["seconds"]),
        rate=_embedding_rate(record),
        config=_in_order(record.get("config") or {}, _CONFIG_IN_ORDER),
        backbone=_in_order(record.get("backbone") or {}, _BACKBONE_IN_ORDER),
        head=record.get("head") or {},
    )


@cache
def _environment() -> Environment:
    """Jinja with autoescape for every template, whatever its name, and no undefined name passed over."""
    environment = Environment(
        loader=PackageLoader("fruits.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "t": say,
        "known": known,
        "text": quoted,
        "n": count,
        "decimal": decimal,
        "plain": plain,
        "share": share,
        "duration": duration,
        "moment": moment,
        "setting": _setting,
        "photos_of_split": _photos_of_split,
        "has_word": WORDS[LANGUAGES[0]].__contains__,
        "languages": LANGUAGES,
    }
    return environment


def _finalize(value: object) -> object:
    """Last gate of everything that the template puts out: no string reaches the page with invisible characters."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _asset(name: str) -> str:
    """A file of this package that goes into the page as it is."""
    text = files("fruits.report").joinpath(name).read_text(encoding="utf-8")
    # A browser hashes what it parsed, and it parses every line ending as a line feed.
    return "\n" + "\n".join(text.splitlines()) + "\n"


def _content_security_policy(style: str, script: str) -> str:
    """Nothing from anywhere; of inline code only ours, so that an escape that failed would still run nothing."""
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash_source(style)}'; script-src '{_hash_source(script)}'"
    )


def _hash_source(text: str) -> str:
    """The name of an inline block in a content security policy."""
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


@cache
def _icon() -> str:
    """The leaf of the page as its icon; without one a browser asks the server for /favicon.ico."""
    return "data:image/svg+xml;base64," + b64encode(_asset("leaf.svg").strip().encode()).decode()


def _data_uri(photo: bytes) -> str:
    """A photo inside the page."""
    return "data:image/jpeg;base64," + b64encode(photo).decode()


def _titles(record: Mapping[str, Any]) -> Mapping[str, str]:
    """The document's title in each language, as text; holds numbers only."""
    title = say("title")
    if record.get("metrics") and record.get("evaluated"):
        title = say(
            "title_score", accuracy=share(record["metrics"]["accuracy"]), photos=count(record["evaluated"]["photos"])
        )
    return {language: title.forms[language].unescape() for language in LANGUAGES}


def _photos_on_top(record: Mapping[str, Any], examples: Mapping[str, Sequence[bytes]]) -> Sequence[str]:
    """One photo of labels spread evenly over the list, so that neighbours differ."""
    pictured = [row["label"] for row in record["per_label"] if examples.get(row["label"])]
    n_shown = min(_N_PHOTOS_ON_TOP, len(pictured))
    return [_data_uri(examples[pictured[i * len(pictured) // n_shown]][0]) for i in range(n_shown)]


def _sums(record: Mapping[str, Any]) -> Sequence[Sum]:
    """Every total of the record with its parts, worked out here again so that a wrong one shows."""
    photos, splits = record["photos"], record.get("splits") or {}
    read = [(name, record.get(name, 0)) for name in ("ok", "rejected", "failed")]
    work = [(name, record.get(name, 0)) for name in ("computed", "reused")]
    roles = [(name, splits[name]) for name in ("train", "val", "test") if name in splits]
    sums = [_sum("read", "photos", photos, read), _sum("work", "photos", photos, work)]
    if roles:
        # A split may be counted before or after unreadable photos are set aside; both are totals that the page shows.
        is_read_only = sum(n for _, n in roles) == record.get("ok") != photos
        sums.append(_sum("split", "ok" if is_read_only else "photos", record["ok"] if is_read_only else photos, roles))
    if evaluated := record.get("evaluated"):
        scored = [("scored", evaluated["photos"]), ("left_out", evaluated.get("left_out_photos", 0))]
        sums.append(_sum("scored", evaluated["split"], sum(n for _, n in scored), scored))
    return sums


def _sum(name: str, whole: str, total: int, parts: Iterable[tuple[str, int]]) -> Sum:
    """Lay the parts of a total end to end."""
    laid: list[Part] = []
    start, scale = 0.0, 100 / max(total, 1)
    for part, photos in parts:
        # Two rejected photos of 26,300 are what a reader looks for: they get a sliver, over their neighbour's end.
        width = max(photos * scale, _NARROWEST)
        laid.append(Part(part, photos, round(max(0.0, min(start, 100 - width)), 3), round(width, 3)))
        start += photos * scale
    return Sum(name, whole, total, laid)


def _scalar_metrics(metrics: Mapping[str, Any]) -> Sequence[tuple[str, float | None]]:
    """Metrics that are one number, the ones that people ask for first; the others are in the table of labels."""
    scalars = {name: value for name, value in metrics.items() if not isinstance(value, Mapping | list)}
    return list(_in_order(scalars, _METRICS_IN_ORDER).items())


def _pairs(record: Mapping[str, Any], examples: Mapping[str, Sequence[bytes]]) -> Sequence[Pair]:
    """The worst confusions with the photos to compare."""
    evaluated = {row["label"]: row["evaluated"] for row in record["per_label"]}

    def pair(row: Mapping[str, Any]) -> Pair:
        label, predicted = row["label"], row["predicted"]
        mistaken = examples.get(row.get("wrong_examples") or f"{label}\0{predicted}") or examples.get(label) or ()
        return Pair(
            label=label,
            predicted=predicted,
            count=row["count"],
            of=evaluated.get(label) or None,
            share=row.get("share"),
            mistaken=[_data_uri(photo) for photo in mistaken[:_N_PHOTOS_PER_SIDE]],
            others=[_data_uri(photo) for photo in examples.get(predicted, ())[:_N_PHOTOS_PER_SIDE]],
        )

    return [pair(row) for row in record["confusions"][:N_PICTURED_PAIRS]]


def _stages(seconds: Mapping[str, float]) -> Sequence[StageTime]:
    """Seconds per stage in the order of the run, and what the total holds beyond them."""
    stages = {name: value for name, value in seconds.items() if name != "total"}
    total = seconds.get("total", sum(stages.values()))
    in_between = total - sum(stages.values())
    if in_between >= 0.05:
        stages["other"] = in_between
    longest = max(stages.values(), default=0.0) or 1.0
    return [
        StageTime(name, value, share=value / total if total else 0.0, width=round(100 * max(value, 0.0) / longest, 2))
        for name, value in stages.items()
    ]


def _embedding_rate(record: Mapping[str, Any]) -> int | None:
    """Photos per second through decoding and the network; none where nothing was computed."""
    seconds, photos = record["seconds"].get("embeddings"), record.get("computed")
    return round(photos / seconds) if seconds and photos else None


def _photos_of_split(evaluated: Mapping[str, Any]) -> Spoken:
    """What the photos of a split are called: test photos."""
    key = f"photos_of_{evaluated['split']}"
    return say(key if key in WORDS[LANGUAGES[0]] else "whole_photos", n=count(evaluated["photos"]))


def _in_order(values: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """The same mapping with the named keys first; what a newer run adds comes last and is not lost."""
    return {name: values[name] for name in (*names, *values) if name in values}


def _setting(value: object) -> Spoken | Markup:
    """A configured value: numbers in the reader's language, everything else as it was written."""
    if value is None:
        return say("config_unset")
    if isinstance(value, bool) or not isinstance(value, int | float | str | list):
        return quoted(json.dumps(value, ensure_ascii=False, default=str))
    if isinstance(value, list):
        return Markup("<br>").join(quoted(item) for item in value)
    # A whole number may be a seed or a size: nothing to group.
    return plain(value) if isinstance(value, float) else quoted(value)
