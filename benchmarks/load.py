"""What ``fruits serve`` makes of the cores it has: requests per second beside a bare loop, latency, and too much of everything.

The real process on loopback, as its user starts it, but without rate limits, which count by address; the load comes from this
process, whose share of the processor is stated. Per repetition: the ceiling (decode and inference of the same photos in bare
processes, see ``bare.py``; without head, gallery, HTTP and database), one request at a time, a closed loop, an open one at 70 %
of that. Then, once, four times the rate of the closed loop, and what comes after. The body of a request is a file as it is. Every
answer is compared with what the bundle itself says, and every receipt is looked up in the database.

The overload is one only if clients do not wait for each other: an arrival finds a connection or is dropped by the generator and
counted. Whether the service was overloaded, and by arrivals that were sent when they were due, is stated beside the targets.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bare import BareLoop
from benchmarks.generator import Generator, Tally, connections_possible, poisson, quantile
from benchmarks.photos import find_photos, fruits_run, record_of, spread
from benchmarks.quiet import wait_for_quiet
from benchmarks.serving import Service
from fruits.monitoring.cores import usable_cores
from fruits.recogniser import bundle as bundles

CONNECTIONS = 16
OPEN_SHARE, OVERLOAD = 0.7, 4.0
TARGET_SHARE, TARGET_P99, TARGET_REFUSAL_S, TARGET_MEMORY_MB, TARGET_BACK_S = 0.8, 10.0, 0.05, 100.0, 5.0
_SHARED = Path(__file__).parents[2] / "shared"
#: Connections of the open loops, for each process of the service: by default it holds 1,000, and 2,048 more can wait to be
#: refused. Beyond that the kernel drops them, and a client tries again after a second.
_OPEN_PER_PROCESS = 5000
#: The overload is one if at least this share of answers are refusals, and at most that share of arrivals were dropped here.
_LEAST_REFUSED, _MOST_UNSENT = 0.25, 0.01
#: After the overload, at this share of the peak and for so many seconds, everything should be as before.
_AFTER_SHARE, _AFTER_S = 0.3, 15.0
_LOST = 0


@dataclass(frozen=True)
class Setting:
    """Photos, a network, and how long each part takes."""

    name: str
    photos: list[Path]
    origin: str
    options: tuple[str, ...]
    served: int
    learnt: int


def measure(
    photos: Path | None, scratch: Path, *, repeat: int, scale: int, backbone: str | None = None
) -> dict[str, Any]:
    """Measure every setting there are photos for, or the one of a network; ``scale`` 10 is a tenth of everything."""
    results = {}
    lines: list[str] = []
    for setting in _settings(photos, scratch, scale, backbone):
        results[setting.name] = _measure(setting, scratch / setting.name, repeat, scale)
        lines += _lines(setting, results[setting.name])
    met = all(all(result["met"].values()) for result in results.values())
    return {"settings": results, "met": met, "lines": lines}


def _settings(photos: Path | None, scratch: Path, scale: int, backbone: str | None) -> Iterator[Setting]:
    found, origin = find_photos(photos, scratch, at_least=3000 // scale)
    if backbone is not None:
        options = ("--backbone", backbone)
        yield Setting(Path(backbone).stem, found, origin, options, 400 // scale, max(300, 1972 // scale))
        return
    yield Setting("fruits-small", found, origin, ("--backbone", "fruits-small"), 2000 // scale, max(600, 6000 // scale))
    network, groceries = _SHARED / "backbones" / "mobilenet_v2_imagenet.onnx", _SHARED / "grocery-store"
    if photos is None and network.is_file() and groceries.is_dir():
        found = sorted(groceries.rglob("*.jpg"))
        options = ("--backbone", str(network), "--size", "224")
        yield Setting("mobilenet-224", found, str(groceries), options, 400 // scale, max(300, 1972 // scale))


def _measure(setting: Setting, scratch: Path, repeat: int, scale: int) -> dict[str, Any]:
    scratch.mkdir(parents=True)
    out = _bundle(setting, scratch)
    bundle = bundles.load(out)
    served = spread(setting.photos, setting.served)
    files = [path.read_bytes() for path in served]
    expected = [f'"labels":[{{"label":{json.dumps(a.labels[0], ensure_ascii=False)}' for a in bundle.recognise(files)]
    result: dict[str, Any] = {
        "photos": setting.origin, "photos_served": len(files), "mean_bytes": round(statistics.mean(map(len, files))),
        "size": bundle.preprocessing.size, "labels": len(bundle.labels), "gallery": len(bundle.gallery),
        "repetitions": [], "ceilings": [],
    }  # fmt: skip
    network = out / "bundle" / "backbone.onnx" if (out / "bundle").is_dir() else out / "backbone.onnx"
    with _best_loop(served, network, bundle.preprocessing, result) as bare, Service(out, scratch) as service:
        result["processes"] = service.processes
        generator = Generator(service.address, [_request(data) for data in files], [one.encode() for one in expected])
        tallies = [generator.closed(CONNECTIONS, 3.0)]  # warm caches; not counted
        for number in range(repeat):
            if scale == 1:
                wait_for_quiet()
            result["ceilings"].append(_ceiling(bare, len(files)))
            result["repetitions"].append(_repetition(generator, service, tallies, scale, seed=number))
        result["ceilings"].append(_ceiling(bare, len(files)))
        peak = max(one["closed"]["per_second"] for one in result["repetitions"])
        alone_s = statistics.median(one["alone"]["median_s"] for one in result["repetitions"])
        result["overload"] = _overload(generator, service, tallies, peak, alone_s, 120.0 / scale)
        result["receipts"] = service.receipts(name for tally in tallies for name in tally.names)
        result["bugs"] = service.bugs()
    around = [(a + b) / 2 for a, b in zip(result["ceilings"], result["ceilings"][1:], strict=False)]
    for one, ceiling in zip(result["repetitions"], around, strict=True):
        closed = one["closed"]
        closed["of_ceiling"] = closed["per_second"] / ceiling
        closed["of_ceiling_without_generator"] = closed["of_ceiling"] / (1 - closed["generator_share"])
    result["met"] = _met(result)
    return result


def _bundle(setting: Setting, scratch: Path) -> Path:
    """Learn from some of the photos; return the results."""
    learn, out = scratch / "photos", scratch / "out"
    chosen = spread(setting.photos, setting.learnt)
    top = os.path.commonpath({str(path.parent) for path in chosen})
    for path in chosen:
        target = learn / path.parent.relative_to(top)
        target.mkdir(parents=True, exist_ok=True)
        (target / path.name).symlink_to(path.resolve())
    record_of(fruits_run(learn, out, "--follow-links", *setting.options), out)
    return out


@contextmanager
def _best_loop(photos: list[Path], network: Path, preprocessing: Any, result: dict[str, Any]) -> Iterator[BareLoop]:
    """Give the bare loop with as many processes as are fastest."""
    tried = {}
    for workers in range(1, usable_cores() + 2):
        with BareLoop(photos, network, preprocessing, workers) as bare:
            tried[workers] = max(_ceiling(bare, len(photos)) for _ in range(2))
    result["ceiling_by_processes"] = tried
    result["ceiling_processes"] = max(tried, key=lambda workers: tried[workers])
    with BareLoop(photos, network, preprocessing, result["ceiling_processes"]) as bare:
        yield bare


def _ceiling(bare: BareLoop, photos: int) -> float:
    """Return photos per second of a few seconds of the bare loop."""
    seconds, rounds = 0.0, 0
    while seconds < 4.0:
        seconds += bare.seconds("decode and embed")
        rounds += 1
    return photos * rounds / seconds


def _request(data: bytes) -> bytes:
    head = f"POST /v1/recognise HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def _repetition(
    generator: Generator, service: Service, tallies: list[Tally], scale: int, *, seed: int
) -> dict[str, Any]:
    with service.watched() as alone_cpu:
        alone = generator.alone(400 // scale)
    with service.watched() as closed_cpu:
        closed = generator.closed(CONNECTIONS, 20.0 / scale)
    per_second = closed.count().get(200, 0) / closed.seconds
    rate = OPEN_SHARE * per_second
    with service.watched() as open_cpu:
        opened = generator.open(poisson(rate, 30.0 / scale, seed), most_open=_most_open(service))
    tallies += [alone, closed, opened]
    median = quantile(alone.latencies(200), 0.5)
    p99 = quantile(opened.latencies(200), 0.99)
    return {
        "alone": {"median_s": median, **_facts(alone, alone_cpu)},
        "closed": {"per_second": per_second, **_facts(closed, closed_cpu)},
        "open": {"rate": rate, "p99_of_alone": p99 / median, **_facts(opened, open_cpu)},
    }


def _overload(
    generator: Generator, service: Service, tallies: list[Tally], peak: float, alone_s: float, seconds: float
) -> dict[str, Any]:
    """Send far too much for a while, then little: what was refused, what was lost, what it took, when all was well again."""
    rate = OVERLOAD * peak
    after = [seconds + moment for moment in poisson(_AFTER_SHARE * peak, _AFTER_S, 1)]
    memory = [service.memory_mb()]
    with service.watched() as cpu:
        tally = generator.open(
            poisson(rate, seconds, 0) + after, most_open=_most_open(service),
            every_second=lambda _: memory.append(service.memory_mb()),
        )  # fmt: skip
    tallies.append(tally)
    refused = tally.latencies(503, 429, last_s=seconds)
    bad = [
        due for due, taken, status in zip(tally.due, tally.latency, tally.status, strict=True)
        if due >= seconds and (status != 200 or taken > TARGET_P99 * alone_s)
    ]  # fmt: skip
    bad += [due for due in tally.unsent if due >= seconds]
    answers, unsent = tally.count(last_s=seconds), sum(due < seconds for due in tally.unsent)
    return {
        "rate": rate, "seconds": seconds, "answers_during": answers, "answers_after": tally.count(first_s=seconds),
        "accepted_per_second": tally.completed(200, seconds) / seconds,
        "refused_share": (answers.get(503, 0) + answers.get(429, 0)) / max(1, sum(answers.values())),
        "unsent_during": unsent, "unsent_share": unsent / max(1, unsent + sum(answers.values())),
        "refusal_s": {"median": quantile(refused, 0.5), "p99": quantile(refused, 0.99), "longest": quantile(refused, 1)},
        "lost": tally.count().get(_LOST, 0), "memory_mb": memory, "memory_growth_mb": max(memory) - memory[0],
        "normal_after_s": max(bad, default=seconds) - seconds,
        **_facts(tally, cpu),
    }  # fmt: skip


def _most_open(service: Service) -> int:
    """Return how many connections the open loops may have: enough for all that the service holds or refuses, if possible."""
    return connections_possible(_OPEN_PER_PROCESS * service.processes)


def _facts(tally: Tally, cpu: dict[str, float]) -> dict[str, Any]:
    """Return what is said of every tally."""
    good, late, cores = tally.latencies(200), sorted(tally.late), usable_cores()
    return {
        "answers": tally.count(), "wrong": tally.wrong, "connections": tally.opened, "most_open": tally.most_open,
        "retried": tally.retried, "unsent": len(tally.unsent),
        "late_s": {name: quantile(late, share) for name, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0))},
        "generator_share": tally.cpu_s / (tally.seconds * cores),
        "latency_s": {name: quantile(good, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
        **cpu,
    }  # fmt: skip


def _met(result: dict[str, Any]) -> dict[str, bool]:
    repetitions, overload, receipts = result["repetitions"], result["overload"], result["receipts"]
    return {
        "share_of_ceiling": statistics.median(one["closed"]["of_ceiling"] for one in repetitions) >= TARGET_SHARE,
        "p99_of_open_loop": statistics.median(one["open"]["p99_of_alone"] for one in repetitions) < TARGET_P99,
        "overloaded": overload["refused_share"] >= _LEAST_REFUSED and overload["unsent_share"] <= _MOST_UNSENT,
        "refusals": overload["refusal_s"]["p99"] < TARGET_REFUSAL_S,
        "nothing_lost": not (overload["lost"] or receipts["missing"] or receipts["unknown"] or result["bugs"]),
        "memory": overload["memory_growth_mb"] < TARGET_MEMORY_MB,
        "back_to_normal": overload["normal_after_s"] <= TARGET_BACK_S,
        "answers_right": not any(part["wrong"] for one in repetitions for part in one.values())
        and not overload["wrong"],
    }


def _lines(setting: Setting, result: dict[str, Any]) -> list[str]:
    over, receipts, refusal = result["overload"], result["receipts"], result["overload"]["refusal_s"]
    ceiling = " ".join(f"{one:7,.0f}" for one in result["ceilings"])
    photos = f"{result['photos_served']:,} photos of {setting.origin}, {result['mean_bytes']:,} bytes on average"
    rows = (
        ("closed loop, 16 connections, requests/s", lambda one: f"{one['closed']['per_second']:7,.0f}"),
        ("  of the ceiling", lambda one: f"{one['closed']['of_ceiling']:7.3f}"),
        ("  generator's share of the cores", lambda one: f"{one['closed']['generator_share']:7.3f}"),
        (
            "  of the ceiling, without the generator",
            lambda one: f"{one['closed']['of_ceiling_without_generator']:7.3f}",
        ),
        ("  others' share of the cores", lambda one: f"{one['closed']['others_share']:7.3f}"),
        ("one request alone, median, ms", lambda one: f"{1000 * one['alone']['median_s']:7.1f}"),
        ("open loop at 70 %, p99, ms", lambda one: f"{1000 * one['open']['latency_s']['p99']:7.1f}"),
        ("  times the median alone", lambda one: f"{one['open']['p99_of_alone']:7.1f}"),
        ("  others' share of the cores", lambda one: f"{one['open']['others_share']:7.3f}"),
    )
    named = f"ceiling, {result['ceiling_processes']} processes, photos/s"
    wrong = sum(part["wrong"] for one in result["repetitions"] for part in one.values()) + over["wrong"]
    shares = f"generator {over['generator_share']:.2f}, others {over['others_share']:.2f} of the cores"
    lates = f"late: median {1000 * over['late_s']['p50']:.1f} ms, p99 {1000 * over['late_s']['p99']:.1f} ms"
    sent = f"{over['most_open']:,} connections at once; {over['unsent_during']:,} arrivals dropped here, others {lates}"
    times = f"median {1000 * refusal['median']:.1f} ms, p99 {1000 * refusal['p99']:.1f} ms"
    memory = f"memory {over['memory_mb'][0]:.0f} MB, +{over['memory_growth_mb']:.0f} MB"
    much = f"{OVERLOAD:g} times the closed loop, {over['rate']:,.0f}/s for {over['seconds']:.0f} s"
    return [
        f"{setting.name}: {photos}, input {result['size']} pixels, {result['labels']} labels",
        f"  processes of the service: {result['processes']}",
        f"  {named:42}{ceiling}",
        *(f"  {name:42}" + " ".join(map(show, result["repetitions"])) for name, show in rows),
        f"  {much}: answers {over['answers_during']}; {shares}",
        f"    {sent}",
        f"    accepted {over['accepted_per_second']:,.0f}/s; refusals: {times}",
        f"    afterwards {over['answers_after']}, normal after {over['normal_after_s']:.1f} s",
        f"    lost {over['lost']}; receipts {receipts}; {memory}",
        f"  wrong answers: {wrong}; errors in the log: {len(result['bugs'])}",
        *(f"  {name.replace('_', ' '):20} {'met' if value else 'NOT met'}" for name, value in result["met"].items()),
    ]
