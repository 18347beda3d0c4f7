"""``fruits run --watch``: one line per round until it is stopped."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import typer

from fruits.cli.terminal import Display, note
from fruits.config import RunConfig
from fruits.errors import counted
from fruits.storage.sanitising import json_text

#: Seconds between two rounds, unless said otherwise.
INTERVAL_S: Final = 300.0


class _TerminatedError(BaseException):
    """SIGTERM has come. No :class:`Exception`, so that it ends the work as Ctrl-C does."""


def watch(config: RunConfig, interval_s: float, summary: tuple[str, ...], *, as_json: bool) -> None:
    """Run rounds until SIGTERM (exit code 0) or Ctrl-C (130), or until an error that no later round can mend (1 or 2)."""
    from fruits.training import watch as watching  # noqa: PLC0415 - keeps 'fruits --help' quick

    with _until_terminated():
        for done in watching.rounds(config, Display, command=shlex.join(["fruits", *sys.argv[1:]])):
            typer.echo(_as_json(done, summary) if as_json else _line(done, config.out, interval_s))
            time.sleep(interval_s)


@contextmanager
def _until_terminated() -> Iterator[None]:
    """End the block, and no more, at SIGTERM."""

    def stop(*_: Any) -> NoReturn:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _TerminatedError:
        note("stopped; what was computed is kept: the same command goes on")
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_json(done: Any, summary: tuple[str, ...]) -> str:
    return json_text(
        {
            "round": done.number,
            "started": done.started,
            "outcome": done.outcome,
            "photos": done.photos,
            "seconds": round(done.seconds, 3),
            "error": None if done.error is None else str(done.error),
            "result": None if done.record is None else {name: done.record[name] for name in summary},
        }
    )


def _line(done: Any, out: str, interval_s: float) -> str:
    head = f"round {done.number:,}, {done.started[11:19]} UTC"
    then = f"next in {interval_s:,.0f} s"
    if done.error is not None:
        return f"{head}: failed: {' '.join(str(done.error).split())}; {then}"
    photos, record = counted(done.photos, "photo"), done.record
    bad = record["failed"] if record is not None else 0
    failed = f", {bad:,} failed and are tried again" if bad else ""
    if done.outcome == "same":
        return f"{head}: nothing new among {photos}{failed}; {then}"
    score = f", accuracy {record['metrics']['accuracy']:.1%}" if record["evaluated"] else ""
    did = f"{record['computed']:,} computed{failed}{score}, in {done.seconds:,.1f} s"
    return f"{head}: {photos}, {did}; report in {out}/report.html; {then}"
