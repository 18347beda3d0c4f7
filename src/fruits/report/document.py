"""What makes a page a page that loads nothing: its frame, its stylesheet and script, and the policy that allows only those.

Knows no record: what a page shows is computed by the module that calls :func:`assemble`. Whatever comes from outside goes
through ``text()`` in the templates, and autoescape is on for all of them.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fruits.messages import LANGUAGES, catalogue
from fruits.report.localisation import (
    Spoken,
    count,
    decimal,
    duration,
    has_message,
    known,
    moment,
    plain,
    quoted,
    say,
    share,
    visible,
)
from fruits.storage.sanitising import json_text


def assemble(template: str, *, titles: Spoken, **values: object) -> str:
    """One complete HTML document.

    Parameters
    ----------
    template : str
        A template that extends ``base.html.j2``.
    titles : Spoken
        The document's title; must hold no untrusted text.
    **values : object
        What the template asks for.

    Returns
    -------
    str
        The same for the same input; to be written as UTF-8.
    """
    style, script = _asset("report.css") + _one_language_at_a_time(), _asset("report.js")
    return (
        _environment()
        .get_template(template)
        .render(
            policy=_content_security_policy(style, script),
            style=Markup(style),  # noqa: S704 - a file of this package
            script=Markup(script),  # noqa: S704 - a file of this package
            icon=_icon(),
            titles={language: titles.forms[language].unescape() for language in LANGUAGES},
            **values,
        )
    )


def data_uri(photo: bytes) -> str:
    """A JPEG inside the page."""
    return "data:image/jpeg;base64," + b64encode(photo).decode()


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
        "has_message": has_message,
        "languages": {language: catalogue(language).name for language in LANGUAGES},
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


@cache
def _one_language_at_a_time() -> str:
    """The rules that hide what is said in another language than the one that was chosen."""
    return "".join(
        f'[data-lang="{language}"] :is(span, svg)[lang]:not([lang="{language}"]) {{ display: none; }}\n'
        for language in LANGUAGES
    )


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


def _photos_of_split(evaluated: Mapping[str, Any]) -> Spoken:
    """What the photos of a split are called: test photos."""
    key = f"photos_of_{evaluated['split']}"
    return say(key if has_message(key) else "whole_photos", n=count(evaluated["photos"]))


def _setting(value: object) -> Spoken | Markup:
    """A configured value: numbers in the reader's language, everything else as it was written."""
    if value is None:
        return say("config_unset")
    if isinstance(value, bool) or not isinstance(value, int | float | str | list):
        return quoted(json_text(value, ensure_ascii=False, default=str))
    if isinstance(value, list):
        return Markup("<br>").join(quoted(item) for item in value)
    # A whole number may be a seed or a size: nothing to group.
    return plain(value) if isinstance(value, float) else quoted(value)
