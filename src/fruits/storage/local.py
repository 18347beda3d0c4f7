"""Files on this machine's disk that strangers may have put there: opened without harm, read up to a size.

Nothing but a regular file is ever read, so no pipe is waited for and no device is touched; what a name leads to is looked at
once the file is open, so that nobody can change it between the look and the reading.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from fruits.errors import StoreError

#: Never the terminal of this process, never waiting for whoever writes into a pipe, never through a link.
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW
#: Of a photo: more than any camera writes, and more than 100 million pixels take as PNG. What is larger is never read.
MAX_PHOTO_BYTES: Final = 256 << 20
_DELETED: Final = " (deleted)"


class RefusedError(StoreError):
    """A file or object that is not read: it is too large, no file, or leads elsewhere.

    Parameters
    ----------
    code : str
        ``too large``, ``not a file`` or ``outside``.
    message : str
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[RefusedError], tuple[str, str]]:
        return type(self), (self.code, str(self))


def read_regular(path: str, limit: int, leads: Callable[[str], bool]) -> bytes:
    """Return the bytes of a file.

    Parameters
    ----------
    path : str
        Absolute.
    limit : int
        A larger file is refused before any of it is read.
    leads : callable
        Whether the path without links, given to it only where it is another, may be read.

    Raises
    ------
    RefusedError
    OSError
        If the file is gone or cannot be read.
    """
    descriptor = open_regular(path, leads)
    try:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise too_large(size, limit)
        data = os.read(descriptor, size + 1)
        if len(data) == size:  # as nearly always: one call
            return data
        pieces, held = [data], len(data)
        while data and held <= limit:  # a file that grows, or one of more than what one call gives
            data = os.read(descriptor, min(1 << 24, limit + 1 - held))
            pieces.append(data)
            held += len(data)
        if held > limit:
            raise too_large(held, limit)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def read_named(path: str, limit: int) -> bytes:
    """Return the bytes of what a user named: a file, also by a link, or a pipe.

    Raises
    ------
    RefusedError
        If there are more than ``limit``.
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise too_large(size, limit)
        data = file.read(limit + 1) if size == 0 else file.read(size + 1)
    if len(data) > max(size, limit):
        raise too_large(len(data), limit)
    return data


def read_head_of(path: str, length: int, leads: Callable[[str], bool]) -> bytes:
    """Return the first bytes of a file; arguments and errors as :func:`read_regular`."""
    descriptor = open_regular(path, leads)
    try:
        return os.read(descriptor, length)
    finally:
        os.close(descriptor)


def open_regular(path: str, leads: Callable[[str], bool]) -> int:
    """Return a descriptor of a regular file; arguments and errors as :func:`read_regular`."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError:
        real = os.path.realpath(path)
        if real == path or not os.path.islink(path):  # noqa: PTH114 - a Path per photo costs as much as the read
            raise
        if not leads(real):
            raise _outside() from None
        descriptor = os.open(real, _FLAGS)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise RefusedError("not a file", "a pipe or a device; expected a file")
        real = _real(descriptor, path)
        if real != path and not leads(real):
            raise _outside()
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def too_large(size: int, limit: int) -> RefusedError:
    """Return the refusal of a file of so many bytes."""
    return RefusedError("too large", f"{size:,} bytes; expected at most {limit:,}")


def _real(descriptor: int, path: str) -> str:
    """Return the path, without links, of what is open."""
    try:
        real = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:  # no /proc here, or a very long path
        return os.path.realpath(path)
    # Replaced or deleted since it was opened, which is no matter: we read what we opened.
    return path if real == path + _DELETED else real


def _outside() -> RefusedError:
    return RefusedError(
        "outside", "a link that leads out of its source; let it in with --follow-links or --allow-source"
    )
