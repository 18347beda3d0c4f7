"""Tasks run by Spark's Python workers, as functions for ``mapInArrow``.

An input row is the work of one task: numbers of shards and their bytes. An output row is one answer: Arrow bytes, or an error of
the stage. Errors are returned as rows, because Spark would retry after an exception and then report it as its own. Does not
import pyspark.
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

#: Columns of input and output rows, in Spark's syntax.
WORK: Final = "shards array<int>, works array<binary>"
ANSWER: Final = "shard int, kind string, value binary"
_ANSWER: Final = pa.schema([("shard", pa.int32()), ("kind", pa.string()), ("value", pa.binary())])


@dataclass(frozen=True)
class MapTask:
    """Runs the stage on each shard.

    Parameters
    ----------
    stage : bytes
        The pickled stage.
    """

    stage: bytes

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Map rows of ``WORK`` (Arrow streams) to rows of ``ANSWER``, one per batch of the stage; stop after an error."""
        for shard, work in shards_of_work(batches):
            try:
                stage: Stage = pickle.loads(self.stage)  # noqa: S301 - from the driver
                for batch in stage(iter(pa.ipc.open_stream(work))):
                    yield _answer(shard, "batch", to_ipc(batch))
            except Exception as exc:  # of any type: the driver raises it
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
        """Map rows of ``WORK`` (pickled lists of shards) to rows of ``ANSWER``."""
        for block, work in shards_of_work(batches):
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
        The pickled merge function.
    """

    merge: bytes

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Map rows of ``ANSWER``, in ascending order, to one row per group; two values are in memory at a time."""
        rows = (row for batch in batches for row in zip(*batch.columns, strict=True))
        for group, members in groupby(rows, key=lambda row: row[0].as_py() // FAN_IN):
            values = (from_answer(kind.as_py(), value.as_buffer()) for _, kind, value in members)
            yield _computed(group, lambda values=values: reduce(pickle.loads(self.merge), values))  # type: ignore[misc]  # noqa: S301
        tidy()


def from_answer(kind: str, value: bytes | pa.Buffer) -> pa.RecordBatch:
    """Return the batch of an answer.

    Raises
    ------
    FruitsError
        If the answer is an error.
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


def shards_of_work(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.Buffer]]:
    """Yield the number and the bytes of each shard in rows of ``WORK``."""
    for batch in batches:
        for numbers, data in zip(batch.column(0), batch.column(1), strict=True):
            for number, work in zip(numbers.values, data.values, strict=True):
                yield number.as_py(), work.as_buffer()


def tidy() -> None:
    """Prepare the process for the next task at the end of one; saves a tenth of a second before and after each task.

    Before a task, Spark makes Python re-read the directories of all cached zip files. After a task, Spark collects garbage,
    which traverses every module unless they are frozen.
    """
    for path in [path for path in sys.path_importer_cache if ".zip" in path]:
        sys.path_importer_cache.pop(path, None)
    _freeze_modules()


@cache
def _freeze_modules() -> None:
    gc.collect()
    gc.freeze()


def pickled_error(exc: Exception) -> bytes:
    """Pickle a FruitsError as it is; wrap any other error in an EngineError, with its traceback in the worker's log."""
    if not isinstance(exc, FruitsError):
        traceback.print_exc()
        exc = EngineError(f"a worker failed: {type(exc).__name__}: {exc}")
    try:
        data = pickle.dumps(exc)
        pickle.loads(data)  # noqa: S301
    except Exception:  # an error's own __reduce__ may raise anything
        return pickle.dumps(EngineError(f"{type(exc).__name__}: {exc}"))
    return data


def _computed(number: int, compute: Callable[[], pa.RecordBatch]) -> pa.RecordBatch:
    """Return the answer of a computation, run on one BLAS thread: its bits must not depend on the number of cores."""
    import numpy as np  # noqa: F401, PLC0415 - threadpoolctl limits loaded libraries only
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    try:
        with threadpool_limits(1, "blas"):
            return _answer(number, "batch", to_ipc(compute()))
    except Exception as exc:  # of any type: the driver raises it
        return _answer(number, "error", pickled_error(exc))


def _answer(shard: int, kind: str, value: bytes) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([shard], pa.int32()), pa.array([kind]), pa.array([value])], schema=_ANSWER
    )
