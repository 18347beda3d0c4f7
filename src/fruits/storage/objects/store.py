"""Object storage in a folder or a bucket behind one interface: read, write, put if absent, list.

Built on obstore, which supports the local disk and buckets (S3, GCS, Azure). Writes are atomic. Requests to a bucket are retried
a bounded number of times. After a conditional put whose response was lost, the stored bytes show whether it succeeded.
Independent of the content.
"""

from __future__ import annotations

import io
import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

import obstore
from obstore.exceptions import GenericError, NotSupportedError, PreconditionError
from obstore.store import LocalStore

from fruits.errors import StoreError
from fruits.storage.disk.local import too_large
from fruits.storage.disk.locks import locked
from fruits.storage.disk.private import make_private_folder, write_private
from fruits.storage.objects.buckets import is_remote, lists_in_order, open_bucket
from fruits.storage.objects.failures import AbsentError, ExistsError, NoPathError, RetryBudget, translated
from fruits.storage.objects.raw_keys import has_bad_segment, is_no_path, list_raw
from fruits.storage.objects.streams import Sink, Source

T = TypeVar("T")

#: obstore's own retries of one request: enough for a slow-down of a minute, short enough to detect a server that is gone.
_RETRIES: Final[Any] = {
    "max_retries": 10,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}
#: Retries of the very first request: a server that was never reached is more likely a wrong address than a transient fault.
_FIRST_RETRIES: Final[Any] = {**_RETRIES, "max_retries": 4, "retry_timeout": timedelta(seconds=5)}
#: Concurrent requests when many small objects are read: each waits for the network, not for the processor.
_AT_ONCE: Final = 32
#: Streams are sent in parts, of which S3 takes 10,000 per object; a size that is only expected leaves some unused.
_PART_BYTES: Final = 10 << 20
_MOST_PARTS: Final = 8_000
#: Bytes of a stream that are on their way at a time.
_BYTES_UNDER_WAY: Final = 12 * _PART_BYTES


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """Metadata of an object.

    Attributes
    ----------
    key : str
        Relative to the root.
    size_bytes : int
    version : str
        Etag, or time and size if there is none.
    modified_s : float
        Time of the last write, in seconds since 1970.
    """

    key: str
    size_bytes: int
    version: str
    modified_s: float


def split_uri(uri: str) -> tuple[str, str]:
    """Return the folder and the last name of a uri: ``s3://b/a/c.jpg`` is ``('s3://b/a', 'c.jpg')``."""
    root, _, name = uri.rpartition("/")
    return root, name


def uri_of(root: str, key: str) -> str:
    """Return the full name of an object, for messages."""
    return f"{root.rstrip('/')}/{key}"


class Objects:
    """Objects of one folder or prefix, named by keys such as ``embeddings/0a1b/plan.parquet``.

    Parameters
    ----------
    root : str
        Path of a folder, created if absent, or ``s3://bucket/prefix`` (also ``gs://``, ``az://``). Buckets are opened with the
        credentials and settings of the environment (``AWS_*``), of the profile (``AWS_PROFILE``), or of the machine's role.

    Attributes
    ----------
    root : str
        Absolute path, or the url without a slash at its end.
    is_local : bool

    Raises
    ------
    StoreError
        By every method, if the folder, the bucket or an object cannot be read or written.
    """

    def __init__(self, root: str) -> None:
        self.is_local = not is_remote(root)
        self._private = False
        self.root = str(Path(root).absolute()) if self.is_local else root.rstrip("/")
        with translated("open", self.root):
            if self.is_local:
                if Path(self.root).exists() and not Path(self.root).is_dir():
                    raise StoreError(f"'{root}' is a file; expected a folder for results, new or made by fruits")
                self._store: Any = LocalStore(self.root, mkdir=True)
            else:
                self._store = open_bucket(self.root, _RETRIES)

    def __reduce__(self) -> tuple[type[Objects], tuple[str]]:
        # The receiving process opens the store again with its own credentials: none are pickled.
        return Objects, (self.root,)

    def make_private(self) -> None:
        """Deny access to other users of this machine: folders get mode 0700, new files 0600. No effect in a bucket."""
        if self.is_local:
            self._private = True
            with suppress(OSError):  # owned by another user, who controls access
                Path(self.root).chmod(0o700)

    def read(self, key: str, *, limit: int | None = None) -> bytes:
        """Return the bytes of an object; see also :meth:`read_if_present`.

        Raises
        ------
        RefusedError
            If it has more than ``limit`` bytes; nothing is read then.
        """

        def get() -> bytes:
            result = self._store.get(key)
            if limit is not None and result.meta["size"] > limit:
                raise too_large(result.meta["size"], limit)
            return bytes(result.bytes())

        return self._try("read", key, get)

    def read_if_present(self, key: str) -> bytes | None:
        """Return the bytes of an object; None if it does not exist."""
        try:
            return self.read(key)
        except AbsentError:
            return None

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the bytes of several small objects, None for missing ones; from a bucket with concurrent requests."""
        if self.is_local or len(keys) < 2:
            return [self.read_if_present(key) for key in keys]
        with ThreadPoolExecutor(min(_AT_ONCE, len(keys)), thread_name_prefix="objects") as pool:
            return list(pool.map(self.read_if_present, keys))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start`` on, fewer at the object's end."""
        return self._try("read", key, lambda: bytes(obstore.get_range(self._store, key, start=start, length=length)))

    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes; None if it does not exist."""
        found = self.stat(key)
        return found.size_bytes if found else None

    def stat(self, key: str) -> ObjectInfo | None:
        """Return the metadata of an object; None if it does not exist."""
        try:
            return self._try("look at", key, lambda: _object_info(obstore.head(self._store, key)))
        except AbsentError:
            return None

    def write(self, key: str, data: bytes) -> None:
        """Write an object, replacing an existing one."""
        if self._private:
            with translated("write", uri_of(self.root, key)):
                write_private(Path(self.root, key), data)
            return
        self._try("write", key, lambda: obstore.put(self._store, key, data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object unless it exists; return whether its content is ``data``. Atomic among all writers.

        A put that is retried after a lost response fails because the object exists; reading it back shows who wrote it. If
        writers must be told apart, ``data`` has to contain something unique, such as a random name.
        """
        try:
            self._try("write", key, lambda: obstore.put(self._store, key, data, mode="create"))
        except ExistsError:
            return self.read(key) == data
        return True

    def swap(self, key: str, old: bytes | None, data: bytes) -> bool:
        """Write an object if its content is still ``old`` (None: if it does not exist); return whether it now is ``data``.

        Atomic among all callers: on disk under an ``flock`` of the root, in a bucket by conditional put. A store that knows no
        such condition (OpenStack Swift) leaves a gap between look and write. As in :meth:`put_if_absent`, ``data`` has to
        contain something unique.
        """
        if old is None and not self.is_local:
            return self.put_if_absent(key, data)

        def put() -> bool:
            found = self._store.get(key)
            if (content := bytes(found.bytes())) != old:
                return content == data  # put by an attempt whose response was lost, or another's
            version: Any = {name: value for name in ("e_tag", "version") if (value := found.meta.get(name)) is not None}
            try:
                obstore.put(self._store, key, data, mode=version)
            except PreconditionError:
                return bytes(self._store.get(key).bytes()) == data
            except (NotSupportedError, NotImplementedError, GenericError) as exc:
                if isinstance(exc, GenericError) and not re.search(r"status code: 501\b", str(exc)):
                    raise
                obstore.put(self._store, key, data)  # a store without this condition
            return True

        if not self.is_local:
            with suppress(AbsentError):
                return self._try("write", key, put)
            return False
        with translated("write", uri_of(self.root, key)), locked(self.root, wait=True):
            if (found := self.read_if_present(key)) != old:
                return found == data
            self.write(key, data)
            return True

    def delete(self, key: str) -> None:
        """Delete an object; no error if it does not exist."""
        with suppress(AbsentError):
            self._try("delete", key, lambda: obstore.delete(self._store, key))

    def move(self, key: str, to: str) -> None:
        """Rename an object, replacing an existing one, and set its time of writing to now.

        Atomic on disk; in a bucket a copy and a delete.

        Raises
        ------
        AbsentError
            If it does not exist, or another process moved it.
        """
        if self.is_local:
            with translated("move", uri_of(self.root, key)):
                old, new = Path(self.root, key), Path(self.root, to)
                make_private_folder(new.parent) if self._private else new.parent.mkdir(parents=True, exist_ok=True)
                os.utime(old)
                old.replace(new)
            return
        self._try("move", key, lambda: obstore.copy(self._store, key, to))
        self.delete(key)

    def list(
        self, prefix: str = "", *, leave: Callable[[str], None] = lambda _: None, page: int = 1000
    ) -> Iterator[ObjectInfo]:
        """Yield the objects below a folder, each once, in the order of the store; requested ``page`` objects ahead or more.

        ``leave`` is called with keys that are no valid paths, such as ``a//b``: obstore cannot read such objects.
        """
        budget, given = RetryBudget(self.is_local), array("q")  # 8 bytes per key, in case the listing breaks off
        known: frozenset[int] = frozenset()
        last, in_order = "", lists_in_order(self.root)
        while True:
            # If the store lists in the order of keys, a broken listing resumes after the last key. Otherwise smaller keys may
            # still follow, so it restarts and skips the keys already yielded.
            offset = last if last and in_order else None
            try:
                with translated("list", uri_of(self.root, prefix)):
                    for some in obstore.list(self._store, prefix or None, offset=offset, chunk_size=page):
                        fresh = [found for found in map(_object_info, some) if hash(found.key) not in known]
                        for found in fresh:
                            in_order, last = in_order and found.key > last, found.key
                        if fresh:
                            given.extend(hash(found.key) for found in fresh)
                            budget = RetryBudget(self.is_local)
                        yield from fresh
                return
            except StoreError as exc:
                if not self.is_local and is_no_path(str(exc.__cause__)):
                    known = frozenset(given)
                    yield from (found for found in self._list_raw(prefix, leave) if hash(found.key) not in known)
                    return
                budget.wait_or_raise(exc)
                known = frozenset(given)

    def first_below(self, prefix: str, start: str) -> str | None:
        """Return the first key below a folder whose name begins with ``start``; None if there is none.

        In a bucket this is one request, however many keys there are; one that lists in no order may hide a key.
        """
        if self.is_local:
            folder = Path(self.root, prefix)
            with suppress(AbsentError), translated("list", str(folder)), os.scandir(folder) as found:
                return min((f"{prefix}/{one.name}" for one in found if one.name.startswith(start)), default=None)
            return None
        pages = obstore.list(self._store, prefix, offset=f"{prefix}/{start}", chunk_size=1)
        page: Any = self._try("list", prefix, lambda: next(iter(pages), []))
        key = page[0]["path"] if page else ""
        return key if key.startswith(f"{prefix}/{start}") else None

    def _list_raw(self, prefix: str, leave: Callable[[str], None]) -> Iterator[ObjectInfo]:
        for meta in list_raw(self.root, prefix):
            if has_bad_segment(meta["path"]):
                leave(meta["path"])
            else:
                yield _object_info(meta | {"path": meta["path"].removesuffix("/")})

    def names(self) -> set[str]:
        """Return the names directly below the root: of objects and of folders."""
        if self.is_local:
            with translated("list", self.root):
                return set(os.listdir(self.root))  # noqa: PTH208 - includes names that are not UTF-8
        try:
            folders, objects = self.level()
        except NoPathError:
            return {one.key.partition("/")[0] for one in self._list_raw("", lambda _: None)}
        return {path.rpartition("/")[2] for path in (*folders, *(one.key for one in objects))} - {""}

    def level(self, prefix: str = "") -> tuple[tuple[str, ...], tuple[ObjectInfo, ...]]:
        """Return the folders directly below a prefix, without a slash at the end, and the objects directly below it.

        Raises
        ------
        NoPathError
            If one of them has a key that is no valid path.
        """

        def get() -> Any:
            return obstore.list_with_delimiter(self._store, prefix or None)

        try:
            found = self._try("list", prefix, get)
        except StoreError as exc:
            if is_no_path(str(exc.__cause__)):
                raise NoPathError(str(exc)) from exc
            raise
        return tuple(path.rstrip("/") for path in found["common_prefixes"]), tuple(map(_object_info, found["objects"]))

    @contextmanager
    def writer(self, key: str, expected_bytes: int = 0) -> Iterator[io.RawIOBase]:
        """Open an object for streaming writes; it appears when the block ends without an error.

        ``expected_bytes``: of an object that may have more than 80 GB.
        """
        part = max(_PART_BYTES, -(-expected_bytes // _MOST_PARTS))
        at_once = max(1, _BYTES_UNDER_WAY // part)
        # obstore's writer commits when its block ends without an error, and discards the data otherwise.
        with (
            translated("write", uri_of(self.root, key)),
            obstore.open_writer(self._store, key, buffer_size=part, max_concurrency=at_once) as sink,
        ):
            yield Sink(sink)

    def open(self, key: str) -> io.BufferedReader:
        """Open an object for random access; in a bucket, only the requested ranges are fetched."""
        if self.is_local:
            with translated("read", uri_of(self.root, key)):
                return Path(self.root, key).open("rb")
        size = self.size(key)
        if size is None:
            raise AbsentError(f"'{uri_of(self.root, key)}' is not there")
        return io.BufferedReader(Source(lambda start, length: self.read_range(key, start, length), size), 1 << 16)

    def local_path(self, key: str) -> Path | None:
        """Return the path of an object on the local disk; None in a bucket."""
        return Path(self.root, key) if self.is_local else None

    def _try(self, verb: str, key: str, operation: Callable[[], T]) -> T:
        """Run an operation; in a bucket, retry after transient faults, such as a truncated response or exhausted retries."""
        budget = RetryBudget(self.is_local)
        while True:
            try:
                with translated(verb, uri_of(self.root, key)):
                    return operation()
            except StoreError as exc:
                budget.wait_or_raise(exc)


@lru_cache(maxsize=64)
def opened(root: str) -> Objects:
    """Open a folder or bucket, once per process."""
    return Objects(root)


def reach(root: str) -> None:
    """Check within seconds that a bucket's server accepts connections. Any response will do; a folder always passes.

    Commands call it before they start. Later, and in workers, an unreachable server is retried for longer.

    Raises
    ------
    StoreError
        If no connection can be made.
    """
    if is_remote(root):
        try:
            with translated("reach", root), suppress(FileNotFoundError):
                obstore.head(open_bucket(root.rstrip("/"), _FIRST_RETRIES), "any")
        except StoreError as exc:
            if "kind: Connect" in str(exc.__cause__):
                raise


def _object_info(meta: Any) -> ObjectInfo:
    version, modified_s = (meta.get("e_tag") or "").strip('"'), meta["last_modified"].timestamp()
    return ObjectInfo(meta["path"], meta["size"], version or f"{modified_s:.6f}-{meta['size']}", modified_s)
