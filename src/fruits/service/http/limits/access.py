"""Authentication and rate limits, for every route.

A visitor without a token is limited by address, a program by its token. Reads (labels, thumbnails, the network, pages) have a
limit of their own, by size, so that browsing does not use up the quota of recognition. Routes under ``/v1`` that are not listed
below require a token with ``--tokens-only``.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final, Literal

from fastapi import Request

from fruits.service.http.errors import HttpError
from fruits.service.http.limits.rate_limits import place_of
from fruits.service.http.middleware import App, Message, Receive, Scope, Send
from fruits.service.resources import Resources
from fruits.service.submissions.tokens import TokenInfo

#: Decoding time from which it is charged, and seconds of decoding charged as one more request.
_LONG_S: Final = 0.5
_REQUEST_S: Final = 0.25
#: Rate of reads as a multiple of the rate of requests, and bytes that count as one read.
_READS: Final = 20
#: Reads per minute that are always allowed: opening a page takes about forty, however low the rate of requests is.
_LEAST_READS: Final = 200
_READ_BYTES: Final = 64 << 10

#: Access rule of a route. ``free``: no check. ``own``: the route checks by itself, at the right moment. ``page``: public, counted
#: as a read. ``secret``: never needs a token, because the request carries the secret of its submission, and deletion must
#: remain possible after a token is revoked. ``read``, ``ask``: need a token with ``--tokens-only``; counted as a read, or as a
#: request.
AccessRule = Literal["free", "own", "page", "secret", "read", "ask"]
_RULES: Final[tuple[tuple[str, AccessRule], ...]] = (
    (r"/healthz|/readyz", "free"),
    (r"/v1/recognise|/metrics|/v1/owner(/.*)?", "own"),
    (r"/v1/submissions/.*", "secret"),
    (r"/v1/(labels|model|gallery)(/.*)?", "read"),
    (r"/v1(/.*)?", "ask"),
    (r".*", "page"),
)
_OF_PATH: Final = tuple((re.compile(pattern, re.DOTALL), rule) for pattern, rule in _RULES)


def rule_of(path: str) -> AccessRule:
    """Return the access rule of a path."""
    return next(rule for pattern, rule in _OF_PATH if pattern.fullmatch(path))


class Guard:
    """ASGI middleware inside the outermost one: authenticates and rate-limits before routing.

    Parameters
    ----------
    app : ASGI application
    state : object
        Has the attribute ``resources`` once the service has started.
    """

    def __init__(self, app: App, state: Any) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        rule = rule_of(scope["path"])
        if rule in ("free", "own"):
            await self._app(scope, receive, send)
            return
        resources, about = self._state.resources, scope["fruits"]
        is_reading = rule in ("read", "page")
        found = await caller(resources, about, reading=is_reading)
        if found is None and resources.config.tokens_only and rule in ("read", "ask"):
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
    """Return the token of a request, None without one; count the request against its rate limit.

    Parameters
    ----------
    resources : Resources
    about : dict
        The middleware's record of the request.
    count : int
        Number of requests that it counts as.
    reading : bool
        Whether it is a read, which has a limit of its own.

    Raises
    ------
    HttpError
        ``unauthorised`` for an invalid token, or ``rate_limited``.
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
        _within(limits.take(place, config.rate))  # limits the guessing of tokens
        raise HttpError("unauthorised")
    rate = config.token_rate if found.rate_per_minute is None else found.rate_per_minute
    key, rate = about["bucket"] = _bucket(f"token {found.id}", rate, reading=reading)
    _within(limits.take(key, rate, count))
    return found


def _bucket(key: str, rate: int, *, reading: bool) -> tuple[str, int]:
    return (f"{key} reads", rate and max(_LEAST_READS, rate * _READS)) if reading else (key, rate)


def charge(resources: Resources, about: dict[str, Any], seconds: float, *, regions: bool = False) -> None:
    """Charge long decoding as additional requests: 60 photos per minute must not cost 300 seconds of decoding.

    Looking for regions is charged from its start: it takes about fifteen times as long as an answer.
    """
    if regions or seconds > _LONG_S:
        key, rate = about["bucket"]
        resources.limits.charge(key, rate, int(seconds / _REQUEST_S) + regions)


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
