"""What do the pages say, in English and in French?

Every visible sentence, under one key in both languages, in one module per page. ``{name}`` is a value that the page puts in
and ``{name:one|many}`` the word that agrees with it. Sentences are ours and go in as they are, values are escaped.
Metric names, configuration keys and error messages are identifiers and stay as the run wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping

from fruits.report.messages import audit, common, evaluation, run

# French leaves a space before its double punctuation and inside its quotation marks, and never a line break.
_THIN, _FULL = "\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}"
_BOUND = {
    " :": f"{_FULL}:",
    " ;": f"{_THIN};",
    " ?": f"{_THIN}?",
    " %": f"{_THIN}%",
    "« ": f"«{_FULL}",
    " »": f"{_FULL}»",
}

# fmt: off
MONTHS: Mapping[str, tuple[str, ...]] = {
    "en": ("January", "February", "March", "April", "May", "June",
           "July", "August", "September", "October", "November", "December"),
    "fr": ("janvier", "février", "mars", "avril", "mai", "juin",
           "juillet", "août", "septembre", "octobre", "novembre", "décembre"),
}
# fmt: on

_MODULES = (common, run, evaluation, audit)


def _bind(sentence: str) -> str:
    """Keep double punctuation on the line of the word before it."""
    for loose, bound in _BOUND.items():
        sentence = sentence.replace(loose, bound)
    return sentence


WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {key: sentence for module in _MODULES for key, sentence in module.EN.items()},
    "fr": {key: _bind(sentence) for module in _MODULES for key, sentence in module.FR.items()},
}
"""Language, key, sentence. The first language is the one shown without JavaScript."""
