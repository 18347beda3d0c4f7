"""Memory of the process that runs each command, per photo, on generated rows: what grows with the photos, and by how much?

    python -m benchmarks.commands [20000 80000] [--commands run apply evaluate pack audit]

Made-up photos under as many names as it takes (hard links), and a network of eight numbers, as in ``benchmarks.rows``. A figure
is the largest resident set of the process that plans and collects, without its workers; bytes per photo are the difference
between one number of photos and the next.
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
from pathlib import Path

import fruits
from benchmarks.rows import _link, _tiny_backbone
from fruits.photos.generated import generator
from fruits.photos.reading.packing import pack

COMMANDS = ("run", "apply", "evaluate", "pack", "audit")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, default=[20_000, 80_000])
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    choices = parser.parse_args()
    if choices.one:
        print(json.dumps(_measured(choices.one[0], Path(choices.one[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="fruits-commands-", dir=os.environ.get("FRUITS_SCRATCH")) as scratch:
        generator.write_photos(Path(scratch, "orchard"), photos=400)
        photos = sorted(Path(scratch, "orchard").rglob("*.jpg"))
        _tiny_backbone(Path(scratch, "tiny.onnx"))
        print(f"{'command':>10} {'photos':>10} {'driver MB':>10} {'bytes/photo':>12} {'us/photo':>10}")
        before: dict[str, tuple[int, float]] = {}
        for rows in choices.rows:
            folder = Path(scratch, "photos")
            _link(photos, folder, range(rows))
            # Others start from the results of a run.
            for command in dict.fromkeys(["run", *choices.commands]):
                told = [sys.executable, "-m", "benchmarks.commands", "--one", command, scratch]
                done = subprocess.run(told, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                few, mb = before.get(command, (0, 0.0))
                each = f"{(found['mb'] - mb) * 1e6 / (rows - few):,.0f}" if few else ""
                before[command] = rows, found["mb"]
                speed = found["seconds"] / rows * 1e6
                print(f"{command:>10} {rows:>10,} {found['mb']:>10,.0f} {each:>12} {speed:>10,.0f}", flush=True)
            for name in ("photos", "run", "apply", "pack", "audit"):
                subprocess.run(["rm", "-rf", str(Path(scratch, name))], check=True)


def _measured(command: str, scratch: Path) -> dict[str, float]:
    photos, out, run = str(scratch / "photos"), str(scratch / command), str(scratch / "run")
    backbone = str(scratch / "tiny.onnx")
    started = time.perf_counter()
    if command == "run":
        fruits.run(photos, to=out, backbone=backbone, progress=False)
    elif command == "apply":
        fruits.apply(run, photos, to=out, progress=False)
    elif command == "evaluate":
        fruits.evaluate(run, "official", progress=False)
    elif command == "audit":
        fruits.audit(photos, to=out, backbone=backbone, progress=False)
    else:
        pack([photos], out)
    seconds = time.perf_counter() - started
    return {"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, "seconds": seconds}


if __name__ == "__main__":
    main()
