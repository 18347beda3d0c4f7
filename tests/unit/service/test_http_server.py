"""Parts of the server process that need no connection: responses in one write, ids of requests."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from fruits.service.http.middleware import RequestIds
from fruits.service.http.server import _JoiningTransport


class Recorder:
    """A transport that notes what is done with it."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        """Note a write."""
        assert not self.closing
        self.done.append(data)

    def close(self) -> None:
        """Note the end."""
        self.done.append("closed")
        self.closing = True

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self.closing


@pytest.mark.parametrize(
    ("steps", "done"),
    [
        ([b"head", b"body", b"more"], [b"headbody", b"more"]),
        ([b"head", "turn", b"body"], [b"head", b"body"]),
        ([b"head", "close"], [b"head", "closed"]),
        ([b"head", b"body", "close"], [b"headbody", "closed"]),
        ([b"head", "turn", "close"], [b"head", "closed"]),
        ([b"head", "lost", "turn"], ["closed"]),
        (["close"], ["closed"]),
    ],
)
def test_the_head_goes_with_the_body_or_at_the_end_of_the_turn(
    steps: list[bytes | str], done: list[bytes | str]
) -> None:
    recorder = Recorder()

    async def respond() -> None:
        transport = _JoiningTransport(cast("Any", recorder), asyncio.get_running_loop())
        for step in steps:
            if isinstance(step, bytes):
                transport.write(step)
            elif step == "turn":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            else:
                (transport if step == "close" else recorder).close()
        await asyncio.sleep(0)
        assert transport.is_closing() is recorder.closing

    asyncio.run(respond())
    assert recorder.done == done


def test_ids_of_requests_are_of_one_length_and_never_the_same() -> None:
    ids = RequestIds()
    drawn = [ids.next() for _ in range(3000)]
    assert len(set(drawn)) == 3000
    assert {len(one) for one in drawn} == {16}
