"""A million catalogue rows through catalogue, planning and commit: does a row cost the same however many there are?

    python -m benchmarks.rows [10000 100000 1000000] [--engine spark]

Made-up photos under a million names (hard links), and a backbone so small that what is measured is everything else. Memory is
that of the driver alone (the largest resident set of the process that plans and collects), without its workers or a JVM.
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
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from fruits.config import RunConfig
from fruits.embedding.card import Card
from fruits.engines import get_engine
from fruits.monitoring.clock import Clock, Silent
from fruits.photos.made_up import orchard
from fruits.storage.inventory import plan, take
from fruits.storage.objects import Objects
from fruits.training import embed as computation

_D = 8


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--engine", default="local")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    choices = parser.parse_args()
    if choices.one:
        print(json.dumps(_measured(choices.one, choices.engine)))
        return
    with tempfile.TemporaryDirectory(prefix="fruits-rows-", dir=os.environ.get("FRUITS_SCRATCH")) as scratch:
        orchard.plant(Path(scratch, "orchard"), photos=400)
        photos = sorted(Path(scratch, "orchard").rglob("*.jpg"))
        _tiny_backbone(Path(scratch, "tiny.onnx"))
        print(
            f"{'rows':>10} {'driver MB':>10} {'bytes/row':>10} {'catalogue':>12} {'planning':>12} {'embed, commit':>14}  per row"
        )
        empty = None
        for rows in choices.rows:
            folder = Path(scratch, f"linked-{rows}")
            _link(photos, folder, rows)
            command = [sys.executable, "-m", "benchmarks.rows", "--one", str(folder), "--engine", choices.engine]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            empty = found["before_mb"] if empty is None else empty
            each = (found["driver_mb"] - found["before_mb"]) * 1e6 / rows
            steps = "".join(f"{found[name] / rows * 1e6:>10.0f} us" for name in ("catalogue", "planning", "embed"))
            print(f"{rows:>10,} {found['driver_mb']:>10,.0f} {each:>10,.0f} {steps}", flush=True)
            subprocess.run(["rm", "-rf", str(folder)], check=True)


def _measured(folder: Path, engine: str) -> dict[str, float]:
    out = folder.parent / f"out-{folder.name}"
    config = RunConfig(sources=(str(folder),), out=str(out), backbone=str(folder.parent / "tiny.onnx"))
    objects, before = Objects(str(out)), _driver_mb()
    with closing(get_engine(engine, config.workers)) as where:
        started = time.perf_counter()
        catalogue = computation.catalogued(config, Silent())
        prepared = computation.prepare(config, computation.Network.of(config, Silent()), catalogue, objects)
        listed = time.perf_counter()
        # What embed() does first, so that it has its time.
        inventory = take(prepared.stored, catalogue.table)
        plan(catalogue.table, inventory, inventory.absent)
        planned = time.perf_counter()
        inventory, computed = computation.embed(where, catalogue, prepared, Silent(), Clock())
        ended = time.perf_counter()
    held = sum(int((holding.catalogue_rows >= 0).sum()) for holding in inventory.holdings)
    if not computed == held == catalogue.table.num_rows:
        raise SystemExit(
            f"{catalogue.table.num_rows} rows, {computed} computed, {held} held: rows were lost or doubled"
        )
    subprocess.run(["rm", "-rf", str(out)], check=True)
    return {
        "before_mb": before,
        "driver_mb": _driver_mb(),
        "catalogue": listed - started,
        "planning": planned - listed,
        "embed": ended - planned,
    }


def _driver_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _link(photos: list[Path], folder: Path, rows: int) -> None:
    """Give the photos as many names as it takes; a file system allows some ten thousand of one file."""
    for at in range(rows):
        photo = photos[at % len(photos)]
        place = folder / photo.parent.parent.name / f"{photo.parent.name} {at // 20_000}"
        if at < len(photos) or at % 20_000 < len(photos):
            place.mkdir(parents=True, exist_ok=True)
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
