"""How does a sentence or a number read in each language of the report?

A :class:`Spoken` holds one form per language and writes all of them into the page; the stylesheet shows one. So the
page switches language without a network and reads in English without JavaScript. The sentences are those of the message
catalogues (:mod:`fruits.messages`), under ``report.*``; they go in as text, never as HTML, so that no translation is markup.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeGuard

from markupsafe import Markup, escape

from fruits.messages import LANGUAGES, SOURCE, catalogue

UNKNOWN = Markup("\N{EN DASH}")

# Joiners shape letters and emoji; every other invisible character can only hide something.
_HARMLESS_FORMAT_CHARACTERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_INVISIBLE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@dataclass(frozen=True)
class Spoken:
    """One meaning in every language of the report.

    Parameters
    ----------
    forms : Mapping[str, Markup]
        Language to escaped HTML; the keys are ``LANGUAGES``.
    quantity : float, optional
        The number spoken, where there is one; chooses between singular and plural in a sentence around it.
    """

    forms: Mapping[str, Markup]
    quantity: float | None = None

    def __html__(self) -> str:
        if len(set(self.forms.values())) == 1:
            return str(next(iter(self.forms.values())))
        return "".join(f'<span lang="{language}">{form}</span>' for language, form in self.forms.items())


def visible(text: str) -> str:
    """Text in which nothing is invisible: controls, bidirectional overrides and lone surrogates become U+FFFD.

    Parameters
    ----------
    text : str
        Untrusted, as it came from a file system or a table.

    Returns
    -------
    str
        Of the same length, encodable as UTF-8; still to be escaped.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(character) in _INVISIBLE_CATEGORIES and character not in _HARMLESS_FORMAT_CHARACTERS
        else character
        for character in text
    )


def quoted(text: object) -> Markup:
    """Untrusted text as HTML, isolated so that its writing direction stays its own."""
    return Markup("<bdi>{}</bdi>").format(escape(visible(str(text))))


def say(key: str, /, **values: object) -> Spoken:
    """The message ``report.key`` in every language.

    Parameters
    ----------
    key : str
        Must be in the catalogue.
    **values : object
        What its placeholders stand for: an int is a count, a :class:`Spoken` speaks the sentence's language, anything
        else is untrusted text. ``n`` chooses between singular and plural.
    """
    spoken = {name: _as_spoken(value) for name, value in values.items()}
    quantity = spoken["n"].quantity if "n" in spoken else None

    def sentence(language: str) -> Markup:
        fields = {name: value.forms[language] for name, value in spoken.items()}
        return _as_html(catalogue(language).pattern(f"report.{key}", quantity)).format(**fields)

    return _in_every_language(sentence)


def has_message(key: str) -> bool:
    """Whether the report has a sentence of that name."""
    return f"report.{key}" in catalogue(SOURCE)


def known(prefix: str, name: object) -> Spoken:
    """A name from a fixed list, translated; one that the list lacks is shown as it is, as untrusted text."""
    key = f"{prefix}_{str(name).replace(' ', '_').replace('-', '_')}"
    return say(key) if has_message(key) else _as_spoken(str(name))


def count(value: int) -> Spoken:
    """A whole number with its thousands grouped: 12,345 or 12 345."""
    return _in_every_language(lambda language: _number(value, 0, language), value)


def decimal(value: float | None, digits: int = 4) -> Spoken:
    """A number with a fixed number of decimals; a dash where there is none."""
    if not _is_number(value):
        return _dash()
    return _in_every_language(lambda language: _number(value, digits, language), value)


def plain(value: float) -> Spoken:
    """A setting as short as it can be said: 0.1, 10, 1e-05."""
    return _in_every_language(lambda language: escape(catalogue(language).marked(f"{value:g}")), value)


def share(value: float | None, digits: int = 1) -> Spoken:
    """A fraction in per cent, with enough decimals that only all is 100 % and only none is 0 %."""
    if not _is_number(value):
        return _dash()
    while digits < 6 and 0 < value < 1 and round(value * 100, digits) in {0, 100}:
        digits += 1
    return _in_every_language(lambda language: escape(catalogue(language).percent(value, digits)), value)


def duration(seconds: float | None) -> Spoken:
    """A time at the precision that matters: 0.05 s, 14.1 s, 3 min 12 s, 2 h 05 min."""
    if not _is_number(seconds):
        return _dash()
    if seconds < 119.95:
        digits = 2 if seconds < 0.995 else 1
        return _in_every_language(lambda language: _number(seconds, digits, language) + Markup("&nbsp;s"), seconds)
    minutes, rest = divmod(round(seconds), 60)
    text = f"{minutes}&nbsp;min {rest:02d}&nbsp;s"
    if minutes >= 120:
        text = f"{minutes // 60}&nbsp;h {minutes % 60:02d}&nbsp;min"
    return _in_every_language(lambda _: Markup(text), seconds)  # noqa: S704 - digits and units


def moment(iso: str) -> Spoken:
    """A point in time, from ISO 8601; what is no such thing is shown as it is."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return _as_spoken(iso)
    zone = {"": "", "UTC": " UTC", "UTC+00:00": " UTC"}.get(when.tzname() or "", f" {when.tzname()}")

    def written(language: str) -> Markup:
        text = catalogue(language).moment(when) + zone
        return escape(text.replace(" ", "\N{NO-BREAK SPACE}", 1))

    return _in_every_language(written)


@cache
def _as_html(pattern: str) -> Markup:
    """A sentence as HTML, its placeholders left for values; ``x`` in backticks is code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(pattern))))  # noqa: S704 - escaped just now


def _in_every_language(form: Callable[[str], Markup], quantity: float | None = None) -> Spoken:
    """Say it once per language."""
    return Spoken({language: form(language) for language in LANGUAGES}, quantity)


def _as_spoken(value: object) -> Spoken:
    """What a caller put into a sentence, as something to be said."""
    if isinstance(value, Spoken):
        return value
    if isinstance(value, int):
        return count(value)
    text = value if isinstance(value, Markup) else quoted(value)
    return _in_every_language(lambda _: text)


def _dash() -> Spoken:
    """There is no number to say."""
    return _in_every_language(lambda _: UNKNOWN)


def _number(value: float, digits: int, language: str) -> Markup:
    """Grouped thousands and the decimal mark of the language."""
    return escape(catalogue(language).number(value, digits))


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether there is a finite number to show; a run record may hold null or NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
