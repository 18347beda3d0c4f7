"""``fruits serve`` beside services that one would write instead: the same photos, recogniser and cores, in turns.

The peers serve the run's ``recognizer.onnx`` from scripts in ``peer_scripts``. A closed loop of 16 connections comes from this
process, see ``generator.py``. ``fruits serve`` also checks consent, stores every photo with its row and answers with neighbours,
taxonomy and advice; the peers answer with the three best labels and keep nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.generator import Generator, quantile
from benchmarks.peers import SCRIPTS, environments_of, last_line
from benchmarks.photos import fruits_run, link, record_of, spread
from benchmarks.quiet import wait_for_quiet
from benchmarks.serving import Service
from fruits.monitoring.cores import usable_cores
from fruits.recogniser import bundle as bundles

CONNECTIONS: Final = 16
TARGET: Final = 1.2
FRUITS: Final = "fruits serve"
_PATIENCE_S: Final = 120.0
_BOUNDARY: Final = "fruits-peer"


@dataclass(frozen=True)
class Server:
    """A script that serves, the package that it needs, and how its requests look; None: as those of fruits."""

    name: str
    script: str = ""
    package: str = ""
    path: str = "/v1/recognise"
    field: str | None = None
    options: tuple[str, ...] = ()


SERVERS: Final = (
    Server(FRUITS),
    Server(f"{FRUITS} --processes 1", options=("--processes", "1")),
    Server("FastAPI handler", "serve_fastapi.py", "fastapi", "/", "photo"),
    Server("LitServe", "serve_litserve.py", "litserve", "/predict", "request"),
    Server("BentoML", "serve_bentoml.py", "bentoml", "/recognise", "photo"),
)


def measure(
    photos: list[Path],
    scratch: Path,
    *,
    learnt: int,
    served: int,
    repeat: int,
    seconds: float,
    options: tuple[str, ...] = ("--backbone", "fruits-small"),
    pythons: Mapping[str, str] | None = None,
    servers: tuple[Server, ...] = SERVERS,
    quiet: bool = True,
) -> dict[str, Any]:
    """Learn from some photos, and serve others by each server in turns."""
    link(spread(photos, learnt), scratch / "serving-photos")
    out = scratch / "serving-out"
    record_of(fruits_run(scratch / "serving-photos", out, *options), out)
    bundle = bundles.load(out)
    files = [path.read_bytes() for path in spread(photos, served)]
    expected = [json.dumps(one.labels[0], ensure_ascii=False) for one in bundle.recognise(files)]
    spec = scratch / "serving.json"
    recognizer = next(path for path in (out / "bundle" / "recognizer.onnx", out / "recognizer.onnx") if path.is_file())
    spec.write_text(
        json.dumps(
            {
                "model": str(recognizer),
                "size": bundle.preprocessing.size,
                "labels": bundle.labels,
                "cores": usable_cores(),
            }
        )
    )
    environments = environments_of(pythons or {})
    results: dict[str, list[dict[str, float]]] = {}
    absent: dict[str, str] = {}
    for _ in range(repeat):
        for server in servers:
            if server.name in absent:
                continue
            if quiet:
                wait_for_quiet()
            try:
                with _running(server, out, scratch, spec, environments) as address:
                    found = _load(server, address, files, expected, seconds)
                results.setdefault(server.name, []).append(found)
            except RuntimeError as exc:
                absent[server.name] = str(exc)
    shutil.rmtree(scratch / "serving-photos")
    markdown = table(results, absent)
    return {"repetitions": results, "absent": absent, "markdown": markdown, "lines": markdown.splitlines()}


@contextmanager
def _running(
    server: Server, out: Path, scratch: Path, spec: Path, environments: Mapping[str, str]
) -> Iterator[tuple[str, int]]:
    """Start a server, wait until it answers, give its address, and end it with all of its processes."""
    with ExitStack() as stack:
        if not server.script:
            folder = scratch / f"serving-{time.monotonic_ns()}"
            folder.mkdir()
            yield stack.enter_context(Service(out, folder, *server.options)).address
            return
        python = environments.get(server.package, environments[""])
        tried = subprocess.run([python, "-c", f"import {server.package}"], capture_output=True, text=True, check=False)
        if tried.returncode:
            raise RuntimeError(f"not installed here: {last_line(tried.stderr)}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        log = scratch / "serving.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                [python, str(SCRIPTS / server.script), str(spec), str(port)],
                stdout=said, stderr=said, start_new_session=True, env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
            )  # fmt: skip
        try:
            _wait(process, port, log)
            yield "127.0.0.1", port
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(last_line(log.read_text(errors="replace")))
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return
        except urllib.error.HTTPError:  # it answers
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"does not answer after {_PATIENCE_S:.0f} s")


def _load(
    server: Server, address: tuple[str, int], files: list[bytes], expected: list[str], seconds: float
) -> dict[str, float]:
    # That of fruits names three labels, the first of which is meant; JSON of the peers may have blanks, and one label.
    answers = [(f'"labels":[{{"label":{label}' if not server.script else label).encode() for label in expected]
    generator = Generator(address, [request(server, data) for data in files], answers)
    until = time.monotonic() + _PATIENCE_S
    while not generator.closed(CONNECTIONS, min(2.0, seconds)).count().get(200):  # warms up, too
        if time.monotonic() > until:
            raise RuntimeError(f"answers no photo within {_PATIENCE_S:.0f} s")
    tally = generator.closed(CONNECTIONS, seconds)
    good = tally.latencies(200)
    if not good:
        raise RuntimeError(f"answers {tally.count()}")
    return {
        "per_second": len(good) / tally.seconds,
        "p50": quantile(good, 0.5),
        "p99": quantile(good, 0.99),
        "others": sum(number for status, number in tally.count().items() if status != 200),
        "wrong": tally.wrong,
        "generator_share": tally.cpu_s / (tally.seconds * usable_cores()),
    }


def request(server: Server, data: bytes) -> bytes:
    """Return the bytes of a request with a photo: as it is, or as a field of a form."""
    kind, body = "image/jpeg", data
    if server.field:
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{server.field}"; filename="photo.jpg"\r\n'
        body = head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + data + f"\r\n--{_BOUNDARY}--\r\n".encode()
    lines = [f"POST {server.path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def table(results: Mapping[str, list[dict[str, float]]], absent: Mapping[str, str]) -> str:
    """Return a Markdown table, and whether the target is met."""

    def median(name: str, value: str) -> float:
        return statistics.median(one[value] for one in results[name])

    lines = [
        "| serving | requests/s, median | spread | p50 ms | p99 ms | other label | refused, failed | generator's share | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(results, key=lambda one: -median(one, "per_second")):
        rates = [one["per_second"] for one in results[name]]
        shown = f"**{name}**" if name.startswith(FRUITS) else name
        lines.append(
            f"| {shown} | {median(name, 'per_second'):,.0f} | {min(rates):,.0f} to {max(rates):,.0f} "
            f"| {1000 * median(name, 'p50'):.1f} | {1000 * median(name, 'p99'):.1f} | {median(name, 'wrong'):,.0f} "
            f"| {median(name, 'others'):,.0f} | {median(name, 'generator_share'):.2f} | |"
        )
    lines += [f"| {name} | | | | | | | | {why} |" for name, why in absent.items()]
    own = [median(name, "per_second") for name in results if name.startswith(FRUITS)]
    peers = {name: median(name, "per_second") for name in results if not name.startswith(FRUITS)}
    if own and peers:
        best = max(peers, key=lambda name: peers[name])
        times = max(own) / peers[best]
        met = "met" if times >= TARGET else "**not met**"
        lines += ["", f"- serving, times the requests of the best peer ({best}): {times:.2f}, target {TARGET:g}: {met}"]
    return "\n".join(lines)
