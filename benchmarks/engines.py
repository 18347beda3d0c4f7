"""The same job on the local engine and on Spark, two cores each, in turns: the same answer, and what Spark costs.

    python -m benchmarks.engines [PHOTOS] [--repeat 3] [--master 'local[2]']

Compared photo by photo: labels as predicted, embeddings, explained variances, metrics. Time is given with and without the
start of the session, which the run's record counts as the step ``engine``. Where this process may make a control group (root
on Linux), the processor seconds of everything that a run starts are given too: on a busy machine they say more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.photos import find_photos
from benchmarks.quiet import wait_for_quiet
from fruits.recogniser import bundle as bundles
from fruits.storage.embeddings.inventory import take
from fruits.storage.embeddings.table import EmbeddingTable
from fruits.training.fitting.training_set import vectors_of

TARGET = 1.25
_CURVE = "explained_variance_ratio"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("photos", nargs="?", help="a folder of labelled photos; default: as the other benchmarks")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--master", help="default: local[WORKERS]")
    parser.add_argument("--backbone", default="fruits-small")
    parser.add_argument("--variance", default="0.99")
    choices = parser.parse_args()
    master = choices.master or f"local[{choices.workers}]"
    with tempfile.TemporaryDirectory(prefix="fruits-engines-") as scratch:
        folder = choices.photos or _shared() or str(_linked(Path(scratch)))
        common = ["--workers", str(choices.workers), "--variance", choices.variance, "--backbone", choices.backbone]
        seconds: dict[str, list[dict[str, float]]] = {"local": [], "spark": []}
        for turn in range(choices.repeat):
            for engine in ("local", "spark"):
                more = ["--engine", "spark", "--master", master] if engine == "spark" else []
                wait_for_quiet()
                out = Path(scratch, f"{engine}-{turn}")
                record, processor = _run([folder, "--to", str(out), *common, *more])
                seconds[engine].append(record["seconds"] | {"processor": processor})
                print(f"{engine} {turn + 1}: {_told(seconds[engine][-1])}", flush=True)
        for line in compare(Path(scratch, "local-0"), Path(scratch, "spark-0")):
            print(line)
        best = {name: min(one["total"] - one["engine"] for one in runs) for name, runs in seconds.items()}
        whole = {name: min(one["total"] for one in runs) for name, runs in seconds.items()}
        ratio = best["spark"] / best["local"]
        if all(one["processor"] for runs in seconds.values() for one in runs):
            median = {name: statistics.median(one["processor"] for one in runs) for name, runs in seconds.items()}
            print(
                f"processor seconds, median, start included: local {median['local']:.1f}, Spark {median['spark']:.1f}: "
                f"{median['spark'] / median['local']:.3f}"
            )
        print(
            f"best of {choices.repeat}: local {best['local']:.1f} s, Spark {best['spark']:.1f} s after the start of its session: "
            f"{ratio:.3f} (at most {TARGET}: {'met' if ratio <= TARGET else 'NOT met'}); with it {whole['spark']:.1f} s: "
            f"{whole['spark'] / whole['local']:.3f}; load {os.getloadavg()[0]:.1f}"
        )


def compare(local: Path, spark: Path) -> list[str]:
    """Return in lines how far two results of the same photos are apart."""
    one, other = (json.loads((out / "run.json").read_text()) for out in (local, spark))
    listed = pq.read_table(local / "catalogue.parquet")
    vectors, answers = [], []
    for out in (local, spark):
        recogniser = bundles.load(out)
        stored = EmbeddingTable(str(out), f"embeddings/{recogniser.computation}")
        found = np.full((listed.num_rows, recogniser.card.embedding_size), np.nan, np.float32)
        for entry in take(stored, listed).file_rows:
            found[entry.catalogue_rows] = vectors_of(stored.read(entry.file))
        vectors.append(found)
        answers.append(recogniser.classify(found)[1].argmax(axis=1))
    variance = np.abs(np.array(one[_CURVE]) - np.array(other[_CURVE])).max()
    numbers = [name for name, value in one["metrics"].items() if isinstance(value, float)]
    metrics = max(abs(one["metrics"][name] - other["metrics"][name]) for name in numbers)
    same = sum(
        (local / "bundle" / name).read_bytes() == (spark / "bundle" / name).read_bytes()
        for name in ("mean.npy", "components.npy", "weights.npy", "bias.npy")
    )
    return [
        f"labels differ on {int((answers[0] != answers[1]).sum())} of {listed.num_rows:,} photos",
        f"embeddings: largest difference {np.nanmax(np.abs(vectors[0] - vectors[1])):.2g}",
        f"explained variances: largest difference {variance:.2g}",
        f"metrics: largest difference {metrics:.2g}",
        f"arrays of the bundle equal byte for byte: {same} of 4",
    ]


def _run(arguments: list[str]) -> tuple[dict[str, Any], float]:
    """Return the record of a run and the processor seconds of all its processes, 0 where the system does not tell."""
    command = [sys.executable, "-m", "fruits", "run", *arguments, "--json"]
    group = _control_group()

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    done = subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=enter)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    record: dict[str, Any] = json.loads(done.stdout)
    return record, _processor_seconds(group)


def _control_group() -> Path | None:
    """Make a group of our own below that for accounting, of either version; None where that is not allowed."""
    for root in (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")):
        group = root / f"fruits-benchmark-{os.getpid()}"
        if any((root / name).is_file() for name in ("cpuacct.usage", "cpu.stat")):
            with suppress(OSError):
                group.mkdir(exist_ok=True)
                if os.access(group / "cgroup.procs", os.W_OK):
                    return group
    return None


def _processor_seconds(group: Path | None) -> float:
    """Return what the group used, and take it away."""
    if group is None:
        return 0.0
    if (usage := group / "cpuacct.usage").is_file():
        used = int(usage.read_text()) / 1e9
    else:
        used = int((group / "cpu.stat").read_text().split()[1]) / 1e6
    for _ in range(100):
        with suppress(OSError):  # what the run started may take a moment to end
            group.rmdir()
            break
        time.sleep(0.1)
    return used


def _told(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if value >= 0.05)


def _shared() -> str | None:
    for root in ("../shared", os.environ.get("FRUITS_DATA", "")):
        if root and Path(root, "fruits-360").is_dir():
            return str(Path(root, "fruits-360"))
    return None


def _linked(scratch: Path) -> Path:
    find_photos(None, scratch, at_least=2000)
    return next(path.parent for path in scratch.rglob("Training"))


if __name__ == "__main__":
    main()
