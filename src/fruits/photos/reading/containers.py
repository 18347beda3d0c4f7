"""Uris of photos that lie in a file with others: ``scheme:file#place``, such as ``tar:/photos/train-0.tar#512+9000/a/1.jpg``.

``%`` and ``#`` in the name of the file are written as ``%25`` and ``%23``. What follows ``#`` is for the reader of the scheme.
"""

from __future__ import annotations

from typing import Final

#: A pack of fruits: ``pack:ROOT#PATH``.
PACK: Final = "pack:"
#: A tar archive: ``tar:FILE#OFFSET+SIZE/NAME``.
TAR: Final = "tar:"
#: A table of photos: ``parquet:FILE#ROW/NAME``.
TABLE: Final = "parquet:"
_ALL: Final = (PACK, TAR, TABLE)


def is_contained(uri: str) -> bool:
    """Return whether a uri names a photo in a file with others."""
    return uri.startswith(_ALL)


def contained_uri(scheme: str, file: str, place: str) -> str:
    """Return the uri of a photo."""
    return f"{scheme}{file.replace('%', '%25').replace('#', '%23')}#{place}"


def split_contained(uri: str) -> tuple[str, str]:
    """Return the file that holds a photo, and the place of the photo in it."""
    file, _, place = uri.partition(":")[2].partition("#")
    return file.replace("%23", "#").replace("%25", "%"), place
