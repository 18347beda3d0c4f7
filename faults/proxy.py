"""An HTTP proxy before an S3 server that does to requests what networks and busy stores do, and counts what it did.

    with FaultyProxy(server.port, "slow-down", rate=0.1, seed=3) as proxy:
        subprocess.run(command, env=os.environ | server.environment(proxy.endpoint))
    proxy.done  # {"slow-down": 31}

It decides by the seed and the number of the request. Requests are passed on as they came (their signature covers the Host
that the client named), answers as the server gave them. Bodies are held in memory.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

#: Every kind of fault and what it does to a request.
KINDS = {
    "internal-error": "answered 500 InternalError, not passed on",
    "slow-down": "answered 503 SlowDown, not passed on",
    "bad-gateway": "answered 502 with a page in HTML, not passed on",
    "too-many-requests": "answered 429, not passed on",
    "reset": "connection reset before an answer, not passed on",
    "reset-in-upload": "connection reset amid the body of the request, of which the store saw the first half",
    "cut-answer": "the store's answer ends half way through its Content-Length",
    "cut-chunked-answer": "the store's answer, sent in chunks, ends without the last one",
    "slow": "answered late, after up to two seconds, in pieces",
    "stalled": "never answered: the client has to lose patience",
    "lost-answer": "performed by the store, then the connection is reset: the client cannot know",
    "false-error": "performed by the store, then answered 500",
    "performed-twice": "performed twice by the store; the client hears the second answer",
}
_LONGEST_STALL_S = 600.0
_BODILESS = (204, 304)


@dataclass(frozen=True)
class Request:
    """A request as it came: its head to the last empty line, and its body."""

    method: str
    target: str
    head: bytes
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What the store answered, its body out of any chunks."""

    status: int
    head: bytes
    body: bytes


class FaultyProxy:
    """Passes requests on to a port of this machine, and spoils some.

    Parameters
    ----------
    upstream : int
        Port of the server.
    kind : str
        One of :data:`KINDS`.
    rate : float
        Share of the requests that are spoilt, 0 to 1, of those that the kind can spoil.
    seed : int
    skip : int
        So many requests are left in peace first.
    burst : int, optional
        Spoil every request after those, up to this number, whatever the rate.
    slow_s : float
        Longest time that ``slow`` takes.
    """

    def __init__(
        self, upstream: int, kind: str, *, rate: float = 1.0, seed: int = 0, skip: int = 0, burst: int | None = None,
        slow_s: float = 2.0,
    ) -> None:  # fmt: skip
        if kind not in KINDS:
            raise ValueError(f"no fault '{kind}'; expected one of {', '.join(KINDS)}")
        self.kind = kind
        self.done: Counter[str] = Counter()
        self.requests = 0
        self._upstream, self._rate, self._skip, self._burst, self._slow_s = upstream, rate, skip, burst, slow_s
        self._chance = random.Random(f"{kind} {seed}")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty proxy", daemon=True)
        self._server: asyncio.Server | None = None
        # asyncio itself forgets a conversation whose client has gone, in the middle of what the server does for it.
        self._conversations: set[asyncio.Task[None] | None] = set()

    @property
    def endpoint(self) -> str:
        """URL for clients."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        listening = asyncio.start_server(self._converse, "127.0.0.1", 0, backlog=1024)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        # Again and again: what had just been accepted becomes a task after the first look.
        while others := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of one connection, one after the other."""
        self._conversations.add(conversation := asyncio.current_task())
        try:
            while (request := await _read_request(reader, writer)) is not None:
                if not await self._serve(request, writer):
                    break
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client went away, the server did, or the proxy is closing
        finally:
            self._conversations.discard(conversation)
            writer.close()

    async def _serve(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; return whether the connection lives on."""
        self.requests += 1
        if not self._spoils(request):
            _send(writer, await self._perform(request))
            await writer.drain()
            return True
        self.done[self.kind] += 1
        spoil: Callable[[Request, asyncio.StreamWriter], Awaitable[bool]] = getattr(
            self, "_" + self.kind.replace("-", "_")
        )
        return await spoil(request, writer)

    def _spoils(self, request: Request) -> bool:
        draw = self._chance.random()  # drawn for every request, so that kinds of one seed fall on the same ones
        number = self.requests - self._skip
        if number <= 0 or (self.kind == "reset-in-upload" and not request.body):
            return False
        return draw < self._rate or (self._burst is not None and number <= self._burst)

    async def _perform(self, request: Request) -> Answer:
        """Have the server perform a request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            writer.write(_closing(request.head) + request.body)
            await writer.drain()
            return await _read_answer(reader, request.method)
        finally:
            writer.close()

    # One function per kind, named after it. They return whether the connection lives on.

    async def _internal_error(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        return await _refuse(request, writer, "500 Internal Server Error", _xml("InternalError"))

    async def _slow_down(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        return await _refuse(request, writer, "503 Slow Down", _xml("SlowDown"))

    async def _bad_gateway(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        page = b"<html><head><title>502 Bad Gateway</title></head><body><hr></body></html>"
        return await _refuse(request, writer, "502 Bad Gateway", page, "text/html")

    async def _too_many_requests(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        return await _refuse(request, writer, "429 Too Many Requests", _xml("TooManyRequests"))

    async def _reset(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        del request
        return _reset_connection(writer)

    async def _reset_in_upload(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        _, onward = await asyncio.open_connection("127.0.0.1", self._upstream)
        onward.write(request.head + request.body[: len(request.body) // 2])
        await onward.drain()
        onward.close()
        return _reset_connection(writer)

    async def _cut_answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        answer = await self._perform(request)
        writer.write(_with_length(answer.head, len(answer.body) or 1) + answer.body[: len(answer.body) // 2])
        await writer.drain()
        return False

    async def _cut_chunked_answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        answer = await self._perform(request)
        half = answer.body[: len(answer.body) // 2] or b"<"
        writer.write(_with_chunks(answer.head) + b"%x\r\n%b\r\n" % (len(half), half))
        await writer.drain()
        return False

    async def _slow(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        answer = await self._perform(request)
        await asyncio.sleep(self._chance.uniform(0, self._slow_s / 2))
        whole = _with_length(answer.head, len(answer.body)) + answer.body if _has_body(request, answer) else answer.head
        for start in range(0, len(whole), max(len(whole) // 4, 1)):
            writer.write(whole[start : start + max(len(whole) // 4, 1)])
            await writer.drain()
            await asyncio.sleep(self._chance.uniform(0, self._slow_s / 8))
        return True

    async def _stalled(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        del request
        await asyncio.sleep(_LONGEST_STALL_S)
        return _reset_connection(writer)

    async def _lost_answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        await self._perform(request)
        return _reset_connection(writer)

    async def _false_error(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        await self._perform(request)
        return await _refuse(request, writer, "500 Internal Server Error", _xml("InternalError"))

    async def _performed_twice(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        await self._perform(request)
        _send(writer, await self._perform(request))
        await writer.drain()
        return True


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """Read a request; None when the client has no more."""
    head = b""
    with suppress(asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
    if not head:
        return None
    method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if _field(head, b"expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = _without(head, b"expect")
    if _field(head, b"transfer-encoding"):
        body = await _read_chunks(reader)
        head = _with_length(head, len(body))
    else:
        body = await reader.readexactly(int(_field(head, b"content-length") or 0))
    return Request(method, target, head, body)


async def _read_answer(reader: asyncio.StreamReader, method: str) -> Answer:
    """Read the answer to a request that closes its connection."""
    status = 100
    while status == 100:
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
    if method == "HEAD" or status in _BODILESS:
        return Answer(status, _without(head, b"connection"), b"")
    if _field(head, b"transfer-encoding"):
        body = await _read_chunks(reader)
        return Answer(status, _with_length(_without(head, b"connection"), len(body)), body)
    length = _field(head, b"content-length")
    body = await (reader.read() if length is None else reader.readexactly(int(length)))
    return Answer(status, _with_length(_without(head, b"connection"), len(body)), body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """Read a body that comes in chunks."""
    pieces = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        pieces.append(await reader.readexactly(size))
        await reader.readline()
    while (await reader.readline()).strip():
        pass  # trailers
    return b"".join(pieces)


def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(answer.head + answer.body)


async def _refuse(
    request: Request, writer: asyncio.StreamWriter, status: str, body: bytes, content: str = "application/xml"
) -> bool:
    """Answer a request with an error of our own."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    writer.write(head + (b"" if request.method == "HEAD" else body))
    await writer.drain()
    return True


def _reset_connection(writer: asyncio.StreamWriter) -> bool:
    """Close a connection with RST instead of FIN, as crashes and impatient load balancers do."""
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


def _xml(code: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>injected</Message></Error>'.encode()
    )


def _has_body(request: Request, answer: Answer) -> bool:
    return request.method != "HEAD" and answer.status not in _BODILESS


def _field(head: bytes, name: bytes) -> str | None:
    """Return the value of a header."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().decode("latin-1")
    return None


def _without(head: bytes, *names: bytes) -> bytes:
    """Return a head without these headers."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in names]
    return b"\r\n".join([first, *kept]) + b"\r\n\r\n"


def _with(head: bytes, line: bytes, *instead_of: bytes) -> bytes:
    """Return a head with one more header, and without others."""
    return _without(head, *instead_of).removesuffix(b"\r\n") + line + b"\r\n\r\n"


def _closing(head: bytes) -> bytes:
    return _with(head, b"Connection: close", b"connection")


def _with_length(head: bytes, length: int) -> bytes:
    return _with(head, b"Content-Length: %d" % length, b"content-length", b"transfer-encoding")


def _with_chunks(head: bytes) -> bytes:
    return _with(head, b"Transfer-Encoding: chunked", b"content-length", b"transfer-encoding")
