"""The Spark engine: shards as tasks of a cluster, or of Spark on this machine, with the same rows as every engine.

Shards are submitted in waves of a few tasks per core, with two waves running at a time: cores do not idle between waves, receipts
arrive while other tasks run, and the driver holds few shards however many there are. A task has one large shard or several small
ones, because the overhead of a task equals the time of 20 small photos. Only the package ``engines.spark`` imports PySpark.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import pyarrow as pa

from fruits.engines import ATTEMPTS, FAN_IN, Merge, Stage, shard_name
from fruits.engines.spark.jobs import MOST_JOBS, Jobs, attempt
from fruits.engines.spark.session import Spark, check_requirements, parse_conf, reason
from fruits.engines.spark.tasks import MapTask, MergeTask, PartialTask, from_answer, to_ipc
from fruits.errors import EngineError, counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

T = TypeVar("T")

#: Tasks per core in a wave, and waves running at a time: enough to keep cores busy at the end of a wave.
TASKS_PER_CORE: Final = 4
WAVES: Final = 2
#: A task has one shard, or several with at most this many rows and this many shards.
_ROWS_PER_TASK: Final = 1024
MOST_SHARDS_PER_TASK: Final = 8
#: A wave ends early at this many bytes of work and of answers, which the driver's Java holds.
_MAX_WAVE_BYTES: Final = 64 << 20
#: Most tasks per core in the first step of a reduction. The number of shards per task is a power of ``FAN_IN``.
_BLOCKS_PER_CORE: Final = 16


class SparkEngine:
    """Runs shards as tasks of Spark.

    Parameters
    ----------
    workers : int
        Cores, if a session is started on this machine without a master; otherwise ignored.
    master : str, optional
        Such as ``local[4]``, ``spark://host:7077``, ``yarn``, ``sc://host``. By default the active session of this process, else
        ``local[workers]``.
    conf : sequence of str
        Spark settings, each ``key=value``.

    Raises
    ------
    ConfigError
        If a setting is not of that form.
    EngineError
        If PySpark or Java is missing.
    """

    name = "spark"

    def __init__(self, workers: int, *, master: str | None = None, conf: Sequence[str] = ()) -> None:
        self.workers = workers
        self._master, self._conf = master, parse_conf(conf)
        self._spark: Spark | None = None
        check_requirements(master)

    @property
    def spark(self) -> Spark:
        """The session, opened on first use."""
        if self._spark is None:
            self._spark = Spark.open(self.workers, self._master, self._conf)
        return self._spark

    def start(self) -> None:
        """Open the session."""
        _ = self.spark

    def map_batches(self, shards: Iterable[pa.Table], stage: Stage, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """See :class:`fruits.engines.Engine`. Shards are consumed wave by wave; rows are yielded when their wave has ended."""
        works = (_Work(number, shard_name(shard), shard.num_rows, to_ipc(shard)) for number, shard in enumerate(shards))
        spark, task, answer = self.spark, MapTask(_pickled(stage)), int(getattr(stage, "bytes_per_row", 0))
        again: deque[_Wave] = deque()
        with Jobs[_Wave](spark) as jobs:
            while True:
                while again and len(jobs) < MOST_JOBS:
                    jobs.start(again[0], again.popleft().job(spark, task), "fruits: a shard again")
                while not again and len(jobs) < WAVES:
                    wave = _Wave.of(works, TASKS_PER_CORE * spark.parallelism, answer)
                    if not wave.tasks:
                        break
                    jobs.start(wave, wave.job(spark, task), f"fruits: shards from {wave.tasks[0][0].number} on")
                if not len(jobs):
                    return
                for wave, answers in jobs.finished():
                    if isinstance(answers, Exception):
                        again.extend(wave.one_by_one(answers))
                    else:
                        yield from [
                            from_answer(kind, value).cast(schema) for _, kind, value in sorted(answers, key=_number)
                        ]

    def reduce_batches(
        self, shards: Iterable[T], partial: Callable[[T], pa.RecordBatch], merge: Merge
    ) -> pa.RecordBatch:
        """See :class:`fruits.engines.Engine`. Partial results stay on the executors; only one batch reaches the driver."""
        every = list(shards)
        if not every:
            raise ValueError("no shards to reduce; expected at least one")
        spark, size = self.spark, 1
        while len(every) > size * _BLOCKS_PER_CORE * spark.parallelism:
            size *= FAN_IN
        blocks = [_pickled(every[at : at + size]) for at in range(0, len(every), size)]
        leaves, merging = PartialTask(_pickled((partial, merge))), MergeTask(_pickled(merge))

        def job() -> Any:
            frame, n = spark.apply(spark.distribute([[block] for block in enumerate(blocks)]), leaves), len(blocks)
            while n > 1:
                n = -(-n // FAN_IN)
                near = frame.selectExpr("shard", "kind", "value", f"shard div {FAN_IN} as near").repartition(n, "near")
                # Spark sorts, spilling rows of many megabytes to disk if needed; the task then holds two at a time.
                frame = spark.apply(near.sortWithinPartitions("shard").select("shard", "kind", "value"), merging)
            return frame.collect()

        [(_, kind, value)] = attempt(spark, job, f"merge {counted(len(every), 'shard')}")
        return from_answer(kind, value)

    def fit_head(
        self, shards: Iterable[pa.Table], stage: Stage, *, labels: int, regularisation: float, scale: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fit a head on the executors; see :func:`fruits.engines.spark.head.fit`."""
        from fruits.engines.spark.head import fit  # noqa: PLC0415 - Spark ML is imported only when used

        works = [(number, to_ipc(shard)) for number, shard in enumerate(shards)]
        return fit(self.spark, works, _pickled(stage), labels=labels, regularisation=regularisation, scale=scale)

    def executors(self) -> list[dict[str, Any]]:
        """See :class:`fruits.engines.Engine`."""
        return self._spark.executors() if self._spark is not None else []

    def close(self) -> None:
        """Stop the session if the engine started it."""
        if self._spark is not None:
            self._spark.close()
            self._spark = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Work:
    """A serialised shard, and its name for messages."""

    number: int
    name: str
    rows: int
    data: bytes


@dataclass(frozen=True, slots=True, eq=False)
class _Wave:
    """The shards of one job by task, and the number of the attempt."""

    tasks: list[list[_Work]]
    attempt: int = 1

    @classmethod
    def of(cls, works: Iterator[_Work], tasks: int, bytes_per_row: int = 0) -> _Wave:
        """Take work for ``tasks`` tasks; if less is left, tasks get smaller rather than fewer.

        ``bytes_per_row``: of an answer, per row of its shard.
        """
        taken: list[_Work] = []
        rows = size = 0
        while (
            (len(taken) < tasks or rows < tasks * _ROWS_PER_TASK)
            and len(taken) < tasks * MOST_SHARDS_PER_TASK
            and size < _MAX_WAVE_BYTES
            and (work := next(works, None))
        ):
            taken.append(work)
            rows += work.rows
            size += len(work.data) + work.rows * bytes_per_row
        each = max(1, -(-len(taken) // tasks))
        return cls([taken[at : at + each] for at in range(0, len(taken), each)])

    def job(self, spark: Spark, task: MapTask) -> Callable[[], Any]:
        def run() -> Any:
            frame: DataFrame = spark.distribute([[(work.number, work.data) for work in works] for works in self.tasks])
            return spark.apply(frame, task).collect()

        return run

    def one_by_one(self, exc: Exception) -> list[_Wave]:
        """Return a wave per shard, because Spark does not report which shard failed."""
        if self.attempt >= ATTEMPTS:
            raise EngineError(
                f"{ATTEMPTS} workers died ({reason(exc)}) on {self.tasks[0][0].name}; is memory short (fewer cores "
                "per executor help), or does one of them crash its decoder? What was finished is kept: run again to go on"
            ) from exc
        return [_Wave([[work]], self.attempt + 1) for works in self.tasks for work in works]


def _number(answer: Any) -> int:
    number: int = answer[0]
    return number


def _pickled(value: Any) -> bytes:
    """Pickle with Spark's pickler, which also supports closures and definitions in ``__main__``."""
    from pyspark import cloudpickle  # noqa: PLC0415

    data: bytes = cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
    return data
