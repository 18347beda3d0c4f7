"""Several processes that answer on one port: ``fruits serve --processes N``.

A small network takes less time than Python's work around it, which one process does on one core at a time. The parent reserves
the port, starts the children and hands signals on; the kernel divides connections among the children (SO_REUSEPORT). They share
one database, one table of rate limits and one folder of metrics. A child that dies is started again. Children notice by the end
of their stdin that the parent is gone, and stop.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final, cast

from fruits import errors
from fruits.errors import FruitsError
from fruits.service.http.limits.rate_limits import SharedBuckets
from fruits.service.settings import ServiceConfig
from fruits.service.telemetry import METRICS_FOLDER, Telemetry, remove_live_metrics
from fruits.storage.sanitising import json_text

#: Seconds until a child that died is started again: first, and at most after several deaths in a row.
_AGAIN_S: Final = (1.0, 30.0)
#: Seconds after which a child that ran counts as healthy again.
_HEALTHY_S: Final = 60.0
_TICK_S: Final = 0.5
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(slots=True)
class _Child:
    number: int
    process: subprocess.Popen[str] | None = None
    listening: bool = False
    started: float = 0.0
    deaths: int = 0
    due: float = 0.0
    failure: FruitsError | None = field(default=None)


class Processes:
    """Parent of the processes of one service.

    Parameters
    ----------
    config : ServiceConfig
    address : tuple of (str, int)
        Host and port, reserved by the caller.
    telemetry : Telemetry
    quiet : bool
    """

    def __init__(self, config: ServiceConfig, address: tuple[str, int], telemetry: Telemetry, *, quiet: bool) -> None:
        workers = max(1, config.workers // config.processes)
        self._config = replace(config, host=address[0], port=address[1], workers=workers)
        self._telemetry, self._quiet = telemetry, quiet
        self._children = [_Child(number) for number in range(config.processes)]
        self._shared = tempfile.mkdtemp(prefix="fruits-serve-")
        self._wake, self._woken = socket.socketpair()
        self._stopping = self._force = False
        self.interrupted = False

    def run(self, listening: Callable[[], None]) -> None:
        """Run until a signal stops the service.

        Parameters
        ----------
        listening : callable
            Called once, when every process listens.

        Raises
        ------
        FruitsError
            If the first process cannot start: the bundle, the database or the address is not usable.
        """
        SharedBuckets.create(Path(self._shared) / "limits")
        (Path(self._shared) / "metrics").mkdir()
        try:
            with self._signals():
                # The first one alone: it makes the database, and says what is wrong with the bundle once.
                self._start(self._children[0])
                if not self._until_listening(self._children[:1]):
                    return
                for child in self._children[1:]:
                    self._start(child)
                if self._until_listening(self._children):
                    listening()
                while not self._stopping:
                    self._pause()
                    self._look_after()
        finally:
            self._end()
            shutil.rmtree(self._shared, ignore_errors=True)

    def _start(self, child: _Child) -> None:
        # Photos are adopted once: rows that are missing after a process died are a fault.
        config = replace(self._config, adopt=self._config.adopt and not child.deaths)
        settings = {
            "config": asdict(config), "quiet": self._quiet, "shared": self._shared, "number": child.number,
        }  # fmt: skip
        child.listening, child.started, child.failure = False, time.monotonic(), None
        child.process = subprocess.Popen(
            [sys.executable, "-m", "fruits.service.http.processes"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, METRICS_FOLDER: str(Path(self._shared) / "metrics")},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which hands it on
        )  # fmt: skip
        told, _ = _pipes(child.process)
        with suppress(BrokenPipeError):
            told.write(json_text(settings) + "\n")
            told.flush()
        threading.Thread(target=self._read_messages, args=(child, child.process), daemon=True).start()

    def _read_messages(self, child: _Child, process: subprocess.Popen[str]) -> None:
        """Take what a child says until it ends."""
        for line in _pipes(process)[1]:
            said = json.loads(line)
            if "error" in said:
                kind = getattr(errors, said["error"], FruitsError)
                child.failure = kind(said["message"])
            else:
                child.listening = True
            self._call()
        self._call()

    def _until_listening(self, children: list[_Child]) -> bool:
        """Wait for children that start for the first time; return whether none was stopped meanwhile."""
        while not all(child.listening for child in children):
            for child in children:
                status = child.process.poll() if child.process is not None else None
                if status is not None:
                    time.sleep(0.05)  # its last words may still be on their way
                    ended = f"a process of the service ended at its start with status {status}; see its messages above"
                    raise child.failure or FruitsError(ended)
            if self._stopping:
                return False
            self._pause()
        return not self._stopping

    def _look_after(self) -> None:
        """Start children that died again, later each time."""
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                remove_live_metrics(child.process.pid, Path(self._shared) / "metrics")
                child.deaths = 1 if now - child.started > _HEALTHY_S else child.deaths + 1
                child.due = now + min(_AGAIN_S[1], _AGAIN_S[0] * 2 ** (child.deaths - 1))
                reason = str(child.failure) if child.failure else f"status {child.process.returncode}"
                self._telemetry.log("process_died", level="error", process=child.number, reason=reason[:500])
                self._close(child)
            if child.process is None and now >= child.due:
                self._start(child)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: Any) -> None:
        if number == signal.SIGHUP:
            self._signal_all(signal.SIGHUP)
            return
        self.interrupted |= number == signal.SIGINT
        if self._stopping:  # a second signal stops at once
            self._signal_all(signal.SIGTERM)
        self._stopping = True
        self._call()

    def _signal_all(self, number: int) -> None:
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(number)

    def _end(self) -> None:
        """Stop the children and wait for them; signals that come meanwhile still reach them."""
        with self._signals():
            self._stopping = True
            self._signal_all(signal.SIGTERM)
            for child in self._children:
                if child.process is not None:
                    child.process.wait()
                    self._close(child)
        self._wake.close()
        self._woken.close()

    @staticmethod
    def _close(child: _Child) -> None:
        if child.process is not None:
            for stream in _pipes(child.process):
                with suppress(OSError, ValueError):
                    stream.close()
            child.process = None

    def _call(self) -> None:
        with suppress(OSError):
            self._wake.send(b"!")

    def _pause(self) -> None:
        """Wait for news, half a second at most."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if selector.select(_TICK_S):
                self._woken.recv(1024)


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    return cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)


def main() -> None:
    """Run one child: settings are one line on stdin, what it says to the parent are lines on stdout."""
    from fruits.service.http.server import serve_child  # noqa: PLC0415 - it imports this module

    settings = json.loads(sys.stdin.readline())
    config = ServiceConfig(**{name: _plain(value) for name, value in settings["config"].items()})
    threading.Thread(target=_until_orphaned, daemon=True).start()

    def send(**words: Any) -> None:
        with suppress(BrokenPipeError):
            sys.stdout.write(json_text(words) + "\n")
            sys.stdout.flush()

    try:
        serve_child(
            config, number=settings["number"], shared=Path(settings["shared"]), quiet=settings["quiet"],
            listening=lambda: send(listening=True),
        )  # fmt: skip
    except FruitsError as exc:
        send(error=type(exc).__name__, message=str(exc))
        sys.exit(1)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _until_orphaned() -> None:
    """Stop when the parent is gone: its end of stdin is closed by the kernel, whatever killed it."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
