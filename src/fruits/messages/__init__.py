"""The messages of the report, the service and its pages: one gettext catalogue per language.

``fruits.pot`` holds the English sentences; ``xx/LC_MESSAGES/fruits.po`` holds those of language xx, and its presence is all that
makes xx a language of fruits. Each message has a key (its ``msgctxt``, such as ``report.title``), so that the same English may be
translated in two ways. The keys ``language.*`` say how a language writes numbers and dates. Knows nothing of HTML or HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from fruits.messages.catalogue import Catalogue, Message, parse

_FOLDER: Final = Path(__file__).parent
#: The language of the messages' source, which stands in for what another language lacks.
SOURCE: Final = "en"
#: English first, then what has a catalogue.
LANGUAGES: Final = (SOURCE, *sorted(path.parent.parent.name for path in _FOLDER.glob("*/LC_MESSAGES/fruits.po")))

__all__ = ["LANGUAGES", "SOURCE", "Catalogue", "Message", "catalogue", "translations"]


@cache
def catalogue(language: str) -> Catalogue:
    """Return the messages of a language; read once.

    Parameters
    ----------
    language : str
        One of ``LANGUAGES``.

    Raises
    ------
    MessagesError
        If its file is no catalogue.
    """
    source = _read(SOURCE, _FOLDER / "fruits.pot")
    if language == SOURCE:
        return source
    return _read(language, _FOLDER / language / "LC_MESSAGES" / "fruits.po").over(source)


def translations(key: str, **values: object) -> dict[str, str]:
    """Return a message in every language.

    Parameters
    ----------
    key : str
    **values : object
        What its placeholders stand for: a mapping gives a text per language, an int is written as the language writes
        it, anything else as it is. ``n`` chooses between singular and plural.
    """

    def in_language(language: str) -> str:
        return catalogue(language).text(
            key, **{name: value[language] if isinstance(value, Mapping) else value for name, value in values.items()}
        )

    return {language: in_language(language) for language in LANGUAGES}


def _read(language: str, path: Path) -> Catalogue:
    return parse(path.read_text("utf-8"), language=language, name=path.name)
