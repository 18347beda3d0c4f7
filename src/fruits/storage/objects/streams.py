"""File interfaces, as pyarrow expects them, to obstore's writer and to ranges of an object."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import obstore


class Sink(io.RawIOBase):
    """A file that obstore writes."""

    def __init__(self, sink: obstore.WritableFile) -> None:
        self._sink = sink

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes; return how many."""
        return self._sink.write(data)


class Source(io.RawIOBase):
    """An object of a bucket, of which only the requested ranges are fetched."""

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range, self._size, self._at = read_range, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes with one request; return how many."""
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        data = self._read_range(self._at, wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
