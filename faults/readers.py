"""Visitors who ask for a lot and read nothing, or a byte now and then: how long do they keep others out?

Each has a small window and asks for more than any buffer on the way holds. They come from one address, others from another.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack, suppress

from faults import hostile_heads as heads
from faults.attacked import Attacked, BrokenAnswerError
from faults.trials import Figure, Trials

_LIMIT = "--max-connections-per-address"
#: A second address of this machine: the limit for one must not be felt by another.
_ELSEWHERE = "127.0.0.2"
#: Of each, in one go.
_ASKED = 4
#: Seconds after which none may be left: the limit twice, for those who took a little, and a slow machine.
_PATIENCE_S = 30.0


def options(*, most: int) -> tuple[str, ...]:
    """Return options of a service that has room for a few more than one address may hold."""
    return ("--max-connections", f"{most + 20}", _LIMIT, f"{most}")


def read_nothing(service: Attacked, figure: Figure, trials: Trials) -> None:
    """Hold as many connections as the service gives; count when they end, and what others get meanwhile."""
    rounds = 1 if trials.quick else 5
    question = heads.get(_large(service), "Accept-Encoding: identity") * _ASKED * 4
    most = int(service.options[service.options.index(_LIMIT) + 1])
    for _ in range(rounds):
        _hold(service, figure, question, most)


def _hold(service: Attacked, figure: Figure, question: bytes, most: int) -> None:
    before = service.descriptors()
    with ExitStack() as stack:
        opened = [stack.enter_context(_narrow(service)) for _ in range(most + 10)]
        time.sleep(0.5)
        held = [connection for connection in opened if not _was_refused(connection)]
        for connection in held:
            with suppress(OSError):
                connection.sendall(question)
        started = time.monotonic()
        fine = 0
        while not fine or (service.descriptors() > before + 3 and time.monotonic() - started < _PATIENCE_S):
            for connection in held[::2]:  # a byte now and then is no reading
                with suppress(OSError):
                    connection.recv(1)
            try:
                _ask(service)
                fine += 1
            except (BrokenAnswerError, OSError) as exc:
                figure.fail(f"from elsewhere, meanwhile: {exc}")
                break
            time.sleep(0.3)
        left = service.descriptors() - before
        if left > 3:
            figure.fail(f"{left} connections are still open after {_PATIENCE_S:.0f} s")
        refused = len(opened) - len(held)
        if refused < len(opened) - most:
            figure.fail(f"{refused} of {len(opened)} connections were refused; expected those beyond {most}")
        for _ in range(refused):
            figure.count("503")
        for _ in held:
            figure.count("cut off")
        for _ in range(fine):
            figure.count("health right meanwhile")
    try:
        service.recognise_good()
        figure.count("good photo right afterwards")
    except (BrokenAnswerError, OSError) as exc:
        figure.fail(f"afterwards: {exc}")


def _large(service: Attacked) -> str:
    """Return the address of something large."""
    with socket.create_connection(service.address, timeout=20) as connection:
        connection.sendall(heads.get("/v1/model", "Connection: close"))
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["recognizer"])


def _narrow(service: Attacked) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(1)
    connection.connect(service.address)
    return connection


def _ask(service: Attacked) -> None:
    with socket.create_connection(service.address, timeout=20, source_address=(_ELSEWHERE, 0)) as connection:
        connection.sendall(heads.get("/healthz", "Connection: close"))
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise BrokenAnswerError(f"{answer[:80]!r}")


def _was_refused(connection: socket.socket) -> bool:
    """Tell whether a connection that asked nothing yet was turned away."""
    connection.setblocking(False)
    try:
        return connection.recv(64, socket.MSG_PEEK).startswith(b"HTTP/1.1 503 ")
    except OSError:
        return False
    finally:
        connection.settimeout(1)
