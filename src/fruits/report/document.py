"""Assembly of self-contained pages: base template, inline stylesheet and script, and a content security policy.

The content of a page is computed by the module that calls :func:`assemble`. Untrusted values pass through ``text()`` in the
templates, and autoescape is on for all of them.
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
    LocalisedText,
    count,
    decimal,
    duration,
    has_message,
    known,
    localised,
    moment,
    plain,
    quoted,
    share,
    visible,
)
from fruits.storage.sanitising import json_text


def assemble(template: str, *, titles: LocalisedText, **values: object) -> str:
    """Return a complete HTML document.

    Parameters
    ----------
    template : str
        A template that extends ``base.html.j2``.
    titles : LocalisedText
        The document's title; must not contain untrusted text.
    **values : object
        Variables of the template.

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


def compile_templates(*names: str) -> None:
    """Compile templates in advance: half a second for those of a run, which a thread can spend while others compute."""
    for name in names:
        _environment().get_template(name)


def data_uri(photo: bytes) -> str:
    """Return a JPEG as a data URI."""
    return "data:image/jpeg;base64," + b64encode(photo).decode()


@cache
def _environment() -> Environment:
    """Return a Jinja environment with autoescape for every template and errors for undefined names."""
    environment = Environment(
        loader=PackageLoader("fruits.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "t": localised,
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
    """Filter all output of the template: replace invisible characters in strings."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _asset(name: str) -> str:
    """Return a file of this package, to be inlined."""
    text = files("fruits.report").joinpath(name).read_text(encoding="utf-8")
    # Browsers hash the parsed text, in which every line ending is a line feed.
    return "\n" + "\n".join(text.splitlines()) + "\n"


@cache
def _one_language_at_a_time() -> str:
    """Return the CSS rules that hide text in languages other than the chosen one."""
    return "".join(
        f'[data-lang="{language}"] :is(span, svg)[lang]:not([lang="{language}"]) {{ display: none; }}\n'
        for language in LANGUAGES
    )


def _content_security_policy(style: str, script: str) -> str:
    """Return a policy that allows no external resources and only our inline code: injected markup could not run code."""
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash_source(style)}'; script-src '{_hash_source(script)}'"
    )


def _hash_source(text: str) -> str:
    """Return the hash source of an inline block for a content security policy."""
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


@cache
def _icon() -> str:
    """Return the icon of the page; without one, browsers request /favicon.ico from the server."""
    return "data:image/svg+xml;base64," + b64encode(_asset("leaf.svg").strip().encode()).decode()


def _photos_of_split(evaluated: Mapping[str, Any]) -> LocalisedText:
    """Return the name for photos of a split, such as "test photos"."""
    key = f"photos_of_{evaluated['split']}"
    return localised(key if has_message(key) else "whole_photos", n=count(evaluated["photos"]))


def _setting(value: object) -> LocalisedText | Markup:
    """Return a configured value: numbers in the format of the language, everything else unchanged."""
    if value is None:
        return localised("config_unset")
    if isinstance(value, bool):
        return localised("config_yes" if value else "config_no")
    if not isinstance(value, int | float | str | list):
        return quoted(json_text(value, ensure_ascii=False, default=str))
    if isinstance(value, list):
        if not value:
            return localised("config_unset")
        return Markup("<br>").join(quoted(item) for item in value)
    # Integers may be seeds or sizes: no grouping of digits.
    return plain(value) if isinstance(value, float) else quoted(value)
