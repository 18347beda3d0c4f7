"""Locks on folders of the local disk, by ``flock``: the operating system releases them when their process ends.

In a bucket, and on a file system that knows no locks, nothing is locked.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class FolderLock:
    """A lock on a folder, held until :meth:`release` or the end of this object or process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[type[FolderLock], tuple[int]]:
        return FolderLock, (-1,)  # a lock stays with its process

    def is_at(self, path: str | Path) -> bool:
        """Return whether a path is still the folder that was locked, not moved or replaced since."""
        with suppress(OSError):
            return os.path.samestat(os.stat(path), os.fstat(self._descriptor))  # noqa: PTH116 - beside fstat
        return False

    def release(self) -> None:
        """Give the lock up."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):  # a process that was forked meanwhile still has it
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    __del__ = release


def lock_folder(folder: str | Path, *, exclusive: bool = False, wait: bool = False) -> FolderLock | None:
    """Lock a folder: shared with other readers, or ``exclusive``.

    Returns
    -------
    FolderLock or None
        None if another process holds it in a way that excludes this one, or there is no such folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system that knows no locks
        pass
    return FolderLock(descriptor)


@contextmanager
def locked(folder: str | Path | None, *, wait: bool = False) -> Iterator[FolderLock | None]:
    """Lock a folder exclusively during the block; yield None if another process holds it, or there is no folder."""
    lock = lock_folder(folder, exclusive=True, wait=wait) if folder is not None else None
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()
