"""Photos per second of ``fruits run``'s embeddings beside a bare loop, inference alone, and the script one writes instead.

The clock of fruits is its own: the step ``embeddings`` of a run on an empty output, from preparing the network and starting
the workers to the last commit. What a run costs even with hardly a photo is measured too, since it weighs less the longer
a run is. Of the repetitions, taken in turns, the best of each counts: whatever else the machine does only ever slows.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.bare import BareLoop
from benchmarks.photos import fruits_run, link, record_of, spread
from benchmarks.quiet import wait_for_quiet
from fruits.monitoring.cores import usable_cores
from fruits.photos.decoding.images import Preprocessing

TARGET = 0.85
_FRUITS, _BARE, _CEILING, _SCRIPT = "fruits run, embeddings", "bare loop", "inference alone", "usual script"
_EXPLAINED = {
    _CEILING: "pixels in memory, same network and processes",
    _BARE: "same decoder, network and processes; bytes in memory, nothing kept",
    _FRUITS: "files read, hashed, embedded, committed; starting workers included",
    _SCRIPT: f"{Path(__file__).parent.name}/usual_script.py: a pool of threads, files read",
}


def measure(photos: list[Path], scratch: Path, *, most: int, repeat: int) -> dict[str, Any]:
    """Time all of them in turns, ``repeat`` times, on at most ``most`` photos."""
    photos, workers = spread(photos, most), usable_cores()
    everything, few = scratch / "everything", scratch / "few"
    link(photos, everything)
    link(spread(photos, 64), few)
    listing = scratch / "listing"
    listing.write_text("\n".join(map(str, photos)))
    out = scratch / "out"
    first = record_of(
        fruits_run(few, scratch / "first", "--backbone", "fruits-small", "--components", "8"), scratch / "first"
    )
    preprocessing = Preprocessing(*(first["backbone"][name] for name in ("size", "fit", "kernel")))
    model_path = next((scratch / "first" / "embeddings").glob("*/backbone.onnx"))
    seconds: dict[str, list[float]] = {name: [] for name in _EXPLAINED}
    fixed = []
    with BareLoop(photos, model_path, preprocessing, workers) as bare:
        for _ in range(repeat):
            wait_for_quiet()
            seconds[_BARE].append(bare.seconds("decode and embed"))
            wait_for_quiet()
            seconds[_FRUITS].append(_embeddings_seconds(everything, out, preprocessing, len(photos)))
            wait_for_quiet()
            seconds[_CEILING].append(bare.seconds("embed"))
            wait_for_quiet()
            fixed.append(_embeddings_seconds(few, out, preprocessing, min(64, len(photos))))
            wait_for_quiet()
            seconds[_SCRIPT].append(_script_seconds(model_path, preprocessing.size, workers, listing))
    shutil.rmtree(everything)
    speed = {name: [len(photos) / s for s in times] for name, times in seconds.items()}
    of_bare = {name: max(times) / max(speed[_BARE]) for name, times in speed.items()}
    return {
        "photos_measured": len(photos),
        "workers": workers,
        "backbone": first["backbone"],
        "seconds": seconds,
        "fixed_seconds": fixed,
        "photos_per_second": speed,
        "of_bare_loop": of_bare,
        "met": of_bare[_FRUITS] >= TARGET,
        "lines": _lines(speed, of_bare, seconds[_FRUITS], fixed, len(photos)),
    }


def _embeddings_seconds(photos: Path, out: Path, preprocessing: Preprocessing, expected: int) -> float:
    """Run fruits on an empty output and return what its step ``embeddings`` took."""
    shutil.rmtree(out, ignore_errors=True)
    options = ("--backbone", "fruits-small", "--components", "8", "--size", str(preprocessing.size))
    record = record_of(fruits_run(photos, out, *options), out)
    if record["computed"] != expected or record["ok"] != expected:
        sys.exit(
            f"fruits embedded {record['ok']:,} of {expected:,} photos; expected all: the photos are not comparable"
        )
    return float(record["seconds"]["embeddings"])


def _script_seconds(model_path: Path, size: int, threads: int, listing: Path) -> float:
    command = [sys.executable, Path(__file__).with_name("usual_script.py"), model_path, size, threads, listing]
    return float(subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout)


def _lines(
    speed: dict[str, list[float]], of_bare: dict[str, float], whole: list[float], fixed: list[float], n: int
) -> list[str]:
    lines = [f"{'photos per second':26}{'best':>8}{'of bare':>9}   each repetition, of {n:,} photos"]
    for name, explained in _EXPLAINED.items():
        each = " ".join(f"{one:7,.0f}" for one in speed[name])
        lines.append(f"{name:26}{max(speed[name]):8,.0f}{of_bare[name]:9.3f}   {each}   {explained}")
    later = [n / (s - min(fixed)) for s in whole]
    ratio = max(later) / max(speed[_BARE])
    each = " ".join(f"{one:7,.0f}" for one in later)
    fixed_cost = f"less the {min(fixed):.2f} s that a run on 64 photos takes"
    lines.append(f"{'  without its fixed cost':26}{max(later):8,.0f}{ratio:9.3f}   {each}   {fixed_cost}")
    verdict = "met" if of_bare[_FRUITS] >= TARGET else "NOT met"
    lines.append(f"at least {TARGET} of the bare loop: {of_bare[_FRUITS]:.3f}, {verdict}")
    return lines
