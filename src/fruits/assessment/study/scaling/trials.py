"""One run of the embedding job, timed: start, reading, decoding, inference, writing and merging apart.

Every trial computes all embeddings anew in an output of its own and merges their moments, as ``fruits run`` does; nothing is
fitted. A wrapper around the stage reports when each shard began and ended and the processor time it took; the stage is
unchanged.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa

from fruits.assessment.study.machine import processor_s
from fruits.assessment.study.speed import evenly_spaced
from fruits.config import RunConfig
from fruits.embedding.stage import EmbedStage
from fruits.engines import Engine, get_engine
from fruits.errors import EngineError, StoreError
from fruits.monitoring.clock import Watcher
from fruits.photos.catalogue.catalogue import Catalogue
from fruits.storage.embeddings.inventory import plan, take
from fruits.storage.embeddings.table import File
from fruits.storage.objects import Objects
from fruits.storage.tables.catalogue_rows import CatalogueRows
from fruits.storage.tables.schemas import RECEIPT
from fruits.training.embed import Network, Prepared, prepare
from fruits.training.fitting.fit import ValidationSplit, training_moments
from fruits.training.fitting.training_set import TrainingSet

#: Stages of the work of a worker, as in receipts.
STAGES: Final = ("read", "decode", "infer", "write")
#: Memory of an executor's Java in MB: as much as a bare one needs.
EXECUTOR_MB: Final = 640
#: Wait for executors at most so long.
_EXECUTORS_S: Final = 300.0
_TIMED: Final = pa.schema(
    [
        *RECEIPT,
        pa.field("worker", pa.int64(), nullable=False),
        pa.field("began", pa.float64(), nullable=False),
        pa.field("ended", pa.float64(), nullable=False),
        pa.field("seconds_processor", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class TimedStage:
    """Runs the embedding stage and adds to each receipt which process wrote it, when, and its processor seconds.

    Parameters
    ----------
    stage : EmbedStage
    """

    stage: EmbedStage
    streams: ClassVar[bool] = True

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Map the rows of photos to one row per shard."""
        began, used = time.time(), processor_s()
        for receipt in self.stage(batches):
            ended, now = time.time(), processor_s()
            added = {"worker": os.getpid(), "began": began, "ended": ended, "seconds_processor": now - used}
            yield pa.RecordBatch.from_pylist([{**row, **added} for row in receipt.to_pylist()], schema=_TIMED)
            began, used = time.time(), processor_s()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A way to run the job.

    Attributes
    ----------
    kind : {"up", "out"}
        Worker processes of one machine, or Spark executors of one core.
    workers : int
    photos : int
        Rows of the catalogue, spread evenly over it.
    """

    kind: str
    workers: int
    photos: int

    def engine(self) -> Engine:
        """Return the engine, not started."""
        if self.kind == "up":
            return get_engine("local", self.workers)
        # Executors of one core each in processes of their own, as on a cluster, with its network in between.
        master = f"local-cluster[{self.workers},1,{EXECUTOR_MB}]"
        conf = [
            f"spark.executor.memory={EXECUTOR_MB}m",
            "spark.executor.defaultJavaOptions=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        ]
        return get_engine("spark", self.workers, master=master, conf=conf)


def run_trial(config: RunConfig, network: Network, catalogue: Catalogue, trial: Trial) -> dict[str, Any]:
    """Run the job once.

    Parameters
    ----------
    config : RunConfig
        Preprocessing; its output is replaced by a temporary one.
    network : Network
    catalogue : Catalogue
    trial : Trial

    Returns
    -------
    dict
        ``seconds`` of ``prepare``, ``session`` (start of the engine), ``start`` (from there until a worker has its network and
        its decoder open), ``working`` (to the end of the last shard), ``commit`` (from there on), ``merge`` and ``total``;
        ``work``: seconds of each stage, summed over workers; ``processor_s`` of all shards; ``driver_processor_s``, of this
        thread from the start of the work to the merge: planning, receipts, commit, inventory; ``shards``: photos, seconds,
        processor seconds, gap before it and whether it was its worker's first.

    Raises
    ------
    StoreError
        If no photo can be embedded.
    """
    with TemporaryDirectory(prefix="fruits-study-") as out, Watcher() as memory:
        own = replace(config, out=out, workers=trial.workers)
        started = time.perf_counter()
        catalogue = _some(catalogue, trial.photos)
        prepared = prepare(own, network, catalogue, Objects(out))
        listed = time.perf_counter()
        with closing(trial.engine()) as engine:
            engine.start()
            _wait_for_executors(engine, trial)
            ready, ready_at, used = time.perf_counter(), time.time(), time.thread_time()
            receipts = _computed(engine, catalogue, prepared)
            committed = time.perf_counter()
            n = sum(one["ok"] for one in receipts)
            if not n:
                raise StoreError("no photo could be embedded; expected photos in place: 'fruits run' names the reasons")
            inventory = take(prepared.stored, catalogue.listed.texts)
            training_set = TrainingSet.of(catalogue.listed, inventory)
            none = np.zeros(0, np.int64)
            every = ValidationSplit(training_set.train_rows, np.zeros(len(training_set.train_rows), bool), none)
            merging, driver_s = time.perf_counter(), time.thread_time() - used
            training_moments(engine, prepared.stored, inventory, training_set, every)
            merged = time.perf_counter()
        if prepared.lock is not None:
            prepared.lock.release()
    shards = _shards(receipts)
    first, last = min(one["began"] for one in receipts), max(one["ended"] for one in receipts)
    opening = min(_opening(shards), last - first)
    return {
        "kind": trial.kind,
        "workers": trial.workers,
        "photos": catalogue.num_rows,
        "embedded": n,
        "seconds": {
            "prepare": listed - started,
            "session": ready - listed,
            "start": first - ready_at + opening,
            "working": last - first - opening,
            "commit": max(0.0, committed - ready - (last - ready_at)) + merging - committed,
            "merge": merged - merging,
            "total": merged - started,
        },
        "work": {name: sum(one[f"seconds_{name}"] for one in receipts) for name in STAGES},
        "processor_s": sum(one["seconds_processor"] for one in receipts),
        "driver_processor_s": driver_s,
        "peak_memory_mb": memory.megabytes,
        "shards": shards,
    }


def _wait_for_executors(engine: Engine, trial: Trial) -> None:
    """Wait until all executors have come, so that the first ones do not begin without the others.

    Raises
    ------
    EngineError
        If they do not come.
    """
    until = time.monotonic() + _EXECUTORS_S
    while trial.kind == "out" and sum(one["cores"] for one in engine.executors() if one["active"]) < trial.workers:
        if time.monotonic() > until:
            raise EngineError(
                f"Spark's executors did not come within {_EXECUTORS_S:.0f} s; is memory short? Each of {trial.workers} needs "
                f"about {EXECUTOR_MB} MB and a worker: try fewer"
            )
        time.sleep(0.05)


def _computed(engine: Engine, catalogue: Catalogue, prepared: Prepared) -> list[dict[str, Any]]:
    """Compute and commit all embeddings; return the receipts with times."""
    stored = prepared.stored
    inventory = take(stored, catalogue.listed.texts)
    work = plan(catalogue.listed.texts, inventory, inventory.absent)
    stage = EmbedStage(
        prepared.model, prepared.preprocessing, prepared.card.embedding_size, stored, inventory.snapshot.epoch,
        catalogue.access, prepared.device,
    )  # fmt: skip
    receipts: list[dict[str, Any]] = []
    wave: list[File] = []
    for batch in engine.map_batches(work.shards(), TimedStage(stage), _TIMED):
        for one in batch.to_pylist():
            receipts.append(one)
            rows = one["ok"] + one["rejected"] + one["failed"]
            wave.append(File(one["file"], one["size_bytes"], rows, one["modified_ms"]))
    stored.commit(wave, epoch=inventory.snapshot.epoch)
    return receipts


def _some(catalogue: Catalogue, photos: int) -> Catalogue:
    """Return a catalogue of rows spread evenly over another one."""
    if photos >= catalogue.num_rows:
        return catalogue
    at = evenly_spaced(catalogue.num_rows, photos)
    return replace(catalogue, listed=CatalogueRows.of(catalogue.table.take(pa.array(at))))


def _shards(receipts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the shards in the order of their beginning, with the time that their worker waited before each."""
    before: dict[int, float] = defaultdict(float)
    found = []
    for one in sorted(receipts, key=lambda one: one["began"]):
        worker = one["worker"]
        found.append(
            {
                "photos": one["ok"] + one["rejected"] + one["failed"],
                "seconds": one["ended"] - one["began"],
                "processor_s": one["seconds_processor"],
                "gap_s": one["began"] - before[worker] if before[worker] else 0.0,
                "first": not before[worker],
            }
        )
        before[worker] = one["ended"]
    return found


def _opening(shards: list[dict[str, Any]]) -> float:
    """Return the seconds by which the first shards of workers took longer than later ones of the same size."""
    size = max(one["photos"] for one in shards)
    later = [one["seconds"] for one in shards if not one["first"] and one["photos"] == size]
    first = [one["seconds"] for one in shards if one["first"] and one["photos"] == size]
    return max(0.0, median(first) - median(later)) if later and first else 0.0


def medians(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the repeats of one trial as medians with the lowest and highest: seconds, rates, and shares of stages.

    Parameters
    ----------
    trials : list of dict
        From :func:`run_trial`, all of the same kind, workers and photos.
    """
    rates = [one["embedded"] / one["seconds"]["working"] for one in trials]
    whole = [one["embedded"] / one["seconds"]["total"] for one in trials]
    workers = trials[0]["workers"]
    spans = {name: [one["seconds"][name] for one in trials] for name in trials[0]["seconds"]}
    work = {name: median(one["work"][name] for one in trials) for name in STAGES}
    occupied = {
        name: median(one["work"][name] / (workers * one["seconds"]["working"]) for one in trials) for name in STAGES
    }
    return {
        "kind": trials[0]["kind"],
        "workers": workers,
        "photos": trials[0]["photos"],
        "repeats": len(trials),
        "photos_per_s": median(rates),
        "photos_per_s_low": min(rates),
        "photos_per_s_high": max(rates),
        "rates": rates,
        "whole_photos_per_s": median(whole),
        "seconds": {name: median(found) for name, found in spans.items()},
        "total_low": min(spans["total"]),
        "total_high": max(spans["total"]),
        "work": work,
        "occupied": occupied,
        "limits": max(STAGES, key=lambda name: occupied[name]),
        "cores_busy": median(one["processor_s"] / one["seconds"]["working"] for one in trials),
        "peak_memory_mb": max(one["peak_memory_mb"] for one in trials),
    }
