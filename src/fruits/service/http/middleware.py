"""The outermost middleware: request ids, allowed hosts, security headers, CORS and error responses.

Pure ASGI around everything else. Exceptions raised inside become error responses of one shape. Bodies are limited where they are
read, in ``uploads.py``. Independent of photos.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from fruits.errors import PermanentStoreError
from fruits.service.http import errors as http_errors
from fruits.service.http.errors import HttpError
from fruits.service.http.limits.rate_limits import parsed, parsed_network
from fruits.service.http.uploads import GoneError, read_body
from fruits.service.settings import LOOPBACK, ServiceConfig
from fruits.service.telemetry import Telemetry

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Load balancers call these by IP address.
_ANY_HOST: Final = ("/healthz", "/readyz")
#: Routes that read and limit their body themselves; all other bodies are small and read here.
_STREAMED: Final = ("/v1/recognise",)
_WITHOUT_BODY: Final = ("GET", "HEAD", "OPTIONS")
_MAX_BODY_BYTES: Final = 64 << 10
_ALLOWED: Final = "GET, POST, DELETE"
#: What pages may use of a device: nothing. The visitor's page, with its live camera, has a header of its own.
NO_PERMISSIONS: Final = "camera=(), microphone=(), geolocation=()"
_ALLOWED_HEADERS: Final = "Authorization, Content-Type, X-Fruits-Secret"


class Middleware:
    """ASGI middleware.

    Parameters
    ----------
    app : ASGI application
    config : ServiceConfig
    telemetry : Telemetry
    policy : str
        Content security policy of every answer.
    """

    def __init__(self, app: App, config: ServiceConfig, telemetry: Telemetry, *, policy: str) -> None:
        self._app, self._config, self._telemetry = app, config, telemetry
        self._hosts = frozenset((*LOOPBACK, *(host for host in config.allow_host if not host.startswith("*"))))
        self._suffixes = tuple(host[1:] for host in config.allow_host if host.startswith("*."))
        self._any_host = "*" in config.allow_host
        self._ids = RequestIds()
        self._proxies = Proxies(config.trusted_proxy)
        self._headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"permissions-policy", NO_PERMISSIONS.encode()),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"cross-origin" if config.allow_origin else b"same-origin"),
            # Also on responses without an Origin: a cache must not serve them to a page of another site.
            *([(b"vary", b"Origin")] if config.allow_origin else []),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
                return
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope = _below(scope, self._config.root_path)
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, value)
        request_id = self._ids.next()
        about: dict[str, Any] = {}
        scope["fruits"] = about
        about["id"], about["headers"], about["started"] = request_id, headers, started
        about["address"] = self._address(scope)
        extra = self._headers
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and origin in self._config.allow_origin:
            extra = [
                *extra,
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", b"X-Request-Id, Retry-After"),
            ]
        # Routes implement GET; HEAD gets the same response without a body.
        is_head = scope["method"] == "HEAD"
        inner = {**scope, "method": "GET"} if is_head else scope
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = message.get("headers", ())
                names = {name for name, _ in given}
                message["headers"] = [
                    *given,
                    *((name, value) for name, value in extra if name not in names or name == b"vary"),
                    (b"x-request-id", request_id.encode("ascii")),
                ]
            elif is_head:
                message["body"] = b""
            await send(message)

        try:
            if not self._knows(headers) and scope["path"] not in _ANY_HOST:
                raise HttpError("unknown_host")
            if scope["path"] == "":  # links of the first page are relative to its folder
                await reply(answer, 308, b"", [(b"location", f"{self._config.root_path}/".encode())])
                return
            if scope["method"] == "OPTIONS" and extra is not self._headers:
                await reply(answer, 204, b"", [
                    (b"access-control-allow-methods", _ALLOWED.encode()),
                    (b"access-control-allow-headers", _ALLOWED_HEADERS.encode()),
                    (b"access-control-max-age", b"600"),
                ])  # fmt: skip
            else:
                if scope["method"] not in _WITHOUT_BODY and scope["path"] not in _STREAMED:
                    receive = _replay(await read_body(receive, headers, _MAX_BODY_BYTES, self._config.send_timeout))
                await self._app(inner, receive, answer)
        except GoneError:
            status = status or 499
        except Exception as exc:
            about.setdefault("cause", exc)
            if not status:
                await send_error(answer, http_errors.from_exception(exc), about)
            elif status != 500:
                raise  # part of the response is sent; only closing the connection signals the failure
        finally:
            self._note(scope["method"], inner.get("route"), about, status, started)

    def _note(self, method: str, found: Any, about: dict[str, Any], status: int, started: float) -> None:
        route = about.get("route") or getattr(found, "path", None) or "other"
        self._telemetry.requests.labels(route, str(status)).inc()
        code = about.get("code")
        if code:
            self._telemetry.errors.labels(code).inc()
            cause = about.get("cause")
            if code in ("internal", "busy") and cause is not None and not isinstance(cause, HttpError):
                if isinstance(cause, PermanentStoreError):  # its message tells the operator what to change
                    self._telemetry.log("store_unusable", level="error", request_id=about["id"], message=str(cause))
                else:
                    self._telemetry.log_bug(about["id"], cause)
        if route in _ANY_HOST:
            return
        values = {name: about[name] for name in ("code", "photos", "outcomes", "bytes_in", "waiting") if name in about}
        self._telemetry.log(
            "request", request_id=about["id"], method=_known_method(method), route=route, status=status,
            ms=round(1000 * (time.perf_counter() - started), 1), client=self._telemetry.client(about["address"]), **values,
        )  # fmt: skip

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        if self._any_host:
            return True
        name = host_of(headers)
        return name in self._hosts or (bool(self._suffixes) and name.endswith(self._suffixes))

    def _address(self, scope: Scope) -> str:
        """Return the client's address, taken from ``X-Forwarded-For`` behind a trusted proxy."""
        client = scope.get("client")
        address = client[0] if client else "unknown"
        # A proxy appends to the client's header or adds a header of its own after it: join all of them.
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        if not self._proxies or not forwarded:
            return address
        # From the right: each trusted proxy vouches for the address before it; the first untrusted one is the client.
        for hop in reversed([*",".join(forwarded).split(","), address]):
            address = hop.strip()
            if address not in self._proxies:
                break
        return address


class RequestIds:
    """Random ids of requests, drawn many at a time: a draw is a system call, at which other threads take the interpreter."""

    _AT_ONCE: Final = 256

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def next(self) -> str:
        """Return an id that was not returned before: 16 letters, digits, - and _."""
        if not self._drawn:
            text = secrets.token_urlsafe(12 * self._AT_ONCE)
            self._drawn = [text[start : start + 16] for start in range(0, len(text), 16)]
        return self._drawn.pop()


class Proxies:
    """Addresses and networks of trusted proxies; supports ``address in proxies``.

    Parameters
    ----------
    networks : iterable of str
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [parsed_network(network) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        found = parsed(address)
        return found is not None and any(found in network for network in self._networks)


def host_of(headers: dict[bytes, bytes]) -> str:
    """Return the host name of a request, without the port."""
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    return host if not name or (port and not port.isdigit()) else name


async def send_error(send: Send, problem: HttpError, about: dict[str, Any]) -> None:
    """Send an error response; close the connection if the body may still be arriving."""
    about["code"] = problem.code
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    if problem.code in ("slow", "stopping"):
        headers.append((b"connection", b"close"))
    await reply(send, problem.status, http_errors.body(problem, about["id"]), headers)


async def reply(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send a JSON response that caches must not store."""
    if status != 204:
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            *headers,
        ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _below(scope: Scope, root_path: str) -> Scope:
    """Strip ``root_path`` from a request's path, unless the proxy already did."""
    path = scope["path"]
    if not root_path or not (path == root_path or path.startswith(f"{root_path}/")):
        return scope
    raw = scope.get("raw_path")
    shorter = (
        {"raw_path": raw[len(root_path) :]} if isinstance(raw, bytes) and raw.startswith(root_path.encode()) else {}
    )
    return {**scope, "path": path[len(root_path) :], **shorter}


def _replay(body: bytes) -> Receive:
    """Return a ``receive`` that replays a body already read."""
    messages: list[Message] = [{"type": "http.disconnect"}, {"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if len(messages) > 1 else messages[0]

    return receive


def _known_method(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
