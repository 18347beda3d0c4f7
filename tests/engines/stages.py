"""Stages for the contract suite: picklable, and importable by workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from fruits.errors import FruitsError

SCHEMA = pa.schema([pa.field("uri", pa.string()), pa.field("number", pa.int64()), pa.field("pid", pa.int64())])


@dataclass(frozen=True)
class Double:
    """Doubles the numbers, one batch of at most ``rows`` out for what comes in."""

    rows: int = 10

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, self.rows):
                some = batch.slice(start, self.rows).to_pylist()
                yield pa.RecordBatch.from_pylist(
                    [{"uri": row["uri"], "number": 2 * row["number"], "pid": os.getpid()} for row in some], SCHEMA
                )


@dataclass(frozen=True)
class Raise:
    """Raises at one photo; all others go through."""

    uri: str
    error: Exception

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in Double(1)(batches):
            if batch["uri"][0].as_py() == self.uri:
                raise self.error
            yield batch


@dataclass(frozen=True)
class Die:
    """Ends its process at one photo, after giving what came before: always, or as often as there are lives to lose."""

    uri: str
    lives: Path | None = None
    how: str = "exit"

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in Double(1)(batches):
            if batch["uri"][0].as_py() == self.uri and self._loses_a_life():
                # What was sent reaches the parent first, so that it must choose what to do with it.
                time.sleep(0.05)
                if self.how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                os._exit(3)
            yield batch

    def _loses_a_life(self) -> bool:
        if self.lives is None:
            return True
        life = next(self.lives.iterdir(), None)
        if life is not None:
            life.unlink()
        return life is not None


@dataclass(frozen=True)
class Announce:
    """Writes the id of its process into a folder, then works for ever, a little at a time."""

    folder: Path

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        (self.folder / str(os.getpid())).touch()
        while True:
            time.sleep(0.02)
            yield from Double()(batches)
            yield pa.RecordBatch.from_pylist([], SCHEMA)


class StageError(FruitsError, ValueError):
    """An error that only these tests know."""
