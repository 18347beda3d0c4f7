"""Peak memory and time of ``fruits run`` on ten times as many photos: memory should not grow with the catalogue.

The tenfold catalogue holds the same photos ten times, under other paths. What counts is fruits' own figure, the resident
memory of all its processes; which step has the peak is read from samples taken here, and holds to about a tenth of a second.
"""

from __future__ import annotations

import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.photos import fruits_run, link, record_of, spread

TARGET = 1.10
_SAMPLE_EVERY_S = 0.1


def measure(photos: list[Path], scratch: Path, *, rows: int, times: tuple[int, ...] = (1, 10)) -> dict[str, Any]:
    """Run on ``rows`` photos, and on ten times as many: on each of ``times`` as many."""
    base = spread(photos, rows)
    runs = []
    for copies in times:
        folder, out = scratch / "linked", scratch / "linked-out"
        link(base, folder, copies)
        runs.append(_run(folder, out))
        shutil.rmtree(folder)
        shutil.rmtree(out)
    ratio = max(more["peak_memory_mb"] / run["peak_memory_mb"] for run, more in pairwise(runs))
    return {"runs": runs, "ratio": ratio, "met": ratio <= TARGET, "lines": _lines(runs, ratio)}


def _run(folder: Path, out: Path) -> dict[str, Any]:
    """Run fruits, watching it from outside."""
    run = fruits_run(folder, out, "--backbone", "fruits-small", "--variance", "0.99")
    process, said = psutil.Process(run.pid), out.with_suffix(".json")
    samples, ended = [], 0.0
    while run.poll() is None:
        samples.append((time.perf_counter(), *_resident_mb(process)))
        if not ended and said.stat().st_size:
            ended = time.perf_counter()  # leaving Python takes a while yet
        time.sleep(_SAMPLE_EVERY_S)
    ended = ended or time.perf_counter()
    record = record_of(run, out)
    return {
        "photos": record["photos"],
        "components": record["components"],
        "peak_memory_mb": record["peak_memory_mb"],
        "seconds": record["seconds"],
        "steps": _by_step(samples, record["seconds"], ended),
    }


def _resident_mb(process: psutil.Process) -> tuple[float, float]:
    """Return the resident memory of a process and of all below it, in MB of 10^6 bytes."""
    try:
        own = process.memory_info().rss
        below = process.children(recursive=True)
    except psutil.Error:
        return 0.0, 0.0
    workers = 0
    for child in below:
        try:
            workers += child.memory_info().rss
        except psutil.Error:
            continue  # it ended while we looked
    return own / 1e6, workers / 1e6


def _by_step(
    samples: list[tuple[float, float, float]], seconds: dict[str, float], ended: float
) -> dict[str, dict[str, float]]:
    """Return the largest sum within each step: its own and its workers' share. Steps follow each other up to the end."""
    steps = {name: s for name, s in seconds.items() if name != "total"}
    start = ended - seconds["total"]
    peaks = {}
    for name, lasted in steps.items():
        within = [(own, workers) for at, own, workers in samples if start - 0.05 <= at <= start + lasted + 0.05]
        if within:
            own, workers = max(within, key=sum)
            peaks[name] = {"sum_mb": round(own + workers), "driver_mb": round(own), "workers_mb": round(workers)}
        start += lasted
    return peaks


def _lines(runs: list[dict[str, Any]], ratio: float) -> list[str]:
    lines = [f"{'peak memory':14}" + "".join(f"{run['photos']:>14,} photos" for run in runs)]
    lines.append(f"{'whole run':14}" + "".join(f"{run['peak_memory_mb']:>18,} MB" for run in runs))
    for step in runs[-1]["steps"]:
        peaks = [run["steps"].get(step, {}).get("sum_mb") for run in runs]
        lines.append(f"  {step:12}" + "".join(f"{'-' if mb is None else format(mb, ','):>18} MB" for mb in peaks))
    lines.append(f"{'seconds':14}" + "".join(f"{run['seconds']['total']:>19.1f} s" for run in runs))
    for name, step in (("each photo", "total"), ("  embeddings", "embeddings")):
        spent = [run["seconds"][step] / run["photos"] for run in runs]
        lines.append(f"{name:14}" + "".join(f"{1e6 * one:>18,.0f} us" for one in spent))
    verdict = "met" if ratio <= TARGET else "NOT met"
    lines.append(f"at most {TARGET:g} times the memory for 10 times the photos: {ratio:.2f}, {verdict}")
    return lines
