"""Runs the comparisons, prints a table of each and keeps every repetition in ``benchmarks/results/*.json``.

The machine is described with each result, its load before and after too: ratios of a busy machine are worth little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import embedding, load, memory, pca, peer_serving, peers
from benchmarks.photos import find_photos
from fruits.monitoring.cores import usable_cores

RESULTS = Path(__file__).parent / "results"
PARTS = ("embedding", "pca", "memory")
EXTRA = ("load", "peers", "serving")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}, all by default; or {', '.join(EXTRA)}"
    )
    parser.add_argument(
        "--photos", type=Path, help="photos; by default Fruits-360 if it is there, else generated fruit"
    )
    parser.add_argument("--repeat", type=int, default=3, help="repetitions, taken in turns")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: minutes, and rougher figures")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="[PACKAGE=]PATH",
        help="peers: Python of the environment of the peers, or of the one that needs PACKAGE; by default .venv/peers",
    )
    parser.add_argument(
        "--backbone", help="load, peers: the network; by default MobileNetV2 if it is there, or fruits-small"
    )
    parser.add_argument(
        "--only", default="", metavar="NAMES", help="peers: those to measure, by name, separated by commas"
    )
    parser.add_argument("--markdown", type=Path, help="peers: also add the tables to this file")
    parser.add_argument("--rows", type=int, default=26_000, help="memory: photos of the first run")
    parser.add_argument(
        "--times",
        type=int,
        nargs="+",
        default=[1, 10],
        help="memory: runs on this many times as many photos, ascending",
    )
    choices = parser.parse_args()
    if unknown := set(choices.parts) - {*PARTS, *EXTRA}:
        parser.error(f"no part {', '.join(sorted(unknown))}; expected some of {', '.join((*PARTS, *EXTRA))}")
    names = {peer.name: peer for peer in peers.PEERS}
    only = [name.strip() for name in choices.only.split(",") if name.strip()]
    if unknown := set(only) - names.keys():
        parser.error(f"no peer {', '.join(sorted(unknown))}; expected some of {', '.join(names)}")
    RESULTS.mkdir(exist_ok=True)
    scale = 10 if choices.quick else 1
    with tempfile.TemporaryDirectory(prefix="fruits-bench-") as scratch:
        for part in choices.parts or PARTS:
            head = {"part": part, "started": datetime.now(UTC).isoformat(timespec="seconds"), "machine": _machine()}
            if part == "pca":
                result = pca.measure(Path(scratch), rows=20_000 // scale, repeat=choices.repeat)
            elif part == "load":
                result = load.measure(
                    choices.photos, Path(scratch), repeat=choices.repeat, scale=scale, backbone=choices.backbone
                )
            elif part == "peers":
                photos, origin = find_photos(choices.photos, Path(scratch), at_least=26_000 // scale)
                head["photos"] = origin
                pythons = {one.rpartition("=")[0]: one.rpartition("=")[2] for one in choices.python}
                result = peers.measure(
                    photos,
                    Path(scratch),
                    most=len(photos) // scale,
                    repeat=choices.repeat,
                    backbone=choices.backbone,
                    pythons=pythons,
                    peers=[names[name] for name in only] or peers.PEERS,
                )
            elif part == "serving":
                photos, origin = find_photos(choices.photos, Path(scratch), at_least=6000 // scale)
                head["photos"] = origin
                result = peer_serving.measure(
                    photos,
                    Path(scratch),
                    learnt=max(600, 6000 // scale),
                    served=2000 // scale,
                    repeat=choices.repeat,
                    seconds=20.0 / scale,
                    pythons={one.rpartition("=")[0]: one.rpartition("=")[2] for one in choices.python},
                )
            else:
                photos, origin = find_photos(choices.photos, Path(scratch), at_least=26_000 // scale)
                head["photos"] = origin
                if part == "embedding":
                    result = embedding.measure(photos, Path(scratch), most=len(photos) // scale, repeat=choices.repeat)
                else:
                    result = memory.measure(
                        photos, Path(scratch), rows=choices.rows // scale, times=tuple(choices.times)
                    )
            if choices.markdown and "markdown" in result:
                with choices.markdown.open("a") as file:
                    file.write(result["markdown"] + "\n\n")
            _say_and_keep({**head, **result, "load_after": os.getloadavg()[0]})


def _say_and_keep(result: dict[str, Any]) -> None:
    """Print the lines of a result and write all of it."""
    machine, lines = result["machine"], result.pop("lines")
    path = RESULTS / f"{result['part']}.json"
    path.write_text(json.dumps(result, indent=1))
    load = f"load {machine['load_before']:.1f} before, {result['load_after']:.1f} after"
    print(f"\n{result['part']}: {machine['cpu']}, {machine['cores']} cores, {load}; {result['started']}")
    print("\n".join(f"  {line}" for line in lines))
    print(f"  every repetition: {path}", flush=True)


def _machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    versions = {}
    for name in ("fruits", "numpy", "onnxruntime", "pillow", "pyarrow", "scikit-learn", "pyspark"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "cpu": _cpu(),
        "cores": usable_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "versions": versions,
    }


def _cpu() -> str:
    """Return the processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
