"""Where work runs. An engine knows Arrow and nothing else; every engine gives the same rows.

An engine has two operations. ``map_batches`` applies a stage, ``Iterator[RecordBatch] -> Iterator[RecordBatch]``, to shards
and yields what it gives in no particular order. ``reduce_batches`` folds shards into one value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import pyarrow as pa

Stage = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
T = TypeVar("T")


class Engine(Protocol):
    """What every engine can do."""

    name: str
    workers: int

    def map_batches(self, shards: Iterable[pa.Table], stage: Stage, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Apply ``stage`` (picklable) to every shard and yield its batches, of ``schema``, as they come.

        Raises
        ------
        EngineError
            If a worker dies again and again on the same shard.
        """
        ...

    def reduce_batches(
        self,
        shards: Iterable[T],
        partial: Callable[[T], pa.RecordBatch],
        merge: Callable[[pa.RecordBatch, pa.RecordBatch], pa.RecordBatch],
    ) -> pa.RecordBatch:
        """Merge the partial results of all shards, in the order of the shards.

        Raises
        ------
        ValueError
            If there are no shards.
        """
        ...


def get_engine(name: str, workers: int) -> Engine:
    """Return the engine of that name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    from fruits.engines.local import LocalEngine  # noqa: PLC0415 - an engine is imported when it is chosen
    from fruits.errors import ConfigError  # noqa: PLC0415

    if name != "local":
        raise ConfigError(f"no engine '{name}'; expected local")
    return LocalEngine(workers)
