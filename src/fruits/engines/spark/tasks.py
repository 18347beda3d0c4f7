"""What Spark's Python workers run: the tasks of an engine as functions for ``mapInArrow``.

A row in is what one task does, shards by number with their bytes; a row out one answer: Arrow bytes, or an error of the stage.
Errors travel as rows because an exception would make Spark try again and then report it as its own. Imports no pyspark.
"""

from __future__ import annotations

import gc
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, reduce
from itertools import groupby
from typing import Final

import pyarrow as pa
import pyarrow.ipc

from fruits.engines import FAN_IN, Stage, merge_in_order
from fruits.errors import EngineError, FruitsError

#: Columns of what goes in and of what comes out, in Spark's words.
WORK: Final = "shards array<int>, works array<binary>"
ANSWER: Final = "shard int, kind string, value binary"
_ANSWER: Final = pa.schema([("shard", pa.int32()), ("kind", pa.string()), ("value", pa.binary())])


@dataclass(frozen=True)
class MapTask:
    """Runs the stage on each shard.

    Parameters
    ----------
    stage : bytes
        Pickled.
    """

    stage: bytes

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take rows of ``WORK``, Arrow streams; yield rows of ``ANSWER``, one per batch of the stage, until there is an error."""
        for shard, work in works(batches):
            try:
                stage: Stage = pickle.loads(self.stage)  # noqa: S301 - from our own driver
                for batch in stage(iter(pa.ipc.open_stream(work))):
                    yield _answer(shard, "batch", to_ipc(batch))
            except Exception as exc:  # any: the driver raises it
                yield _answer(shard, "error", pickled_error(exc))
                break
        tidy()


@dataclass(frozen=True)
class PartialTask:
    """Computes the partial results of a block of neighbouring shards and merges them.

    Parameters
    ----------
    functions : bytes
        ``partial`` and ``merge``, pickled.
    """

    functions: bytes

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take rows of ``WORK``, pickled lists of shards; yield a row of ``ANSWER`` for each."""
        for block, work in works(batches):
            yield _computed(block, lambda work=work: self._reduce(work))  # type: ignore[misc]
        tidy()

    def _reduce(self, work: pa.Buffer) -> pa.RecordBatch:
        partial, merge = pickle.loads(self.functions)  # noqa: S301
        merged: pa.RecordBatch = merge_in_order(map(partial, pickle.loads(work)), merge)  # noqa: S301
        return merged


@dataclass(frozen=True)
class MergeTask:
    """Merges ``FAN_IN`` neighbours into one.

    Parameters
    ----------
    merge : bytes
        Pickled.
    """

    merge: bytes

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Take rows of ``ANSWER`` in ascending order; yield a row for each group. Two values are held at a time."""
        rows = (row for batch in batches for row in zip(*batch.columns, strict=True))
        for group, members in groupby(rows, key=lambda row: row[0].as_py() // FAN_IN):
            values = (from_answer(kind.as_py(), value.as_buffer()) for _, kind, value in members)
            yield _computed(group, lambda values=values: reduce(pickle.loads(self.merge), values))  # type: ignore[misc]  # noqa: S301
        tidy()


def from_answer(kind: str, value: bytes | pa.Buffer) -> pa.RecordBatch:
    """Return the batch in an answer.

    Raises
    ------
    FruitsError
        That in the answer.
    """
    if kind == "error":
        raise pickle.loads(value)  # noqa: S301
    batch: pa.RecordBatch = pa.ipc.open_stream(value).read_next_batch()
    return batch


def to_ipc(part: pa.Table | pa.RecordBatch) -> bytes:
    """Return the rows as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.schema) as writer:
        writer.write(part)
    return bytes(sink.getvalue())


def works(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.Buffer]]:
    """Yield shards by number, with their bytes, from rows of ``WORK``."""
    for batch in batches:
        for numbers, data in zip(batch.column(0), batch.column(1), strict=True):
            for number, work in zip(numbers.values, data.values, strict=True):
                yield number.as_py(), work.as_buffer()


def tidy() -> None:
    """Leave the process, at the end of a task, so that Spark does not take a tenth of a second before and after each.

    Before a task, Spark has Python read the directories anew of those zip files that it remembers; after it, Spark
    collects garbage, and looks through every module for it, unless they are set aside.
    """
    for path in [path for path in sys.path_importer_cache if ".zip" in path]:
        sys.path_importer_cache.pop(path, None)
    _set_modules_aside()


@cache
def _set_modules_aside() -> None:
    gc.collect()
    gc.freeze()


def pickled_error(exc: Exception) -> bytes:
    """Pickle an error of ours as it is, any other with its name, and its traceback in the worker's log."""
    if not isinstance(exc, FruitsError):
        traceback.print_exc()
        exc = EngineError(f"a worker failed: {type(exc).__name__}: {exc}")
    try:
        data = pickle.dumps(exc)
        pickle.loads(data)  # noqa: S301
    except Exception:  # whatever an error's own __reduce__ does
        return pickle.dumps(EngineError(f"{type(exc).__name__}: {exc}"))
    return data


def _computed(number: int, compute: Callable[[], pa.RecordBatch]) -> pa.RecordBatch:
    """Return the answer of a computation whose bits must not depend on the number of cores."""
    import numpy as np  # noqa: F401, PLC0415 - only what is loaded by then can be limited
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    try:
        with threadpool_limits(1, "blas"):
            return _answer(number, "batch", to_ipc(compute()))
    except Exception as exc:  # any: the driver raises it
        return _answer(number, "error", pickled_error(exc))


def _answer(shard: int, kind: str, value: bytes) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([shard], pa.int32()), pa.array([kind]), pa.array([value])], schema=_ANSWER
    )
