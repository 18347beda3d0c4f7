"""Photos in tar archives, read in place: members are listed from their headers, and a photo is one range of the file.

An archive may be crafted or cut. Headers are bounded, members are never extracted, and only regular files count. What is complete
before the damage is kept. Compressed archives have no ranges and are refused where they are listed.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

from fruits.errors import StoreError
from fruits.photos.reading.access import Access
from fruits.photos.reading.containers import TAR, contained_uri, split_contained
from fruits.storage.disk.local import MAX_PHOTO_BYTES, open_regular, read_exactly, too_large
from fruits.storage.objects import AbsentError, is_remote, opened, split_uri

#: Largest extended header: names, and attributes that are ignored.
_MAX_HEADER: Final = 1 << 20
_BLOCK: Final = 512
_PLACE: Final = re.compile(r"(?P<offset>\d+)\+(?P<size>\d+)/.*", re.DOTALL)
#: What :mod:`tarfile` raises for malformed headers.
_DAMAGE: Final = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError)


class DamagedTarError(StoreError):
    """An archive that ends early, or has a damaged header; its members before that are complete."""


def members(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the complete members of an archive that is open for random access.

    Raises
    ------
    DamagedTarError
        After the last complete member, if the archive does not end there as it should.
    OSError
        If the file cannot be read.
    """
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    end = count = 0
    try:
        bounded: Any = _Bounded(file)
        with tarfile.open(fileobj=bounded, mode="r:") as tar:
            while (member := tar.next()) is not None:
                vars(tar)["members"].clear()  # it would keep them all
                if member.size < 0 or tar.offset <= end or member.offset_data + member.size > total:
                    raise tarfile.ReadError("a member that does not fit into it")
                end = tar.offset
                count += 1
                yield member
            file.seek(tar.offset)
            if file.read(_BLOCK).strip(b"\0") or total < tar.offset + _BLOCK:
                raise tarfile.ReadError("no end mark" if total < tar.offset + _BLOCK else "a damaged header")
    except _DAMAGE as exc:
        first = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise DamagedTarError(f"cut or damaged after {count:,} complete members ({first})") from exc


def tar_uri(file: str, member: tarfile.TarInfo, name: str) -> str:
    """Return the uri of a member, which says where it lies; uris of one archive sort in the order of its bytes."""
    return contained_uri(TAR, file, f"{member.offset_data:015d}+{member.size}/{name}")


def read_member(uri: str, access: Access, *, limit: int = MAX_PHOTO_BYTES, head: int | None = None) -> bytes:
    """Return the bytes of a photo in an archive; only the first ``head`` if given.

    Raises
    ------
    RefusedError
        If it is larger than ``limit``, or the archive is no regular file or lies where it may not be read.
    StoreError
        If the archive ends before the photo does.
    OSError
        If the archive is missing or cannot be read.
    """
    file, place = split_contained(uri)
    match = _PLACE.fullmatch(place)
    if match is None:
        raise StoreError(f"'{uri}' names no place in an archive; expected tar:FILE#OFFSET+SIZE/NAME")
    offset, size = int(match["offset"]), int(match["size"])
    if size > limit:
        raise too_large(size, limit)
    size = size if head is None else min(head, size)
    if not size:
        return b""
    if is_remote(file):
        folder, name = split_uri(file)
        data = opened(folder).read_range(name, offset, size)
    else:
        descriptor = open_regular(file, access.allows_opened)
        try:
            data = read_exactly(descriptor, offset, size)
        finally:
            os.close(descriptor)
    if len(data) < size:
        raise StoreError(f"'{file}' ends before the photo does: it was cut since it was listed")
    return data


@contextmanager
def opened_tar(file: str, access: Access) -> Iterator[IO[bytes]]:
    """Open an archive for listing.

    Raises
    ------
    OSError
        If it is missing, or may not be read.
    """
    if is_remote(file):
        folder, name = split_uri(file)
        if opened(folder).stat(name) is None:
            raise AbsentError(f"'{file}' is not there")
        yield opened(folder).open(name)
        return
    with os.fdopen(open_regular(file, access.allows_opened), "rb") as stream:
        yield stream


class _Bounded:
    """A file of which tarfile cannot read more than a header at once: an archive says how long its headers are."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> Any:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes; expected at most {_MAX_HEADER:,}")
        return self._file.read(size)
