"""Photos by number, and what a run does with them without engine and network."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fruits.storage.parts import Inventory, Parts
from fruits.storage.schemas import embeddings

D = 4


def catalogue(n: int, *, version: str = "1", start: int = 0) -> pa.Table:
    """Photos named by number; the columns that parts look at."""
    numbers = range(start, start + n)
    return pa.table(
        {
            "uri": [f"/photos/{number:04d}.jpg" for number in numbers],
            "label": [f"label {number % 3}" for number in numbers],
            "split": ["train"] * n,
            "version": [version] * n,
        }
    )


def rows_of(work: pa.Table, bad: dict[str, tuple[str, str]]) -> pa.Table:
    """Embedding rows as a worker would give them: the number in the name, over and over."""
    given = work.select(["uri", "label", "split", "version"]).to_pylist()
    rows = []
    for row in given:
        status, error = bad.get(row["uri"], ("ok", None))
        number = float(row["uri"][-8:-4])
        rows.append(
            {
                **row,
                "sha256": "0" * 64,
                "width": 10,
                "height": 10,
                "status": status,
                "error": error,
                "embedding": [number] * D if status == "ok" else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=embeddings(D))


def shards(work: pa.Table) -> list[str]:
    return list(dict.fromkeys(work["shard"].to_pylist()))


def of_shard(work: pa.Table, shard: str) -> pa.Table:
    return work.filter(pa.array([name == shard for name in work["shard"].to_pylist()]))


def commit_all(parts: Parts, work: pa.Table, bad: dict[str, tuple[str, str]] | None = None) -> None:
    for shard in shards(work):
        parts.commit(shard, rows_of(of_shard(work, shard), bad or {}))


def plan(parts: Parts, photos: pa.Table) -> pa.Table:
    """Plan all photos, after the plans that there are."""
    planned = parts.plan(photos, np.arange(photos.num_rows), after=parts.inventory(photos).plans)
    assert planned is not None
    return planned


def run(parts: Parts, photos: pa.Table, bad: dict[str, tuple[str, str]] | None = None) -> Inventory:
    """What a run does, without engine and network."""
    inventory = parts.inventory(photos)
    work = [inventory.pending]
    if len(inventory.missing):
        planned = parts.plan(photos, inventory.missing, after=inventory.plans)
        assert planned is not None
        work.append(planned)
    commit_all(parts, pa.concat_tables(work), bad)
    return parts.inventory(photos)


def held(inventory: Inventory) -> list[int]:
    """Catalogue rows that some part holds, in order; with repetitions, if there were any."""
    rows = [holding.catalogue_rows[holding.catalogue_rows >= 0] for holding in inventory.holdings]
    return sorted(np.concatenate([np.empty(0, np.int64), *rows]).tolist())
