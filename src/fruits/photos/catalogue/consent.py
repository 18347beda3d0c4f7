"""Whose photo is this, and may others see it? The mark that a photo exported from a service carries in itself.

A comment in the JPEG, so that it goes wherever the file goes: into other folders, packs and buckets. It holds the id of the
submission and whether its giver agreed that others see it, small: beside answers and in reports. A photo without a mark is the
operator's own. The pixels are not touched. Knows nothing of services, galleries and reports.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_COMMENT: Final = 0xFE
#: Markers that stand alone, and those after which pixels follow.
_ALONE: Final = (0x01, *range(0xD0, 0xD9))
_PIXELS: Final = (0xDA, 0xD9)
_JFIF: Final = 0xE0
_MARK: Final = re.compile(rb"fruits submission ([A-Za-z0-9_-]{22}) (shown|not shown)")


@dataclass(frozen=True, slots=True)
class Giver:
    """What a mark says.

    Attributes
    ----------
    id : str
        Of the submission.
    may_show : bool
        Whether others may see the photo.
    """

    id: str
    may_show: bool


def mark(jpeg: bytes, giver: Giver) -> bytes:
    """Return a JPEG that says whose it is.

    Raises
    ------
    ValueError
        If it is no JPEG, or the id is none.
    """
    text = f"fruits submission {giver.id} {'shown' if giver.may_show else 'not shown'}".encode()
    if not _MARK.fullmatch(text) or not jpeg.startswith(b"\xff\xd8\xff"):
        raise ValueError("expected a JPEG and the id of a submission")
    jpeg = unmark(jpeg)
    at = 2
    if jpeg[3] == _JFIF:  # it wants to be the first
        at += 2 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:at] + bytes((0xFF, _COMMENT)) + (len(text) + 2).to_bytes(2, "big") + text + jpeg[at:]


def giver_of(photo: bytes) -> Giver | None:
    """Return what the mark of a photo says; None if it has none."""
    for start, end in _comments(photo):
        if found := _MARK.fullmatch(photo, start + 4, end):
            return Giver(found[1].decode(), found[2] == b"shown")
    return None


def unmark(jpeg: bytes) -> bytes:
    """Return a JPEG without its mark."""
    for start, end in _comments(jpeg):
        if _MARK.fullmatch(jpeg, start + 4, end):
            return jpeg[:start] + jpeg[end:]
    return jpeg


def _comments(photo: bytes) -> list[tuple[int, int]]:
    """Return where the comments of a JPEG begin and end; none where it is no JPEG or cut short."""
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
