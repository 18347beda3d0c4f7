"""Reading the bytes of photos by uri: from disk, buckets and packs.

A photo that cannot be read gives a reason in place of bytes; a bucket that refuses every photo is an error. Requests to buckets
run concurrently and ahead of the consumer, bounded in photos and in bytes. Independent of pixels.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import tee
from typing import Any, Final, TypeVar

from fruits.errors import StoreError
from fruits.photos.reading.access import NO_LINKS, Access
from fruits.photos.reading.containers import PACK, TABLE, TAR, is_contained, split_contained
from fruits.photos.reading.packs import opened_pack
from fruits.photos.reading.tables import opened_table
from fruits.photos.reading.tars import read_member
from fruits.storage.disk.local import MAX_PHOTO_BYTES, RefusedError, read_regular
from fruits.storage.objects import AbsentError, Objects, is_remote, opened

#: Concurrent requests to a bucket. Each waits for the network, not for the processor.
THREADS: Final = 32
#: Photos requested ahead from a bucket: four batches of 32.
_AHEAD: Final = 128
#: Bytes fetched but not consumed yet, plus those in flight, estimated by the largest photo so far. A larger photo is read only
#: when it is consumed.
_MAX_BYTES: Final = 16 << 20
_FIRST_GUESS: Final = 256 << 10
#: This many refusals in a row mean that the bucket is at fault, not the photos.
_REFUSALS: Final = 32

Content = tuple[bytes | None, str]
Row = TypeVar("Row", bound=Mapping[str, Any])


def read_photo(uri: str, access: Access = NO_LINKS, *, limit: int = MAX_PHOTO_BYTES) -> bytes:
    """Return the bytes of a photo: a path, ``s3://bucket/key``, or a place in a pack or an archive.

    Parameters
    ----------
    uri : str
    access : Access
        Where links on disk may lead.
    limit : int
        Largest size of a file or object in bytes.

    Raises
    ------
    RefusedError
        If it is too large, is no regular file, or is a link to a place that may not be read.
    OSError
        If it is missing or cannot be read; from buckets and packs its subclass :class:`StoreError`.
    """
    if uri.startswith(PACK):
        root, path = split_contained(uri)
        return opened_pack(root).read(path)
    if uri.startswith(TAR):
        return read_member(uri, access, limit=limit)
    if uri.startswith(TABLE):
        file, place = split_contained(uri)
        return opened_table(file, access).read(place)
    if not is_remote(uri):
        # Read directly: for small local files obstore takes several times as long.
        return read_regular(uri, limit, access.allows_opened)
    objects, key = place_of(uri)
    try:
        return objects.read(key, limit=limit)
    except ValueError as exc:
        raise StoreError(f"cannot read '{uri}': {exc}") from exc


def read_photos(uris: Iterable[str], access: Access = NO_LINKS) -> Iterator[Content]:
    """Yield for each uri, in order, its bytes and an empty text, or None and the reason.

    Photos in buckets and packs in buckets are read ahead. Photos on disk are read when they are consumed, because a thread costs
    more than reading a small file. Close or exhaust the iterator to stop the threads.

    Parameters
    ----------
    uris : iterable of str
        Consumed up to 128 ahead.
    access : Access
        Where links on disk may lead.

    Raises
    ------
    StoreError
        If a bucket refuses 32 photos in a row.
    """
    source = iter(uris)
    coming: deque[Callable[[], Content]] = deque()
    ahead = _Prefetcher(access)
    refused = 0
    try:
        while True:
            on_disk = None
            while ahead.has_room(len(coming)) and (uri := next(source, None)) is not None:
                if not coming and uri.startswith("/"):  # the usual case: nothing to be begun ahead
                    on_disk = uri
                    break
                coming.append(ahead.start(uri))
                if not ahead.is_useful:
                    break
            if coming:
                data, error = coming.popleft()()
            elif on_disk is not None:
                data, error = _content(on_disk, access)
            else:
                return
            if error.startswith(_REFUSED):
                refused += 1
                if refused >= _REFUSALS:
                    raise StoreError(
                        f"{refused} photos in a row were refused, the last: {error.removeprefix(_REFUSED)}"
                    )
            elif data is not None:
                refused = 0
            yield data, error
    finally:
        ahead.close()


def read_rows(rows: Iterable[Row], access: Access = NO_LINKS) -> Iterator[tuple[Row, Content]]:
    """Yield each row, which has a ``uri``, with its result of :func:`read_photos`.

    Use one iterator for all photos of a worker: it reads ahead beyond the present batch.
    """
    mine, theirs = tee(rows)
    return zip(mine, read_photos((row["uri"] for row in theirs), access), strict=True)


def will_never_work(reason: str) -> bool:
    """Return whether a reason of :func:`read_photos` is permanent, so that retrying is pointless."""
    return reason.startswith("too large: ")


def read_head(uri: str, length: int, access: Access = NO_LINKS) -> bytes:
    """Return the first bytes of a photo; from disk and packs, where it costs the same, the whole photo.

    Raises
    ------
    OSError
        As :func:`read_photo`.
    """
    if uri.startswith(TAR):
        return read_member(uri, access, head=length)
    if not is_remote(uri):
        return read_photo(uri, access)
    objects, key = place_of(uri)
    try:
        return objects.read_range(key, 0, length)
    except ValueError as exc:
        raise StoreError(f"cannot read '{uri}': {exc}") from exc


def place_of(uri: str) -> tuple[Objects, str]:
    """Return the bucket and the key in it. A bucket is opened once per process, so all its folders share its connections."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    return opened(f"{scheme}://{bucket}"), key


_REFUSED: Final = "unreadable: the bucket refuses: "


class _Prefetcher:
    """Reads photos ahead."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self.is_useful = False
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._largest = _FIRST_GUESS
        self._held = 0  # bytes fetched and not consumed yet

    def has_room(self, coming: int) -> bool:
        """Return whether one more photo may be fetched beside ``coming`` others; always true if there are none."""
        in_bytes = self._held + min(coming, THREADS) * self._largest
        return not coming or (coming < _AHEAD and in_bytes < _MAX_BYTES)

    def start(self, uri: str) -> Callable[[], Content]:
        """Start reading a photo if it lies in a bucket; return a function that gives its content."""
        if uri.startswith(PACK):
            root, path = split_contained(uri)
            self.is_useful = is_remote(root)
            if self.is_useful:
                opened_pack(root).expect(path, self._threads())
            return lambda: _content(uri, self._access)
        if uri.startswith(TABLE):
            file, path = split_contained(uri)
            self.is_useful = is_remote(file)
            if self.is_useful:
                with suppress(OSError):  # reported when the photo is read
                    opened_table(file, self._access).expect(path, self._threads())
            return lambda: _content(uri, self._access)
        self.is_useful = is_remote(uri.removeprefix(TAR))
        if not self.is_useful:
            return lambda: _content(uri, self._access)
        reading = self._threads().submit(self._fetch, uri)

        def get() -> Content:
            content = reading.result()
            if content is None:
                return _content(uri, self._access)
            with self._lock:
                self._held -= len(content[0] or b"")
            return content

        return get

    def close(self) -> None:
        """Cancel the reads that have not started."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, uri: str) -> Content | None:
        """Read a photo ahead; return None if it is too large to be kept in memory until it is consumed."""
        content = _content(uri, self._access, limit=_MAX_BYTES)
        if will_never_work(content[1]):
            return None
        size = len(content[0] or b"")
        with self._lock:
            self._held += size
            self._largest = max(self._largest, size)
        return content

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
        return self._pool


def _content(uri: str, access: Access, *, limit: int = MAX_PHOTO_BYTES) -> Content:
    """Return the bytes of a photo, or None and the reason."""
    try:
        return read_photo(uri, access, limit=limit), ""
    except RefusedError as exc:
        return None, f"{exc.code}: {exc}"
    except FileNotFoundError:
        return None, "not found: no such file; it was removed after it was listed, or a manifest names it wrongly"
    except AbsentError:
        return None, "not found: no such object; it was removed after it was listed, or a manifest names it wrongly"
    except StoreError as exc:
        return None, f"{'unreadable: ' if is_contained(uri) else _REFUSED}{exc}"
    except OSError as exc:
        return None, f"unreadable: {exc.strerror or exc}"
