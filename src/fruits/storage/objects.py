"""Bytes under names, in a folder or a bucket: read, write, put if absent, list. Nothing else in fruits knows which.

Built on obstore, whose local folder and buckets (S3, GCS, Azure) share one interface. Results appear whole or not at all.
Requests to a bucket are tried again a bounded number of times; an answer that got lost on the way is told from a refusal by
what is stored then. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import io
import os
import random
import re
import secrets
import time
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
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore

from fruits.errors import PermanentStoreError, StoreError
from fruits.storage.buckets import lists_in_order, open_bucket
from fruits.storage.local import too_large
from fruits.storage.raw_keys import has_bad_segment, is_no_path, list_raw

T = TypeVar("T")

#: ``scheme://`` of the buckets that obstore knows. Tested here: S3.
_BUCKETS: Final = ("s3://", "s3a://", "gs://", "az://", "azure://", "abfs://", "abfss://")
#: obstore's own retries of one request: a slow-down of a minute is sat out, a server that is gone is noticed.
_RETRIES: Final[Any] = {
    "max_retries": 10,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}
#: Of the very first request. What was never reached is more likely a wrong address than a passing fault.
_FIRST_RETRIES: Final[Any] = {**_RETRIES, "max_retries": 4, "retry_timeout": timedelta(seconds=5)}
#: How often, and for how long, a whole operation is tried again: an answer that breaks off in its body is not always tried
#: again by obstore. Where one answer of three does, four attempts would lose one photo of a hundred, these one of a million.
_ATTEMPTS: Final = 12
_PATIENCE_S: Final = 90.0
_LONGEST_PAUSE_S: Final = 5.0
#: Requests in flight when many small objects are read: each waits for the network, not for the processor.
_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class Found:
    """An object that a listing gave.

    Attributes
    ----------
    key : str
        Relative to the root.
    size_bytes : int
    version : str
        Etag, or time and size where there is none.
    modified_s : float
        When it was written, in seconds since 1970.
    """

    key: str
    size_bytes: int
    version: str
    modified_s: float


def is_remote(uri: str) -> bool:
    """Whether a name is that of a bucket or of something in one."""
    return uri.startswith(_BUCKETS)


def split_uri(uri: str) -> tuple[str, str]:
    """Return the folder and the last name of a uri: ``s3://b/a/c.jpg`` is ``('s3://b/a', 'c.jpg')``."""
    root, _, name = uri.rpartition("/")
    return root, name


def under(root: str, key: str) -> str:
    """Return the full name of an object, for people."""
    return f"{root.rstrip('/')}/{key}"


class Objects:
    """Objects of one folder or prefix, named by keys such as ``embeddings/0a1b/plan.parquet``.

    Parameters
    ----------
    root : str
        Path of a folder, made if absent, or ``s3://bucket/prefix`` (also ``gs://``, ``az://``). Buckets are opened with the
        credentials and settings of the environment (``AWS_*``), of the profile (``AWS_PROFILE``), or of the machine's role.

    Attributes
    ----------
    root : str
        Absolute path, or the url without a slash at its end.
    is_local : bool

    Raises
    ------
    StoreError
        From every method, if the place or an object cannot be read or written.
    """

    def __init__(self, root: str) -> None:
        self.is_local = not is_remote(root)
        self._private = False
        self.root = str(Path(root).absolute()) if self.is_local else root.rstrip("/")
        with _translated("open", self.root):
            if self.is_local:
                if Path(self.root).exists() and not Path(self.root).is_dir():
                    raise StoreError(f"'{root}' is a file; expected a folder for results, new or made by fruits")
                self._store: Any = LocalStore(self.root, mkdir=True)
            else:
                self._store = open_bucket(self.root, _RETRIES)

    def __reduce__(self) -> tuple[type[Objects], tuple[str]]:
        # Whoever gets it opens it anew, with the credentials of where it runs: none travel.
        return Objects, (self.root,)

    def make_private(self) -> None:
        """Keep other users of this machine out, as far as its files are this user's: folders 0700, new files 0600."""
        if self.is_local:
            self._private = True
            with suppress(OSError):  # another user's: that user says who may read
                Path(self.root).chmod(0o700)

    def read(self, key: str, *, limit: int | None = None) -> bytes:
        """Return the bytes of an object; see also :meth:`read_if_present`.

        Raises
        ------
        RefusedError
            If it has more than ``limit`` bytes; none of them is read then.
        """

        def get() -> bytes:
            result = self._store.get(key)
            if limit is not None and result.meta["size"] > limit:
                raise too_large(result.meta["size"], limit)
            return bytes(result.bytes())

        return self._try("read", key, get)

    def read_if_present(self, key: str) -> bytes | None:
        """Return the bytes of an object, or None if there is none."""
        try:
            return self.read(key)
        except AbsentError:
            return None

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the bytes of several small objects, None for those that are not there; from a bucket many at a time."""
        if self.is_local or len(keys) < 2:
            return [self.read_if_present(key) for key in keys]
        with ThreadPoolExecutor(min(_AT_ONCE, len(keys)), thread_name_prefix="objects") as pool:
            return list(pool.map(self.read_if_present, keys))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start`` on, fewer at the object's end."""
        return self._try("read", key, lambda: bytes(obstore.get_range(self._store, key, start=start, length=length)))

    def size(self, key: str) -> int | None:
        """Return how many bytes an object has, or None if there is none."""
        found = self.look(key)
        return found.size_bytes if found else None

    def look(self, key: str) -> Found | None:
        """Return size and version of an object, or None if there is none."""
        try:
            return self._try("look at", key, lambda: _found(obstore.head(self._store, key)))
        except AbsentError:
            return None

    def write(self, key: str, data: bytes) -> None:
        """Write an object, replacing any."""
        if self._private:
            with _translated("write", under(self.root, key)):
                write_private(Path(self.root, key), data)
            return
        self._try("write", key, lambda: obstore.put(self._store, key, data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether ``data`` is what is there then. Atomic among all writers.

        A put whose answer was lost and that was tried again is told that the object exists: reading it back says whose it is.
        Data that must not be taken for another writer's holds something of its own, such as a random name.
        """
        try:
            self._try("write", key, lambda: obstore.put(self._store, key, data, mode="create"))
        except _ExistsError:
            return self.read(key) == data
        return True

    def delete(self, key: str) -> None:
        """Delete an object; deleting none is fine."""
        with suppress(AbsentError):
            self._try("delete", key, lambda: obstore.delete(self._store, key))

    def move(self, key: str, to: str) -> None:
        """Give an object another name, replacing any; it counts as written now. On a disk in one step, in a bucket by a copy.

        Raises
        ------
        AbsentError
            If there is none, or another process moved it.
        """
        if self.is_local:
            with _translated("move", under(self.root, key)):
                old, new = Path(self.root, key), Path(self.root, to)
                make_private_folder(new.parent) if self._private else new.parent.mkdir(parents=True, exist_ok=True)
                os.utime(old)
                old.replace(new)
            return
        self._try("move", key, lambda: obstore.copy(self._store, key, to))
        self.delete(key)

    def list(self, prefix: str = "", *, leave: Callable[[str], None] = lambda _: None) -> Iterator[Found]:
        """Yield the objects whose keys begin with a folder's name, each once, a page at a time; in the order the store has.

        ``leave`` is called with keys that can name nothing, such as ``a//b``: no such object can be read.
        """
        patience, given = _Patience(self.is_local), array("q")  # 8 bytes per key, for the case that it breaks off
        known: frozenset[int] = frozenset()
        last, in_order = "", lists_in_order(self.root)
        while True:
            # Where keys come in order, what broke off goes on where it was. Elsewhere keys before the last one may still be to
            # come: it begins again, and what was given already is left out.
            offset = last if last and in_order else None
            try:
                with _translated("list", under(self.root, prefix)):
                    for page in obstore.list(self._store, prefix or None, offset=offset, chunk_size=1000):
                        fresh = [found for found in map(_found, page) if hash(found.key) not in known]
                        for found in fresh:
                            in_order, last = in_order and found.key > last, found.key
                        if fresh:
                            given.extend(hash(found.key) for found in fresh)
                            patience = _Patience(self.is_local)
                        yield from fresh
                return
            except StoreError as exc:
                if not self.is_local and is_no_path(str(exc.__cause__)):
                    known = frozenset(given)
                    yield from (found for found in self._list_raw(prefix, leave) if hash(found.key) not in known)
                    return
                patience.wait_or_raise(exc)
                known = frozenset(given)

    def _list_raw(self, prefix: str, leave: Callable[[str], None]) -> Iterator[Found]:
        for meta in list_raw(self.root, prefix):
            if has_bad_segment(meta["path"]):
                leave(meta["path"])
            else:
                yield _found(meta | {"path": meta["path"].removesuffix("/")})

    def names(self) -> set[str]:
        """Return the names that lie directly in this place: of objects, and of what has objects below it."""
        if self.is_local:
            with _translated("list", self.root):
                return set(os.listdir(self.root))  # noqa: PTH208 - names that are not UTF-8, too
        try:
            found: Any = self._try("list", "", lambda: obstore.list_with_delimiter(self._store))
        except StoreError as exc:
            if not is_no_path(str(exc.__cause__)):
                raise
            return {one.key.partition("/")[0] for one in self._list_raw("", lambda _: None)}
        paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        return {path.rstrip("/").rpartition("/")[2] for path in paths} - {""}

    @contextmanager
    def writer(self, key: str) -> Iterator[io.RawIOBase]:
        """Open an object for writing piece by piece; it appears when the block ends without an error."""
        # obstore's writer completes when its block ends well and drops what it has otherwise.
        with _translated("write", under(self.root, key)), obstore.open_writer(self._store, key) as sink:
            yield _Sink(sink)

    def open(self, key: str) -> io.BufferedReader:
        """Open an object for reading in any order; of one in a bucket only the ranges that are asked for are fetched."""
        if self.is_local:
            with _translated("read", under(self.root, key)):
                return Path(self.root, key).open("rb")
        size = self.size(key)
        if size is None:
            raise AbsentError(f"'{under(self.root, key)}' is not there")
        return io.BufferedReader(_Source(self, key, size), 1 << 16)

    def local_path(self, key: str) -> Path | None:
        """Return the path of an object on this machine's disk; None in a bucket."""
        return Path(self.root, key) if self.is_local else None

    def _try(self, verb: str, key: str, operation: Callable[[], T]) -> T:
        """Do it; in a bucket, again after what may pass: a cut answer, or a server that had used up obstore's patience."""
        patience = _Patience(self.is_local)
        while True:
            try:
                with _translated(verb, under(self.root, key)):
                    return operation()
            except StoreError as exc:
                patience.wait_or_raise(exc)


class _Patience:
    """How often one operation is tried again; a disk is not asked twice."""

    def __init__(self, is_local: bool) -> None:
        self._attempts = 1 if is_local else _ATTEMPTS
        self._until = time.monotonic() + _PATIENCE_S
        self._pause_s = 0.1

    def wait_or_raise(self, exc: StoreError) -> None:
        """Wait until the next attempt, or raise what made the last one fail: there may be no next, or no sense in it."""
        self._attempts -= 1
        may_pass = isinstance(exc.__cause__, GenericError) and _may_pass(str(exc.__cause__))
        if isinstance(exc, AbsentError | _ExistsError) or not may_pass or not self._attempts:
            raise exc
        if time.monotonic() > self._until:
            raise exc
        # Not all at the same moments: many threads and machines ask the same bucket.
        time.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


class AbsentError(StoreError):
    """There is no such object."""


class _ExistsError(StoreError):
    """There is one already."""


@lru_cache(maxsize=64)
def opened(root: str) -> Objects:
    """Open a place once per process."""
    return Objects(root)


def reach(root: str) -> None:
    """Say within seconds if nothing can be connected to where a bucket should be; any answer at all is fine, and so is a folder.

    For commands, before they begin: later, and in workers, what cannot be reached is waited for.
    """
    if is_remote(root):
        try:
            with _translated("reach", root), suppress(FileNotFoundError):
                obstore.head(open_bucket(root.rstrip("/"), _FIRST_RETRIES), "any")
        except StoreError as exc:
            if "kind: Connect" in str(exc.__cause__):
                raise


def make_private_folder(path: Path) -> None:
    """Make a folder for this user alone; one that is there stays as it is."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, data: bytes) -> None:
    """Write a file for this user alone; it appears whole or not at all. Who is killed leaves ``<name>#<number>`` at most."""
    make_private_folder(path.parent)
    piece = path.with_name(f"{path.name}#{secrets.randbits(48)}")
    try:
        with open(piece, "xb", opener=private) as file:
            file.write(data)
        piece.replace(path)
    except BaseException:
        piece.unlink(missing_ok=True)
        raise


def private(path: str, flags: int) -> int:
    """Open a file as ``open`` does; one that is made is for this user alone."""
    return os.open(path, flags, 0o600)


class _Sink(io.RawIOBase):
    """obstore's writer with the face of a file that pyarrow expects."""

    def __init__(self, sink: obstore.WritableFile) -> None:
        self._sink = sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._sink.write(data)


class _Source(io.RawIOBase):
    """An object of a bucket with the face of a file."""

    def __init__(self, objects: Objects, key: str, size: int) -> None:
        self._objects, self._key, self._size, self._at = objects, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        data = self._objects.read_range(self._key, self._at, wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _found(meta: Any) -> Found:
    version, modified_s = (meta.get("e_tag") or "").strip('"'), meta["last_modified"].timestamp()
    return Found(meta["path"], meta["size"], version or f"{modified_s:.6f}-{meta['size']}", modified_s)


def _may_pass(message: str) -> bool:
    """Whether trying again makes sense: not after an answer that will be the same tomorrow."""
    return not re.search(
        r"status code: (301|400|403|404|405|411|501)\b|AuthorizationHeaderMalformed|PermanentRedirect", message
    )


@contextmanager
def _translated(verb: str, name: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except AlreadyExistsError as exc:
        raise _ExistsError(f"'{name}' exists already") from exc
    except (OSError, BaseError) as exc:
        text = str(exc)
        if is_remote(name):
            raise _of_bucket(verb, name, exc, text) from exc
        if isinstance(exc, FileNotFoundError) and verb != "write":
            raise AbsentError(f"cannot {verb} '{name}': it is not there") from exc
        first = (text.splitlines() or [type(exc).__name__])[0]
        raise StoreError(f"cannot {verb} '{name}': {first}; check space and permissions, then run again") from exc


def _of_bucket(verb: str, name: str, exc: Exception, text: str) -> StoreError:
    """Say in a sentence what a bucket's answer means and what to do."""
    bucket = name.split("/")[2] if name.count("/") >= 2 else name
    say = f"cannot {verb} '{name}'"
    if "NoSuchBucket" in text:
        return PermanentStoreError(
            f"{say}: there is no bucket '{bucket}' here; create it, or check its name, region and endpoint"
        )
    if isinstance(exc, FileNotFoundError):
        return AbsentError(f"{say}: it is not there")
    expected = re.search(r"expecting '([a-z0-9-]+)'|<Region>([a-z0-9-]+)</Region>", text)
    redirected = "PermanentRedirect" in text or "301 Moved" in text or "AuthorizationHeaderMalformed" in text
    if redirected or "IllegalLocationConstraint" in text or "Received redirect without LOCATION" in text:
        region = next((found for found in expected.groups() if found), None) if expected else None
        return PermanentStoreError(
            f"{say}: the bucket is in another region; set AWS_REGION={region or '<the region of the bucket>'}"
        )
    if isinstance(exc, PermissionDeniedError | UnauthenticatedError) or re.search(
        r"status code: 40[13]\b|<Code>AccessDenied", text
    ):
        code = re.search(r"<Code>(\w+)</Code>", text)
        why = f" ({code.group(1)})" if code else ""
        return PermanentStoreError(
            f"{say}: denied{why}; check credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE or the role) and rights"
        )
    if "169.254.169.254" in text or "credential" in text.lower():
        return StoreError(
            f"{say}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    first = (text.splitlines() or [type(exc).__name__])[0][:300]
    return StoreError(f"{say}: {first}; check the network and AWS_ENDPOINT_URL, then run again: what is done is kept")
