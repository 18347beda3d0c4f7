"""Concurrent Spark jobs, each in a thread that waits for it; cancelled together.

Classifies failures into those that may be transient, which are retried, and permanent ones.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from fruits.engines import ATTEMPTS
from fruits.engines.spark.session import Spark, reason
from fruits.errors import EngineError, FruitsError, option

K = TypeVar("K")

#: Most threads. Two are used normally, more only when the shards of a failed wave run one by one.
MOST_JOBS: Final = 32


class Jobs(Generic[K]):
    """Running jobs, identified by keys. Leaving the context cancels the remaining jobs and waits for their end.

    Parameters
    ----------
    spark : Spark
    """

    def __init__(self, spark: Spark) -> None:
        self._spark = spark
        self._running: dict[Future[Any], tuple[K, str]] = {}
        self._pool = ThreadPoolExecutor(MOST_JOBS, thread_name_prefix="spark-job")
        self._stopping = False

    def __len__(self) -> int:
        return len(self._running)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        while self._running:
            # Repeatedly, because a thread may start its job after the first cancellation.
            for _, group in self._running.values():
                self._spark.cancel(group)
            for future in wait(self._running, timeout=0.5).done:
                del self._running[future]
        self._pool.shutdown()

    def start(self, key: K, job: Callable[[], Any], what: str) -> None:
        """Run a function that starts Spark jobs, in a thread."""
        group = f"fruits-{uuid.uuid4()}"

        def run() -> Any:
            with self._spark.group(group, what):
                return None if self._stopping else job()

        self._running[self._pool.submit(run)] = (key, group)

    def finished(self) -> list[tuple[K, Any]]:
        """Wait until at least one job has ended; return the key and the result, or the exception, of each ended job.

        Raises
        ------
        EngineError
            If a failure is permanent, so that a retry is pointless.
        """
        done = wait(self._running, return_when=FIRST_COMPLETED).done
        return [(self._running.pop(future)[0], self._outcome(future)) for future in done]

    def _outcome(self, future: Future[Any]) -> Any:
        exc = future.exception()
        if exc is None:
            return future.result()
        if isinstance(exc, FruitsError) or not isinstance(exc, Exception):
            raise exc
        why = reason(exc)
        if self._spark.gone:
            raise EngineError(
                f"Spark ended while it worked ({why}); is the memory of its driver short (spark.driver.memory), or did its "
                "cluster stop? What was finished is kept: run again to go on"
            ) from exc
        if why.startswith(("ModuleNotFoundError", "ImportError")):
            raise EngineError(
                f"Spark's Python workers cannot load what they should run ({why}); install fruits on every node, and name that "
                f"Python with {option('spark_conf', 'spark.pyspark.python=/path/to/python')}"
            ) from exc
        return exc


def attempt(spark: Spark, job: Callable[[], Any], what: str) -> Any:
    """Run one job, and retry it if workers die.

    Raises
    ------
    EngineError
        If every attempt fails.
    """
    with Jobs[None](spark) as jobs:
        for _ in range(ATTEMPTS):
            jobs.start(None, job, f"fruits: {what}")
            [(_, outcome)] = jobs.finished()
            if not isinstance(outcome, Exception):
                return outcome
    raise EngineError(
        f"workers died in {ATTEMPTS} attempts to {what} ({reason(outcome)}); is memory short? Give executors more, or fewer "
        "cores each. What was finished is kept: run again to go on"
    ) from outcome
