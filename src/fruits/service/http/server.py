"""The server process: listening, signals, graceful shutdown, limits on connections.

uvicorn implements HTTP. This module adds protection against request heads that are too long or too slow, bodies still sent after
a refusal, responses that the client does not read, too many connections, and malformed HTTP. SIGTERM and SIGINT stop the server,
SIGHUP reloads the bundle. Independent of photos.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fruits.errors import ConfigError
from fruits.messages import translations
from fruits.service.app import create_app
from fruits.service.http import errors as http_errors
from fruits.service.http.delivery import TRANSPORT
from fruits.service.http.errors import HttpError
from fruits.service.http.limits.rate_limits import Limits, SharedBuckets, place_of
from fruits.service.http.middleware import Proxies
from fruits.service.http.process_count import processes_for
from fruits.service.http.processes import Processes
from fruits.service.settings import ServiceConfig
from fruits.service.telemetry import LogHandler, Telemetry

#: Bytes of a request's head: request line and headers.
_MAX_HEAD_BYTES: Final = 32 << 10
_MAX_HEADERS: Final = 100
#: Bytes of a refused body that are read and discarded, or twice the request limit if that is more. Closing at once would reset
#: the connection, and the client would not see the error response.
_MAX_DISCARDED_BYTES: Final = 4 << 20
#: Bytes of a response that a client must read per send timeout; a slower client is disconnected.
_LEAST_TAKEN_BYTES: Final = 4096
_STOP_S: Final = 60
#: Open files besides connections: the bundle, the database, pipes to decoders, and connections that are being refused.
_OTHER_FILES: Final = 512


def serve(config: ServiceConfig, *, listening: Callable[[str], None], quiet: bool = False) -> bool:
    """Serve until stopped by a signal.

    Parameters
    ----------
    config : ServiceConfig
    listening : callable
        Called once with the service's address.
    quiet : bool
        Whether only warnings and errors are logged.

    Returns
    -------
    bool
        Whether it was stopped by SIGINT (Ctrl-C) rather than SIGTERM.

    Raises
    ------
    FruitsError
        If the service cannot start: the bundle, the database or the address is not usable.
    """
    config = replace(config, processes=processes_for(config))
    listener = _listen(config, shared=config.processes > 1)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    telemetry = Telemetry(quiet=quiet)
    with listener:
        if config.processes == 1:
            return _run(config, listener, telemetry, listening=lambda: listening(address))
        telemetry.start()
        try:
            processes = Processes(config, (host, port), telemetry, quiet=quiet)
            processes.run(lambda: listening(address))
        finally:
            telemetry.stop()
    return processes.interrupted


def serve_child(
    config: ServiceConfig, *, number: int, shared: Path, quiet: bool, listening: Callable[[], None]
) -> None:
    """Serve as one of several processes on one port; see :class:`fruits.service.http.processes.Processes`.

    Parameters
    ----------
    config : ServiceConfig
        Host and port are reserved by the parent.
    number : int
        The first, 0, looks after what is stored.
    shared : Path
        Folder that the processes share.
    quiet, listening
        As for :func:`serve`.
    """
    with closing(SharedBuckets(shared / "limits")) as buckets, _listen(config, shared=True) as listener:
        limits = Limits(buckets=buckets)
        telemetry = Telemetry(quiet=quiet, process=number)
        _run(config, listener, telemetry, limits, chores=number == 0, listening=listening)


def _run(
    config: ServiceConfig,
    listener: socket.socket,
    telemetry: Telemetry,
    limits: Limits | None = None,
    *,
    chores: bool = True,
    listening: Callable[[], None],
) -> bool:
    _route_logs(telemetry)
    allow_files(config.max_connections + _OTHER_FILES)
    app = create_app(config, telemetry, limits, chores=chores)

    class Connection(_Connection):
        settings = config
        gauge = telemetry.connections
        open_by_place: ClassVar[Counter[str]] = Counter()
        proxies = Proxies(config.trusted_proxy)

    server = _Server(
        uvicorn.Config(
            app, http=Connection, ws="none", lifespan="on", loop="auto", log_config=None, access_log=False,
            proxy_headers=False, server_header=False, date_header=True, timeout_keep_alive=int(config.keep_alive),
            timeout_graceful_shutdown=_STOP_S, backlog=2048,
        ),
        app, config, listening,
    )  # fmt: skip
    try:
        # Workers are threads already: a BLAS library that divides their small products among more threads only makes these wait.
        with threadpool_limits(1, "blas"):
            server.run(sockets=[listener])
    except SystemExit:  # raised by uvicorn if the application does not start
        if app.state.failure is None:
            raise
    if app.state.failure is not None:
        raise app.state.failure
    return server.interrupted


def allow_files(wanted: int) -> None:
    """Raise the soft limit of open files to so many, or to the hard limit: 1,024 are usual, fewer than some services need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            # The log shows no arguments of messages (see telemetry), so the numbers are part of the text.
            few = f"at most {allowed} files may be open (ulimit -n), fewer than --max-connections needs: {wanted}"
            logging.getLogger(__name__).warning(few)


def _listen(config: ServiceConfig, *, shared: bool = False) -> socket.socket:
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host.strip("[]"), config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:  # the kernel divides connections among the processes that listen
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError as exc:
        if listener is not None:
            listener.close()
        raise ConfigError(
            f"cannot listen on {config.host}, port {config.port} ({exc.strerror}); choose another --port or --host"
        ) from exc
    return listener


def _route_logs(telemetry: Telemetry) -> None:
    """Route warnings of libraries into the service's log, and nothing else."""
    root = logging.getLogger()
    root.handlers[:] = [LogHandler(telemetry)]
    root.setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "python_multipart.multipart"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.ERROR)  # its warnings are about clients, who could fill the log with them


class _Server(uvicorn.Server):
    """uvicorn's server with the service's own signal handlers."""

    def __init__(
        self, config: uvicorn.Config, app: FastAPI, settings: ServiceConfig, listening: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._app, self._settings, self._listening = app, settings, listening
        self._reloads: set[asyncio.Task[None]] = set()
        self.interrupted = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop, number)
            if hasattr(signal, "SIGHUP"):
                loop.add_signal_handler(signal.SIGHUP, self._reload)
            self._listening()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._app.state.failure is not None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The handlers are set in startup(). uvicorn would raise captured signals again at the end, so a requested stop would
        # look like a crash.
        yield

    def _stop(self, number: int) -> None:
        """Refuse new requests during ``drain``, so that load balancers notice, then stop; a second signal stops at once."""
        self.interrupted |= number == signal.SIGINT
        resources = self._app.state.resources
        if resources.stopping:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        resources.stopping = True
        resources.telemetry.log("stopping")
        asyncio.get_running_loop().call_later(self._settings.drain, self._exit)

    def _exit(self) -> None:
        self.should_exit = True

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._app.state.resources.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


class _JoiningTransport:
    """The transport of one response: the head waits for the first bytes of the body, up to the next turn of the loop.

    uvicorn writes them one after the other, and the transport sends each at once, since its buffer may hold nothing: two system
    calls, two packets and two wake-ups of the client for every response.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head: bytes | None = b""

    def write(self, data: bytes) -> None:
        """Write, together with what waits."""
        if self._head == b"":
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            head, self._head = self._head, None
            self._transport.write(head + data if head else data)

    def close(self) -> None:
        """Write what waits, then close."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection is being closed."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head and not self._transport.is_closing():
            self._transport.write(head)


class _Connection(HttpToolsProtocol):
    """One connection, with limits."""

    settings: ServiceConfig
    gauge: Any
    open_by_place: ClassVar[Counter[str]]
    proxies: ClassVar[Proxies]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = self._fields_bytes = self._discarded = 0
        self._in_head = True
        self._deaf = False  # ignore all further input
        self._patience: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None
        self._unread = 0
        self._cycles: list[Any] = []
        # So that pause_writing and resume_writing report whether any output is unread.
        transport.set_write_buffer_limits(high=0)
        address = self.client[0] if self.client else "unknown"
        # A proxy carries many clients; they are counted by their own addresses in the middleware.
        self._place = "" if address in self.proxies else place_of(address)
        self.open_by_place[self._place] += 1
        self.gauge.inc()
        self._wait()
        limit = self.settings.max_connections_per_address
        if len(self.connections) > self.settings.max_connections or (
            self._place and self.open_by_place[self._place] > limit
        ):
            self._refuse(HttpError("busy", retry_after_s=1))

    def connection_lost(self, exc: Exception | None) -> None:
        self.gauge.dec()
        self.open_by_place[self._place] -= 1
        if not self.open_by_place[self._place]:
            del self.open_by_place[self._place]
        self._wait_no_more()
        self._read_at_last()
        # Of several pipelined requests, uvicorn notifies only the last of a disconnect; the others would go on writing.
        self.pipeline.clear()
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._cycles.clear()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._reader is None:
            self._look_again()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_at_last()

    def _look_again(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._reader = self.loop.call_later(self.settings.send_timeout, self._look_at_reader)

    def _look_at_reader(self) -> None:
        """Continue while the client reads the response, otherwise abort: a regular close would wait for the client."""
        if self._unread - self.transport.get_write_buffer_size() < min(_LEAST_TAKEN_BYTES, self._unread):
            self.transport.abort()
        else:
            self._look_again()

    def _read_at_last(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._deaf:
            return
        if self._in_head:
            self._head_bytes += len(data)
            self._wait()
        super().data_received(data)
        if self._in_head and self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse(HttpError("bad_request", translations("detail.head_too_long"), status=431))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[TRANSPORT] = self.transport  # type: ignore[typeddict-unknown-key]
        self._in_head = True
        self._head_bytes = self._fields_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._discarded = 0
        self._wait_no_more()
        super().on_headers_complete()
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        if self.cycle is not None:
            self._cycles.append(self.cycle)
            # Its task, which writes the response, begins in a later turn of the loop.
            self.cycle.transport = _JoiningTransport(self.transport, self.loop)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        if self.cycle is not None and self.cycle.response_complete:
            self._wait()
            self._discarded += len(body)
            if self._discarded > max(_MAX_DISCARDED_BYTES, 2 * self.settings.max_bytes):
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._wait_no_more()
        self._in_head = True
        self._head_bytes = 0

    def on_response_complete(self) -> None:
        last = not self.pipeline
        super().on_response_complete()
        if self._deaf and last:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's message is for developers
        self._refuse(HttpError("bad_request", translations("detail.not_http")))

    def _count(self, size: int) -> None:
        """Count the parsed fields of a head that arrives in one piece."""
        self._fields_bytes += size
        if self._fields_bytes > _MAX_HEAD_BYTES or len(self.headers) > _MAX_HEADERS:
            raise ValueError("head too long")  # becomes a parser error, then a 400 response

    def _wait(self) -> None:
        """Start the timeout of a head, or of the rest of a refused body."""
        if self._patience is None:
            self._patience = self.loop.call_later(self.settings.send_timeout, self._too_late)

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _too_late(self) -> None:
        self._patience = None
        if self.cycle is None or (self._in_head and self.cycle.response_complete):
            self._refuse(HttpError("slow"))
        elif not self._in_head:
            self.transport.close()

    def _refuse(self, problem: HttpError) -> None:
        """Send an error outside any request and close the connection; earlier requests are answered first."""
        if self.transport.is_closing() or self._deaf:
            return
        self._deaf = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:  # a complete request, still being answered: see on_response_complete
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if self.pipeline and self.pipeline[0][0] is cycle:  # not started, and others are queued before it
                self.pipeline.popleft()
                return
        if cycle is None or (cycle.response_complete and self._in_head) or not cycle.response_started:
            body = http_errors.body(problem, secrets.token_urlsafe(12))
            lines = [
                f"HTTP/1.1 {problem.status} Refused",
                "content-type: application/json",
                f"content-length: {len(body)}",
                "x-content-type-options: nosniff",
                "content-security-policy: default-src 'none'",
                "cache-control: no-store",
                *(f"{name.lower()}: {value}" for name, value in problem.headers.items()),
                "connection: close",
            ]
            self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()
