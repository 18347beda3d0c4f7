"""Photos per second and memory of one network: the embedding stage of a run, repeated in one worker process.

A worker reads, decodes and embeds as in ``fruits run``, with one inference thread; nothing is stored. The first pass warms up (it
opens the network and the decoder, and the files come into the system's cache) and is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruits.assessment.study.machine import peak_bytes, processor_s, with_children
from fruits.embedding.backbone import Embedder
from fruits.embedding.model import ModelFile
from fruits.embedding.stage import embed_rows
from fruits.engines import get_engine
from fruits.errors import StoreError
from fruits.photos.catalogue.catalogue import Catalogue
from fruits.photos.decoding.images import Preprocessing
from fruits.photos.reading.access import Access
from fruits.training.embed import Prepared

_PASS: Final = pa.schema(
    [
        pa.field("photos", pa.int64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("seconds_processor", pa.float64(), nullable=False),
        pa.field("peak_bytes", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class SpeedStage:
    """Embeds the same photos several times and yields one row per pass.

    Parameters
    ----------
    model : ModelFile
        A prepared backbone.
    preprocessing : Preprocessing
    embedding_size, repeats : int
        d, and the number of counted passes.
    access : Access
    device : str
    """

    model: ModelFile
    preprocessing: Preprocessing
    embedding_size: int
    repeats: int
    access: Access
    device: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Map the rows of photos to one row per counted pass."""
        rows = [row for batch in batches for row in batch.to_pylist()]
        embedder = Embedder(self.model.fetch(), self.device)
        for number in range(self.repeats + 1):
            started, used = time.perf_counter(), processor_s()
            embedded = embed_rows(rows, embedder, self.preprocessing, self.embedding_size, access=self.access)
            statuses = [status for batch in embedded for status in batch["status"].to_pylist()]
            seconds = time.perf_counter() - started
            if number:
                found = {"photos": statuses.count("ok"), "seconds": seconds, "seconds_processor": processor_s() - used}
                yield pa.RecordBatch.from_pylist([{**found, "peak_bytes": _peak_bytes()}], schema=_PASS)


def measured_speed(catalogue: Catalogue, prepared: Prepared, *, repeats: int, photos: int) -> dict[str, Any]:
    """Measure one worker on photos spread evenly over the catalogue.

    Parameters
    ----------
    catalogue : Catalogue
    prepared : Prepared
    repeats : int
        Number of counted passes.
    photos : int
        Number of photos of one pass, at most.

    Returns
    -------
    dict
        ``photos_per_s`` (median of the passes), ``photos_per_s_low`` and ``_high`` (slowest and fastest pass);
        ``measured_photos``; ``core_s_per_1000``, processor seconds of the worker and its decoder, which other programs disturb
        less; and ``peak_memory_mb`` of both (None if the system does not tell).

    Raises
    ------
    StoreError
        If no photo could be embedded.
    """
    rows = catalogue.listed.take(evenly_spaced(catalogue.num_rows, photos), ["uri", "label", "split", "version"])
    size = prepared.card.embedding_size
    stage = SpeedStage(prepared.model, prepared.preprocessing, size, repeats, catalogue.access, prepared.device)
    with closing(get_engine("local", 1)) as engine:
        engine.start()
        passes = [row for batch in engine.map_batches([rows], stage, _PASS) for row in batch.to_pylist()]
    if not all(one["photos"] for one in passes):
        raise StoreError(
            "no photo could be embedded again for the measurement; expected the photos of the run in place"
        )
    rates = [one["photos"] / one["seconds"] for one in passes]
    peak = max(one["peak_bytes"] for one in passes)
    return {
        "measured_photos": passes[0]["photos"],
        "photos_per_s": round(median(rates), 2),
        "photos_per_s_low": round(min(rates), 2),
        "photos_per_s_high": round(max(rates), 2),
        "core_s_per_1000": round(1000 * median(one["seconds_processor"] / one["photos"] for one in passes), 4),
        "peak_memory_mb": round(peak / 1e6) or None,
    }


def evenly_spaced(n: int, most: int) -> NDArray[np.int64]:
    """Return at most ``most`` of ``n`` rows, spread evenly, in ascending order."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def _peak_bytes() -> int:
    """Return the peak memory of this process and of the decoder that it started."""
    return sum(peak_bytes(one.pid) for one in with_children())
