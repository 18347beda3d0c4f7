"""Localisation of the report: sentences, numbers and times in every language.

A :class:`LocalisedText` holds one form per language and writes all of them into the page; the stylesheet shows one. So the page
switches language without a network and is readable in English without JavaScript. Sentences come from the message catalogues
(:mod:`fruits.messages`), under ``report.*``; they are inserted as text, never as HTML, so that translations cannot add markup.
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

# Joiners affect the shape of letters and emoji and are kept; other invisible characters are replaced.
_KEPT_FORMAT_CHARACTERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_INVISIBLE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@dataclass(frozen=True)
class LocalisedText:
    """A text in every language of the report.

    Parameters
    ----------
    forms : Mapping[str, Markup]
        Language -> escaped HTML; the keys are ``LANGUAGES``.
    quantity : float, optional
        The number shown, if any; selects singular or plural in the surrounding sentence.
    """

    forms: Mapping[str, Markup]
    quantity: float | None = None

    def __html__(self) -> str:
        if len(set(self.forms.values())) == 1:
            return str(next(iter(self.forms.values())))
        return "".join(f'<span lang="{language}">{form}</span>' for language, form in self.forms.items())


def visible(text: str) -> str:
    """Replace invisible characters: controls, bidirectional overrides and lone surrogates become U+FFFD.

    Parameters
    ----------
    text : str
        Untrusted text, for example from a file system or a table.

    Returns
    -------
    str
        Text of the same length, encodable as UTF-8; not yet escaped.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(character) in _INVISIBLE_CATEGORIES and character not in _KEPT_FORMAT_CHARACTERS
        else character
        for character in text
    )


def quoted(text: object) -> Markup:
    """Return untrusted text as HTML, isolated so that its writing direction does not affect the surrounding text."""
    return Markup("<bdi>{}</bdi>").format(escape(visible(str(text))))


def localised(key: str, /, **values: object) -> LocalisedText:
    """Return the message ``report.key`` in every language.

    Parameters
    ----------
    key : str
        Must be in the catalogue.
    **values : object
        Values of its placeholders: an int is a count, a :class:`LocalisedText` is inserted in the sentence's language, anything
        else is untrusted text. ``n`` selects singular or plural.
    """
    texts = {name: _localised(value) for name, value in values.items()}
    quantity = texts["n"].quantity if "n" in texts else None

    def sentence(language: str) -> Markup:
        fields = {name: value.forms[language] for name, value in texts.items()}
        return _as_html(catalogue(language).pattern(f"report.{key}", quantity)).format(**fields)

    return _in_every_language(sentence)


def has_message(key: str) -> bool:
    """Return whether the report has a message with this key."""
    return f"report.{key}" in catalogue(SOURCE)


def known(prefix: str, name: object) -> LocalisedText:
    """Return the translation of a name from a fixed list; an unknown name is shown unchanged, as untrusted text."""
    key = f"{prefix}_{str(name).replace(' ', '_').replace('-', '_')}"
    return localised(key) if has_message(key) else _localised(str(name))


def count(value: int) -> LocalisedText:
    """Format an integer with grouped thousands: 12,345 or 12 345."""
    return _in_every_language(lambda language: _number(value, 0, language), value)


def decimal(value: float | None, digits: int = 4) -> LocalisedText:
    """Format a number with a fixed number of decimals; a dash if it is missing."""
    if not _is_number(value):
        return _dash()
    return _in_every_language(lambda language: _number(value, digits, language), value)


def plain(value: float) -> LocalisedText:
    """Format a setting in its shortest form: 0.1, 10, 1e-05."""
    return _in_every_language(lambda language: escape(catalogue(language).marked(f"{value:g}")), value)


def share(value: float | None, digits: int = 1) -> LocalisedText:
    """Format a fraction in per cent, with enough decimals that only 1 is shown as 100 % and only 0 as 0 %."""
    if not _is_number(value):
        return _dash()
    while digits < 6 and 0 < value < 1 and round(value * 100, digits) in {0, 100}:
        digits += 1
    return _in_every_language(lambda language: escape(catalogue(language).percent(value, digits)), value)


def duration(seconds: float | None) -> LocalisedText:
    """Format a duration with suitable precision: 0.05 s, 14.1 s, 3 min 12 s, 2 h 05 min."""
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


def moment(iso: str) -> LocalisedText:
    """Format a point in time given in ISO 8601; other text is shown unchanged."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return _localised(iso)
    zone = {"": "", "UTC": " UTC", "UTC+00:00": " UTC"}.get(when.tzname() or "", f" {when.tzname()}")

    def written(language: str) -> Markup:
        text = catalogue(language).moment(when) + zone
        return escape(text.replace(" ", "\N{NO-BREAK SPACE}", 1))

    return _in_every_language(written)


@cache
def _as_html(pattern: str) -> Markup:
    """Return a sentence as HTML with its placeholders kept; text in backticks becomes code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(pattern))))  # noqa: S704 - escaped just now


def _in_every_language(form: Callable[[str], Markup], quantity: float | None = None) -> LocalisedText:
    """Return the text with one form per language."""
    return LocalisedText({language: form(language) for language in LANGUAGES}, quantity)


def _localised(value: object) -> LocalisedText:
    """Convert a placeholder's value to a :class:`LocalisedText`."""
    if isinstance(value, LocalisedText):
        return value
    if isinstance(value, int):
        return count(value)
    text = value if isinstance(value, Markup) else quoted(value)
    return _in_every_language(lambda _: text)


def _dash() -> LocalisedText:
    """Return a dash, for a missing number."""
    return _in_every_language(lambda _: UNKNOWN)


def _number(value: float, digits: int, language: str) -> Markup:
    """Format a number with the thousands separator and decimal mark of the language."""
    return escape(catalogue(language).number(value, digits))


def _is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number; a run record may contain null or NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
