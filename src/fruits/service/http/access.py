"""Who asks, and may they? Tokens and rates of requests, for every route.

A visitor without a token is counted by address, a program by its token. What is only read (labels, thumbnails, the network,
pages) is counted apart and by its size, so that looking does not use up what asking needs. A route under ``/v1`` that nobody
thought of is one for which a service with ``--tokens-only`` wants a token.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final, Literal

from fastapi import Request

from fruits.service.http.errors import HttpError
from fruits.service.http.middleware import App, Message, Receive, Scope, Send
from fruits.service.http.rate_limits import place_of
from fruits.service.resources import Resources
from fruits.service.submissions.tokens import TokenInfo

#: Seconds of decoding from which on they count, and how many of them count as one more request.
_LONG_S: Final = 0.5
_REQUEST_S: Final = 0.25
#: Of what is only read so much more is given than of requests, and so many bytes count as one.
_READS: Final = 20
_READ_BYTES: Final = 64 << 10

#: What is asked of whoever comes by a route. ``free``: nothing. ``own``: the route asks itself, at the right moment.
#: ``page``: may be seen by anybody, counted as reading. ``secret``: needs no token even if all else does, because it comes with
#: the secret of its submission, and what was given must be taken back whatever became of a token. ``read``, ``ask``: need a
#: token with ``--tokens-only``; counted as reading, or as a request.
Right = Literal["free", "own", "page", "secret", "read", "ask"]
_RIGHTS: Final[tuple[tuple[str, Right], ...]] = (
    (r"/healthz|/readyz", "free"),
    (r"/v1/recognise|/metrics|/v1/owner(/.*)?", "own"),
    (r"/v1/submissions/.*", "secret"),
    (r"/v1/(labels|model|gallery)(/.*)?", "read"),
    (r"/v1(/.*)?", "ask"),
    (r".*", "page"),
)
_OF_PATH: Final = tuple((re.compile(pattern, re.DOTALL), right) for pattern, right in _RIGHTS)


def right_of(path: str) -> Right:
    """Return what is asked of whoever comes by a path."""
    return next(right for pattern, right in _OF_PATH if pattern.fullmatch(path))


class Guard:
    """ASGI middleware inside the outermost one: looks who asks before any route does.

    Parameters
    ----------
    app : ASGI application
    state : object
        Its attribute ``resources`` is what the service holds, once it has started.
    """

    def __init__(self, app: App, state: Any) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        right = right_of(scope["path"])
        if right in ("free", "own"):
            await self._app(scope, receive, send)
            return
        resources, about = self._state.resources, scope["fruits"]
        is_reading = right in ("read", "page")
        found = await caller(resources, about, reading=is_reading)
        if found is None and resources.config.tokens_only and right in ("read", "ask"):
            raise HttpError("unauthorised")
        if not is_reading:
            await self._app(scope, receive, send)
            return
        sent = 0

        async def answer(message: Message) -> None:
            nonlocal sent
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            if more := sent // _READ_BYTES:
                resources.limits.charge(*about["bucket"], more)


async def caller(
    resources: Resources, about: dict[str, Any], count: int = 1, *, reading: bool = False
) -> TokenInfo | None:
    """Return whose token came with a request, None without one; count it against its limit.

    Parameters
    ----------
    resources : Resources
    about : dict
        What the middleware knows of the request.
    count : int
        For how many it counts.
    reading : bool
        Whether it only reads, which is counted apart.

    Raises
    ------
    HttpError
        ``unauthorised`` for a token that is none, ``rate_limited``.
    """
    given = about["headers"].get(b"authorization")
    config, limits = resources.config, resources.limits
    place = place_of(about["address"])
    if given is None:
        key, rate = about["bucket"] = _bucket(place, config.rate, reading=reading)
        _within(limits.take(key, rate, count))
        return None
    scheme, _, token = given.decode("latin-1").partition(" ")
    found = None
    if scheme.lower() == "bearer":
        found = await asyncio.to_thread(resources.tokens.check, token.strip())
    if found is None:
        _within(limits.take(place, config.rate))  # so that nobody guesses for long
        raise HttpError("unauthorised")
    rate = config.token_rate if found.rate_per_minute is None else found.rate_per_minute
    key, rate = about["bucket"] = _bucket(f"token {found.id}", rate, reading=reading)
    _within(limits.take(key, rate, count))
    return found


def _bucket(key: str, rate: int, *, reading: bool) -> tuple[str, int]:
    return (f"{key} reads", rate * _READS) if reading else (key, rate)


def charge(resources: Resources, about: dict[str, Any], seconds: float) -> None:
    """Count what took long to decode as many requests: sixty photos a minute may not take three hundred seconds."""
    if seconds > _LONG_S:
        key, rate = about["bucket"]
        resources.limits.charge(key, rate, int(seconds / _REQUEST_S))


async def owner(request: Request) -> TokenInfo:
    """Return the owner's token that came with a request.

    Raises
    ------
    HttpError
        ``unauthorised`` without a token, ``forbidden`` with one of another role.
    """
    found = await caller(request.app.state.resources, request.scope["fruits"])
    if found is None:
        raise HttpError("unauthorised")
    if found.role != "owner":
        raise HttpError("forbidden")
    return found


def _within(wait_s: float) -> None:
    if wait_s:
        raise HttpError("rate_limited", retry_after_s=wait_s)
