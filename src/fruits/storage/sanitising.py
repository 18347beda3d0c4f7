"""Text sanitising: cleaned before it is stored, and written so that no spreadsheet evaluates it. JSON that is JSON.

Labels, names and notes come from folders, visitors and programs. What they say is kept; what acts on a screen instead of being
read is not. Pages escape HTML themselves (report: Jinja; service: ``textContent``); this is what comes before that.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any, Final

#: The longest text that is kept of what a stranger writes, in characters.
LONGEST: Final = 500

# Direction marks, embeddings, overrides and isolates turn what stands beside them around: "gpj.elppa" reads "apple.jpg".
_DIRECTIONS: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
# Of the control characters only the new line is a character of text; lines end in many ways, kept is one. Lone surrogates
# are no characters at all and no file or database takes them.
_UNWANTED: Final = re.compile(f"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff{_DIRECTIONS}]")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def clean_text(text: str, longest: int = LONGEST) -> str:
    """Return text as it is kept: NFC, without control characters but the new line, without marks that turn text around.

    Parameters
    ----------
    text : str
    longest : int
        What is over is cut off.
    """
    lines = re.sub("\r\n?|\u2028|\u2029|\x85|\x0b|\x0c", "\n", text[: 4 * longest])
    # Normalised twice over: what stood on both sides of a mark may compose once the mark is gone.
    cleaned = unicodedata.normalize("NFC", _UNWANTED.sub("", lines.replace("\t", " ")))
    return cleaned.strip()[:longest].strip()


def clean_line(text: str, longest: int = LONGEST) -> str:
    """Return text as it is kept where one line is meant, such as a label or a name."""
    return clean_text(clean_text(text, longest).replace("\n", " "), longest)


def json_text(value: Any, **options: Any) -> str:
    """Return JSON; numbers that are none (NaN, infinities), which JSON does not know, become null.

    The one way in which fruits writes JSON.

    Parameters
    ----------
    value : plain values
    **options
        Of ``json.dumps``.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:  # rare, so only then is everything looked through
        return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            _finite(name) if not isinstance(name, float) or math.isfinite(name) else "null": _finite(one)
            for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_cell(text: str) -> str:
    """Return text for a cell of a CSV file: one that a spreadsheet would take for a formula begins with an apostrophe.

    References
    ----------
    OWASP, CSV Injection.
    """
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def printable(text: str) -> str:
    """Return text for a line at a terminal or in a log: what would act on it is written as an escape."""
    return "".join(
        letter if letter.isprintable() and not _UNWANTED.match(letter) else letter.encode("unicode_escape").decode()
        for letter in text
    )
