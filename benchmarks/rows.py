"""Whole runs on up to ten million generated photos: does a photo cost the same however many there are, and does memory stay flat?

    python -m benchmarks.rows [100000 1000000 10000000] [--engine spark --master 'local-cluster[2,1,1024]']

Made-up photos under millions of names (hard links), and a backbone so small that what is measured is everything else. Memory is
that of the driver alone (the largest resident set of the process that plans and collects), without its workers or a JVM. Then
1,000 photos are added to the same output: how long until the first of them is computed? Last, a year of 365 such days on the
same table, of which a few are planned and the others interpolated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper

from fruits.config import RunConfig
from fruits.embedding.card import Card
from fruits.monitoring.clock import Silent
from fruits.photos.catalogue.catalogue import list_photos
from fruits.photos.generated import generator
from fruits.storage.embeddings.inventory import plan, take
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.storage.tables.schemas import embeddings
from fruits.storage.tables.spool import SortedRuns, Spool
from fruits.training.pipeline import run

_D = 8
#: With more labels, a head that can tell none of them by so few numbers takes longer than all else.
_LABELS = 8
_MORE = 1000
_DAYS = 365
_PLANNED = (1, 90, 180, 270, 365)
#: Most memory of the driver in MB, by rows; and by how much a row may cost more than with ten times fewer rows.
_MEMORY = {1_000_000: 700, 10_000_000: 1000}
_FLAT = 1.2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--engine", default="local")
    parser.add_argument("--master")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-year", action="store_true", help="leave the year of increments out")
    parser.add_argument("--one", choices=("run", "year"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    choices = parser.parse_args()
    if choices.one:
        found = _year(choices.folder) if choices.one == "year" else _run(choices.folder, choices)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(prefix="fruits-rows-", dir=os.environ.get("FRUITS_SCRATCH")) as scratch:
        generator.write_photos(Path(scratch, "orchard"), photos=1200)  # a file system allows 65,000 names of one file
        photos = sorted(Path(scratch, "orchard").rglob("*.jpg"))
        labels = sorted({photo.parent.name for photo in photos})[:_LABELS]
        photos = [photo for photo in photos if photo.parent.name in labels]
        _tiny_backbone(Path(scratch, "tiny.onnx"))
        before: dict[str, Any] | None = None
        for rows in choices.rows:
            before = _measure(photos, Path(scratch, f"linked-{rows}"), rows, choices, before)


def _measure(
    photos: list[Path], folder: Path, rows: int, choices: argparse.Namespace, before: dict[str, Any] | None
) -> dict[str, Any]:
    _link(photos, folder, range(rows))
    found = _in_process("run", folder, choices)
    each = {name: seconds / rows * 1e6 for name, seconds in found["seconds"].items()}
    said = ", ".join(f"{name} {us:.1f}" for name, us in each.items() if us >= 0.05)
    memory = f"{found['driver_mb']:,.0f} MB{_verdict(found['driver_mb'], _MEMORY.get(rows))}"
    print(f"{rows:,} rows, {choices.engine} engine\n  driver {memory}, {found['base_mb']:,.0f} MB before the first row")
    print("  MB by step: " + ", ".join(f"{step} {mb:,.0f}" for step, mb in found["peaks"].items()))
    print(f"  microseconds per row: {said}")
    if before:
        ratio = each["total"] / before["total"]
        print(f"  a row costs {ratio:.2f} times what it did before{_verdict(ratio, _FLAT)}")
    sys.stdout.flush()
    _link(photos, folder, range(rows, rows + _MORE))
    more = _in_process("run", folder, choices)
    first, listed = more["first_embedding_s"], more["listed_s"]
    print(
        f"  {_MORE:,} more: the first embedding after {first:.1f} s, of which listing {listed:.1f} s and planning "
        f"{first - listed:.1f} s; all after {more['seconds']['total']:.1f} s; driver {more['driver_mb']:,.0f} MB",
        flush=True,
    )
    if not choices.no_year:
        year = _in_process("year", folder, choices)
        days = ", ".join(f"day {day}: {seconds:.1f} s" for day, seconds in year["planned"].items())
        print(f"  {_DAYS} increments: planning {year['total_s'] / 60:.1f} minutes in all ({days})", flush=True)
    for path in (folder, _out(folder)):
        subprocess.run(["rm", "-rf", str(path)], check=True)
    return each


def _verdict(value: float, most: float | None) -> str:
    return "" if most is None else f" (at most {most:g}: {'met' if value <= most else 'NOT met'})"


def _in_process(what: str, folder: Path, choices: argparse.Namespace) -> dict[str, Any]:
    master = ["--master", choices.master] if choices.master else []
    asked = ["--engine", choices.engine, "--workers", str(choices.workers), *master]
    command = [sys.executable, "-m", "benchmarks.rows", "--one", what, "--folder", str(folder), *asked]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class _Watched(Silent):
    """Remembers when steps begin, when the first embedding is there, and the peak of the driver's memory in each step."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.step = "start"
        self.at: dict[str, float] = {}
        self.peaks: dict[str, float] = {}

    def start(self, step: str, total: int | None) -> None:  # noqa: ARG002
        self.end()
        self.step = step
        self.at.setdefault(step, time.perf_counter() - self.began)

    def advance(self, photos: int) -> None:  # noqa: ARG002
        if self.step == "embeddings":
            self.at.setdefault("first", time.perf_counter() - self.began)

    def end(self) -> None:
        """End a step: note its peak, and let Linux begin a new one."""
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        peak = int(lines["VmHWM"].split()[0]) * 1024 / 1e6
        self.peaks[self.step] = max(peak, self.peaks.get(self.step, 0.0))
        Path("/proc/self/clear_refs").write_text("5")


def _run(folder: Path, choices: argparse.Namespace) -> dict[str, Any]:
    base, watched = _driver_mb(), _Watched()
    spark = ("spark.driver.memory=1g",) if choices.engine == "spark" else ()
    config = RunConfig(
        sources=(str(folder),), out=str(_out(folder)), backbone=str(folder.parent / "tiny.onnx"), engine=choices.engine,
        master=choices.master, spark_conf=spark, workers=choices.workers, components=_D // 2,
    )  # fmt: skip
    record = run(config, progress=watched)
    watched.end()
    driver_mb = max(watched.peaks.values())
    photos = sum(len(names) for _, _, names in os.walk(folder))
    if not record["photos"] == record["ok"] == photos:
        raise SystemExit(f"{photos} photos, {record['photos']} listed, {record['ok']} held: rows were lost or doubled")
    return {
        "base_mb": base,
        "driver_mb": driver_mb,
        "peaks": watched.peaks,
        "seconds": record["seconds"],
        "listed_s": record["seconds"]["catalogue"],
        "first_embedding_s": watched.at["first"],
    }


def _year(folder: Path) -> dict[str, Any]:
    """Plan for 1,000 new photos on some days of a year; the photos of the days before are in the table, in files of their own."""
    [prefix] = [path.name for path in (_out(folder) / "embeddings").iterdir()]
    stored = EmbeddingTable(str(_out(folder)), f"embeddings/{prefix}")
    schema = pa.schema([("uri", pa.large_string()), ("version", pa.large_string()), ("day", pa.int16())])
    every = SortedRuns("uri")
    for batch in list_photos([str(folder)]).listed.texts.batches(["uri", "version"]):
        every.add(batch.append_column("day", pa.array(np.zeros(batch.num_rows, np.int16))).cast(schema))
    labels = sorted(root for root, _, names in os.walk(folder) if names)
    for day in range(1, _DAYS + 1):
        uris = sorted(f"{labels[at % len(labels)]}/day {day:03d}, {at:04d}.jpg" for at in range(_MORE))
        every.add(pa.RecordBatch.from_pydict({"uri": uris, "version": ["1"] * _MORE, "day": [day] * _MORE}, schema))
    photos = Spool(schema, "uri")
    for table in every.merged():
        photos.append(table)
    photos.close()
    days = np.concatenate([batch.column("day").to_numpy() for batch in photos.batches(["day"])])
    planned = {}
    for day in range(1, _DAYS + 1):
        if day in _PLANNED:
            today = photos.filter(days <= day)
            started = time.perf_counter()
            inventory = take(stored, today)
            plan(today, inventory, inventory.absent)
            planned[day] = time.perf_counter() - started
            if len(inventory.absent) != _MORE:
                raise SystemExit(f"day {day}: {len(inventory.absent)} photos are new; expected {_MORE}")
        new = photos.take(np.flatnonzero(days == day), ["uri", "version"])
        file = stored.write(f"{day:08x}-000000-0000", _rows(new), 0)
        stored.commit([file], epoch=0)
    total = np.interp(range(1, _DAYS + 1), list(planned), list(planned.values())).sum()
    return {"total_s": float(total), "planned": planned}


def _rows(photos: pa.Table) -> pa.Table:
    """Return embeddings as a worker would write them."""
    n = photos.num_rows
    values = pa.array(np.zeros(n * _D, np.float32))
    columns: dict[str, Any] = {
        "uri": photos["uri"].cast(pa.string()),
        "version": photos["version"].cast(pa.string()),
        "sha256": ["0" * 64] * n,
        "width": [100] * n,
        "height": [100] * n,
        "brightness": [0.5] * n,
        "sharpness": [0.5] * n,
        "status": ["ok"] * n,
        "error": [None] * n,
        "embedding": pa.FixedSizeListArray.from_arrays(values, _D),
    }
    return pa.table(columns).cast(embeddings(_D))


def _out(folder: Path) -> Path:
    return folder.parent / f"out-{folder.name}"


def _driver_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _link(photos: list[Path], folder: Path, numbers: range) -> None:
    """Give the photos as many names as it takes; a file system allows some ten thousand of one file."""
    made: set[Path] = set()
    for at in numbers:
        photo = photos[at % len(photos)]
        # The labels stay the same, however many rows there are.
        place = folder / photo.parent.parent.name / f"{at // 20_000}" / photo.parent.name
        if place not in made:
            place.mkdir(parents=True, exist_ok=True)
            made.add(place)
        os.link(photo, place / f"{at}_{photo.name}")


def _tiny_backbone(path: Path) -> None:
    """Write a network that averages pixels into a few numbers."""
    weights = np.linspace(-1, 1, 3 * _D, dtype=np.float32).reshape(3, _D)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 8, 8, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", _D])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.reshape(-1).tolist()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    card = Card(name="tiny", sha256="", embedding_size=_D, size=8, layout="NHWC", dtype="uint8")
    path.with_suffix(".json").write_text(json.dumps(asdict(card)))


if __name__ == "__main__":
    main()
