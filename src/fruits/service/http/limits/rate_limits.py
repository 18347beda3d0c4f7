"""Rate limits by address or token: token buckets in memory, bounded in number; of one process, or shared by those of one machine.

The capacity of a bucket is its rate per minute, so bursts of that size are allowed. IPv6 addresses are grouped by /64, the usual
prefix of one household. Independent of HTTP. Nothing is stored on disk but the shared table of running processes, whose keys are
hashes that cannot be traced back to an address. ``rate_exchange.py`` tells other machines what was used here.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import mmap
import os
import secrets
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

#: Maximum number of buckets; beyond it, the least recently used ones are dropped, as if they were full again.
MOST: Final = 50_000
#: Of a hash that names a bucket.
NAME_BYTES: Final = 8
#: Minutes' worth of debt from uses elsewhere, at most: a wrong count is over within the hour.
_DEEPEST: Final = 60


class Buckets(Protocol):
    """Where buckets are kept.

    Attributes
    ----------
    origin : bytes
        Eight random bytes, the same for all processes that share the buckets.
    """

    origin: bytes

    def exclusive(self, key: str) -> AbstractContextManager[object]:
        """Keep others from the bucket of a key, between reading and writing it."""
        ...

    def get(self, key: str) -> tuple[float, float] | None:
        """Return the tokens left and when that was, by the monotonic clock; None for a key not seen lately."""
        ...

    def put(self, key: str, left: float, since: float) -> None:
        """Replace a bucket; the least recently used one of many makes room."""
        ...


class OwnBuckets:
    """Buckets of one process, whose event loop alone uses them."""

    def __init__(self) -> None:
        self.origin = secrets.token_bytes(8)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def exclusive(self, key: str) -> AbstractContextManager[object]:  # noqa: ARG002 - there are no others
        """See :class:`Buckets`."""
        return nullcontext()

    def get(self, key: str) -> tuple[float, float] | None:
        """See :class:`Buckets`."""
        return self._buckets.get(key)

    def put(self, key: str, left: float, since: float) -> None:
        """See :class:`Buckets`."""
        self._buckets[key] = left, since
        self._buckets.move_to_end(key)
        while len(self._buckets) > MOST:
            self._buckets.popitem(last=False)

    def __len__(self) -> int:
        return len(self._buckets)


class SharedBuckets:
    """Buckets of all processes of a service on one machine: a table in a file that all of them map into memory.

    A key has one row of eight places, as in a set-associative cache; of a full row the least recently used place is taken. A row
    is locked while its bucket is read and written; the kernel releases the lock of a process that dies.

    Parameters
    ----------
    path : Path
        As :meth:`create` made it.
    """

    _PLACE: Final = struct.Struct("<Qdd")  # hash of the key, tokens left, when
    _WAYS: Final = 8
    _ROWS: Final = 8192
    _SALT_BYTES: Final = 16
    _WIDTH: Final = _PLACE.size * _WAYS

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 0)
        self._salt = self._map[: self._SALT_BYTES]
        self.origin = hashlib.blake2b(b"origin", key=self._salt, digest_size=8).digest()

    @classmethod
    def create(cls, path: Path) -> None:
        """Make an empty table. Its random salt goes with it, so hashes of two services cannot be compared."""
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(secrets.token_bytes(cls._SALT_BYTES))
            file.truncate(cls._SALT_BYTES + cls._ROWS * cls._WIDTH)

    def close(self) -> None:
        """Close the table for this process."""
        self._map.close()
        self._file.close()

    @contextmanager
    def exclusive(self, key: str) -> Iterator[None]:
        """See :class:`Buckets`."""
        start = self._row(self._hash(key))
        fcntl.lockf(self._file, fcntl.LOCK_EX, self._WIDTH, start)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, self._WIDTH, start)

    def get(self, key: str) -> tuple[float, float] | None:
        """See :class:`Buckets`."""
        number = self._hash(key)
        for found, left, since in self._PLACE.iter_unpack(self._bytes(number)):
            if found == number:
                return left, since
        return None

    def put(self, key: str, left: float, since: float) -> None:
        """See :class:`Buckets`."""
        number = self._hash(key)
        places = list(self._PLACE.iter_unpack(self._bytes(number)))
        # Its own place, else the one not used for longest; empty ones have the time 0.
        at = min(range(self._WAYS), key=lambda way: (places[way][0] != number, places[way][2]))
        self._PLACE.pack_into(self._map, self._row(number) + at * self._PLACE.size, number, left, since)

    def _hash(self, key: str) -> int:
        return int.from_bytes(hashlib.blake2b(key.encode(), key=self._salt, digest_size=8).digest(), "little") or 1

    def _row(self, number: int) -> int:
        return self._SALT_BYTES + number % self._ROWS * self._WIDTH

    def _bytes(self, number: int) -> bytes:
        start = self._row(number)
        return self._map[start : start + self._WIDTH]


class Limits:
    """Token buckets by key.

    Parameters
    ----------
    clock : callable, optional
        Monotonic clock, in seconds; the same for all processes that share buckets.
    buckets : Buckets, optional
        Of this process alone by default.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, buckets: Buckets | None = None) -> None:
        self._clock = clock
        self._buckets: Buckets = buckets or OwnBuckets()
        self._key: bytes | None = None
        self._uses: dict[tuple[str, int], int] = {}

    @property
    def origin(self) -> bytes:
        """Of the buckets."""
        return self._buckets.origin

    def hash_with(self, key: bytes) -> None:
        """From now on, name buckets by keyed hashes and note their uses; what was noted by other names is dropped."""
        self._key, self._uses = key, {}

    def uses(self) -> dict[tuple[str, int], int]:
        """Return what was taken and charged since the last call: name of the bucket and its rate to tokens."""
        uses, self._uses = self._uses, {}
        return uses

    def take(self, key: str, per_minute: int, count: int = 1) -> float:
        """Take ``count`` tokens from a bucket; return 0, or the seconds until there are enough. Rate 0: no limit."""
        if per_minute <= 0:
            return 0.0
        wanted = min(count, per_minute)  # more than the capacity would never be available
        name = self._name(key, per_minute)
        with self._buckets.exclusive(name):
            left = self._left(name, per_minute)
            enough = left >= wanted
            self._buckets.put(name, left - wanted if enough else left, self._clock())
        if enough:
            self._note(name, per_minute, wanted)
        return 0.0 if enough else (wanted - left) * 60 / per_minute

    def charge(self, key: str, per_minute: int, count: int) -> None:
        """Charge a bucket afterwards for work already done; it may go negative, by a minute's worth at most."""
        if per_minute > 0:
            name = self._name(key, per_minute)
            self._note(name, per_minute, round(self._deduct(name, per_minute, count, 1)))

    def charge_elsewhere(self, name: str, per_minute: int, count: int) -> None:
        """Charge a bucket, by its name, for what was used elsewhere.

        The debt may be many minutes' worth, as of all others together: what they let through too much is waited for.
        """
        if per_minute > 0:
            self._deduct(name, per_minute, count, _DEEPEST)

    def _deduct(self, name: str, per_minute: int, count: int, minutes: int) -> float:
        """Return how much was deducted."""
        with self._buckets.exclusive(name):
            before = self._left(name, per_minute)
            left = min(before, max(-float(per_minute) * minutes, before - count))
            self._buckets.put(name, left, self._clock())
        return before - left

    def _name(self, key: str, per_minute: int) -> str:
        if self._key is None:
            return key
        # With the rate: what instances of a higher rate let through, while others replace them, is no debt of hours at a lower.
        return hashlib.blake2b(f"{per_minute} {key}".encode(), key=self._key, digest_size=NAME_BYTES).hexdigest()

    def _note(self, name: str, per_minute: int, count: int) -> None:
        if self._key is not None and len(self._uses) < MOST:
            use = name, per_minute
            self._uses[use] = self._uses.get(use, 0) + count

    def _left(self, name: str, per_minute: int) -> float:
        now = self._clock()
        left, since = self._buckets.get(name) or (float(per_minute), now)
        return min(float(per_minute), left + (now - since) * per_minute / 60)


@lru_cache(maxsize=10_000)
def parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address as sockets and proxies write it; None if it is malformed.

    ``::ffff:192.0.2.1``, the form of IPv4 on a dual-stack socket, becomes 192.0.2.1; port, brackets and zone are dropped.
    """
    text = address.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def parsed_network(network: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Parse a network; ``::ffff:...`` becomes an IPv4 network.

    Raises
    ------
    ValueError
        If it is malformed.
    """
    found = ipaddress.ip_network(network, strict=False)
    if isinstance(found, ipaddress.IPv6Network) and found.prefixlen >= 96 and found.network_address.ipv4_mapped:
        return ipaddress.IPv4Network((found.network_address.ipv4_mapped, found.prefixlen - 96))
    return found


def is_loopback(address: str) -> bool:
    """Return whether an address is a loopback address."""
    found = parsed(address)
    return found is not None and found.is_loopback


@lru_cache(maxsize=10_000)
def place_of(address: str) -> str:
    """Return the unit of counting for an address: the IPv4 address itself, or the IPv6 /64."""
    found = parsed(address)
    if found is None:
        return "unknown"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(ipaddress.IPv6Network((found, 64), strict=False).network_address)
