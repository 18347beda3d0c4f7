"""Who is gone before the answer got no secret to delete with: nothing is kept for them."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import Submissions
from fruits.storage.objects import Objects

Ending = Callable[[socket.socket], None]


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def request(photo: bytes) -> bytes:
    head = "POST /v1/recognise?keep=true HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    return f"{head}Content-Length: {len(photo)}\r\n\r\n".encode() + photo


def kept(service: Any) -> tuple[set[str], set[str]]:
    """The ids of rows with a photo, and of photos."""
    with closing(Database.open(f"sqlite:///{service.data}/service.db")) as database:
        submissions = Submissions(database, Objects(str(service.data / "photos")), keep_days=90)
        rows = {one.id for one in submissions.page("kept", limit=200).submissions}
    return rows, {path.stem for path in (service.data / "photos").iterdir()}


@pytest.mark.parametrize("ending", [reset, lambda _: None], ids=["reset", "closed"])
def test_nothing_is_kept_for_a_client_that_is_gone(serve: Callable[..., Any], a_photo: bytes, ending: Ending) -> None:
    service = serve("--rate", 0)
    for number in range(24):
        connection = socket.create_connection(("127.0.0.1", service.port))
        connection.sendall(request(a_photo))
        time.sleep(0.001 * (number % 8))  # before, while and after it is recognised
        ending(connection)
        # What has not been read when a connection is closed was not received, and the client's system says so.
        connection.close()
    (stays,) = service.recognise(a_photo, keep="true").json()["photos"]
    service.wait_until(lambda: kept(service) == ({stays["id"]}, {stays["id"]}), 30)
    assert service.log("bug") == []


def test_what_is_kept_stays_for_a_client_that_read_the_answer_and_left(
    serve: Callable[..., Any], a_photo: bytes
) -> None:
    service = serve("--rate", 0)
    read: set[str] = set()
    for close in (b"close", b"keep-alive"):
        connection = socket.create_connection(("127.0.0.1", service.port))
        connection.sendall(request(a_photo).replace(b"Host:", b"Connection: " + close + b"\r\nHost:"))
        answer = b""
        while b"\r\n\r\n" not in answer or b'"model"' not in answer:
            answer += connection.recv(1 << 16)
        connection.close()
        read.add(json.loads(answer.partition(b"\r\n\r\n")[2])["photos"][0]["id"])
    service.stop()
    assert kept(service) == (read, read)
