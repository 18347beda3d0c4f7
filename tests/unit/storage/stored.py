"""Photos by number, and what a run does with them without engine and network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from fruits.storage.embeddings.inventory import Inventory, plan, take
from fruits.storage.embeddings.table import EmbeddingTable, File
from fruits.storage.tables.schemas import WORK, embeddings

D = 4
Bad = dict[str, tuple[str, str]]


def catalogue(n: int, *, version: str = "1", start: int = 0) -> pa.Table:
    """Photos named by number; the columns that the table looks at."""
    return pa.table({"uri": [uri(number) for number in range(start, start + n)], "version": [version] * n})


def uri(number: int) -> str:
    return f"/photos/{number:05d}.jpg"


def rows_of(work: pa.Table, bad: Bad) -> pa.Table:
    """Embedding rows as a worker would give them: the number in the name, over and over."""
    rows = []
    for row in work.select(["uri", "version"]).to_pylist():
        status, error = bad.get(row["uri"], ("ok", None))
        number = int(row["uri"][-9:-4])
        rows.append(
            {
                **row,
                "sha256": None if status == "failed" else f"{number + 1:016x}" + "0" * 48,
                "width": 10,
                "height": 10,
                "status": status,
                "error": error,
                "embedding": [float(number)] * D if status == "ok" else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=embeddings(D))


def shards(work: pa.Table) -> list[str]:
    return list(dict.fromkeys(work["shard"].to_pylist()))


def of_shard(work: pa.Table, shard: str) -> pa.Table:
    return work.filter(pa.array([name == shard for name in work["shard"].to_pylist()]))


def planned(stored: EmbeddingTable, photos: pa.Table) -> tuple[Inventory, pa.Table]:
    """What is there of some photos, and the work that is left."""
    inventory = take(stored, photos)
    shards = plan(photos, inventory, np.union1d(inventory.absent, inventory.failed)).shards()
    return inventory, pa.concat_tables([WORK.empty_table(), *shards])


def write_all(stored: EmbeddingTable, work: pa.Table, epoch: int = 0, bad: Bad | None = None) -> list[File]:
    return [stored.write(shard, rows_of(of_shard(work, shard), bad or {}), epoch) for shard in shards(work)]


def run(stored: EmbeddingTable, photos: pa.Table, bad: Bad | None = None) -> Inventory:
    """What a run does, without engine and network."""
    inventory, work = planned(stored, photos)
    if work.num_rows:
        epoch = inventory.snapshot.epoch
        assert stored.commit(write_all(stored, work, epoch, bad), epoch=epoch)
    return take(stored, photos)


def held(inventory: Inventory) -> list[int]:
    """Catalogue rows that some file holds, in order; with repetitions, if there were any."""
    rows = [entry.catalogue_rows[entry.catalogue_rows >= 0] for entry in inventory.file_rows]
    return sorted(np.concatenate([np.empty(0, np.int64), *rows]).tolist())


def values(stored: EmbeddingTable, inventory: Inventory) -> list[float | None]:
    """The first number of each photo's embedding, in the catalogue's order."""
    found: dict[int, float | None] = {}
    for entry in inventory.file_rows:
        column = stored.read(entry.file)["embedding"].to_pylist()
        for row, value in zip(entry.catalogue_rows.tolist(), column, strict=True):
            if row >= 0:
                found[row] = value and value[0]
    return [found[row] for row in sorted(found)]


def folder(stored: EmbeddingTable) -> Path:
    return Path(stored.root) / stored.prefix


def files(stored: EmbeddingTable) -> list[Path]:
    return sorted(folder(stored).glob("*.parquet"))


def log(stored: EmbeddingTable) -> list[Path]:
    return sorted((folder(stored) / "_delta_log").glob("*.json"))


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)
