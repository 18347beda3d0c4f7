"""How does a sentence or a number read in each language of the report?

A :class:`Spoken` holds one form per language and writes all of them into the page; the stylesheet shows one. So the
page switches language without a network and reads in English without JavaScript. The words themselves live in
``words.py``.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeGuard

from markupsafe import Markup, escape

from fruits.report.messages import MONTHS, WORDS

LANGUAGES = tuple(WORDS)
UNKNOWN = Markup("\N{EN DASH}")

# Joiners shape letters and emoji; every other invisible character can only hide something.
_HARMLESS_FORMAT_CHARACTERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_INVISIBLE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_THIN = "\N{NARROW NO-BREAK SPACE}"


@dataclass(frozen=True)
class Spoken:
    """One meaning in every language of the report.

    Parameters
    ----------
    forms : Mapping[str, Markup]
        Language to escaped HTML; the keys are those of ``WORDS``.
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
    """The sentence ``key`` of ``words.py`` in every language.

    Parameters
    ----------
    key : str
        Must be in ``WORDS``.
    **values : object
        What its placeholders stand for: an int is a count, a :class:`Spoken` speaks the sentence's language, anything
        else is untrusted text. ``{n:photo|photos}`` in a sentence picks the singular or the plural for ``n``.
    """
    spoken = {name: _as_spoken(value) for name, value in values.items()}

    def sentence(language: str) -> Markup:
        fields = {name: _Field(value.forms[language], value.quantity, language) for name, value in spoken.items()}
        return Markup(WORDS[language][key]).format(**fields)  # noqa: S704 - our own words, values escape themselves

    return _in_every_language(sentence)


def known(prefix: str, name: object) -> Spoken:
    """A name from a fixed list, translated; one that the list lacks is shown as it is, as untrusted text."""
    key = f"{prefix}_{str(name).replace(' ', '_').replace('-', '_')}"
    return say(key) if key in WORDS["en"] else _as_spoken(str(name))


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
    return _in_every_language(lambda language: Markup(_point(f"{value:g}", language)), value)  # noqa: S704 - digits


def share(value: float | None, digits: int = 1) -> Spoken:
    """A fraction in per cent, with enough decimals that only all is 100 % and only none is 0 %."""
    if not _is_number(value):
        return _dash()
    while digits < 6 and 0 < value < 1 and round(value * 100, digits) in {0, 100}:
        digits += 1
    space = {"en": "", "fr": _THIN}
    return _in_every_language(lambda language: _number(value * 100, digits, language) + space[language] + "%", value)


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
        text = f"{when.day} {MONTHS[language][when.month - 1]} {when.year}, {when:%H:%M}{zone}"
        return escape(text.replace(" ", "\N{NO-BREAK SPACE}", 1))

    return _in_every_language(written)


@dataclass(frozen=True)
class _Field:
    """One value inside a sentence of one language."""

    form: Markup
    quantity: float | None
    language: str

    def __html_format__(self, spec: str) -> Markup:
        """The value itself, or, given ``singular|plural``, the word that agrees with it."""
        if not spec:
            return self.form
        singular, plural = spec.split("|")
        quantity = abs(self.quantity or 0)
        # French counts nothing, and anything below two, in the singular.
        is_singular = quantity == 1 if self.language == "en" else quantity < 2
        return Markup(singular if is_singular else plural)  # noqa: S704 - both are our own words


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
    return Markup(_point(f"{value:,.{digits}f}", language))  # noqa: S704 - digits and separators only


def _point(text: str, language: str) -> str:
    """An English number with the separators of another language."""
    return text if language == "en" else text.translate({ord(","): _THIN, ord("."): ","})


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether there is a finite number to show; a run record may hold null or NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
