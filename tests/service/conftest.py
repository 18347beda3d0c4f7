"""A real service: ``fruits serve`` as a process of its own, on a free port, asked over real connections."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.commands import Commands

from fruits.config import RunConfig
from fruits.training import pipeline


class Service:
    """A running ``fruits serve``."""

    def __init__(
        self,
        commands: Commands,
        out: Path,
        folder: Path,
        *options: object,
        ready: bool = True,
        **environment: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.data, self._log = out, folder / "data", (folder / "log.jsonl").open("wb")
        self._commands = commands
        reader, writer = os.pipe()
        self._said = os.fdopen(reader, "rb")
        # Behind no load balancer, which would have to notice that it stops.
        words = ("serve", out, "--port", 0, "--json", "--drain", 0, "--processes", 1, "--data", self.data, *options)
        try:
            self.process = commands.start(
                *words, stdout=writer, stderr=self._log.fileno(), env={**os.environ, **environment}
            )
        finally:
            os.close(writer)
        # Not readline alone: a service that neither starts nor ends would hold up the tests for ever.
        there, _, _ = select.select([self._said], [], [], 120)
        line = self._said.readline() if there else b""
        if not line:
            self.process.kill()
            self.process.wait()
            self._said.close()
            raise RuntimeError(f"the service did not start: {self.log_text()}")
        self.address: str = json.loads(line)["address"]
        self.port = int(self.address.rpartition(":")[2])
        # No limits: beyond some idle connections httpx closes one that another thread may be about to use (EBADF).
        self.client = httpx.Client(base_url=self.address, timeout=60, limits=httpx.Limits())
        try:
            if ready:
                self.wait_until(lambda: self.client.get("/readyz").status_code == 200)
        except BaseException:
            self.stop()
            raise

    def wait_until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for something that must come."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited in vain; {self.log_text()[-2000:]}"
            time.sleep(0.05)

    def recognise(self, photo: bytes, **query: str) -> httpx.Response:
        """Send one photo as the body."""
        return self.client.post(
            "/v1/recognise", content=photo, params=query, headers={"Content-Type": "application/octet-stream"}
        )

    def raw(self, data: bytes, seconds: float = 30) -> bytes:
        """Send bytes as they are; return all that comes until the service hangs up or is quiet."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            return receive(connection)

    def make_token(self, role: str) -> str:
        """Return a new token."""
        return self.command("tokens", "add", role, "--data", self.data, "--role", role).strip()

    def command(self, *words: object) -> str:
        """Run a command of fruits to its end; return what it printed."""
        code, printed, errors = self._commands.run(*words, timeout_s=60)
        assert code == 0, errors
        return printed

    def identity(self, token: str) -> str:
        """Return which bundle is open."""
        answer = self.client.get("/v1/model", headers={"Authorization": f"Bearer {token}"})
        return str(answer.json()["recognizer"]).split("/")[-2]

    def log_text(self) -> str:
        """Everything that was written to stderr."""
        return Path(self._log.name).read_text("utf-8")

    def log(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one event."""
        lines = [json.loads(line) for line in self.log_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it; return its exit code."""
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._said.close()
            self._log.close()


def receive(connection: socket.socket) -> bytes:
    """Return all that comes; a reset ends it too."""
    received = b""
    try:
        while piece := connection.recv(1 << 16):
            received += piece
    except (TimeoutError, ConnectionResetError):
        pass
    return received


@pytest.fixture(scope="session", name="receive")
def _receive() -> Callable[[socket.socket], bytes]:
    """The function above, for tests that cannot import this file by name."""
    return receive


@pytest.fixture(scope="session")
def service(finished_run: Any, commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that any number of tests ask; no rate limit, so that they do not get in each other's way."""
    running = Service(commands, finished_run.out, tmp_path_factory.mktemp("service"), "--rate", 0)
    yield running
    code = running.stop()
    bugs = running.log("bug") + running.log("library")
    assert code == 0
    assert bugs == []


@pytest.fixture(scope="session")
def start_service(finished_run: Any, commands: Commands) -> Callable[..., Service]:
    """Start a service that several tests share; the caller stops it."""
    return lambda folder, *options, out=None: Service(commands, out or finished_run.out, folder, *options)


@pytest.fixture(scope="session")
def another_run(finished_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of another recogniser: of fewer labels, with the embeddings of the finished run."""
    out = finished_run.copy_to(tmp_path_factory.mktemp("another"))
    record = pipeline.run(
        RunConfig(sources=(str(finished_run.photos),), out=str(out), workers=2, only=("Apfelino*", "Moon*", "Tuskana*"))
    )
    assert record["current"]
    return Path(out)


@pytest.fixture
def serve(finished_run: Any, commands: Commands, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start a service of one's own: ``serve("--rate", 5, out=...)``."""
    running: list[Service] = []

    def start(*options: object, out: Path | None = None, ready: bool = True, **environment: str) -> Service:
        folder = tmp_path / f"service {len(running)}"
        running.append(Service(commands, out or finished_run.out, folder, *options, ready=ready, **environment))
        return running[-1]

    yield start
    for one in running:
        one.stop()
