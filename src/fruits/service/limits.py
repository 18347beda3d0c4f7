"""How many requests may one address, or one token, make? Token buckets in memory, bounded in number.

A bucket holds at most what a minute gives, so a burst of a minute's worth is fine. IPv6 addresses count by their /64, which is
what one household has. Knows nothing of HTTP; nothing is stored.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Final

#: Buckets kept; beyond, those of whoever has been quiet longest are forgotten, as if they were full again.
MOST: Final = 50_000


class Limits:
    """Buckets by key.

    Parameters
    ----------
    clock : callable, optional
        Seconds that only go up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, per_minute: int, count: int = 1) -> float:
        """Take ``count`` out of a bucket; return 0, or the seconds until there will be enough. Rate 0: no limit."""
        if per_minute <= 0:
            return 0.0
        left = self._left(key, per_minute)
        wanted = min(count, per_minute)  # more than a bucket holds would never come
        enough = left >= wanted
        self._keep(key, left - wanted if enough else left)
        return 0.0 if enough else (wanted - left) * 60 / per_minute

    def charge(self, key: str, per_minute: int, count: int) -> None:
        """Take ``count`` out of a bucket for what was done already, also beyond its bottom: a minute's worth at most."""
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
def place_of(address: str) -> str:
    """Return what an address is counted as: itself, or its /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False).network_address)
