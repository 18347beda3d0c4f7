"""The local engine: worker processes on this machine, each running the stage on one shard after the other.

Processes rather than threads, because decoding many small photos holds Python's lock. A worker whose parent dies ends by itself,
because its pipe closes.
"""

from __future__ import annotations

import gc
import multiprocessing as mp
import pickle
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.abc import MetaPathFinder
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, Final, Self, TypeVar, cast

import pyarrow as pa
import pyarrow.ipc

from fruits.engines import ATTEMPTS, Merge, Stage, merge_in_order, shard_name
from fruits.errors import EngineError, FruitsError, option

T = TypeVar("T")

#: Module of the usual stage, given by name: the engine does not import it.
_PRELOADED: Final = "fruits.embedding.stage"


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
        self._early: list[_Worker] = []
        # Start the fork server now: its half second of imports runs while the caller lists photos.
        if sys.platform == "linux":
            _context()
            forkserver.ensure_running()

    def start(self) -> None:
        """Do nothing: workers are started with their shards."""

    def start_early(self, most: int) -> None:
        """Start up to ``most`` workers, which load what they need to embed, before there is a stage and a shard for them.

        The next :meth:`map_batches` uses them, or ends them.
        """
        while len(self._early) < min(most, self.workers):
            self._early.append(_Worker.start(early=True))

    def map_batches(self, shards: Iterable[pa.Table], stage: Stage, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """See :class:`fruits.engines.Engine`."""
        if getattr(stage, "streams", False):
            shards = (shard for shard in shards if shard.num_rows)
        waiting, pickled = _Waiting(shards, self.workers), pickle.dumps(stage)
        pool: list[_Worker] = []
        ended: list[_Worker] = []
        # Only a stage that is defined in the caller's script needs it in the worker: without a guard, it would run again.
        has_main = b"__main__" in pickled
        try:
            while len(pool) < self.workers and (one := waiting.take()) is not None:
                early = self._early.pop() if self._early and not has_main else None
                pool.append((early or _Worker.start(has_main=has_main)).begin(pickled, one))
            self._end_early()
            for worker in pool:
                waiting.feed(worker)
            while pool:
                ready = cast("list[Connection]", wait([worker.pipe for worker in pool]))
                for worker in [worker for worker in pool if worker.pipe in ready]:
                    try:
                        kind, value = worker.pipe.recv()
                    except (EOFError, OSError):
                        pool.remove(worker)
                        pool.append(_Worker.start(has_main=has_main).begin(pickled, waiting.again(worker)))
                        continue
                    if kind == "error":
                        raise value
                    if value is not None:
                        answer = pa.ipc.open_stream(value)
                        same = answer.schema.equals(schema)
                        worker.received.extend(batch if same else batch.cast(schema) for batch in answer)
                    if kind == "batch":
                        continue
                    # Yield only complete shards: if the worker dies before the end of a shard, another repeats its rows.
                    received, worker.received = worker.received, []
                    worker.given.popleft()
                    waiting.feed(worker)
                    if not worker.given:
                        pool.remove(worker)
                        worker.pipe.close()
                        ended.append(worker)
                    yield from received
        finally:
            self._end_early()
            for worker in pool:
                worker.process.kill()
            for worker in (*pool, *ended):
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
        """See :class:`fruits.engines.Engine`. Workers end with their ``map_batches``; this ends those that had none."""
        self._end_early()

    def _end_early(self) -> None:
        """End the workers that have no stage."""
        while self._early:
            worker = self._early.pop()
            worker.process.kill()
            worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Given:
    """A shard, and which attempt it is."""

    shard: pa.Table
    attempt: int = 1


@dataclass(slots=True)
class _Worker:
    """A worker process, its pipe, the shards that it has, and the batches received so far for the first of them."""

    process: BaseProcess
    pipe: Connection
    given: deque[_Given] = field(default_factory=deque)
    received: list[pa.RecordBatch] = field(default_factory=list)

    @classmethod
    def start(cls, *, early: bool = False, has_main: bool = False) -> _Worker:
        """Start a process; ``has_main``: it imports the caller's script."""
        context = _context()
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, early), daemon=True)
        with nullcontext() if has_main else _hidden_main():
            process.start()
        theirs.close()
        return cls(process, ours)

    def begin(self, pickled_stage: bytes, first: _Given) -> Self:
        """Give it a stage and the first shard."""
        with suppress(OSError):  # as in give()
            self.pipe.send_bytes(pickled_stage)
        self.give(first)
        return self

    def give(self, one: _Given) -> None:
        self.given.append(one)
        # If it died before, the next read from the pipe detects it.
        with suppress(OSError):
            self.pipe.send_bytes(_to_ipc(one.shard))

    def stop(self) -> None:
        self.pipe.close()
        self.process.join()


class _Waiting:
    """Shards that no worker has yet. Few are in memory: each is made when it is about to be given."""

    def __init__(self, shards: Iterable[pa.Table], workers: int) -> None:
        self._more, self._workers = iter(shards), workers
        self._next: deque[_Given] = deque()

    def take(self, *, leave: int = 0) -> _Given | None:
        """Return the next shard; None if no more than ``leave`` are left."""
        while len(self._next) <= leave and (shard := next(self._more, None)) is not None:
            self._next.append(_Given(shard))
        return self._next.popleft() if len(self._next) > leave else None

    def feed(self, worker: _Worker) -> None:
        """Give a worker the shard after its present one, so that it need not wait; the last ones go to the worker that is free.

        A shard of a worker that died is a worker's only one: what kills a worker is told by name.
        """
        while len(worker.given) < 2 and all(one.attempt == 1 for one in worker.given):
            leave = self._workers if worker.given else 0
            if worker.given and self._next and self._next[0].attempt > 1:
                return
            if (one := self.take(leave=leave)) is None:
                return
            worker.give(one)

    def again(self, dead: _Worker) -> _Given:
        """Return the first shard of a dead worker for another attempt; the others wait again."""
        dead.stop()
        first, *others = dead.given
        if first.attempt >= ATTEMPTS:
            raise EngineError(
                f"{ATTEMPTS} workers died (exit code {dead.process.exitcode}) on {shard_name(first.shard)}; is memory short "
                f"(try {option('workers', 1)}), or does one of them crash its decoder? What was finished is kept: run again "
                "to go on"
            )
        self._next.extendleft(_Given(one.shard, one.attempt + 1) for one in reversed(others))
        return _Given(first.shard, first.attempt + 1)


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


def _context() -> Any:
    """Return a multiprocessing context that is safe with threads; with forkserver, imports run only once."""
    if sys.platform == "linux":
        context = mp.get_context("forkserver")
        context.set_forkserver_preload([_PRELOADED])
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


def _work(pipe: Connection, early: bool) -> None:
    """Main function of a worker: receive a stage, then process shards until the pipe closes."""
    _forgo_pandas()
    gc.freeze()  # what is loaded stays: the collector need not look at it again and again
    if early:
        import_module(_PRELOADED).start_early()
    try:
        stage: Stage = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from the parent process
    except (EOFError, OSError, KeyboardInterrupt):
        return
    coming: SimpleQueue[bytes | None] = SimpleQueue()
    # A thread, or the parent would wait until a large shard that is given ahead is taken from the pipe.
    threading.Thread(target=_receive, args=(pipe, coming), name="receive", daemon=True).start()
    try:
        if getattr(stage, "streams", False):
            for batch in stage(_one_after_the_other(coming)):
                pipe.send(("shard", _to_ipc(pa.Table.from_batches([batch]))))
            return
        while (data := coming.get()) is not None:
            for batch in stage(iter(pa.ipc.open_stream(data))):
                pipe.send(("batch", _to_ipc(pa.Table.from_batches([batch]))))
            pipe.send(("shard", None))
    except (BrokenPipeError, KeyboardInterrupt):
        return
    except FruitsError as exc:
        pipe.send(("error", exc))
    except Exception as exc:  # anything else is a bug; the parent shows it with its traceback
        pipe.send(("error", EngineError(f"a worker failed: {type(exc).__name__}: {exc}")))
        raise


def _receive(pipe: Connection, coming: SimpleQueue[bytes | None]) -> None:
    """Receive shards; None when there are no more."""
    with suppress(EOFError, OSError):
        while True:
            coming.put(pipe.recv_bytes())
    coming.put(None)


def _one_after_the_other(coming: SimpleQueue[bytes | None]) -> Iterator[pa.RecordBatch]:
    """Yield the batches of all shards, and an empty one after each."""
    while (data := coming.get()) is not None:
        with pa.ipc.open_stream(data) as shard:
            yield from shard
            yield pa.RecordBatch.from_pylist([], schema=shard.schema)


def _forgo_pandas() -> None:
    """Let pyarrow know once that it need not import pandas, which takes a fifth of a second: no stage passes it any.

    pyarrow has no option for that. It tries the import with the first array that it makes, and remembers whether that worked.
    """
    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, _NoPandas)
        try:
            pa.array([0])
        finally:
            sys.meta_path.remove(_NoPandas)


class _NoPandas(MetaPathFinder):
    """Finds no pandas, and leaves all others to the finders that follow."""

    @classmethod
    def find_spec(cls, fullname: str, *_: object) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname, name=fullname)
