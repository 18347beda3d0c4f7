"""The consent mark of a photo exported from a service: id of the submission, and whether others may see the photo.

The mark is a comment in the JPEG, so that it stays with the file in other folders, packs and buckets. It states whether the
contributor agreed that thumbnails are shown beside answers and in reports. A photo without a mark is the operator's own. The
pixels are not changed. Independent of services, galleries and reports.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_COMMENT: Final = 0xFE
#: Markers without a length, and those after which pixels follow or the file ends.
_ALONE: Final = (0x01, *range(0xD0, 0xD9))
_PIXELS: Final = (0xDA, 0xD9)
_JFIF: Final = 0xE0
_MARK: Final = re.compile(rb"fruits submission ([A-Za-z0-9_-]{22}) (shown|not shown)")


@dataclass(frozen=True, slots=True)
class ConsentMark:
    """Contents of a mark.

    Attributes
    ----------
    id : str
        Id of the submission.
    may_show : bool
        Whether others may see the photo.
    """

    id: str
    may_show: bool


def mark(jpeg: bytes, consent: ConsentMark) -> bytes:
    """Return a JPEG with a mark, replacing an existing one.

    Raises
    ------
    ValueError
        If the file is no JPEG, or the id is invalid.
    """
    text = f"fruits submission {consent.id} {'shown' if consent.may_show else 'not shown'}".encode()
    if not _MARK.fullmatch(text) or not jpeg.startswith(b"\xff\xd8\xff"):
        raise ValueError("expected a JPEG and the id of a submission")
    jpeg = unmark(jpeg)
    at = 2
    if jpeg[3] == _JFIF:  # JFIF requires its segment to be the first
        at += 2 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:at] + bytes((0xFF, _COMMENT)) + (len(text) + 2).to_bytes(2, "big") + text + jpeg[at:]


def consent_of(photo: bytes) -> ConsentMark | None:
    """Return the contents of a photo's mark; None if it has none."""
    for start, end in _comments(photo):
        if found := _MARK.fullmatch(photo, start + 4, end):
            return ConsentMark(found[1].decode(), found[2] == b"shown")
    return None


def unmark(jpeg: bytes) -> bytes:
    """Return a JPEG without its mark."""
    for start, end in _comments(jpeg):
        if _MARK.fullmatch(jpeg, start + 4, end):
            return jpeg[:start] + jpeg[end:]
    return jpeg


def _comments(photo: bytes) -> list[tuple[int, int]]:
    """Return start and end of each comment of a JPEG; empty if the file is no JPEG, up to the cut if it is truncated."""
    found: list[tuple[int, int]] = []
    at = 2
    while photo.startswith(b"\xff\xd8") and at + 4 <= len(photo) and photo[at] == 0xFF:
        kind = photo[at + 1]
        if kind in _PIXELS:
            break
        if kind == 0xFF or kind in _ALONE:  # padding
            at += 1 if kind == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(photo[at + 2 : at + 4], "big")
        if kind == _COMMENT and end <= len(photo):
            found.append((at, end))
        at = end
    return found
