"""Reading untrusted files: regular files of a bounded size, never a link, a pipe or a device.

Names inside bundles and networks are untrusted input. Reading a file here cannot hang (a pipe), is bounded (unlike ``/dev/zero``)
and stays within the folder (no ``..``, no link on the way). Independent of the content.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath


class RefusedFileError(OSError):
    """A file exists but is not read; ``strerror`` gives the reason, as a part of a sentence."""

    def __init__(self, why: str) -> None:
        super().__init__(0, why)


def read_regular(path: str | Path, most_bytes: int, *, follow: bool = False) -> bytes:
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
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    folder = None
    try:
        if not parts:
            descriptor = _opened(path, flags | (0 if follow else os.O_NOFOLLOW), None)
        else:
            folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            for part in parts[:-1]:
                below = _opened(part, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW, folder)
                os.close(folder)
                folder = below
            descriptor = _opened(parts[-1], flags | os.O_NOFOLLOW, folder)
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
