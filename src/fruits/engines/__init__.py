"""Execution engines: the interface, and the order of reductions. Every engine gives the same rows.

An engine depends on Arrow only and has two operations. ``map_batches`` applies a stage, ``Iterator[RecordBatch] ->
Iterator[RecordBatch]``, to shards and yields the resulting batches in no particular order. ``reduce_batches`` folds shards into
one value along a tree that depends only on the number of shards, so that sums of floats are bit-identical on every engine and any
number of cores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol, Self, TypeVar

import pyarrow as pa

Stage = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
Merge = Callable[[pa.RecordBatch, pa.RecordBatch], pa.RecordBatch]
T = TypeVar("T")

#: Neighbours that are merged, from the left, into one value of the next level of the tree. Changing it changes last digits.
FAN_IN: Final = 8
#: Attempts per shard, each with a new worker after one died.
ATTEMPTS: Final = 3
_METHODS: Final = ("start", "map_batches", "reduce_batches", "executors", "close", "__enter__", "__exit__")


class Engine(Protocol):
    """Interface of an engine; a context manager that calls :meth:`close` at its end."""

    name: str
    workers: int

    def start(self) -> None:
        """Acquire the resources in advance; otherwise the first call of another method does, and its time includes that."""
        ...

    def map_batches(self, shards: Iterable[pa.Table], stage: Stage, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Apply ``stage`` (picklable) to every shard and yield its batches, of ``schema``, in the order of completion.

        A stage with large answers has an attribute ``bytes_per_row``: bytes of answer per row of a shard. One with an attribute
        ``streams`` that is true takes any number of shards in one call, each with at least one row and followed by an empty
        batch, and yields one batch for each, in their order; an engine may then give it shards before it has answered the last.

        Raises
        ------
        EngineError
            If workers die repeatedly on the same shard.
        """
        ...

    def reduce_batches(
        self, shards: Iterable[T], partial: Callable[[T], pa.RecordBatch], merge: Merge
    ) -> pa.RecordBatch:
        """Merge the partial results of all shards as :func:`merge_in_order` does.

        Raises
        ------
        ValueError
            If there are no shards.
        """
        ...

    def executors(self) -> list[dict[str, Any]]:
        """Return the executors outside this process tree: ``id, active, cores, tasks_active, tasks_done, tasks_failed``.

        Also ``seconds`` (of tasks, summed), ``gc_seconds`` and, if Spark measures them, the peaks ``heap_mb`` and ``python_mb``.
        """
        ...

    def close(self) -> None:
        """Release the resources that the engine started; a session that existed before is left running."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def get_engine(name: str, workers: int, *, master: str | None = None, conf: Sequence[str] = ()) -> Engine:
    """Return an engine by name.

    Parameters
    ----------
    name : str
        ``local``, ``spark``, or one that another package adds (entry point ``fruits.engines``): a class, or a function, that
        takes the number of workers, and ``master`` and ``conf`` if it has such choices.
    workers : int
        Processes on this machine; ignored on a cluster.
    master : str, optional
        Spark master: ``local[4]``, ``spark://host:7077``, ``yarn``, ``sc://host``. By default the active session of this
        process, else ``local[workers]``.
    conf : sequence of str
        Spark settings, each ``key=value``.

    Raises
    ------
    ConfigError
        If there is no such engine, or it does not support an option.
    EngineError
        If it cannot run in this environment.
    ExtensionError
        If it comes from another package and cannot be created.
    """
    from fruits import extensions  # noqa: PLC0415 - an engine is imported when it is chosen
    from fruits.errors import ConfigError, FruitsError  # noqa: PLC0415

    found = extensions.get("engine", name)
    make = found.load()
    asked: dict[str, Any] = ({} if master is None else {"master": master}) | ({"conf": conf} if conf else {})
    try:
        taken = inspect.signature(make).parameters
    except (TypeError, ValueError) as exc:
        found.fail("is no class or function", exc)
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()) and asked.keys() - taken.keys():
        raise ConfigError(
            f"engine '{name}' has no master and no conf; expected them with an engine such as 'spark' only"
        )
    try:
        engine: Engine = make(workers, **asked)
    except (FruitsError, KeyboardInterrupt):
        raise
    except Exception as exc:
        if found.own:
            raise
        found.fail("cannot be started", exc)
    lacking = [method for method in _METHODS if not callable(getattr(engine, method, None))]
    if lacking:
        found.fail(f"lacks {', '.join(lacking)}")
    return engine


def merge_in_order(values: Iterable[Any], merge: Callable[[Any, Any], Any]) -> Any:
    """Merge values in a tree: 8 neighbours, from the left, into one value of the next level, until one value is left.

    The tree depends only on the number n of values; O(log n) values are in memory at a time. Merging ``FAN_IN**j`` neighbours
    separately gives a value of level j, so engines can split the tree there.

    Raises
    ------
    ValueError
        If there are no values.
    """
    # Per level: merged value of its unfinished group, and number of values in it.
    groups: list[tuple[Any, int]] = []
    for value in values:
        merged, level = value, 0
        while True:
            if level == len(groups):
                groups.append((None, 0))
            left, n = groups[level]
            merged = merge(left, merged) if n else merged
            if n + 1 < FAN_IN:
                groups[level] = (merged, n + 1)
                break
            groups[level] = (None, 0)
            level += 1
    if not groups:
        raise ValueError("no shards to reduce; expected at least one")
    rest: Any = None
    some = False
    for left, n in groups:
        if n:
            rest = merge(left, rest) if some else left
            some = True
    return rest


def shard_name(shard: pa.Table) -> str:
    """Return the name of a shard for messages."""
    from fruits.errors import counted  # noqa: PLC0415

    first = f", from '{shard['uri'][0].as_py()}' on" if shard.num_rows and "uri" in shard.column_names else ""
    return f"the same {counted(shard.num_rows, 'photo')}{first}"
