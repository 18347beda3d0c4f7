"""The program behind the race: ``python -m faults.racer ROOT PROCESSES KEYS`` prints how many processes won each name, as JSON.

A winner is one that ``put_if_absent`` told so. One that was told so while another's bytes are stored counts as two.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from multiprocessing.synchronize import Barrier
from typing import Any

from fruits.storage.objects import Objects


def main() -> None:
    """Start the racers, gather what they won."""
    root, processes, keys = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
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
    print(json.dumps(counts))


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


def _bytes(name: str, number: int) -> bytes:
    return f"{name} is of process {number}\n".encode() * 64


if __name__ == "__main__":
    main()
