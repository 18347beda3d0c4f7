"""Did an answer reach the client? If not, what was kept for it is forgotten: nobody has the secret that would delete it.

An answer is taken as delivered once the client's machine has acknowledged its bytes and does not then reset the connection, as it
does when a program leaves without having read them. That is told by Linux; elsewhere handing the bytes over must do. Behind a
reverse proxy it is the proxy that acknowledges; one that loses its client closes its connection to the service. Knows nothing of
what an answer says.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Final

from fruits.errors import StoreError
from fruits.service.submissions.repository import Receipt, Submissions

#: Where the server puts a connection into the scope of its requests.
TRANSPORT: Final = "fruits.transport"
#: Of ``struct tcp_info``: two states, and where it has the bytes that the other side has acknowledged (Linux 4.1).
_CLOSED, _LEFT_BY_CLIENT = 7, 8
_ACKED_AT: Final = 120
#: A connection that is not reset for so long after the last byte was acknowledged was read from.
_RESET_S: Final = 1.0
_FIRST_LOOK_S: Final = 0.002
_LAST_LOOK_S: Final = 0.25

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Delivery:
    """One answer on its way to one client.

    Parameters
    ----------
    scope : dict
        Of the request.
    receive : callable
        Of the request, whose body has been read.
    patience_s : float
        Seconds in which the answer must have arrived.
    """

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, patience_s: float) -> None:
        self._receive, self._patience_s = receive, patience_s
        self._transport: asyncio.Transport | None = scope.get(TRANSPORT)
        self._socket = _duplicate(self._transport)
        self._acked = _acked(self._socket)
        self._ended = False

    async def is_client_gone(self) -> bool:
        """Return whether the client has hung up already."""
        asking = asyncio.ensure_future(self._receive())
        try:
            for _ in range(4):  # what the system knows of the connection comes to us within these turns
                await asyncio.sleep(0)
                if not asking.done():
                    continue
                if asking.exception() is not None:  # there is nothing more to receive
                    break
                if asking.result()["type"] == "http.disconnect":
                    return True
                asking = asyncio.ensure_future(self._receive())
        finally:
            asking.cancel()
        return self._transport is not None and self._transport.is_closing()

    async def has_arrived(self, size: int) -> bool:
        """Wait until an answer of so many bytes, just sent, has arrived; return whether it has."""
        try:
            if self._transport is None or self._socket is None or self._acked is None:
                return self._transport is None or not self._transport.is_closing()
            pause_s, waited_s, since_s = _FIRST_LOOK_S, 0.0, 0.0
            while waited_s < self._patience_s:
                acked, state = _acked(self._socket), _state(self._socket)
                arrived = acked is not None and acked - self._acked >= size
                if state == _CLOSED:
                    return arrived and self._ended and not _error(self._socket)
                if arrived and (state == _LEFT_BY_CLIENT or since_s >= _RESET_S):
                    return True
                self._end_where_the_server_has()
                await asyncio.sleep(pause_s)
                waited_s, since_s = waited_s + pause_s, since_s + pause_s * arrived
                pause_s = min(2 * pause_s, _LAST_LOOK_S)
            return False
        finally:
            self.close()

    def close(self) -> None:
        """Give back what is needed to look."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _end_where_the_server_has(self) -> None:
        """Say goodbye to the client where the server has closed its side: holding on to look must not keep anybody waiting."""
        if self._ended or self._socket is None or self._transport is None:
            return
        if self._transport.is_closing() and not self._transport.get_write_buffer_size():
            self._ended = True
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)


class Undelivered:
    """Forgets what was kept for clients that their answers did not reach; tries again until that has succeeded.

    Parameters
    ----------
    submissions : Submissions
    """

    def __init__(self, submissions: Submissions) -> None:
        self._submissions = submissions
        self._lost: deque[Receipt] = deque()
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, receipts: Sequence[Receipt], delivery: Delivery, size: int) -> None:
        """See whether an answer of so many bytes arrives; forget what its receipts name if it does not."""
        self._do(self._follow(receipts, delivery, size))

    def lost(self, receipts: Sequence[Receipt]) -> None:
        """Forget what these receipts name."""
        if not receipts:
            return
        self._lost.extend(receipts)
        self._do(self._retry())

    async def written(self, writing: asyncio.Future[list[Receipt]]) -> list[Receipt]:
        """Wait for receipts that a thread writes down; forget what they name if the request is ended meanwhile."""
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:  # the service stops: what is being written would be committed all the same
            self._do(self._unanswered(writing))
            raise

    def retry(self) -> None:
        """Forget what could not be forgotten before.

        Raises
        ------
        StoreError
            If that fails again; a later call tries again.
        """
        with self._lock:
            while self._lost:
                receipts = list(self._lost)
                self._submissions.retract(receipts)
                for _ in receipts:
                    self._lost.popleft()

    async def finish(self) -> None:
        """Wait for what is being done."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, receipts: Sequence[Receipt], delivery: Delivery, size: int) -> None:
        if not await delivery.has_arrived(size):
            self._lost.extend(receipts)
            await self._retry()

    async def _unanswered(self, writing: asyncio.Future[list[Receipt]]) -> None:
        try:
            receipts = await writing
        except Exception:  # told to nobody who could still be told; nothing was kept
            return
        self._lost.extend(receipts)
        await self._retry()

    async def _retry(self) -> None:
        with suppress(StoreError):  # it is tried, and told, each minute
            await asyncio.to_thread(self.retry)

    def _do(self, what: Any) -> None:
        task = asyncio.get_running_loop().create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _duplicate(transport: asyncio.Transport | None) -> socket.socket | None:
    """Return a connection once more: what happened to it can still be asked when the server has closed its own."""
    if transport is None or not sys.platform.startswith("linux"):
        return None
    found = transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        return socket.socket(fileno=os.dup(found.fileno()))
    except OSError:
        return None


def _acked(connection: socket.socket | None) -> int | None:
    """Return how many bytes the other side has acknowledged since the connection began; None where that is not told."""
    info = _info(connection, _ACKED_AT + 8)
    return int(struct.unpack_from("=Q", info, _ACKED_AT)[0]) if len(info) == _ACKED_AT + 8 else None


def _state(connection: socket.socket) -> int:
    """Return the state of a connection; closed by both sides, or reset, is 7."""
    info = _info(connection, 1)
    return info[0] if info else _CLOSED


def _error(connection: socket.socket) -> int:
    """Return how a connection broke; 0 if it ended in peace."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except OSError as exc:
        return exc.errno or 1


def _info(connection: socket.socket | None, size: int) -> bytes:
    if connection is None:
        return b""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    except OSError:
        return b""
