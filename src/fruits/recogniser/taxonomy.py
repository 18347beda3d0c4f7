"""The taxonomy of labels: kind, variety, their names in each language, and a line of advice for the user.

It unifies labels of different sources: ``Royal-Gala`` and ``Apple Red 1`` are both apples. The table is a CSV file in the package
(``taxonomy.csv``), with two columns per language: ``fr`` for names and ``line_fr`` for lines. A user's own file of the same
columns, in whichever languages, extends it and wins over it. A label that no file names is its own kind.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.errors import TaxonomyError, command
from fruits.messages import LANGUAGES, SOURCE

#: Value instead of a file: every label is its own kind.
NONE: Final = "none"
_SEPARATORS: Final = str.maketrans(dict.fromkeys("-_'’`", " "))
#: Names of kinds that begin with a proper name; names.js has the same list.
_PROPER: Final = ("Brazil", "Brussels", "Chinese", "Swiss")
_PLACE: Final = ("label", "kind", "variety")
_LINE: Final = "line_"
#: A column of a language: its code for names, line_ before it for lines.
_OPTIONAL: Final = "variety and, for each language such as fr, names in fr and lines in line_fr"
_LANGUAGE: Final = re.compile(r"(?:line_)?[a-z]{2,3}")


@dataclass(frozen=True, slots=True)
class Name:
    """Names of a kind or a variety, and a line about it: ``name.en``, ``name["es"]``.

    Attributes
    ----------
    called : mapping of str to str
        Name by language; at least English.
    about : mapping of str to str
        One line by language; may be empty.
    """

    called: Mapping[str, str]
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def en(self) -> str:
        """The English name, which replaces missing ones."""
        return self.called[SOURCE]

    def __getitem__(self, language: str) -> str:
        """Return the name in a language; the English one if the table has none."""
        return self.called.get(language, self.en)

    def names(self) -> dict[str, str]:
        """Return the name in every language of the messages, and in those that only the table has."""
        return {language: self[language] for language in dict.fromkeys((*LANGUAGES, *self.called))}

    def lines(self) -> dict[str, str] | None:
        """Return the line in the same languages; None without an English one."""
        if not self.about.get(SOURCE):
            return None
        languages = dict.fromkeys((*LANGUAGES, *self.about))
        return {language: self.about.get(language, self.about[SOURCE]) for language in languages}

    def in_every_language(self) -> dict[str, str]:
        """Return names and lines as :meth:`as_dict` does, with English for missing ones."""
        return {**self.names(), **{_LINE + language: line for language, line in (self.lines() or {}).items()}}

    def as_dict(self) -> dict[str, str]:
        """Return plain values for JSON, only those of the table."""
        return {**self.called, **{_LINE + language: line for language, line in self.about.items()}}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Name:
        """Return what :meth:`as_dict` wrote.

        Raises
        ------
        TypeError
            If it is not that.
        """
        if not values.get(SOURCE) or not all(
            _LANGUAGE.fullmatch(key) and isinstance(values[key], str) for key in values
        ):
            raise TypeError(f"a name is {dict(values)}; expected texts by language, English at least")
        return cls(
            {key: text for key, text in values.items() if not key.startswith(_LINE) and text},
            {key.removeprefix(_LINE): text for key, text in values.items() if key.startswith(_LINE) and text},
        )

    def over(self, other: Name) -> Name:
        """Return the name with additional languages of another one, if both are equal in English."""
        called = {**other.called, **self.called} if self.en == other.en else self.called
        same_line = self.about.get(SOURCE) == other.about.get(SOURCE)
        return Name(called, {**other.about, **self.about} if same_line else self.about)


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """Kinds and varieties of c labels, in the order of the labels.

    Attributes
    ----------
    labels : tuple of str
    kind_of : tuple of int, length c
        Index of the kind of each label.
    variety_of : tuple of int, length c
        Index of the variety of each label; -1 for a label without a variety.
    kinds, varieties : tuple of Name
    kind_ids, variety_ids : tuple of str
        Identifiers: ``apple``, ``apple/braeburn``.
    """

    labels: tuple[str, ...]
    kind_of: tuple[int, ...]
    variety_of: tuple[int, ...]
    kinds: tuple[Name, ...]
    varieties: tuple[Name, ...]
    kind_ids: tuple[str, ...]
    variety_ids: tuple[str, ...]

    @classmethod
    def of(cls, labels: Sequence[str], own: str | None = None) -> Taxonomy:
        """Look labels up in the tables.

        Parameters
        ----------
        labels : sequence of str
        own : str, optional
            The user's file, which takes precedence over the one in the package; or ``none``.

        Raises
        ------
        TaxonomyError
            If the user's file cannot be read or contradicts itself.
        """
        rows: list[dict[str, str]] = []
        if own != NONE:
            rows = [*(_read(Path(own)) if own else []), *_shipped()]
        meant: dict[str, tuple[str, str]] = {}
        names: dict[tuple[str, str], list[dict[str, str]]] = {}
        more: dict[str, list[dict[str, str]]] = {}  # names that stand beside a label that is the kind itself
        for row in rows:
            if row["label"]:
                meant.setdefault(_spelling(row["label"]), (row["kind"], row["variety"]))
            if not row["label"] or row["variety"]:
                names.setdefault((row["kind"], row["variety"]), []).append(row)
            else:
                more.setdefault(row["kind"], []).append(row)
        # A folder named Pomme contains apples, even if no file has this label. Identifiers take precedence, then languages.
        for kind, variety in names:
            if not variety:
                meant.setdefault(_spelling(kind), (kind, variety))
        for language in _languages(rows):
            for place, about in names.items():
                for called in filter(None, (row.get(language) for row in about)):
                    meant.setdefault(_spelling(called), place)
        by_loose_spelling: dict[str, tuple[str, str]] = {}
        for spelling, place in meant.items():
            for key in _loosely(spelling):
                by_loose_spelling.setdefault(key, place)
        places = [_place(label, meant, by_loose_spelling) for label in labels]
        kind_ids = sorted({kind for kind, _ in places})
        variety_places = sorted({place for place in places if place[1]})
        kind_number = {kind: number for number, kind in enumerate(kind_ids)}
        variety_number = {place: number for number, place in enumerate(variety_places)}
        kinds = tuple(_name([*names.get((kind, ""), []), *more.get(kind, [])], kind) for kind in kind_ids)
        return cls(
            tuple(labels),
            tuple(kind_number[kind] for kind, _ in places),
            tuple(variety_number.get(place, -1) for place in places),
            kinds,
            tuple(_name(names[place], place[1], kinds[kind_number[place[0]]]) for place in variety_places),
            tuple(kind_ids),
            tuple("/".join(place) for place in variety_places),
        )

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Taxonomy:
        """Return what :meth:`as_dict` wrote.

        Raises
        ------
        TaxonomyError
            If values are missing or inconsistent.
        """
        try:
            given = {name: tuple(values[name]) for name in cls.__slots__}
            given["kinds"], given["varieties"] = (
                tuple(
                    Name.parse(name).over(_shipped_name(*place.split("/", 1)) or Name.parse(name))
                    for name, place in zip(given[part], given[places], strict=True)
                )
                for part, places in (("kinds", "kind_ids"), ("varieties", "variety_ids"))
            )
            taxonomy = cls(**given)
            fits = (
                len(taxonomy.kind_of) == len(taxonomy.variety_of) == len(taxonomy.labels)
                and set(taxonomy.kind_of) == set(range(len(taxonomy.kinds)))
                and set(taxonomy.variety_of) | {-1} == {-1, *range(len(taxonomy.varieties))}
                and len(taxonomy.kinds) == len(taxonomy.kind_ids)
                and len(taxonomy.varieties) == len(taxonomy.variety_ids)
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise TaxonomyError(
                f"the stored taxonomy cannot be used ({exc}); expected what {command('run')} wrote"
            ) from exc
        if not fits:
            raise TaxonomyError(f"the stored taxonomy contradicts itself; expected what {command('run')} wrote")
        return taxonomy

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {part: tuple(name.as_dict() for name in plain[part]) for part in ("kinds", "varieties")}

    @property
    def groups(self) -> bool:
        """Whether any kind has more than one label; otherwise kinds and labels are the same."""
        return len(self.kinds) < len(self.labels)

    def by_kind(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities of kinds, shape (n, number of kinds): sums over their labels."""
        return _sums(probabilities, self.kind_of, len(self.kinds))

    def by_variety(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities of varieties, shape (n, number of varieties); labels without a variety are left out."""
        return _sums(probabilities, self.variety_of, len(self.varieties))

    def kind_of_variety(self, variety: int) -> int:
        """Return the kind of a variety."""
        return self.kind_of[self.variety_of.index(variety)]


def _place(
    label: str, meant: dict[str, tuple[str, str]], by_loose_spelling: dict[str, tuple[str, str]]
) -> tuple[str, str]:
    """Return the kind and the variety of a label; an unknown label is its own kind.

    A number at the end of an unknown label is ignored: ``Apple 7`` is an apple, as data sets number their folders.
    """
    spelling = _spelling(label)
    words, _, last = spelling.rpartition(" ")
    for name in (spelling, words) if words and last.isdecimal() else (spelling,):
        for place in (meant.get(name), *(by_loose_spelling.get(key) for key in _loosely(name))):
            if place:
                return place
    return label, ""


def in_a_sentence(name: str) -> str:
    """Return a name for use within a sentence, in lower case: "probably kiwi"; proper names and numbers are unchanged."""
    words = name.split()
    stays = (
        not words
        or words[0] in _PROPER
        or name[1:2].isupper()
        or (len(words) > 1 and words[1][0].isupper())
        or any(letter.isdigit() for letter in name)
    )
    return name if stays else name[0].lower() + name[1:]


def _sums(probabilities: NDArray[np.float32], member_of: tuple[int, ...], count: int) -> NDArray[np.float32]:
    order, starts = _members(member_of, count)
    if not count:
        return np.zeros((len(probabilities), 0), np.float32)
    return np.asarray(np.add.reduceat(probabilities[:, order], starts, axis=1, dtype=np.float32), np.float32)


@lru_cache(maxsize=16)
def _members(member_of: tuple[int, ...], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return labels sorted by group, and the start of each group; no group is empty.

    The alternative, a matrix of zeros and ones, needs c x count numbers and a product for every batch.
    """
    groups = np.asarray(member_of, np.intp)
    order = np.argsort(groups, kind="stable")
    order = order[groups[order] >= 0]
    return order, np.searchsorted(groups[order], np.arange(count))


def _name(rows: list[dict[str, str]], otherwise: str, kind: Name | None = None) -> Name:
    """Return names and lines, each from the first row that has them; missing lines are those of the kind."""

    def first(column: str) -> str:
        return next((row[column] for row in rows if row.get(column)), "")

    languages = _languages(rows)
    called = {language: name for language in languages if (name := first(language))}
    about = {language: line for language in languages if (line := first(_LINE + language))}
    en = called.get(SOURCE) or next(iter(called.values()), otherwise)
    return Name({SOURCE: en, **called}, {**(kind.about if kind else {}), **about})


def _languages(rows: list[dict[str, str]]) -> tuple[str, ...]:
    """Return the languages of the columns of the files, English first."""
    columns = dict.fromkeys(column.removeprefix(_LINE) for row in rows for column in row if column not in _PLACE)
    return tuple(dict.fromkeys((SOURCE, *columns)))


@cache
def _shipped_name(kind: str, variety: str = "") -> Name | None:
    """Return the name of a kind or a variety in the package's file."""
    rows = _shipped_places().get((kind, variety))
    return _name(rows, kind, _shipped_name(kind) if variety else None) if rows else None


@cache
def _shipped_places() -> dict[tuple[str, str], list[dict[str, str]]]:
    places: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in _shipped():
        places.setdefault((row["kind"], row["variety"]), []).append(row)
    return places


@cache
def _shipped() -> list[dict[str, str]]:
    return _parse(resources.files("fruits.recogniser").joinpath("taxonomy.csv").read_text("utf-8"), "taxonomy.csv")


@lru_cache(8192)
def _spelling(label: str) -> str:
    """Return the label normalised: without case, accents, hyphens, underscores and apostrophes."""
    apart = unicodedata.normalize("NFKD", label.casefold().replace("œ", "oe").replace("æ", "ae"))
    bare = "".join(letter for letter in apart if not unicodedata.combining(letter))
    return " ".join(bare.translate(_SEPARATORS).split())


@lru_cache(8192)
def _loosely(spelling: str) -> tuple[str, str]:
    """Return keys that are equal for different spellings of a name.

    Plural endings of English, French and Spanish are removed (``peaches``, ``choux``, ``limones``); then the order of words
    (``Apple Golden``) and the spaces between them (``dragonfruit``) are ignored.
    """
    words = spelling.split()
    return " ".join(sorted(_singular(word) for word in words)), "=" + _singular("".join(words))


def _singular(word: str) -> str:
    """Return the word without its plural ending, as a key for comparison only."""
    if len(word) > 3 and word[-1] in "sx":
        word = word[:-1]
    if len(word) > 3 and word[-1] == "e":
        word = word[:-1]
    return word[:-1] + "i" if word.endswith("y") else word


def _read(path: Path) -> list[dict[str, str]]:
    try:
        return _parse(path.read_text("utf-8-sig"), path.name)
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise TaxonomyError(
            f"taxonomy '{path}' cannot be read ({reason}); expected a CSV file with the columns label, kind and, if you "
            f"like, {_OPTIONAL}; or 'none'"
        ) from exc


def _parse(text: str, name: str) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    found = [column for column in reader.fieldnames or [] if column]
    unknown = sorted(column for column in found if column not in _PLACE and not _LANGUAGE.fullmatch(column))
    if not {"label", "kind"} <= set(found) or unknown or len(set(found)) < len(found):
        raise TaxonomyError(
            f"taxonomy '{name}' has the columns {', '.join(found) or 'none'}; expected label, kind and, if you like, "
            f"{_OPTIONAL}{': unknown are ' + ', '.join(unknown) if unknown else ''}"
        )
    rows: list[dict[str, str]] = []
    meant: dict[str, tuple[str, str]] = {}
    try:
        for given in reader:
            if None in given:
                raise TaxonomyError(
                    f"taxonomy '{name}', line {reader.line_num}: more fields than columns; quote a field that holds a comma"
                )
            row = {
                column: unicodedata.normalize("NFC", (given.get(column) or "").strip()) for column in (*_PLACE, *found)
            }
            if not any(row.values()):
                continue
            if not row["kind"]:
                raise TaxonomyError(
                    f"taxonomy '{name}', line {reader.line_num}: '{row['label']}' has no kind; expected one, such as apple"
                )
            place = row["kind"], row["variety"]
            if row["label"] and meant.setdefault(_spelling(row["label"]), place) != place:
                raise TaxonomyError(
                    f"taxonomy '{name}', line {reader.line_num}: '{row['label']}' is there twice, as {'/'.join(place)} and "
                    f"{'/'.join(meant[_spelling(row['label'])])}; keep one"
                )
            rows.append(row)
    except csv.Error as exc:
        raise TaxonomyError(f"taxonomy '{name}', line {reader.line_num}: {exc}; expected CSV") from exc
    return rows
