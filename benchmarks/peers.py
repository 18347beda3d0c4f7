"""``fruits run`` beside what people would write or install instead: the same photos, network file and cores, in turns.

Each peer is a script in ``peer_scripts``, written as its own documentation advises, and runs in a process of its own, in an
environment of its own (``.venv/peers``, or ``--python PATH``; ``--python torch=PATH`` for one that is installed elsewhere). What
cannot be imported there is named in the table. A peer's clock starts after its imports and ends with embeddings on the disk;
starting its workers counts. That of fruits is its step ``embeddings``, which starts workers, too, hashes files and commits.
The embeddings of all peers are compared: one that computes something else fails.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.photos import link, spread
from benchmarks.quiet import wait_for_quiet
from fruits.embedding.backbone import find_backbone
from fruits.monitoring.cores import usable_cores

SCRIPTS: Final = Path(__file__).with_name("peer_scripts")
#: Environments of peers by the name of their package; any other is in the first that there is of these.
Pythons = Mapping[str, str]
_OWN_VENV: Final = Path(__file__).parents[1] / ".venv" / "peers" / "bin" / "python"
_NETWORK: Final = Path(__file__).parents[2] / "shared" / "backbones" / "mobilenet_v2_imagenet.onnx"
FRUITS: Final = "fruits run"
TARGET_FEATURIZING, TARGET_WHOLE = 1.15, 5.0
_COMPONENTS: Final = 100
#: Largest difference between embeddings of the same photo, relative to the largest number: Daft scales with a kernel of its own.
_SAME: Final = 1e-3
_TIMEOUT_S: Final = 3600


@dataclass(frozen=True)
class Peer:
    """A script, the package that it needs, and what it is called in the table.

    Attributes
    ----------
    whole : bool
        Whether it goes on to PCA, classifier and score.
    exact : bool
        Whether its pixels are those of Pillow.
    """

    name: str
    script: str
    package: str
    about: str
    arguments: tuple[str, ...] = ()
    whole: bool = False
    exact: bool = True


PEERS: Final = (
    Peer("plain loop", "plain_loop.py", "onnxruntime", "one batch at a time on all cores"),
    Peer("thread pool", "thread_pool.py", "onnxruntime", "a thread per core around one session"),
    Peer("DataLoader", "data_loader.py", "torch", "a worker per core decodes"),
    Peer("Daft", "daft_udf.py", "daft", "its own decoder, a class as UDF", exact=False),
    Peer("Ray Data", "ray_data.py", "ray", "an actor per core"),
    Peer("fastembed", "fastembed_custom.py", "fastembed", "a network of one's own"),
    Peer("Spark pandas UDF", "spark_udf.py", "pyspark", "binaryFile to Parquet, session started before"),
    Peer("Spark predict_batch_udf", "spark_udf.py", "pyspark", "the same with predict_batch_udf", ("true",)),
    Peer("notebook way", "notebook.py", "pyspark", "Spark: pandas UDF, PCA, logistic regression", whole=True),
    Peer(
        "pool and scikit-learn",
        "scikit_whole.py",
        "sklearn",
        "thread pool, PCA, LogisticRegression; k given",
        whole=True,
    ),
)


def measure(
    photos: list[Path],
    scratch: Path,
    *,
    most: int,
    repeat: int,
    backbone: str | None = None,
    size: int = 100,
    pythons: Pythons | None = None,
    peers: Sequence[Peer] = PEERS,
    quiet: bool = True,
) -> dict[str, Any]:
    """Time fruits and its peers in turns, ``repeat`` times, on at most ``most`` photos."""
    photos = spread(photos, most)
    backbone = backbone or (str(_NETWORK) if _NETWORK.is_file() else "fruits-small")
    link(photos, scratch / "peers")
    folder = scratch / "peers" / "copy00"
    spec = _specification(sorted(folder.glob("*/*/*.jpg")), scratch, backbone, size)
    environments = environments_of(pythons or {})
    absent = {peer.name: why for peer in peers if (why := _why_absent(peer, environments)) is not None}
    results: dict[str, list[dict[str, Any]]] = {FRUITS: []}
    for _ in range(repeat):
        _settle(quiet)
        results[FRUITS].append(_fruits(folder, scratch / "peers-out", backbone, size, len(photos)))
        for peer in peers:
            if peer.name in absent:
                continue
            _settle(quiet)
            found = _run(peer, environments, spec)
            if isinstance(found, str):
                absent[peer.name] = found
            else:
                results.setdefault(peer.name, []).append(found)
    shutil.rmtree(scratch / "peers")
    results = {name: found for name, found in results.items() if name not in absent}
    commands = {
        peer.name: shlex.join(["python", f"benchmarks/peer_scripts/{peer.script}", "SPEC", *peer.arguments])
        for peer in peers
    }
    markdown = table(results, absent, peers, len(photos))
    return {
        "photos_measured": len(photos),
        "backbone": Path(backbone).name,
        "size": size,
        "cores": usable_cores(),
        "repetitions": results,
        "absent": absent,
        "commands": {FRUITS: f"fruits run PHOTOS --to OUT --backbone {Path(backbone).name} --size {size}", **commands},
        "markdown": markdown,
        "lines": markdown.splitlines(),
    }


def _settle(quiet: bool) -> None:
    if quiet:
        wait_for_quiet()


def _specification(photos: list[Path], scratch: Path, backbone: str, size: int) -> Path:
    """Write the network file as it is, and what each peer is told of it and of the photos."""
    found = find_backbone(backbone)
    card, model = found.card, scratch / "peers-network.onnx"
    model.write_bytes(found.network)
    train = [path.parts[-3] == "Training" for path in photos]
    spec = {
        "model": str(model),
        "size": size,
        "cores": usable_cores(),
        "card": {name: getattr(card, name) for name in ("layout", "dtype", "channels", "scale", "shift")},
        "photos": [str(path) for path in photos],
        "labels": [path.parts[-2] for path in photos],
        "train": train,
        "components": max(2, min(_COMPONENTS, card.embedding_size, sum(train) - 1)),
        "to": str(scratch / "peers-embeddings"),
    }
    path = scratch / "peers.json"
    path.write_text(json.dumps(spec))
    return path


def environments_of(pythons: Pythons) -> dict[str, str]:
    """Return the Python of each package that has an environment of its own; that of all others under the empty name."""
    default = str(_OWN_VENV) if _OWN_VENV.is_file() else sys.executable
    return {"": default, **pythons}


def _why_absent(peer: Peer, environments: dict[str, str]) -> str | None:
    """Return why a peer cannot run here; None if it can."""
    python = environments.get(peer.package, environments[""])
    tried = subprocess.run([python, "-c", f"import {peer.package}"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"not installed here: {last_line(tried.stderr)}"


def _run(peer: Peer, environments: dict[str, str], spec: Path) -> dict[str, Any] | str:
    """Run a peer once; return what it said, or why it could not."""
    python = environments.get(peer.package, environments[""])
    told = json.loads(spec.read_text())
    rows = Path(told["to"] + ".npy")
    rows.unlink(missing_ok=True)
    command = [python, str(SCRIPTS / peer.script), str(spec), *peer.arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": str(SCRIPTS),
        "PEER_SPEC": str(spec),
        "PYSPARK_PYTHON": python,
        "PYSPARK_DRIVER_PYTHON": python,
    }
    try:
        ended, usage = _metered(command, spec.parent, environment)
    except subprocess.TimeoutExpired:
        return f"not done after {_TIMEOUT_S} s"
    if ended.returncode:
        return last_line(ended.stderr)
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1]) | usage
    if peer.name != "notebook way" and (wrong := _differs(rows, told, exact=peer.exact)):
        return wrong
    return result


def _differs(path: Path, told: dict[str, Any], *, exact: bool) -> str | None:
    """Return what is wrong with a peer's embeddings, of which the first peer's are the model; None if nothing is."""
    rows, model = np.load(path), path.with_name("peers-model.npy")
    if len(rows) != len(told["photos"]) or not np.isfinite(rows).all():
        return f"{len(rows):,} embeddings of {len(told['photos']):,} photos; expected all"
    if not model.is_file():
        np.save(model, rows)
    expected = np.load(model)
    apart = float(np.abs(rows - expected).max() / np.abs(expected).max())
    return f"other embeddings, apart by {apart:.2g} of the largest number" if exact and apart > _SAME else None


def _fruits(folder: Path, out: Path, backbone: str, size: int, expected: int) -> dict[str, Any]:
    """Run fruits on an empty output; return what it says of itself, as a peer does."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "fruits", "run", str(folder), "--to", str(out), "--json"]
    ended, usage = _metered([*command, "--backbone", backbone, "--size", str(size)], out.parent, dict(os.environ))
    if ended.returncode:
        sys.exit(f"fruits run failed ({ended.returncode}):\n{ended.stderr[-2000:]}")
    record = json.loads(ended.stdout)
    if record["ok"] != expected or record["computed"] != expected:
        sys.exit(
            f"fruits embedded {record['ok']:,} of {expected:,} photos; expected all: the photos are not comparable"
        )
    seconds = record["seconds"]
    return {
        "seconds": seconds["embeddings"], **usage, "whole": seconds["total"],
        "accuracy": record["metrics"]["accuracy"], "components": record["components"],
        "versions": {"fruits": version("fruits")},
        "pca": seconds["moments"] + seconds["pca"] + seconds["features"], "fit": seconds["choices"] + seconds["head"],
    }  # fmt: skip


def table(
    results: Mapping[str, list[dict[str, Any]]], absent: Mapping[str, str], peers: Sequence[Peer], photos: int
) -> str:
    """Return two Markdown tables, of featurizing and of whole jobs, and whether the targets are met."""
    about = {FRUITS: "starts workers, hashes, commits"} | {peer.name: peer.about for peer in peers}
    whole_names = {peer.name for peer in peers if peer.whole}
    single = {name: found for name, found in results.items() if name not in whole_names}
    lines = [
        "| featurizing | seconds, median | spread | photos/s | of fruits | wall s | CPU s per 1,000 | versions | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    own = _median(results[FRUITS], "seconds")
    for name, found in sorted(single.items(), key=lambda one: _median(one[1], "seconds")):
        seconds = _median(found, "seconds")
        shown = f"**{name}**" if name == FRUITS else name
        lines.append(
            f"| {shown} | {seconds:.1f} | {_spread(found, 'seconds')} | {photos / seconds:,.0f} | {own / seconds:.2f} "
            f"| {_median(found, 'wall'):.1f} | {_median(found, 'cpu') / photos * 1000:.2f} | {_versions(found)} "
            f"| {about[name]} |"
        )
    lines += [f"| {name} | | | | | | | | {why} |" for name, why in absent.items() if name not in whole_names]
    lines += [
        "",
        "| whole job | seconds, median | spread | of fruits | featurizing | PCA | choosing and fitting | accuracy | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    whole = [(FRUITS, results[FRUITS], "whole", "seconds")]
    whole += [(name, results[name], "seconds", "featurizing") for name in results if name in whole_names]
    for name, found, total, featurizing in sorted(whole, key=lambda one: _median(one[1], one[2])):
        shown = f"**{name}**" if name == FRUITS else name
        lines.append(
            f"| {shown} | {_median(found, total):.1f} | {_spread(found, total)} "
            f"| {_median(results[FRUITS], 'whole') / _median(found, total):.2f} | {_median(found, featurizing):.1f} "
            f"| {_median(found, 'pca'):.1f} | {_median(found, 'fit'):.1f} | {_median(found, 'accuracy'):.2%} "
            f"| {about[name] if name != FRUITS else 'report, gallery, leak check and bundle included; chooses k'} |"
        )
    lines += [f"| {name} | | | | | | | | {why} |" for name, why in absent.items() if name in whole_names]
    return "\n".join([*lines, "", *_targets(single, results)])


def _targets(single: Mapping[str, list[dict[str, Any]]], results: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Return a line per target that can be judged."""
    said, own = [], _median(results[FRUITS], "seconds")
    if len(single) > 1:
        best, seconds = min(
            ((name, _median(found, "seconds")) for name, found in single.items() if name != FRUITS),
            key=lambda one: one[1],
        )
        said.append(
            _verdict(f"featurizing, times as fast as the best peer ({best})", seconds / own, TARGET_FEATURIZING)
        )
    if "notebook way" in results:
        times = _median(results["notebook way"], "seconds") / _median(results[FRUITS], "whole")
        said.append(_verdict("whole job, times as fast as the notebook way", times, TARGET_WHOLE))
    return said


def _verdict(what: str, value: float, target: float) -> str:
    return f"- {what}: {value:.2f}, target {target:g}: {'met' if value >= target else '**not met**'}"


def _median(found: list[dict[str, Any]], name: str) -> float:
    return statistics.median(one[name] for one in found)


def _spread(found: list[dict[str, Any]], name: str) -> str:
    values = [one[name] for one in found]
    return f"{min(values):.1f} to {max(values):.1f}"


def _versions(found: list[dict[str, Any]]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found[0]["versions"].items())


def _metered(
    command: list[str], scratch: Path, environment: dict[str, str]
) -> tuple[subprocess.CompletedProcess[str], dict[str, float]]:
    """Run a command; return also its seconds by the clock, and the processor time of its whole tree."""
    usage = scratch / "peers-usage.json"
    metered = [sys.executable, str(SCRIPTS / "metered.py"), str(usage), *command]
    ended = subprocess.run(metered, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, env=environment)
    return ended, json.loads(usage.read_text())


def last_line(text: str) -> str:
    """Return the last line of what a program said, as a cell of a table."""
    lines = [line for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "ended without a word")[:200].replace("|", "/")
