"""Who asks, and may they? Tokens and rates of requests.

A visitor without a token is counted by address, a program by its token. Knows nothing of what is asked for.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import Request

from fruits.service.limits import place_of
from fruits.service.problems import Problem
from fruits.service.resources import Resources
from fruits.service.tokens import TokenInfo

#: Seconds of decoding from which on they count, and how many of them count as one more request.
_LONG_S: Final = 0.5
_REQUEST_S: Final = 0.25


async def caller(resources: Resources, about: dict[str, Any], count: int = 1) -> TokenInfo | None:
    """Return whose token came with a request, None without one; count it against its limit.

    Parameters
    ----------
    resources : Resources
    about : dict
        What the door knows of the request.
    count : int
        For how many it counts.

    Raises
    ------
    Problem
        ``unauthorised`` for a token that is none, ``rate_limited``.
    """
    given = about["headers"].get(b"authorization")
    config, limits = resources.config, resources.limits
    place = place_of(about["address"])
    if given is None:
        about["bucket"] = place, config.rate
        _within(limits.take(place, config.rate, count))
        return None
    scheme, _, token = given.decode("latin-1").partition(" ")
    found = None
    if scheme.lower() == "bearer":
        found = await asyncio.to_thread(resources.tokens.check, token.strip())
    if found is None:
        _within(limits.take(place, config.rate))  # so that nobody guesses for long
        raise Problem("unauthorised")
    bucket = f"token {found.id}", config.token_rate if found.rate_per_minute is None else found.rate_per_minute
    about["bucket"] = bucket
    _within(limits.take(*bucket, count))
    return found


def charge(resources: Resources, about: dict[str, Any], seconds: float) -> None:
    """Count what took long to decode as many requests: sixty photos a minute may not take three hundred seconds."""
    if seconds > _LONG_S:
        key, rate = about["bucket"]
        resources.limits.charge(key, rate, int(seconds / _REQUEST_S))


async def owner(request: Request) -> TokenInfo:
    """Return the owner's token that came with a request.

    Raises
    ------
    Problem
        ``unauthorised`` without a token, ``forbidden`` with one of another role.
    """
    found = await caller(request.app.state.resources, request.scope["fruits"])
    if found is None:
        raise Problem("unauthorised")
    if found.role != "owner":
        raise Problem("forbidden")
    return found


def _within(wait_s: float) -> None:
    if wait_s:
        raise Problem("rate_limited", retry_after_s=wait_s)
