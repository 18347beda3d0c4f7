"""Rate limits by address or token: token buckets in memory, bounded in number.

The capacity of a bucket is its rate per minute, so bursts of that size are allowed. IPv6 addresses are grouped by /64, the usual
prefix of one household. Independent of HTTP; nothing is stored on disk.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Final

#: Maximum number of buckets; beyond it, the least recently used ones are dropped, as if they were full again.
MOST: Final = 50_000


class Limits:
    """Buckets by key.

    Parameters
    ----------
    clock : callable, optional
        Monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, per_minute: int, count: int = 1) -> float:
        """Take ``count`` tokens from a bucket; return 0, or the seconds until there are enough. Rate 0: no limit."""
        if per_minute <= 0:
            return 0.0
        left = self._left(key, per_minute)
        wanted = min(count, per_minute)  # more than the capacity would never be available
        enough = left >= wanted
        self._keep(key, left - wanted if enough else left)
        return 0.0 if enough else (wanted - left) * 60 / per_minute

    def charge(self, key: str, per_minute: int, count: int) -> None:
        """Charge a bucket afterwards for work already done; it may go negative, by a minute's worth at most."""
        if per_minute > 0:
            self._keep(key, max(-float(per_minute), self._left(key, per_minute) - count))

    def _left(self, key: str, per_minute: int) -> float:
        now = self._clock()
        left, since = self._buckets.get(key, (float(per_minute), now))
        return min(float(per_minute), left + (now - since) * per_minute / 60)

    def _keep(self, key: str, left: float) -> None:
        self._buckets[key] = left, self._clock()
        self._buckets.move_to_end(key)
        while len(self._buckets) > MOST:
            self._buckets.popitem(last=False)


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
