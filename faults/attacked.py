"""``fruits serve`` under attack: the real process, raw bytes to it, and what must hold whatever they are.

Every answer is whole HTTP of our own shape and no 5xx but 503; the process lives, its log has no error; a row or a photo is there
for each answer that gave a receipt and for nothing else; the next good photo is answered right. Rows and photos are read from
the files, not through fruits. Knows nothing of what is sent.
"""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from faults.running import Running, fruits
from fruits.messages import LANGUAGES
from fruits.service.submissions.database import Database
from fruits.service.submissions.tokens import Tokens

#: Longer than any limit of the service; what takes longer hangs.
_PATIENCE_S = 60.0
#: How long an answer to half a request is waited for, and to a whole one with more behind it, before nothing more is sent.
_GLANCE_S, _LONG_GLANCE_S = 0.3, 3.0
_ALIVE = b'{"alive":true}'
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[!#-'*+.^-z|~0-9A-Z-]+: [^\r\n]*\r\n)*)\r\n")
#: What no answer may say: traces, paths, libraries.
_TELLTALE = re.compile(
    rb"Traceback|site-packages|\.py\b|/(?:home|root|tmp)/|sqlalchemy|pydantic|starlette|uvicorn|Pillow|PIL\.", re.I
)
_ERROR_KEYS = {"code", "message", "request_id"}


class BrokenAnswerError(Exception):
    """What came back is not what HTTP, or this service, promises."""


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def receipts(self) -> list[tuple[str, str, bool]]:
        """Identifier, secret and whether the photo was kept, for every photo that was recognised."""
        if self.status != 200 or not self.body.startswith(b'{"photos":['):
            return []
        photos = json.loads(self.body)["photos"]
        return [(photo["id"], photo["secret"], photo["kept"]) for photo in photos if "id" in photo]


@dataclass(frozen=True)
class Case:
    """Something to send over a connection of its own, and what may come of it.

    Attributes
    ----------
    name : str
    pieces : sequence of bytes
        Sent one after the other.
    allowed : tuple of int
        Statuses of the answers; empty: any, but no 5xx other than 503.
    answers : int
        How many are due.
    silence : bool
        Whether the service may hang up without an answer.
    pause_s : float
        Between the pieces.
    ending : str
        ``wait``; ``half``: nothing more will be sent, and that is said; ``reset``: gone without waiting.
    head : bool
        Whether the answers have no body, as those to HEAD.
    """

    name: str
    pieces: Sequence[bytes]
    allowed: tuple[int, ...] = ()
    answers: int = 1
    silence: bool = False
    pause_s: float = 0.0
    ending: str = "wait"
    head: bool = False


@dataclass
class Stored:
    """What is there: identifiers in the database, names of photos, and all bytes of these."""

    rows: set[str]
    photos: set[str] = field(default_factory=set)


class Attacked:
    """A running service and what it has promised so far.

    Parameters
    ----------
    out : Path
        Results of a run.
    good : bytes
        A photo.
    label : str
        What it shows.
    folder : Path
        For its data and log.
    options : sequence of str
        Of ``fruits serve``.
    """

    def __init__(self, out: Path, good: bytes, label: str, folder: Path, options: Sequence[str] = ()) -> None:
        self.good, self.label, self.options = good, label, tuple(options)
        self._data = Path(tempfile.mkdtemp(prefix="service-", dir=folder))
        command = fruits(
            "serve", out, "--data", self._data, "--port", 0, "--rate", 0, "--processes", 1, "--json", *options
        )
        self._running = Running(command, self._data / "logs")
        self.address = self._wait()
        self.receipts: dict[str, tuple[str, bool]] = {}
        self._lock = threading.Lock()
        self._process = psutil.Process(self._running.process.pid)
        self._log_seen = 0

    def __enter__(self) -> Attacked:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self._running.process.terminate()
        self._running.wait(30)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.address[0]}:{self.address[1]}"

    def send(self, case: Case) -> str:
        """Send a case and return how it ended, in a word or two.

        Raises
        ------
        BrokenAnswerError
            If something is not as it must be; the message says what.
        """
        replies, ended = self._exchange(case)
        for reply in replies:
            self.judge(reply, case.allowed, head=case.head)
        if case.ending == "reset":
            return "gone before the answer"
        if len(replies) > case.answers:
            raise BrokenAnswerError(f"{len(replies)} answers; expected {case.answers}")
        if len(replies) < case.answers and not (ended and (case.silence or (replies and replies[-1].status >= 400))):
            raise BrokenAnswerError(
                f"{len(replies)} answers; expected {case.answers}" + (", hung up" if ended else ", hangs")
            )
        if not replies:
            return "hung up"
        return ", ".join(f"{status}" for status in sorted({reply.status for reply in replies}))

    def judge(self, reply: Reply, allowed: Iterable[int] = (), *, head: bool = False) -> None:
        """Check an answer as :func:`judge` does, and remember the receipts in it."""
        self.promised(reply.receipts)
        judge(reply, allowed, head=head)

    def promised(self, receipts: Iterable[tuple[str, str, bool]]) -> None:
        """Remember receipts: there must be a row for each, and a photo where it says so."""
        with self._lock:
            self.receipts.update({name: (secret, kept) for name, secret, kept in receipts})

    def recognise_good(self) -> None:
        """Send the good photo and check the answer.

        Raises
        ------
        BrokenAnswerError
        """
        head = "POST /v1/recognise HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        request = f"{head}Content-Length: {len(self.good)}\r\n\r\n".encode() + self.good
        replies, _ = self._exchange(Case("good", [request]))
        if [reply.status for reply in replies] != [200]:
            raise BrokenAnswerError(f"the good photo is answered {[(r.status, r.body[:200]) for r in replies]}")
        self.judge(replies[0], (200,))
        said = json.loads(replies[0].body)["photos"][0]["labels"][0]["label"]
        if said != self.label:
            raise BrokenAnswerError(f"the good photo is '{said}'; expected '{self.label}'")

    def problems(self, planted: bytes = b"") -> list[str]:
        """Return what is wrong with the service now: dead, errors in its log, things stored that nobody was promised.

        Parameters
        ----------
        planted : bytes
            Must not be in anything that is stored.
        """
        code = self._running.process.poll()
        if code is not None:
            return [f"the service ended with {code}: {self.log()[-500:]}"]
        found = []
        try:
            self.recognise_good()
        except (BrokenAnswerError, OSError) as exc:
            found.append(str(exc))
        lines = self.log()[self._log_seen :]
        self._log_seen += len(lines)
        found += [
            f"log: {line[:1500]}" for line in lines.splitlines() if '"level": "error"' in line or "Traceback" in line
        ]
        stored = self._settled()
        kept = {name for name, (_, kept) in self.receipts.items() if kept}
        for what, there, promised in (("rows", stored.rows, self.receipts.keys()), ("photos", stored.photos, kept)):
            if missing := promised - there:
                found.append(f"{len(missing)} {what} are missing")
            if more := there - promised:
                found.append(f"{len(more)} {what} that nobody was promised")
        if planted:
            for path in (path for path in self._data.rglob("*") if path.is_file() and path.parent.name != "logs"):
                if planted in path.read_bytes():
                    found.append(f"planted bytes in {path.relative_to(self._data)}")
        return found

    def accept_unclaimed(self, patience_s: float = 0.0) -> int:
        """Take what is stored as promised, answers that were sent to somebody who was gone; return how many photos that were.

        They are given so many seconds to go.
        """
        until = time.monotonic() + patience_s
        while (stored := self._settled()).photos - self.receipts.keys() and time.monotonic() < until:
            time.sleep(0.5)
        for name in stored.rows - self.receipts.keys():
            self.receipts[name] = ("", name in stored.photos)
        return len(stored.photos - {name for name, (secret, _) in self.receipts.items() if secret})

    def make_token(self, role: Literal["api", "owner"]) -> str:
        """Return a new token of the service."""
        with closing(Database.open(f"sqlite:///{self._data}/service.db")) as database:
            return Tokens(database).add(f"{role} {time.monotonic_ns()}", role)

    def log(self) -> str:
        """Return what the service said so far."""
        return next((self._data / "logs").glob("*.err")).read_text("utf-8", "replace")

    def descriptors(self) -> int:
        """Return how many files and sockets the service has open."""
        return int(self._process.num_fds())

    def memory_mb(self) -> float:
        """Return the resident memory of the service without its decoders."""
        return float(self._process.memory_info().rss) / 1e6

    def connect(self) -> socket.socket:
        """Return a connection."""
        connection = socket.create_connection(self.address, timeout=_PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _exchange(self, case: Case) -> tuple[list[Reply], bool]:
        """Send; return the answers and whether the service hung up afterwards."""
        with closing(self.connect()) as connection:
            broken = False
            for number, piece in enumerate(case.pieces):
                if number and case.pause_s:
                    time.sleep(case.pause_s)
                try:
                    connection.sendall(piece)
                except OSError:  # refused before it was all sent: what it said is still to be read
                    broken = True
                    break
            if case.ending == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return [], True
            return self._replies(connection, case, broken=broken)

    def _replies(self, connection: socket.socket, case: Case, *, broken: bool) -> tuple[list[Reply], bool]:
        data = b""
        replies: list[Reply] = []
        open_ended = case.ending == "half" and not broken
        while len(replies) < case.answers:
            # A server may answer to what is there; only then is it told that there will be no more.
            connection.settimeout(
                (_GLANCE_S if replies or case.answers == 1 else _LONG_GLANCE_S) if open_ended else _PATIENCE_S
            )
            try:
                more = connection.recv(1 << 16)
            except TimeoutError:
                if not open_ended:
                    return replies, False
                open_ended = False
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                continue
            except OSError:
                more = b""
            data += more
            while (parsed := parse(data, head=case.head)) is not None:
                if parsed[0].status != 100:
                    replies.append(parsed[0])
                data = parsed[1]
            if not more:
                if data:
                    raise BrokenAnswerError(f"an answer is cut short or no HTTP: {data[:200]!r}")
                return replies, True
        if data:
            raise BrokenAnswerError(f"more than {case.answers} answers: {data[:200]!r}")
        return replies, _goes_on(connection, replies[-1])

    def _wait(self) -> tuple[str, int]:
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until and self._running.process.poll() is None:
            said = next((self._data / "logs").glob("*.out")).read_text()
            if said.endswith("\n"):
                host, _, port = json.loads(said)["address"].rpartition("//")[2].rpartition(":")
                self.address = (host, int(port))
                replies, _ = self._exchange(Case("ready", [b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"]))
                if replies and replies[0].status == 200:
                    return self.address
            time.sleep(0.05)
        raise RuntimeError(f"fruits serve did not start: {self.log()[-2000:]}")

    def _settled(self) -> Stored:
        """Return what is stored, once nothing changes any more."""
        last = self._stored()
        for _ in range(50):
            time.sleep(0.1)
            if (now := self._stored()) == last:
                break
            last = now
        return last

    def _stored(self) -> Stored:
        with closing(sqlite3.connect(f"file:{self._data}/service.db?mode=ro", uri=True)) as database:
            rows = {name for (name,) in database.execute("SELECT id FROM submissions")}
        photos = {path.stem for path in (self._data / "photos").rglob("*.jpg*")}
        return Stored(rows, photos)


def judge(reply: Reply, allowed: Iterable[int] = (), *, head: bool = False) -> None:
    """Check what holds for every answer.

    Raises
    ------
    BrokenAnswerError
    """
    if reply.status >= 500 and reply.status != 503:
        raise BrokenAnswerError(f"{reply.status}: {reply.body[:200]!r}")
    if allowed and reply.status not in (*allowed, 503):
        raise BrokenAnswerError(f"{reply.status}, expected {allowed}: {reply.body[:200]!r}")
    if reply.headers.get("x-content-type-options") != "nosniff" or "content-security-policy" not in reply.headers:
        raise BrokenAnswerError(f"{reply.status} without security headers")
    if reply.status < 400:
        return
    if not head:
        _must_be_error(reply.body)
    if found := _TELLTALE.search(reply.body):
        raise BrokenAnswerError(f"{reply.status} says {found[0]!r}")


def _goes_on(connection: socket.socket, last: Reply) -> bool:
    """Ask one more question: the connection is closed, or the answer is to that question and not to one that was slipped in."""
    # A client that is refused early may have been thought to send a body still, and a question is part of that.
    connection.settimeout(_PATIENCE_S if last.status < 400 else 0.05)
    data = b""
    with suppress(OSError):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while (parsed := parse(data)) is None:
            if not (more := connection.recv(1 << 16)):
                return True
            data += more
        if parsed[0].body != _ALIVE or parsed[1]:
            raise BrokenAnswerError(f"an answer to nothing that was asked: {data[:200]!r}")
    return False


def parse(data: bytes, *, head: bool = False) -> tuple[Reply, bytes] | None:
    """Take one whole answer off the front of some bytes; None if there is none yet.

    Raises
    ------
    BrokenAnswerError
        If this can never become an answer.
    """
    if b"\r\n\r\n" not in data:
        return None
    match = _HEAD.match(data)
    if match is None:
        raise BrokenAnswerError(f"no HTTP: {data[:200]!r}")
    status = int(match[1])
    lines = [line.partition(": ") for line in match[2].decode("latin-1").split("\r\n") if line]
    headers = {name.lower(): value for name, _, value in lines}
    if len(headers) < len(lines) and Counter(name.lower() for name, _, _ in lines)["content-length"] > 1:
        raise BrokenAnswerError("two lengths in one answer")
    rest = data[match.end() :]
    if head or status in (204, 304) or status < 200:
        return Reply(status, headers, b""), rest
    if headers.get("transfer-encoding") == "chunked":
        return _chunked(status, headers, rest)
    length = int(headers["content-length"])
    return (Reply(status, headers, rest[:length]), rest[length:]) if len(rest) >= length else None


def _chunked(status: int, headers: dict[str, str], rest: bytes) -> tuple[Reply, bytes] | None:
    body = b""
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return None
        length = int(size, 16)
        body, rest = body + rest[:length], rest[length + 2 :]
        if not length:
            return Reply(status, headers, body), rest


def _must_be_error(body: bytes) -> None:
    try:
        error: dict[str, Any] = json.loads(body)["error"]
        good = (
            error.keys() == _ERROR_KEYS and error["message"].keys() == set(LANGUAGES) and all(error["message"].values())
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise BrokenAnswerError(f"an error of another shape: {body[:200]!r}")
