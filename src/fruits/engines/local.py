"""The local engine: worker processes on this machine, each running the stage on one shard at a time.

Processes rather than threads, because decoding many small photos holds Python's lock. A worker whose parent dies ends by itself,
because its pipe closes.
"""

from __future__ import annotations

import multiprocessing as mp
import pickle
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self, TypeVar, cast

import pyarrow as pa
import pyarrow.ipc

from fruits.engines import ATTEMPTS, Merge, Stage, merge_in_order, shard_name
from fruits.errors import EngineError, FruitsError, option

T = TypeVar("T")


class LocalEngine:
    """Runs shards in ``workers`` processes.

    Parameters
    ----------
    workers : int
        Number of processes, 1 or more.
    """

    name = "local"

    def __init__(self, workers: int) -> None:
        self.workers = workers
        # Start the fork server now: its half second of imports runs while the caller lists photos.
        if sys.platform == "linux":
            _context()
            forkserver.ensure_running()

    def start(self) -> None:
        """Do nothing: workers are started with their shards."""

    def map_batches(self, shards: Iterable[pa.Table], stage: Stage, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """See :class:`fruits.engines.Engine`."""
        todo = iter(shards)  # each is made when a worker is free for it
        pool: list[_Worker] = []
        try:
            while len(pool) < self.workers and (shard := next(todo, None)) is not None:
                pool.append(_Worker.start(stage, shard, 1))
            while pool:
                ready = cast("list[Connection]", wait([worker.pipe for worker in pool]))
                for worker in [worker for worker in pool if worker.pipe in ready]:
                    try:
                        kind, value = worker.pipe.recv()
                    except (EOFError, OSError):
                        pool.remove(worker)
                        pool.append(_Worker.start(stage, *_again(worker)))
                        continue
                    if kind == "error":
                        raise value
                    if kind == "batch":
                        worker.received.extend(batch.cast(schema) for batch in pa.ipc.open_stream(value))
                        continue
                    # Yield only complete shards: if the worker dies before the end of a shard, another repeats its rows.
                    received = worker.received
                    if (shard := next(todo, None)) is not None:
                        worker.give(shard, 1)
                    else:
                        pool.remove(worker)
                        worker.stop()
                    yield from received
        finally:
            for worker in pool:
                worker.process.kill()
                worker.stop()

    def reduce_batches(
        self, shards: Iterable[T], partial: Callable[[T], pa.RecordBatch], merge: Merge
    ) -> pa.RecordBatch:
        """See :class:`fruits.engines.Engine`. Threads, because NumPy's products do not hold Python's lock."""
        import numpy as np  # noqa: F401, PLC0415 - threadpoolctl limits loaded libraries only
        from threadpoolctl import threadpool_limits  # noqa: PLC0415

        # One thread per product: the last bits depend on how a product is split among threads.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(self.workers, thread_name_prefix="partial") as pool:
            return merge_in_order(_in_order(pool, partial, shards, ahead=self.workers + 1), merge)

    def executors(self) -> list[dict[str, Any]]:
        """See :class:`fruits.engines.Engine`. Empty: all workers are children of this process."""
        return []

    def close(self) -> None:
        """See :class:`fruits.engines.Engine`. Nothing to release: workers end with their ``map_batches``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class _Worker:
    """A worker process, its pipe, its present shard, and the batches received for it so far."""

    process: BaseProcess
    pipe: Connection
    shard: pa.Table
    attempt: int
    received: list[pa.RecordBatch] = field(default_factory=list)

    @classmethod
    def start(cls, stage: Stage, shard: pa.Table, attempt: int) -> _Worker:
        context = _context()
        ours, theirs = context.Pipe()
        pickled = pickle.dumps(stage)
        process = context.Process(target=_work, args=(theirs, pickled), daemon=True)
        # A worker imports the caller's script only if the stage is defined there: a script without a guard would run again.
        with nullcontext() if b"__main__" in pickled else _hidden_main():
            process.start()
        theirs.close()
        worker = cls(process, ours, shard, attempt)
        worker.give(shard, attempt)
        return worker

    def give(self, shard: pa.Table, attempt: int) -> None:
        self.shard, self.attempt, self.received = shard, attempt, []
        # If it died before, the next read from the pipe detects it.
        with suppress(OSError):
            self.pipe.send_bytes(_to_ipc(shard))

    def stop(self) -> None:
        self.pipe.close()
        self.process.join()


def _in_order(
    pool: ThreadPoolExecutor, partial: Callable[[T], pa.RecordBatch], shards: Iterable[T], *, ahead: int
) -> Iterator[pa.RecordBatch]:
    """Yield the partial results in the order of the shards, computing at most ``ahead`` of them in advance."""
    coming: deque[Future[pa.RecordBatch]] = deque()
    try:
        for shard in shards:
            coming.append(pool.submit(partial, shard))
            if len(coming) >= ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        for future in coming:
            future.cancel()


def _again(worker: _Worker) -> tuple[pa.Table, int]:
    """Return the shard of a dead worker for another attempt."""
    worker.stop()
    if worker.attempt >= ATTEMPTS:
        raise EngineError(
            f"{ATTEMPTS} workers died (exit code {worker.process.exitcode}) on {shard_name(worker.shard)}; is memory short "
            f"(try {option('workers', 1)}), or does one of them crash its decoder? What was finished is kept: run again to go on"
        )
    return worker.shard, worker.attempt + 1


def _context() -> Any:
    """Return a multiprocessing context that is safe with threads; with forkserver, imports run only once.

    The stage's module is given by name and loaded by the server process: the engine does not import it.
    """
    if sys.platform == "linux":
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(["fruits.embedding.stage"])
        return context
    return mp.get_context("spawn")


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Let processes that are started here begin without importing ``__main__``.

    multiprocessing reads the path of the script from the module ``__main__`` (``spawn.get_preparation_data``) and runs it in each
    child; it has no option to leave that out.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _to_ipc(table: pa.Table) -> bytes:
    """Return the table as an Arrow stream. Pickling a slice would serialise the whole parent table."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _work(pipe: Connection, pickled_stage: bytes) -> None:
    """Main function of a worker: process shards until the pipe closes."""
    stage: Stage = pickle.loads(pickled_stage)  # noqa: S301 - from the parent process
    while True:
        try:
            shard = pa.ipc.open_stream(pipe.recv_bytes())
        except (EOFError, KeyboardInterrupt):
            return
        try:
            for batch in stage(iter(shard)):
                pipe.send(("batch", _to_ipc(pa.Table.from_batches([batch]))))
            pipe.send(("done", None))
        except (BrokenPipeError, KeyboardInterrupt):
            return
        except FruitsError as exc:
            pipe.send(("error", exc))
        except Exception as exc:  # anything else is a bug; the parent shows it with its traceback
            pipe.send(("error", EngineError(f"a worker failed: {type(exc).__name__}: {exc}")))
            raise
