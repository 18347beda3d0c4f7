"""Reading a gettext catalogue (.po) and formatting its messages: plurals, numbers, percentages and dates as in the language.

The standard library reads compiled catalogues only. A file of this size is read in a few milliseconds, once per process, so none
is compiled: an edited catalogue counts at the next start, in a checkout and in an installed package alike.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from gettext import c2py
from typing import Final

from fruits.errors import MessagesError

_NARROW, _FULL = "\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}"
#: Written for "nothing" where a message may not be empty: an empty msgid is the header's.
_NOTHING: Final = "-"
_LINE: Final = re.compile(r'(?:(msgctxt|msgid_plural|msgid|msgstr)(?:\[(\d)\])?[ \t]+)?("(?:[^"\\]|\\.)*")')
_PLURALS: Final = re.compile(r"^Plural-Forms:\s*nplurals\s*=\s*(\d+)\s*;\s*plural\s*=\s*(.+?);?\s*$", re.MULTILINE)
#: A formula of any language repeats itself from 100 on with this period: so many numbers tell it to a page.
PERIOD: Final = 100


@dataclass(frozen=True, slots=True)
class Message:
    """A sentence.

    Attributes
    ----------
    forms : tuple of str
        One, or one for each plural form of the language, which ``n`` chooses from.
    """

    forms: tuple[str, ...]


@dataclass(frozen=True)
class Catalogue:
    """The messages of a language.

    Attributes
    ----------
    language : str
        Its code: en, fr.
    messages : mapping of str to Message
    plural_form : callable
        From a whole number to the number of its form.
    """

    language: str
    messages: Mapping[str, Message]
    plural_form: Callable[[int], int]
    _texts: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __contains__(self, key: object) -> bool:
        return key in self.messages

    @property
    def name(self) -> str:
        """What the language calls itself."""
        return self.text("language.name")

    def over(self, source: Catalogue) -> Catalogue:
        """Return it with the source's messages where it has none; those speak with the source's numbers of forms."""
        missing = {key: message for key, message in source.messages.items() if key not in self.messages}
        if not missing:
            return self
        whole = {
            key: Message(message.forms[-1:]) if len(message.forms) > 1 else message for key, message in missing.items()
        }
        return replace(self, messages={**whole, **self.messages})

    def pattern(self, key: str, quantity: float | None = None) -> str:
        """Return a message before its values are put in, with spaces that do not break where the language wants them.

        Parameters
        ----------
        key : str
        quantity : float, optional
            Chooses the plural form of a message that has several.
        """
        forms = self.messages[key].forms
        if len(forms) == 1:
            return self._bound(forms[0])
        return self._bound(forms[min(self.form(quantity or 0), len(forms) - 1)])

    def form(self, quantity: float) -> int:
        """Return which plural form goes with a quantity, whole or not.

        gettext's formulas know whole numbers only. A fraction goes with the whole number below it in languages that have
        the same form for none and one (French: 1,5 photo), and with the plural in the others (English: 1.5 photos).
        """
        quantity = abs(quantity)
        if not math.isfinite(quantity):
            return self.plural_form(2)
        if quantity == int(quantity) or self.plural_form(0) == self.plural_form(1):
            return self.plural_form(int(quantity))
        return self.plural_form(2)

    def text(self, key: str, **values: object) -> str:
        """Return a message with its values; whole numbers are written as the language does."""
        quantity = values.get("n")
        written = {
            name: self.number(value) if isinstance(value, int) and not isinstance(value, bool) else value
            for name, value in values.items()
        }
        return self.pattern(key, quantity if isinstance(quantity, int | float) else None).format_map(written)

    def number(self, value: float, digits: int = 0) -> str:
        """Return a number with grouped thousands and the decimal mark of the language."""
        return self.marked(f"{value:,.{digits}f}")

    def marked(self, text: str) -> str:
        """Return a number that was written the English way with the marks of the language."""
        whole, point, rest = text.partition(".")
        if len(re.sub(r"\D", "", whole)) < int(self._plain("language.group_from")):
            whole = whole.replace(",", "")
        group = self._plain("language.group_mark").replace(" ", _NARROW)
        return whole.replace(",", group) + (self._plain("language.decimal_mark") + rest if point else "")

    def percent(self, value: float, digits: int = 0) -> str:
        """Return a share, 1 for all, in per cent."""
        return self.pattern("language.percent").format(number=self.number(value * 100, digits))

    def moment(self, when: datetime) -> str:
        """Return date and time, to the minute, without its zone."""
        months = self._plain("language.months").split("|")
        return self.pattern("language.moment").format(
            day=when.day, month=months[(when.month - 1) % len(months)], year=when.year, time=f"{when:%H:%M}"
        )

    def table(self) -> str:
        """Return the plural forms of 0 to 199, a digit each: the formula for a page, which may not evaluate code."""
        return "".join(str(self.plural_form(n)) for n in range(2 * PERIOD))

    def of(self, *subjects: str) -> dict[str, str | list[str]]:
        """Return the messages of some subjects by key without subject; those with plural forms as lists."""
        found: dict[str, str | list[str]] = {}
        for key, message in self.messages.items():
            subject, _, name = key.partition(".")
            if subject in subjects:
                forms = [self._bound(form) for form in message.forms]
                found[name] = forms[0] if len(forms) == 1 else forms
        return found

    def _plain(self, key: str) -> str:
        text = self.messages[key].forms[0]
        return "" if text == _NOTHING else text

    def _bound(self, text: str) -> str:
        """Keep signs on the line of the word that they belong to."""
        known = self._texts.get(text)
        if known is None:
            known = text
            for rule, space in (("narrow_space_before", _NARROW), ("full_space_before", _FULL)):
                for sign in self._plain(f"language.{rule}").split():
                    known = known.replace(f" {sign}", f"{space}{sign}")
            for sign in self._plain("language.full_space_after").split():
                known = known.replace(f"{sign} ", f"{sign}{_FULL}")
            self._texts[text] = known
        return known


def parse(text: str, *, language: str, name: str = "fruits.po") -> Catalogue:
    """Read a catalogue.

    Messages that are not translated, or only by a guess (``#, fuzzy``), are left out. In the source's own file (.pot) a
    message says its ``msgid``.

    Parameters
    ----------
    text : str
        Of a .po or .pot file.
    language : str
    name : str
        Of the file, for messages of errors.

    Raises
    ------
    MessagesError
        If the text is no catalogue, or a plural message has another number of forms than its header says.
    """
    is_source = name.endswith(".pot")
    header, messages = "", {}
    for entry in _entries(text, name):
        if not entry.get("msgid"):
            header = entry.get("msgstr", "")
            continue
        key = entry.get("msgctxt", "")
        if not key:
            raise MessagesError(f"{name}: the message '{entry['msgid'][:60]}' has no msgctxt; expected its key there")
        plural = "msgid_plural" in entry
        forms = tuple(text for part, text in sorted(entry.items()) if part.startswith("msgstr"))
        if is_source:
            forms = (entry["msgid"], entry["msgid_plural"]) if plural else (entry["msgid"],)
        if all(forms) and "fuzzy" not in entry:
            messages[key] = (Message(forms), plural)
    found = _PLURALS.search(header)
    if not found:
        raise MessagesError(
            f"{name}: no Plural-Forms in its header; expected 'nplurals=2; plural=(n != 1);' or the like"
        )
    for key, (message, plural) in messages.items():
        if len(message.forms) != (int(found[1]) if plural else 1):
            raise MessagesError(f"{name}: {key} has {len(message.forms)} forms; expected {found[1] if plural else 1}")
    try:
        plural_form: Callable[[int], int] = c2py(found[2])
        plural_form(1)
    except (ValueError, ArithmeticError) as exc:
        raise MessagesError(f"{name}: '{found[2]}' is no formula of plural forms ({exc})") from exc
    return Catalogue(language, {key: message for key, (message, _) in messages.items()}, plural_form)


def _entries(text: str, name: str) -> list[dict[str, str]]:
    """Return the parts of each message: msgctxt, msgid, msgid_plural, msgstr or msgstr0, msgstr1...; 'fuzzy' if it is."""
    entries: list[dict[str, str]] = [{}]
    part = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith("#"):
            if entries[-1].keys() & {"msgstr", "msgstr0"}:
                entries.append({})
            if line.startswith("#,") and "fuzzy" in line:
                entries[-1]["fuzzy"] = ""
            continue
        if not line:
            continue
        found = _LINE.fullmatch(line)
        if not found:
            raise MessagesError(
                f"{name}, line {number}: found {line[:60]!r}; expected msgctxt, msgid or msgstr and a text in quotes"
            )
        word, form, quoted = found.groups()
        if word:
            part = word + (form or "")
            if word in ("msgctxt", "msgid") and entries[-1].keys() & {"msgstr", "msgstr0"}:
                entries.append({})
            entries[-1][part] = ""
        try:
            entries[-1][part] += ast.literal_eval(quoted) if "\\" in quoted else quoted[1:-1]
        except (KeyError, SyntaxError, ValueError) as exc:
            raise MessagesError(f"{name}, line {number}: {quoted[:60]} cannot be read ({exc})") from exc
    return [entry for entry in entries if "msgid" in entry]
