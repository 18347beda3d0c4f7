"""Where work runs. An engine knows Arrow and nothing else; every engine gives the same rows.

An engine has two operations. ``map_batches`` applies a stage, ``Iterator[RecordBatch] -> Iterator[RecordBatch]``, to shards
and yields what it gives in no particular order. ``reduce_batches`` folds shards into one value, along a tree that the number
of shards alone decides: sums of floats then have the same bits on every engine and any number of cores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol, Self, TypeVar

import pyarrow as pa

Stage = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
Merge = Callable[[pa.RecordBatch, pa.RecordBatch], pa.RecordBatch]
T = TypeVar("T")

#: So many neighbours are merged, from the left, into one value of the next level of the tree. A change changes last digits.
FAN_IN: Final = 8
#: How often a shard is given to a fresh worker after one died on it.
ATTEMPTS: Final = 3
_METHODS: Final = ("start", "map_batches", "reduce_batches", "executors", "close", "__enter__", "__exit__")


class Engine(Protocol):
    """What every engine can do; a context manager that ends with :meth:`close`."""

    name: str
    workers: int

    def start(self) -> None:
        """Open what work needs, if it is not open; any other method does so by itself, on its own time."""
        ...

    def map_batches(self, shards: Iterable[pa.Table], stage: Stage, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Apply ``stage`` (picklable) to every shard and yield its batches, of ``schema``, as they come.

        Raises
        ------
        EngineError
            If a worker dies again and again on the same shard.
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
        """Return who works elsewhere than below this process: ``id, active, cores, tasks_active, tasks_done, tasks_failed``.

        Also ``seconds`` (of tasks, summed), ``gc_seconds`` and, where Spark measures them, ``heap_mb`` and ``python_mb`` at most.
        """
        ...

    def close(self) -> None:
        """Give back what the engine started; what it found running goes on."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def get_engine(name: str, workers: int, *, master: str | None = None, conf: Sequence[str] = ()) -> Engine:
    """Return the engine of that name.

    Parameters
    ----------
    name : str
        ``local``, ``spark``, or one that another package adds (entry point ``fruits.engines``): a class, or a function, that
        takes the number of workers, and ``master`` and ``conf`` if it has such choices.
    workers : int
        Processes on this machine; a cluster has as many as it has.
    master : str, optional
        Where Spark runs: ``local[4]``, ``spark://host:7077``, ``yarn``, ``sc://host``. By default the session that is active
        in this process, else ``local[workers]``.
    conf : sequence of str
        Settings of Spark, ``key=value`` each.

    Raises
    ------
    ConfigError
        If there is no such engine, or it has no such choice.
    EngineError
        If it cannot run here.
    ExtensionError
        If another package brings it and it cannot be made.
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
    """Merge values in a tree: 8 neighbours from the left into one, 8 of those into one again, until one is left.

    The tree depends on the number of values alone, and holds O(log n) of them at a time. Merging ``FAN_IN**j`` neighbours by
    themselves gives a value of level j, so that engines can cut the tree there.

    Raises
    ------
    ValueError
        If there are no values.
    """
    # Per level: what is merged of its unfinished group, and of how many values.
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
    """Return how messages call a shard."""
    first = f", from '{shard['uri'][0].as_py()}' on" if shard.num_rows and "uri" in shard.column_names else ""
    return f"the same {shard.num_rows} photos{first}"
