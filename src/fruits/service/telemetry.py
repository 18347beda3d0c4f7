"""Prometheus metrics and JSON log lines for the operator.

A line contains no photo, file name, label or address: addresses are hashed with a random salt that changes every day and is never
stored. A separate thread writes the lines, so that a slow terminal delays no request; lines beyond its queue are dropped and
counted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import secrets
import sys
import threading
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector

from fruits.storage.sanitising import json_text

_SECONDS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
_LINES_WAITING: Final = 10_000
_FLUSH_S: Final = 0.1
#: Bytes that a pipe takes in one piece (POSIX), so that the lines of several processes do not mix.
_PIECE_BYTES: Final = 4096
#: Name of the variable that makes ``prometheus_client`` keep its numbers in files of a folder, one of each process.
METRICS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"


class Telemetry:
    """Counters and log lines of one service.

    Parameters
    ----------
    stream : text file, optional
        Destination of the lines; stderr by default.
    quiet : bool
        Whether lines of level ``info`` are left out.
    process : int, optional
        Number of this process, of several that share metrics; stands in every line.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False, process: int | None = None) -> None:
        self.registry = CollectorRegistry()
        self._process = process
        if process is None:
            ProcessCollector(registry=self.registry)
        new: Any = {"registry": self.registry}
        self.requests = Counter("fruits_requests", "Requests by route and status.", ("route", "status"), **new)
        self.errors = Counter("fruits_errors", "Answers that are errors, by code.", ("code",), **new)
        self.photos = Counter("fruits_photos", "Photos recognised, by outcome.", ("outcome",), **new)
        self.again = Counter("fruits_photos_again", "Further answers to a photo that was recognised already.", **new)
        self.rejected = Counter("fruits_photos_rejected", "Photos that could not be opened, by code.", ("code",), **new)
        self.seconds = Histogram(
            "fruits_recognise_seconds", "From a request's head to its answer.", buckets=_SECONDS, **new
        )
        stages = Counter("fruits_stage_seconds", "Seconds that photos took, by stage.", ("stage",), **new)
        self.stages = {stage: stages.labels(stage) for stage in ("queue", "decode", "infer")}
        self.batches = Counter("fruits_batches", "Batches that workers recognised.", **new)
        self.reloads = Counter("fruits_reloads", "New bundles, by what came of them.", ("result",), **new)
        self.waiting = Gauge(
            "fruits_photos_waiting", "Photos that wait or are worked on.", **new, multiprocess_mode="livesum"
        )
        self.connections = Gauge("fruits_connections", "Open connections.", **new, multiprocess_mode="livesum")
        self.model = Gauge(
            "fruits_model_info", "1 for the bundle that is served.", ("identity",), **new, multiprocess_mode="livemax"
        )
        self.lines_dropped = Counter(
            "fruits_log_lines_dropped", "Log lines dropped because the writer was too slow.", **new
        )
        self._served = ""
        self._salt_day, self._salt = "", b""
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._lines: queue.Queue[str | None] = queue.Queue(_LINES_WAITING)
        self._writer: threading.Thread | None = None

    def start(self) -> None:
        """Start the writer thread."""
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def stop(self) -> None:
        """Write the remaining lines and end the writer thread."""
        if self._writer is not None:
            with suppress(queue.Full):
                self._lines.put(None, timeout=5)
            self._writer.join(5)
            self._writer = None

    def log(self, event: str, *, level: str = "info", **values: Any) -> None:
        """Write a line. Values are plain and must not contain text from clients."""
        if self._quiet and level == "info":
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event, **values}
        if self._process is not None:
            line["process"] = self._process
        try:
            self._lines.put_nowait(json_text(line, ensure_ascii=True, default=str))
        except queue.Full:
            self.lines_dropped.inc()

    def log_bug(self, request_id: str, exc: BaseException) -> None:
        """Log an unexpected error with its traceback."""
        said = "".join(traceback.format_exception(exc))[-8000:]
        self.log("bug", level="error", request_id=request_id, error=type(exc).__name__, trace=said)

    def client(self, address: str) -> str:
        """Return a pseudonym of an address: a salted hash, constant for one day (UTC) and not reversible."""
        today = datetime.now(UTC).date().isoformat()
        if today != self._salt_day:
            self._salt_day, self._salt = today, secrets.token_bytes(16)
        return hashlib.blake2b(address.encode(), key=self._salt, digest_size=6).hexdigest()

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format; those of all processes that share a folder, merged."""
        if self._process is None:
            return generate_latest(self.registry)
        merged = CollectorRegistry()
        MultiProcessCollector(merged, os.environ[METRICS_FOLDER])  # type: ignore[no-untyped-call]
        return generate_latest(merged)

    def serving(self, identity: str) -> None:
        """Name the bundle that is served."""
        if self._served and self._served != identity:
            self.model.labels(self._served).set(0)  # files of several processes cannot forget a label
        self._served = identity
        self.model.labels(identity).set(1)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            lines = [line]
            time.sleep(_FLUSH_S)  # lines that arrive meanwhile go into the same write
            try:
                while len(lines) < _LINES_WAITING and (more := self._lines.get_nowait()) is not None:
                    lines.append(more)
                if len(lines) < _LINES_WAITING:
                    self._lines.put_nowait(None)
            except queue.Empty:
                pass
            self._emit(lines)

    def _emit(self, lines: list[str]) -> None:
        try:
            if self._process is None:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
                return
            piece = ""
            for line in (*lines, None):
                if line is None or len(piece) + len(line) >= _PIECE_BYTES:  # lines are ASCII
                    self._stream.write(piece)
                    self._stream.flush()
                    piece = ""
                if line is not None:
                    piece += line + "\n"
        except (OSError, ValueError):  # the reader of the stream is gone: the service continues
            self.lines_dropped.inc(len(lines))


def remove_live_metrics(pid: int, folder: Path) -> None:
    """Remove what counts only while a process lives, such as its open connections, from the shared metrics."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


class LogHandler(logging.Handler):
    """Logging handler that writes library messages (uvicorn's, warnings) as the same JSON lines."""

    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__(logging.WARNING)
        self._telemetry = telemetry

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; only the template of the message, because its values may come from a client."""
        values: dict[str, Any] = {"logger": record.name, "message": str(record.msg)[:300]}
        if record.exc_info and record.exc_info[1] is not None:
            values["trace"] = "".join(traceback.format_exception(record.exc_info[1]))[-8000:]
        self._telemetry.log("library", level=record.levelname.lower(), **values)
