"""Text sanitising: untrusted text is cleaned before it is stored, CSV cells are escaped, and JSON is strict.

Labels, names and notes come from folders, visitors and programs. Readable text is kept; control characters and marks that change
the display of other text are removed. Pages escape HTML themselves (report: Jinja; service: ``textContent``).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any, Final

#: Longest untrusted text that is kept, in characters.
LONGEST: Final = 500

# Direction marks, embeddings, overrides and isolates reverse the text beside them: "gpj.elppa" is displayed as "apple.jpg".
_DIRECTIONS: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
# The newline is the only control character that is kept; other line endings become one. Lone surrogates are no characters, and no
# file or database accepts them.
_UNWANTED: Final = re.compile(f"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff{_DIRECTIONS}]")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def clean_text(text: str, longest: int = LONGEST) -> str:
    """Clean text of several lines: NFC, without control characters except newline, and without direction marks.

    Parameters
    ----------
    text : str
    longest : int
        Longest result in characters; the rest is cut off.
    """
    lines = re.sub("\r\n?|\u2028|\u2029|\x85|\x0b|\x0c", "\n", text[: 4 * longest])
    # Normalise after removal: characters on both sides of a mark may compose once the mark is gone.
    cleaned = unicodedata.normalize("NFC", _UNWANTED.sub("", lines.replace("\t", " ")))
    return cleaned.strip()[:longest].strip()


def clean_line(text: str, longest: int = LONGEST) -> str:
    """Clean text of a single line, such as a label or a name."""
    return clean_text(clean_text(text, longest).replace("\n", " "), longest)


def json_text(value: Any, **options: Any) -> str:
    """Return strict JSON; NaN and infinities, which JSON lacks, become null.

    All JSON of fruits is written with this function.

    Parameters
    ----------
    value : JSON-serialisable
    **options
        Options of ``json.dumps``.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:  # rare, so the values are searched only then
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
    """Return text for a cell of a CSV file; text that a spreadsheet would evaluate as a formula is prefixed by an apostrophe.

    References
    ----------
    OWASP, CSV Injection.
    """
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def printable(text: str) -> str:
    """Return text for a line in a terminal or log; unprintable characters are escaped."""
    return "".join(
        letter if letter.isprintable() and not _UNWANTED.match(letter) else letter.encode("unicode_escape").decode()
        for letter in text
    )
