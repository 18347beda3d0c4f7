"""Load for an HTTP service: requests made beforehand, sent over kept connections, each answer timed from when it was due.

One thread around epoll, because what the generator computes the service cannot: its processor time is part of every tally.
Closed: so many connections, each sends when its last answer is there. Open: arrivals at times drawn beforehand, whatever the
service does; an arrival that finds no free connection opens one, and one that may not is dropped and counted: if it waited
here, the service would set the pace, and the wait would look like the service's. Knows HTTP/1.1 as far as answers with a
Content-Length go, and nothing of fruit.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import select
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

#: Seconds after the last arrival in which every answer must be there.
_PATIENCE_S = 30.0
_LENGTH = b"content-length: "
_BROKEN = 0
#: File descriptors that are left to the rest of the process.
_OTHER_FILES = 100


@dataclass
class Tally:
    """What came back.

    Attributes
    ----------
    due, latency, status : arrays of equal length
        Of every request: seconds since the start when it was due, seconds from then to the last byte of its answer, status; 0 for
        a request whose answer never came, or not whole.
    names : list of bytes
        What the answers with status 200 call themselves: the first ``"id"`` in each.
    wrong : int
        Answers with status 200 that lack what was expected of that request.
    opened, retried : int
        Connections; requests sent again because a kept connection was closed before it was used.
    most_open : int
        Connections at the same time.
    unsent : array of float
        Seconds since the start when requests of an open loop were due that found no connection; they are in no other count.
    late : array of float
        Seconds from the moment when each arrival of an open loop was due until this process came to send it; part of its latency.
    seconds, cpu_s : float
        By the clock; of this process's processor time.
    """

    due: array[float] = field(default_factory=lambda: array("d"))
    latency: array[float] = field(default_factory=lambda: array("d"))
    status: array[int] = field(default_factory=lambda: array("i"))
    names: list[bytes] = field(default_factory=list)
    wrong: int = 0
    opened: int = 0
    retried: int = 0
    most_open: int = 0
    unsent: array[float] = field(default_factory=lambda: array("d"))
    late: array[float] = field(default_factory=lambda: array("d"))
    seconds: float = 0.0
    cpu_s: float = 0.0

    def count(self, first_s: float = 0.0, last_s: float = float("inf")) -> dict[int, int]:
        """Return how many requests that were due between two moments were answered with which status."""
        chosen = (status for due, status in zip(self.due, self.status, strict=True) if first_s <= due < last_s)
        return dict(sorted(Counter(chosen).items()))

    def completed(self, status: int, last_s: float) -> int:
        """Return how many answers with a status were there before a moment."""
        every = zip(self.due, self.latency, self.status, strict=True)
        return sum(one == status and due + taken < last_s for due, taken, one in every)

    def latencies(self, *statuses: int, first_s: float = 0.0, last_s: float = float("inf")) -> list[float]:
        """Return the sorted latencies of answers with such a status that were due between two moments."""
        every = zip(self.due, self.latency, self.status, strict=True)
        return sorted(taken for due, taken, status in every if status in statuses and first_s <= due < last_s)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of sorted values that at least this share of them does not exceed; NaN of none."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def poisson(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Return the moments of arrivals that know nothing of each other, ``rate`` per second on average."""
    draw, now, moments = random.Random(seed), 0.0, []
    while (now := now + draw.expovariate(rate)) < seconds:
        moments.append(now)
    return moments


def connections_possible(wanted: int) -> int:
    """Return how many of so many connections this process may open, after asking for as many file descriptors as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + _OTHER_FILES:
        soft = wanted + _OTHER_FILES if hard == resource.RLIM_INFINITY else min(hard, wanted + _OTHER_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, soft - _OTHER_FILES)


class _Connection:
    """A socket and the request that is on its way over it."""

    __slots__ = ("buffer", "due", "fresh", "number", "out", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)  # a photo in one call
        if (code := self.socket.connect_ex(address)) not in (0, errno.EINPROGRESS):  # no port is left, for example
            self.socket.close()
            raise OSError(code, os.strerror(code))
        self.buffer = b""
        self.out = memoryview(b"")
        self.number, self.due, self.fresh = -1, 0.0, True


class Generator:
    """A sender of prepared requests.

    Parameters
    ----------
    address : (str, int)
    requests : sequence of bytes
        Whole ones, head and body; taken in turn.
    expected : sequence of bytes
        What the answer to each, if its status is 200, must contain.
    """

    def __init__(self, address: tuple[str, int], requests: Sequence[bytes], expected: Sequence[bytes]) -> None:
        self._address, self._requests, self._expected = address, list(requests), list(expected)
        self._turn = 0

    def alone(self, count: int) -> Tally:
        """Send requests one after the other, each when the last one is answered."""
        left = count - 1

        def more(_: float) -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        return self._run([0.0], more, 1)

    def closed(self, connections: int, seconds: float) -> Tally:
        """Send over so many connections for so long, each again as soon as it has its answer."""
        return self._run([0.0] * connections, lambda now: now < seconds, connections)

    def open(
        self, arrivals: Iterable[float], *, most_open: int, every_second: Callable[[float], object] | None = None
    ) -> Tally:
        """Send at given moments, in seconds from now.

        Parameters
        ----------
        arrivals : iterable of float
            Ascending.
        most_open : int
            Connections; arrivals beyond are dropped, and counted as unsent.
        every_second : callable, optional
            Called about once a second with the seconds since the start.
        """
        return self._run(list(arrivals), None, most_open, every_second)

    def _run(
        self,
        arrivals: list[float],
        again: Callable[[float], bool] | None,
        most_open: int,
        every_second: Callable[[float], object] | None = None,
    ) -> Tally:
        tally = Tally()
        run = _Run(self, tally, again, most_open)
        cpu, start = time.process_time(), time.perf_counter()
        run.start = start
        place, count, told = 0, len(arrivals), 0.0
        try:
            while place < count or run.busy:
                now = time.perf_counter() - start
                while place < count and arrivals[place] <= now:
                    if again is None:
                        tally.late.append(time.perf_counter() - start - arrivals[place])
                    run.arrive(arrivals[place])
                    place += 1
                if every_second is not None and now >= told + 1:
                    told = now
                    every_second(now)
                if place < count:
                    run.wait(min(1.0, max(0.0, arrivals[place] - now)))
                elif now - arrivals[-1] > _PATIENCE_S and again is None:
                    break
                else:
                    run.wait(1.0)
        finally:
            run.end(time.perf_counter() - start)
        tally.seconds, tally.cpu_s = time.perf_counter() - start, time.process_time() - cpu
        return tally

    def next(self) -> int:
        """Return which request is sent next."""
        self._turn = (self._turn + 1) % len(self._requests)
        return self._turn

    def connect(self) -> _Connection:
        """Open a connection; the first bytes may be given to it at once."""
        return _Connection(self._address)

    def request(self, number: int) -> bytes:
        """Return a whole request."""
        return self._requests[number]

    def expects(self, number: int) -> bytes:
        """Return what the answer to a request must contain."""
        return self._expected[number]


class _Run:
    """One tally in the making."""

    def __init__(
        self, generator: Generator, tally: Tally, again: Callable[[float], bool] | None, most_open: int
    ) -> None:
        self._generator, self._tally, self._again, self._most = generator, tally, again, most_open
        self._poll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._free: list[_Connection] = []
        self.start = 0.0

    @property
    def busy(self) -> bool:
        """Whether an answer is still due."""
        return len(self._open) > len(self._free)

    def arrive(self, due: float, number: int | None = None) -> None:
        """Send a request, over a free connection if there is one."""
        number = self._generator.next() if number is None else number
        connection = self._free.pop() if self._free else self._connect()
        if connection is None:
            self._tally.unsent.append(due)
            return
        connection.number, connection.due = number, due
        connection.out = memoryview(self._generator.request(number))
        self._send(connection)

    def wait(self, seconds: float) -> None:
        """Wait for something to happen, for at most so long, and handle it."""
        # select() wakes to the microsecond, epoll only to the millisecond, and a late request would look like a slow answer.
        if not select.select([self._poll], [], [], seconds)[0]:
            return
        for descriptor, event in self._poll.poll(0, 256):
            connection = self._open.get(descriptor)
            if connection is None:
                continue
            if event & select.EPOLLOUT:
                self._poll.modify(connection.socket, select.EPOLLIN)
                self._send(connection)
            if event & ~select.EPOLLOUT:
                self._receive(connection)

    def end(self, now: float) -> None:
        """Close everything; requests without an answer are counted as such."""
        for connection in list(self._open.values()):
            if connection.number >= 0:
                self._note(connection, _BROKEN, now)
            self._drop(connection)
        self._poll.close()

    def _connect(self) -> _Connection | None:
        """Open a connection; None if an open loop has no more, or the system gives none."""
        if len(self._open) >= self._most:
            return None
        try:
            connection = self._generator.connect()
        except OSError:
            if self._again is not None:  # the other loops need every one
                raise
            return None
        self._open[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, select.EPOLLIN)
        self._tally.opened += 1
        self._tally.most_open = max(self._tally.most_open, len(self._open))
        return connection

    def _send(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.out)
        except BlockingIOError:
            sent = 0
        except OSError:  # closed by the service; if it said why, that is still to be read
            connection.out = memoryview(b"")
            return
        connection.out = connection.out[sent:]
        if connection.out:
            self._poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost(connection)
            return
        data = connection.buffer + data if connection.buffer else data
        body = data.find(b"\r\n\r\n") + 4
        at = data.find(_LENGTH, 0, body)
        if body < 4 or at < 0 or len(data) < body + int(data[at + len(_LENGTH) : data.find(b"\r", at)]):
            connection.buffer = data
            return
        self._answered(connection, data, body)

    def _answered(self, connection: _Connection, data: bytes, body: int) -> None:
        now = time.perf_counter() - self.start
        status = int(data[9:12])
        if status == 200:
            at = data.find(b'"id":"', body) + 6
            self._tally.names.append(data[at : data.find(b'"', at)])
            self._tally.wrong += self._generator.expects(connection.number) not in data
        self._note(connection, status, now)
        connection.buffer, connection.number, connection.fresh = b"", -1, False
        if connection.out or data.find(b"connection: close", 0, body) > 0:
            self._drop(connection)
        else:
            self._free.append(connection)
        if self._again is not None and self._again(now):
            self.arrive(now)

    def _lost(self, connection: _Connection) -> None:
        """A connection ended. One that was kept and not used yet is nobody's fault: as every client does, send again."""
        idle, number, due = connection.number < 0, connection.number, connection.due
        unused = not connection.fresh and not connection.buffer
        self._drop(connection)
        if idle:
            self._free.remove(connection)
        elif unused:
            self._tally.retried += 1
            self.arrive(due, number)
        else:
            now = time.perf_counter() - self.start
            self._note(connection, _BROKEN, now)
            if self._again is not None and self._again(now):
                self.arrive(now)

    def _note(self, connection: _Connection, status: int, now: float) -> None:
        self._tally.due.append(connection.due)
        self._tally.latency.append(now - connection.due)
        self._tally.status.append(status)

    def _drop(self, connection: _Connection) -> None:
        self._open.pop(connection.socket.fileno(), None)
        connection.socket.close()
