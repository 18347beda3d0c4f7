"""The program behind the races, which print JSON.

``python -m faults.racer names ROOT PROCESSES KEYS`` prints how many processes won each name. A winner is one that
``put_if_absent`` told so. One that was told so while another's bytes are stored counts as two.

``python -m faults.racer commits ROOT PROCESSES ROUNDS`` commits to one table of embeddings: in every round each process a file of
its own and one that all have, at the same moment. It prints how many commits returned, and what the table lacks or has twice.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections import Counter
from multiprocessing.synchronize import Barrier
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.objects import Objects
from fruits.storage.objects.buckets import delta_options
from fruits.storage.tables.schemas import embeddings

PREFIX = "embeddings/race"


def main() -> None:
    """Run the race that is asked for."""
    kind, root, processes, times = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    found = names(root, processes, times) if kind == "names" else commits(root, processes, times)
    print(json.dumps(found))


def names(root: str, processes: int, keys: int) -> dict[str, int]:
    """Start the racers, gather what they won."""
    context = multiprocessing.get_context("spawn")
    start, wins = context.Barrier(processes), context.Queue()
    racers = [context.Process(target=_race, args=(root, number, keys, start, wins)) for number in range(processes)]
    for racer in racers:
        racer.start()
    won: dict[str, list[int]] = {f"{key:04d}": [] for key in range(keys)}
    for _ in racers:
        number, names = wins.get()
        for name in names:
            won[name].append(number)
    for racer in racers:
        racer.join()
    stored = Objects(root)
    counts = {}
    for name, winners in won.items():
        foreign = sum(stored.read(name) != _bytes(name, winner) for winner in winners)
        counts[name] = len(winners) + foreign * (len(winners) == 1)
    return counts


def commits(root: str, processes: int, rounds: int) -> dict[str, int]:
    """Start the committers, and look at the table they leave."""
    context = multiprocessing.get_context("spawn")
    start, done = context.Barrier(processes), context.Queue()
    table = EmbeddingTable(root, PREFIX)
    table.create()
    started = [
        context.Process(target=_commit, args=(root, number, rounds, start, done), daemon=True)
        for number in range(processes)
    ]
    for process in started:
        process.start()
    told = [done.get() for _ in started]
    if errors := [one for one in told if isinstance(one, str)]:
        sys.exit(f"a process did not commit: {errors[0]}")
    kept = [uri for uris in told for uri in uris]
    for process in started:
        process.join()
    # As another reader of the format finds them, and as runs do.
    files = [name for file in table.snapshot().files.values() for name in table.read(file, ["uri"])["uri"].to_pylist()]
    opened = DeltaTable(table.uri, storage_options=delta_options(table.uri))
    rows = opened.to_pyarrow_dataset().to_table(columns=["uri"])["uri"].to_pylist()
    found = [Counter(files), Counter(rows)]
    return {
        "commits": processes * rounds,
        "returned": len(kept) // 2,
        "lost": sum(not photos[uri] for photos in found for uri in set(kept)),
        "doubled": sum(count - 1 for photos in found for count in photos.values()),
    }


def _race(root: str, number: int, keys: int, start: Barrier, wins: Any) -> None:
    """Put every name if it is absent, each at the same moment as the others."""
    objects = Objects(root)
    objects.read_if_present("warm")  # the first request opens a connection
    won = []
    for key in range(keys):
        name = f"{key:04d}"
        start.wait()
        if objects.put_if_absent(name, _bytes(name, number)):
            won.append(name)
    wins.put((number, won))


def _commit(root: str, number: int, rounds: int, start: Barrier, done: Any) -> None:
    """Commit a file of one's own and one that all commit, each at the same moment as the others."""
    try:
        table = EmbeddingTable(root, PREFIX)
        table.snapshot()  # the first request opens a connection
        kept = []
        for turn in range(rounds):
            own = table.write(f"{turn:08x}-{number:06d}-0000", _rows(f"own {turn} {number}"), 0)
            shared = table.write(f"{turn:08x}-{999_999:06d}-0000", _rows(f"shared {turn}"), 0)
            start.wait()
            if table.commit([own, shared], epoch=0):
                kept += [f"own {turn} {number}", f"shared {turn}"]
        done.put(kept)
    except Exception as exc:
        start.abort()  # or the others would wait for ever
        done.put(f"{type(exc).__name__}: {exc}")


def _rows(uri: str) -> pa.Table:
    row = {
        "uri": uri,
        "version": "1",
        "sha256": "0" * 64,
        "width": 1,
        "height": 1,
        "status": "ok",
        "embedding": [1.0] * 8,
    }
    return pa.Table.from_pylist([row], schema=embeddings(8))


def _bytes(name: str, number: int) -> bytes:
    return f"{name} is of process {number}\n".encode() * 64


if __name__ == "__main__":
    main()
