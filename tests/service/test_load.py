"""The load generator of `make load` counts what there is to count: no answer twice, none lost, none that is not due."""

from __future__ import annotations

import math
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from benchmarks.generator import Generator, connections_possible, poisson, quantile

_ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"id":"abcd"}'


@pytest.fixture
def moody() -> Iterator[tuple[str, int]]:
    """A server that answers the first request of each connection in two pieces, and hangs up amid the answer to the second."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                for answer in ([_ANSWER[:20], _ANSWER[20:]], [_ANSWER[:50]]):
                    if not connection.recv(1 << 16):
                        break
                    for piece in answer:
                        connection.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_every_request_to_the_service_is_answered_once(service: Any, a_photo: bytes) -> None:
    head = f"POST /v1/recognise HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(a_photo)}\r\n\r\n".encode()
    generator = Generator(
        ("127.0.0.1", service.port), [head + a_photo] * 3, [b'"outcome":', b'"outcome":', b"never said"]
    )
    alone, closed = generator.alone(7), generator.closed(4, 0.3)
    opened = generator.open(poisson(50, 0.5), most_open=20)
    assert alone.count() == {200: 7}
    assert (alone.opened, alone.most_open) == (1, 1)
    assert closed.count() == {200: len(closed.names)}
    assert closed.opened == 4
    assert opened.count() == {200: len(poisson(50, 0.5))}
    names = [name for tally in (alone, closed, opened) for name in tally.names]
    assert len(names) == len(set(names))
    assert all(len(name) == 22 for name in names)
    assert sum(tally.wrong for tally in (alone, closed, opened)) == len(names) // 3 + (len(names) % 3 > 1)
    assert all(latency > 0 for latency in closed.latency)


def test_answers_that_are_cut_short_are_lost_and_said_so(moody: tuple[str, int]) -> None:
    tally = Generator(moody, [b"GET / HTTP/1.1\r\n\r\n"], [b"abcd"]).alone(5)
    assert list(tally.status) == [200, 0, 200, 0, 200]
    assert tally.names == [b"abcd"] * 3
    assert tally.opened == 3


def test_arrivals_that_find_no_connection_are_dropped_and_counted(
    moody: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Generator(moody, [b"GET / HTTP/1.1\r\n\r\n"], [b"abcd"])
    tally = generator.open([0.0] * 5, most_open=1)
    assert (tally.count(), list(tally.unsent), tally.most_open) == ({200: 1}, [0.0] * 4, 1)
    assert len(tally.late) == 5
    assert min(tally.late) > 0
    assert [tally.completed(200, last_s) for last_s in (0.0, min(tally.latency), 60.0)] == [0, 0, 1]

    def none_left() -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(generator, "connect", none_left)
    tally = generator.open([0.0, 0.01], most_open=2)
    assert (tally.count(), list(tally.unsent)) == ({}, [0.0, 0.01])
    with pytest.raises(OSError, match="Too many open files"):
        generator.closed(1, 0.1)


def test_as_many_connections_as_there_may_be_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    assert [connections_possible(wanted) for wanted in (500, 2000, 10_000)] == [500, 2000, 3996]
    assert limits == [(1024, 4096), (2100, 4096), (4096, 4096)]


def test_quantiles_are_of_values_that_there_are() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [quantile(values, share) for share in (0.0, 0.01, 0.5, 0.99, 1.0)] == [1, 1, 50, 99, 100]
    assert quantile([3.0], 0.99) == 3
    assert math.isnan(quantile([], 0.5))


def test_arrivals_come_at_their_rate_and_the_same_each_time() -> None:
    arrivals = poisson(1000, 10, seed=1)
    assert arrivals == poisson(1000, 10, seed=1) != poisson(1000, 10, seed=2)
    assert arrivals == sorted(arrivals)
    assert abs(len(arrivals) - 10_000) < 500  # five standard deviations
