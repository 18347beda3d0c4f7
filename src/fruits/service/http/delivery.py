"""Delivery of responses: stored photos of an undelivered one are deleted, because the client did not get their secret.

A response counts as delivered once the client's machine has acknowledged its bytes and does not reset the connection afterwards;
a reset means that the program ended without reading them. Linux reports both (``TCP_INFO``); elsewhere, passing the bytes to the
transport must suffice. Behind a reverse proxy, the proxy acknowledges; one that loses its client closes its connection to the
service. Independent of the content of responses.
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

#: Key of the connection in the scope of its requests, set by the server.
TRANSPORT: Final = "fruits.transport"
#: ``struct tcp_info``: the states TCP_CLOSE and TCP_CLOSE_WAIT, and the offset of ``tcpi_bytes_acked`` (Linux 4.1).
_CLOSED, _LEFT_BY_CLIENT = 7, 8
_ACKED_AT: Final = 120
#: If a connection is not reset for this long after the last byte was acknowledged, the client has read the response.
_RESET_S: Final = 1.0
_FIRST_LOOK_S: Final = 0.002
_LAST_LOOK_S: Final = 0.25

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Delivery:
    """Delivery of one response to one client.

    Parameters
    ----------
    scope : dict
        Scope of the request.
    receive : callable
        ``receive`` of the request, whose body has been read.
    patience_s : float
        Seconds within which the response must arrive.
    """

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, patience_s: float) -> None:
        self._receive, self._patience_s = receive, patience_s
        self._transport: asyncio.Transport | None = scope.get(TRANSPORT)
        self._socket = _duplicate(self._transport)
        self._acked = _acked(self._socket)
        self._ended = False

    async def is_client_gone(self) -> bool:
        """Return whether the client has already disconnected."""
        asking = asyncio.ensure_future(self._receive())
        try:
            for _ in range(4):  # a disconnect known to the system is reported within these loop turns
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
        """Wait until a response of ``size`` bytes, just sent, has arrived; return whether it has."""
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
        """Close the duplicated socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _end_where_the_server_has(self) -> None:
        """Shut down the sending side once the server has closed its own: the duplicate must not keep the connection open."""
        if self._ended or self._socket is None or self._transport is None:
            return
        if self._transport.is_closing() and not self._transport.get_write_buffer_size():
            self._ended = True
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)


class Undelivered:
    """Deletes the submissions of responses that were not delivered; retries until that succeeds.

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
        """Watch the delivery of a response of ``size`` bytes; delete its submissions if it does not arrive."""
        self._do(self._follow(receipts, delivery, size))

    def lost(self, receipts: Sequence[Receipt]) -> None:
        """Delete the submissions of these receipts."""
        if not receipts:
            return
        self._lost.extend(receipts)
        self._do(self._retry())

    async def written(self, writing: asyncio.Future[list[Receipt]]) -> list[Receipt]:
        """Wait for receipts written by a thread; delete their submissions if the request is cancelled meanwhile."""
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:  # the service stops: the thread commits all the same
            self._do(self._unanswered(writing))
            raise

    def retry(self) -> None:
        """Delete the submissions whose deletion failed before.

        Raises
        ------
        StoreError
            If that fails again; a later call retries.
        """
        with self._lock:
            while self._lost:
                receipts = list(self._lost)
                self._submissions.retract(receipts)
                for _ in receipts:
                    self._lost.popleft()

    async def finish(self) -> None:
        """Wait for running tasks."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, receipts: Sequence[Receipt], delivery: Delivery, size: int) -> None:
        if not await delivery.has_arrived(size):
            self._lost.extend(receipts)
            await self._retry()

    async def _unanswered(self, writing: asyncio.Future[list[Receipt]]) -> None:
        try:
            receipts = await writing
        except Exception:  # the client is gone, and nothing was stored
            return
        self._lost.extend(receipts)
        await self._retry()

    async def _retry(self) -> None:
        with suppress(StoreError):  # retried, and logged, every minute
            await asyncio.to_thread(self.retry)

    def _do(self, what: Any) -> None:
        task = asyncio.get_running_loop().create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _duplicate(transport: asyncio.Transport | None) -> socket.socket | None:
    """Duplicate the socket of a connection: its state can then be read after the server has closed it."""
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
    """Return the bytes acknowledged since the connection began; None if the system does not report them."""
    info = _info(connection, _ACKED_AT + 8)
    return int(struct.unpack_from("=Q", info, _ACKED_AT)[0]) if len(info) == _ACKED_AT + 8 else None


def _state(connection: socket.socket) -> int:
    """Return the TCP state of a connection; 7 if closed by both sides, or reset."""
    info = _info(connection, 1)
    return info[0] if info else _CLOSED


def _error(connection: socket.socket) -> int:
    """Return the pending error of a connection; 0 if it ended normally."""
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
