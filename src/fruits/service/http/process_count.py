"""The default number of processes of a service: as many as its cores can feed.

One process answers about a thousand photos per second at most, however many cores there are: Python runs on one at a time. So
further processes pay where the network takes the photos faster than that. Each takes memory, and connections to PostgreSQL.
"""

from __future__ import annotations

import math
from typing import Final

from fruits.errors import FruitsError
from fruits.monitoring.cores import usable_memory
from fruits.recogniser.bundle_files import network_of
from fruits.service.settings import ServiceConfig

#: Photos per second that one process answers, about, on cores with nothing else to do.
_PHOTOS_PER_PROCESS: Final = 1000
#: Seconds of a core for each byte of a network and pixel of its input. Measured on a core of an EPYC: 1.8e-14 (fruits-small, 100
#: pixels: 0.17 ms), 1.6e-14 (fruits-photo, 100: 0.59 ms), 1.2e-14 (the same, 224: 2.2 ms), 1.0e-14 (MobileNetV2, 224: 4.6 ms).
_SECONDS_PER_BYTE_AND_PIXEL: Final = 1.5e-14
#: Memory that must be free for each process: 200 MB, its uploads, its decoders, and a photo that takes much to decode.
_BYTES_PER_PROCESS: Final = 512 << 20
_MOST: Final = 16


def processes_for(config: ServiceConfig) -> int:
    """Return how many processes to start.

    Parameters
    ----------
    config : ServiceConfig
        ``processes``, if it is not 0; otherwise as many as pay, at most one per worker. One with PostgreSQL: its connections are
        counted by process, and it is there for several instances, which are processes already.
    """
    if config.processes:
        return config.processes
    if not config.database.startswith("sqlite:"):
        return 1
    try:
        size_bytes, side = network_of(config.out)
    except (FruitsError, OSError):
        return 1  # which says what is wrong when it opens the bundle
    photo_s = max(1, size_bytes) * side**2 * _SECONDS_PER_BYTE_AND_PIXEL
    paying = math.ceil(config.workers / photo_s / _PHOTOS_PER_PROCESS)
    return max(1, min(paying, config.workers, _MOST, int(usable_memory() / _BYTES_PER_PROCESS)))
