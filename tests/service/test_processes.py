"""Several processes on one port: one service to its users, whichever process answers, and whatever happens to one of them."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fruits.service.http import processes
from fruits.service.http.limits.rate_limits import Limits, SharedBuckets
from fruits.service.settings import ServiceConfig
from fruits.service.telemetry import Telemetry

MANY = 24


def ask(service: Any, photo: bytes) -> httpx.Response:
    """Ask over a connection of its own, which the kernel may give to any process."""
    headers = {"Content-Type": "application/octet-stream"}
    return httpx.post(f"{service.address}/v1/recognise", content=photo, headers=headers, timeout=60)


def children_of(service: Any) -> list[psutil.Process]:
    """The processes that answer; their decoders are their children in turn."""
    return [one for one in psutil.Process(service.process.pid).children() if "processes" in " ".join(one.cmdline())]


def counted(service: Any, name: str) -> float:
    """Sum of a metric over its labels."""
    lines = httpx.get(f"{service.address}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


@pytest.fixture(scope="module")
def two(start_service: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two processes that some of these tests share, the last of which ends them."""
    service = start_service(tmp_path_factory.mktemp("two"), "--processes", 2, "--workers", 2, "--rate", 0)
    yield service
    service.stop()


def test_processes_are_one_service(two: Any, a_photo: bytes) -> None:
    service = two
    service.wait_until(lambda: len(service.log("ready")) == 2)  # the service is when one of them is
    assert {line["workers"] for line in service.log("ready")} == {1}
    answers = [ask(service, a_photo) for _ in range(MANY)]
    assert {answer.status_code for answer in answers} == {200}
    photos = [answer.json()["photos"][0] for answer in answers]
    assert len({str((photo["outcome"], photo["kinds"], photo["labels"])) for photo in photos}) == 1
    service.wait_until(lambda: {line["process"] for line in service.log("request")} == {0, 1})
    # Metrics are of the service, whichever process is asked.
    assert {counted(service, "fruits_photos_total") for _ in range(8)} == {MANY}
    # What one process stored, another finds: feedback on every answer.
    for photo in photos:
        told = {"id": photo["id"], "secret": photo["secret"], "right": True}
        assert httpx.post(f"{service.address}/v1/feedback", json=told, timeout=60).status_code == 204


def test_a_rate_limit_is_of_the_service_not_of_a_process(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--processes", 0, "--workers", 2, "--rate", 5)  # as many as pay
    assert len(children_of(service)) == 2
    statuses = [ask(service, a_photo).status_code for _ in range(MANY)]
    # A bucket fills again by one in 12 seconds.
    assert 5 <= statuses.count(200) <= 5 + 60 // 12
    assert set(statuses) == {200, 429}


def test_a_process_that_dies_is_replaced_and_the_others_answer(two: Any, a_photo: bytes) -> None:
    service = two
    service.wait_until(lambda: len(service.log("ready")) == 2)
    victim = children_of(service)[0]
    victim.kill()
    service.wait_until(lambda: len(service.log("process_died")) == 1)
    # The kernel gives connections to the one that listens, at once.
    assert {ask(service, a_photo).status_code for _ in range(8)} == {200}
    service.wait_until(lambda: len(service.log("ready")) == 3)
    alive = children_of(service)
    assert len(alive) == 2
    assert victim.pid not in {one.pid for one in alive}
    assert {ask(service, a_photo).status_code for _ in range(8)} == {200}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_process_outlives_the_service(
    request: pytest.FixtureRequest, serve: Callable[..., Any], number: signal.Signals, code: int
) -> None:
    service = request.getfixturevalue("two") if number == signal.SIGTERM else serve("--processes", 2)
    family = psutil.Process(service.process.pid).children(recursive=True)
    assert len(family) >= 4  # each has a decoder
    service.signal(number)
    assert service.process.wait(60) == code
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def test_a_process_that_replaces_another_adopts_no_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, program = tmp_path / "told", tmp_path / "child"
    program.write_text(f"#!/bin/sh\nhead -n 1 >> '{told}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(processes, "_AGAIN_S", (0.0, 0.0))
    config = ServiceConfig(processes=1, out=str(tmp_path), adopt=True)
    parent = processes.Processes(config, ("127.0.0.1", 1), Telemetry(io.StringIO()), quiet=True)
    (child,) = parent._children
    parent._start(child)
    for _ in range(2):
        assert child.process is not None
        child.process.wait(60)
        parent._look_after()
    parent._end()
    shutil.rmtree(parent._shared)
    adopting = [json.loads(line)["config"]["adopt"] for line in told.read_text().splitlines()]
    assert adopting[:2] == [True, False]


def test_what_keeps_the_service_from_starting_is_said_once(tmp_path: Path) -> None:
    out = tmp_path / "results"
    out.mkdir()
    options = ["--processes", "3", "--port", "0", "--data", str(tmp_path / "data")]
    command = [sys.executable, "-m", "fruits", "serve", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fruits: no bundle in '{out}'")
    assert done.stderr.count("\n") == 1


def _take(path: Path, seconds: float) -> int:
    with closing(SharedBuckets(path)) as buckets:
        limits = Limits(buckets=buckets)
        end, taken = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            taken += limits.take("somebody", 100) == 0
    return taken


def test_processes_at_once_take_no_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    SharedBuckets.create(path)
    pipes = []
    for _ in range(3):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, str(_take(path, 1.0)).encode())
            os._exit(0)
        os.close(writer)
        pipes.append(reader)
    started = time.monotonic()
    taken = 0
    for reader in pipes:
        with os.fdopen(reader) as pipe:
            taken += int(pipe.read())
    refilled = (time.monotonic() - started + 1) * 100 / 60
    assert 100 <= taken <= 100 + refilled + 1


def test_a_full_table_forgets_the_key_not_used_for_longest(tmp_path: Path) -> None:
    SharedBuckets.create(tmp_path / "limits")
    now = [1.0]
    with closing(SharedBuckets(tmp_path / "limits")) as buckets:
        limits = Limits(lambda: now[0], buckets)
        assert limits.take("busy", 1) == 0
        for number in range(100_000):
            now[0] += 1e-6
            limits.take(str(number), 1)
            limits.take("busy", 1)
        assert limits.take("busy", 1) > 0
    assert (tmp_path / "limits").stat().st_size < 2_000_000


@pytest.mark.parametrize(("hard", "allowed", "warned"), [(4096, 1700, False), (900, 900, True)])
def test_a_process_asks_for_as_many_files_as_its_connections_need(hard: int, allowed: int, warned: bool) -> None:
    """In a process of its own, as a hard limit that was lowered stays."""
    script = f"""
import resource
from fruits.service.http.server import allow_files
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
allow_files(1700)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(ran.stdout) == allowed
    assert ("at most 900 files may be open" in ran.stderr) is warned
