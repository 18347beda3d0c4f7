"""Stages for the contract suite: picklable, and importable by workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fruits.errors import FruitsError
from fruits.learning.moments import Moments

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
                end(self.how)
            yield batch

    def _loses_a_life(self) -> bool:
        if self.lives is None:
            return True
        life = next(self.lives.iterdir(), None)
        if life is not None:
            life.unlink()
        return life is not None


def end(how: str) -> None:
    """End this process at once."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


@dataclass(frozen=True)
class DieAfter:
    """Ends its process after an answer of another stage, as often as there are lives to lose."""

    stage: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
    lives: Path
    how: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in self.stage(batches):
            yield batch
            for life in self.lives.iterdir():
                with suppress(FileNotFoundError):  # another worker has lost it
                    life.unlink()
                    time.sleep(0.05)
                    end(self.how)


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


@dataclass(frozen=True)
class Stream:
    """Doubles shard by shard, looking ahead: it takes a shard, if one comes in time, before it answers the one before.

    An answer tells in place of its process whether that was so. For the first ``ahead`` ones it waits long. It dies of one
    photo as soon as it takes it.
    """

    uri: str = ""
    lives: Path | None = None
    how: str = "exit"
    ahead: int = 0
    streams = True

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with ThreadPoolExecutor(1) as reader:
            shard, number = reader.submit(self._next, batches).result(), 0
            while shard is not None:
                coming = reader.submit(self._next, batches)
                with suppress(TimeoutError):
                    coming.result(60 if number < self.ahead else 0.2)
                ahead = coming.done()
                rows = [{"uri": row["uri"], "number": 2 * row["number"], "pid": int(ahead)} for row in shard]
                yield pa.RecordBatch.from_pylist(rows, SCHEMA)
                shard, number = coming.result(), number + 1

    def _next(self, batches: Iterator[pa.RecordBatch]) -> list[dict[str, Any]] | None:
        rows: list[dict[str, Any]] = []
        for batch in batches:
            rows += batch.to_pylist()
            if any(row["uri"] == self.uri for row in rows) and Die(self.uri, self.lives)._loses_a_life():
                time.sleep(0.05)
                end(self.how)
            if not batch.num_rows:
                break
        return rows or None


class StageError(FruitsError, ValueError):
    """An error that only these tests know."""


@dataclass(frozen=True)
class Linger:
    """Writes the id of its process into a folder, takes its time, then doubles."""

    folder: Path
    seconds: float

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        (self.folder / str(os.getpid())).touch()
        time.sleep(self.seconds)
        yield from Double()(batches)


@dataclass(frozen=True)
class HangAt:
    """Doubles numbers; at one it writes the id of its process into a folder and never comes back."""

    folder: Path
    number: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in Double()(batches):
            if batch["number"][0].as_py() == 2 * self.number:
                (self.folder / str(os.getpid())).touch()
                time.sleep(600)
            yield batch


@dataclass(frozen=True)
class RaiseBesides:
    """Hangs at one number; raises at another, once it hangs there."""

    hang: HangAt
    number: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in self.hang(batches):
            if batch["number"][0].as_py() == 2 * self.number:
                while not any(self.hang.folder.iterdir()):
                    time.sleep(0.02)
                raise StageError("besides")
            yield batch


@dataclass(frozen=True)
class RaiseFrom:
    """Raises at every number from one on."""

    number: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch["number"][0].as_py() >= self.number:
                raise ZeroDivisionError(batch["number"][0].as_py())
            yield from Double()(iter([batch]))


class Tasks:
    """Tells which of Spark's tasks it is."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        rows = [{"uri": str(context.stageId()), "number": context.partitionId(), "pid": os.getpid()} for _ in batches]
        yield pa.RecordBatch.from_pylist(rows, SCHEMA)


# --- For reductions ---------------------------------------------------------------------------------------------------


def text(value: str) -> pa.RecordBatch:
    """A letter."""
    return pa.RecordBatch.from_pydict({"text": [value]})


def joined(left: pa.RecordBatch, right: pa.RecordBatch) -> pa.RecordBatch:
    """The letters, in brackets that show the tree."""
    return text(f"({left['text'][0].as_py()}{right['text'][0].as_py()})")


def refuse(value: str) -> pa.RecordBatch:
    """A letter, if it is not x."""
    if value == "x":
        raise StageError("no x")
    return text(value)


def die(value: str) -> pa.RecordBatch:
    """The end of the process."""
    os._exit(3)


def moments(seed: int) -> pa.RecordBatch:
    """Moments of some rows whose sums round differently in every order."""
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(60 + seed % 7, 40)) * 10.0 ** rng.integers(-3, 4, 40)).astype(np.float32)
    return _to_batch(Moments.from_rows(rows))


def merged(left: pa.RecordBatch, right: pa.RecordBatch) -> pa.RecordBatch:
    """Merge moments."""
    return _to_batch(_from_batch(left).merge(_from_batch(right)))


def _to_batch(value: Moments) -> pa.RecordBatch:
    columns = {"count": [value.count], "mean": [value.mean.tobytes()], "scatter": [value.scatter.tobytes()]}
    return pa.RecordBatch.from_pydict(columns)


def _from_batch(batch: pa.RecordBatch) -> Moments:
    mean = np.frombuffer(batch["mean"][0].as_py())
    return Moments(
        batch["count"][0].as_py(), mean, np.frombuffer(batch["scatter"][0].as_py()).reshape(len(mean), len(mean))
    )


# --- For heads --------------------------------------------------------------------------------------------------------


class Features:
    """Rows as a head learns from them, in small batches."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, 100):
                yield batch.slice(start, 100).select(["label", "weight", "features"])
