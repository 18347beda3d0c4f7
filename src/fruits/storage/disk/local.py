"""Reading untrusted files on the local disk safely, up to a size limit.

Only regular files are read, so reading never blocks on a pipe and never touches a device. The real path is checked after the file
is opened, so that it cannot change between check and read.

Photos may be links that stay within their source (:func:`read_regular`). Files that a bundle or a network names may be no link at
all (:func:`read_plain`), since that name is untrusted input, too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from fruits.errors import StoreError, option

#: Do not become the controlling terminal, do not block on a pipe, do not follow a link.
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW
#: Largest photo that is read, in bytes: more than any camera writes, and more than 100 million pixels take as PNG.
MAX_PHOTO_BYTES: Final = 256 << 20
_DELETED: Final = " (deleted)"


class RefusedError(StoreError):
    """A file or object that is not read: it is too large, is no regular file, or a link leads out of its place.

    Parameters
    ----------
    code : str
        ``too large``, ``not a file`` or ``outside``.
    message : str
        The reason with details.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[RefusedError], tuple[str, str]]:
        return type(self), (self.code, str(self))


class RefusedFileError(OSError):
    """A file exists but is not read; ``strerror`` gives the reason, as a part of a sentence."""

    def __init__(self, why: str) -> None:
        super().__init__(0, why)


def read_regular(path: str, limit: int, leads: Callable[[str], bool]) -> bytes:
    """Return the bytes of a file.

    Parameters
    ----------
    path : str
        Absolute path.
    limit : int
        Largest size in bytes; a larger file is refused without reading it.
    leads : callable
        Returns whether a real path (links resolved) may be read. Called only if it differs from ``path``.

    Raises
    ------
    RefusedError
        If it is too large or no regular file, or its real path may not be read.
    OSError
        If the file is missing or cannot be read.
    """
    descriptor, size = _open_measured(path, leads)
    try:
        if size > limit:
            raise too_large(size, limit)
        data = os.read(descriptor, size + 1)
        if len(data) == size:  # nearly always: one call
            return data
        pieces, held = [data], len(data)
        while data and held <= limit:  # the file grows, or is larger than one call returns
            data = os.read(descriptor, min(1 << 24, limit + 1 - held))
            pieces.append(data)
            held += len(data)
        if held > limit:
            raise too_large(held, limit)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def read_named(path: str, limit: int) -> bytes:
    """Return the bytes of a path given by the user: a file, also through a link, or a pipe.

    Raises
    ------
    RefusedError
        If it has more than ``limit`` bytes.
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
    """Return the first bytes of a file; parameters and errors as in :func:`read_regular`."""
    descriptor = open_regular(path, leads)
    try:
        return os.read(descriptor, length)
    finally:
        os.close(descriptor)


def open_regular(path: str, leads: Callable[[str], bool]) -> int:
    """Open a regular file and return its descriptor; parameters and errors as in :func:`read_regular`."""
    return _open_measured(path, leads)[0]


def _open_measured(path: str, leads: Callable[[str], bool]) -> tuple[int, int]:
    """Open a regular file and return its descriptor and size."""
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
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            raise RefusedError("not a file", "a pipe or a device; expected a file")
        real = _real(descriptor, path)
        if real != path and not leads(real):
            raise _outside()
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, found.st_size


def too_large(size: int, limit: int) -> RefusedError:
    """Return the error for a file of ``size`` bytes."""
    return RefusedError("too large", f"{size:,} bytes; expected at most {limit:,}")


def _real(descriptor: int, path: str) -> str:
    """Return the real path of an open file."""
    try:
        real = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:  # no /proc, or a very long path
        return os.path.realpath(path)
    # Replaced or deleted since it was opened, which does not matter: the opened file is read.
    return path if real == path + _DELETED else real


def _outside() -> RefusedError:
    return RefusedError(
        "outside",
        f"a link that leads out of its source; let it in with {option('follow_links', True)} or {option('allow_source')}",
    )


# --- Files that bundles and networks name ---------------------------------------------------------------------------------


def read_plain(path: str | Path, most_bytes: int, *, follow: bool = False) -> bytes:
    """Return the bytes of a regular file.

    Parameters
    ----------
    path : str or Path
    most_bytes : int
        A larger file is refused without reading it.
    follow : bool
        Whether the last name may be a link; use it only for paths given by the user.

    Raises
    ------
    RefusedFileError
        If it is a link, no regular file, or too large.
    OSError
        If it is absent or cannot be read.
    """
    with opened_regular(Path(path), follow=follow) as (descriptor, size):
        if size > most_bytes:
            raise RefusedFileError(f"{size:,} bytes; expected at most {most_bytes:,}")
        return read_exactly(descriptor, 0, size)


def plain_parts(name: str) -> tuple[str, ...]:
    """Split a plain relative name, such as ``weights/net.bin``, into its parts.

    Raises
    ------
    RefusedFileError
        If it is empty or absolute, or holds ``..``, a backslash, a colon or a control character.
    """
    parts = PurePosixPath(name).parts
    bad = any(letter in "\\:" or not letter.isprintable() for letter in name)
    if bad or not parts or name.startswith("/") or ".." in parts:
        raise RefusedFileError("not a plain name of a file in the same folder")
    return parts


@contextmanager
def opened_regular(path: Path, parts: tuple[str, ...] = (), *, follow: bool = False) -> Iterator[tuple[int, int]]:
    """Open a regular file; yield its descriptor and size.

    Parameters
    ----------
    path : Path
        The file or, with ``parts``, the folder that contains it.
    parts : tuple of str
        Names from the folder to the file. None may be a link.
    follow : bool
        Without ``parts``, whether the last name of ``path`` may be a link.
    """
    folder = None
    try:
        if not parts:
            descriptor = _opened(path, _FLAGS & ~os.O_NOFOLLOW if follow else _FLAGS, None)
        else:
            folder = os.open(path, _FLAGS & ~os.O_NOFOLLOW | os.O_DIRECTORY)
            for part in parts[:-1]:
                below = _opened(part, _FLAGS | os.O_DIRECTORY, folder)
                os.close(folder)
                folder = below
            descriptor = _opened(parts[-1], _FLAGS, folder)
    finally:
        if folder is not None:
            os.close(folder)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise RefusedFileError("not a regular file")
        if parts and about.st_nlink > 1:  # a hard link to a file elsewhere
            raise RefusedFileError("a file with a second name (hard link); copy it")
        yield descriptor, about.st_size
    finally:
        os.close(descriptor)


def read_exactly(descriptor: int, offset: int, length: int) -> bytes:
    """Return ``length`` bytes from ``offset`` on.

    Raises
    ------
    RefusedFileError
        If the file is shorter.
    """
    pieces = []
    while length:
        piece = os.pread(descriptor, min(length, 1 << 30), offset)
        if not piece:
            raise RefusedFileError("shorter than it says")
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return b"".join(pieces)


def _opened(name: str | Path, flags: int, folder: int | None) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as exc:
        # ELOOP, or ENOTDIR where a folder was expected.
        if flags & os.O_NOFOLLOW and stat.S_ISLNK(_mode(name, folder)):
            raise RefusedFileError("a link; expected the file itself: copy it there") from exc
        if stat.S_ISSOCK(_mode(name, folder)):
            raise RefusedFileError("not a regular file") from exc
        raise


def _mode(name: str | Path, folder: int | None) -> int:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except OSError:
        return 0
