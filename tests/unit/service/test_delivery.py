from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fruits.errors import StoreError
from fruits.service.http.delivery import TRANSPORT, Delivery, Undelivered
from fruits.service.submissions.repository import NewSubmission, Submissions

PHOTO = b"as good as a photo"  # a JPEG would get the visitor's consent in it


async def _waits() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_client_that_hung_up_is_noticed_before_the_answer() -> None:
    said: Iterator[dict[str, Any]] = iter([{"type": "http.request", "body": b""}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(said)

    async def look() -> list[bool]:
        return [await Delivery({}, receive, 1.0).is_client_gone(), await Delivery({}, _waits, 1.0).is_client_gone()]

    assert asyncio.run(look()) == [True, False]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what the other side acknowledged")
@pytest.mark.parametrize("reads", [True, False])
def test_an_answer_has_arrived_once_the_other_side_says_so(reads: bool) -> None:
    body = bytes(8 << 20)  # more than fits between the two

    async def send() -> bool:
        found: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            delivery = Delivery({TRANSPORT: writer.transport}, _waits, 20.0)
            writer.write(body)
            writer.close()
            found.set_result(await delivery.has_arrived(len(body)))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.setblocking(False)
            count = 0
            while count < (len(body) if reads else 1):
                count += len(await asyncio.get_running_loop().sock_recv(client, 1 << 16))
            if not reads:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        arrived = await found
        server.close()
        return arrived

    assert asyncio.run(send()) is reads


def test_what_could_not_be_forgotten_is_forgotten_later(
    submissions: Submissions, photo_folder: Path, new: Callable[..., NewSubmission], monkeypatch: pytest.MonkeyPatch
) -> None:
    receipts = submissions.add_many([new(PHOTO), new(PHOTO)])
    undelivered = Undelivered(submissions)

    def refuse(_: object) -> None:
        raise StoreError("away")

    async def lose() -> None:
        undelivered.lost(receipts)
        await undelivered.finish()

    with monkeypatch.context() as patch:
        patch.setattr(submissions, "retract", refuse)
        asyncio.run(lose())
        with pytest.raises(StoreError):
            undelivered.retry()
    assert len(list(photo_folder.iterdir())) == 2
    undelivered.retry()
    assert list(photo_folder.iterdir()) == []
    assert submissions.counts()["all"] == 0
