"""Bytes under names, in a folder: read, write, put if absent. Nothing else in fruits knows where results rest.

Built on obstore, whose local folder and buckets share one interface, so that a bucket can take the folder's place.
Results appear whole or not at all: obstore writes beside the target and renames.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore

from fruits.errors import StoreError


class Objects:
    """Objects of one folder, named by keys such as ``embeddings/0a1b/plan.parquet``.

    Parameters
    ----------
    root : str
        Path of the folder; made if absent.

    Raises
    ------
    StoreError
        From every method, if the folder or an object cannot be read or written.
    """

    def __init__(self, root: str) -> None:
        self.root = str(Path(root).absolute())
        with _translated("open", self.root):
            if Path(self.root).exists() and not Path(self.root).is_dir():
                raise StoreError(f"'{root}' is a file; expected a folder for results, new or made by fruits")
            self._store = LocalStore(self.root, mkdir=True)

    def read(self, key: str) -> bytes:
        """Return the bytes of an object; see also :meth:`read_if_present`."""
        with _translated("read", key):
            return bytes(self._store.get(key).bytes())

    def read_if_present(self, key: str) -> bytes | None:
        """Return the bytes of an object, or None if there is none."""
        with _translated("read", key):
            try:
                return bytes(self._store.get(key).bytes())
            except FileNotFoundError:
                return None

    def write(self, key: str, data: bytes) -> None:
        """Write an object, replacing any."""
        with _translated("write", key):
            self._store.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether this call made it. Atomic among any number of writers."""
        with _translated("write", key):
            try:
                self._store.put(key, data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def delete(self, key: str) -> None:
        """Delete an object; deleting none is fine."""
        with _translated("delete", key):
            try:
                self._store.delete(key)
            except FileNotFoundError:
                return

    @contextmanager
    def writer(self, key: str) -> Iterator[io.RawIOBase]:
        """Open an object for writing piece by piece; it appears when the block ends without an error."""
        # obstore's writer completes when its block ends well and drops what it has otherwise.
        with _translated("write", key), obstore.open_writer(self._store, key) as sink:
            yield _Stream(sink)


def read_file(uri: str) -> bytes:
    """Return the bytes of a photo. Plain reading: for small local files obstore's way takes ten times as long.

    Raises
    ------
    OSError
        If the file is gone or cannot be read.
    """
    with open(uri, "rb", buffering=0) as file:  # noqa: PTH123 - a Path per photo costs as much as the read
        return file.read()


class _Stream(io.RawIOBase):
    """obstore's writer with the face of a file that pyarrow expects."""

    def __init__(self, sink: obstore.WritableFile) -> None:
        self._sink = sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._sink.write(data)


@contextmanager
def _translated(verb: str, name: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except (OSError, BaseError) as exc:
        first = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise StoreError(f"cannot {verb} '{name}': {first}; check space and permissions, then run again") from exc
