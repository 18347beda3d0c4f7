"""The bare loop: decode and embed, and nothing else. What fruits could reach at most with its own decoder and network.

One process per core, each with the network open and every photo's bytes in memory before any clock starts. Batches are
assigned one by one through a shared counter, so that a core that others slow down does not hold up the rest.
"""

from __future__ import annotations

import multiprocessing as mp
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fruits.embedding.backbone import BATCH_SIZE, Embedder
from fruits.photos.decoding.images import Preprocessing, to_network_input

#: Decoded photos that a process keeps for inference alone; it goes round them.
_KEPT_BATCHES = 64


class BareLoop:
    """Processes that wait to be timed.

    Parameters
    ----------
    photos : list of Path
    model_path : Path
        A prepared backbone.
    preprocessing : Preprocessing
    workers : int
    """

    def __init__(self, photos: list[Path], model_path: Path, preprocessing: Preprocessing, workers: int) -> None:
        context = mp.get_context("spawn")
        self._next: Any = context.Value("q", 0)
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            arguments = (theirs, self._next, photos, model_path, preprocessing)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()  # ready

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join()

    def seconds(self, what: str) -> float:
        """Go once over all photos and return the seconds; ``what`` is ``decode and embed`` or ``embed``."""
        self._next.value = 0
        started = time.perf_counter()
        for pipe in self._pipes:
            pipe.send(what)
        for pipe in self._pipes:
            pipe.recv()
        return time.perf_counter() - started


def _work(pipe: Connection, counter: Any, photos: list[Path], model_path: Path, preprocessing: Preprocessing) -> None:
    """Wait for orders in a process until the pipe closes."""
    embedder = Embedder(model_path)
    files = [photo.read_bytes() for photo in photos]
    size = preprocessing.size
    pixels = np.empty((BATCH_SIZE, size, size, 3), np.uint8)
    decoded = np.array([to_network_input(data, preprocessing).pixels for data in files[: _KEPT_BATCHES * BATCH_SIZE]])
    kept = [decoded[start : start + BATCH_SIZE] for start in range(0, len(decoded), BATCH_SIZE)]
    embedder.embed(kept[0])
    pipe.send("ready")
    while True:
        try:
            what = pipe.recv()
        except EOFError:
            return
        while True:
            with counter.get_lock():
                start = counter.value
                counter.value += BATCH_SIZE
            if start >= len(files):
                break
            batch = files[start : start + BATCH_SIZE]
            if what == "embed":
                embedder.embed(kept[start // BATCH_SIZE % len(kept)][: len(batch)])
            else:
                for row, data in enumerate(batch):
                    pixels[row] = to_network_input(data, preprocessing).pixels
                embedder.embed(pixels[: len(batch)])
        pipe.send("done")
