"""How the service behaves in operation: photos that kill, heavy ones, load, new bundles, stopping."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fruits.recogniser import bundle as bundles
from fruits.recogniser import shipped
from fruits.service.resources import Resources
from fruits.service.settings import ServiceConfig
from fruits.service.statistics import Statistics
from fruits.service.submissions.database import Database
from fruits.service.telemetry import Telemetry
from fruits.storage.objects import Objects
from fruits.storage.outputs import publishing
from fruits.storage.outputs.runs import stored_pointer

FAULTY = Path(__file__).parent.parent / "faulty_decoder"
sys.path.insert(0, str(FAULTY))
try:
    from marked import CODES, endless, marked
finally:
    sys.path.remove(str(FAULTY))


def code_of(answer: Any) -> str:
    """The code of an answer that is an error."""
    return str(answer.json()["error"]["code"])


def heavy_photo() -> bytes:
    """A photo that takes a second to decode: many pixels, each of which counts."""
    out = BytesIO()
    Image.effect_noise((6000, 5000), 60).convert("RGB").save(out, "JPEG", progressive=True, quality=20)
    return out.getvalue()


def replace_bundle(out: Path, new: Path) -> None:
    """Make another run current in the place of the one that is served, as a run does."""
    name = (new / "current").resolve().name
    shutil.copytree(new / "runs" / name, out / "runs" / name)
    publishing.point(Objects(str(out)), name, "", stored_pointer(str(out)))
    publishing.tidy(Objects(str(out)))


def test_photos_that_kill_their_decoder_harm_nobody(serve: Callable[..., Any], a_photo: bytes) -> None:
    path = os.pathsep.join(filter(None, [str(FAULTY), os.environ.get("PYTHONPATH", "")]))
    service = serve("--rate", 0, "--decode-timeout", 2, "--workers", 2, PYTHONPATH=path)
    right = service.recognise(a_photo).json()["photos"][0]["labels"]
    with ThreadPoolExecutor(8) as pool:
        faults = [fault for fault in CODES if fault != "hang"]  # that one waits for its time by the clock
        bad = [pool.submit(service.recognise, marked(a_photo, fault)) for fault in faults]
        good = [pool.submit(service.recognise, a_photo) for _ in range(24)]
        for fault, answer in zip(faults, bad, strict=True):
            # Memory without end also takes time without end: whichever is used up first.
            allowed = {CODES[fault].replace(" ", "_")} | ({"timeout"} if fault == "bomb" else set())
            assert code_of(answer.result()) in allowed
        for answer in good:
            assert answer.result().json()["photos"][0]["labels"] == right
    mixed = service.client.post(
        "/v1/recognise", files=[("photo", a_photo), ("photo", marked(a_photo, "crash")), ("photo", a_photo)]
    ).json()["photos"]
    assert ["error" in one for one in mixed] == [False, True, False]
    assert code_of(service.recognise(endless(4000, 1500))) == "timeout"
    assert service.recognise(a_photo).status_code == 200
    assert service.log("bug") == []


def test_heavy_photos_do_not_hold_up_others(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--rate", 0, "--workers", 2, "--max-wait", 60)
    heavy = heavy_photo()
    began = time.monotonic()
    assert service.recognise(heavy).status_code == 200
    alone_s = time.monotonic() - began
    with ThreadPoolExecutor(8) as pool:
        many = [pool.submit(service.recognise, heavy) for _ in range(6)]
        time.sleep(alone_s / 2)
        light = [service.recognise(a_photo) for _ in range(5)]
        waiting = sum(not one.done() for one in many)
        assert [answer.status_code for answer in light] == [200] * 5
        assert waiting >= 1  # five photos were answered while heavy ones still waited
        assert {one.result().status_code for one in many} == {200}


def test_too_large_is_said_at_once_also_while_heavy_photos_wait(serve: Callable[..., Any]) -> None:
    service = serve("--rate", 0, "--workers", 2, "--max-wait", 0.05, "--decode-timeout", 4)
    heavy, larger = endless(4000, 1600), endless(8000, 8000)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.recognise, heavy)
        service.wait_until(lambda: "fruits_photos_waiting 1.0" in service.client.get("/metrics").text)
        assert code_of(service.recognise(heavy)) == "busy"
        assert code_of(service.recognise(larger)) == "too_large"
        assert code_of(first.result()) == "timeout"


def test_who_sends_what_takes_long_may_send_less(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--rate", 3, "--decode-timeout", 2, "--workers", 1)
    assert service.recognise(a_photo).status_code == 200
    slow = endless(4000, 1500)
    assert code_of(service.recognise(slow)) == "timeout"  # two seconds: eight requests more than there are
    assert code_of(service.recognise(slow)) == "rate_limited"


def test_who_looks_for_regions_may_send_less(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--rate", 2, "--workers", 1)
    assert service.recognise(a_photo, regions="true").status_code == 200  # two requests, also if it takes no time
    assert code_of(service.recognise(a_photo)) == "rate_limited"


def test_who_would_wait_too_long_is_refused_at_once(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--rate", 0, "--workers", 1, "--max-wait", 0.05)
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: service.recognise(a_photo), range(400)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert code_of(answer) == "busy"
            assert int(answer.headers["retry-after"]) >= 1
    accepted = sum(answer.status_code == 200 for answer in answers)
    assert (
        f'fruits_requests_total{{route="/v1/recognise",status="200"}} {accepted}.0'
        in service.client.get("/metrics").text
    )
    assert len({answer.json()["photos"][0]["id"] for answer in answers if answer.status_code == 200}) == accepted
    service.wait_until(lambda: service.recognise(a_photo).status_code == 200)


def test_too_many_connections_are_refused(serve: Callable[..., Any], a_photo: bytes, receive: Any) -> None:
    service = serve("--rate", 0, "--max-connections", 5)
    service.client.close()
    time.sleep(0.2)
    held = [socket.create_connection(("127.0.0.1", service.port), timeout=30) for _ in range(5)]
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as one_more:
        answer = receive(one_more)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"busy"' in answer
    for connection in held:
        connection.close()
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    service.wait_until(lambda: service.raw(request).startswith(b"HTTP/1.1 200 "))


def test_new_bundle_without_downtime(
    serve: Callable[..., Any], finished_run: Any, another_run: Path, a_photo: bytes, tmp_path: Path
) -> None:
    out = finished_run.copy_to(tmp_path)
    service = serve("--rate", 0, "--watch", 0.2, out=out)
    before = service.recognise(a_photo).json()
    thumbnail = before["photos"][0]["similar"][0]["thumbnail"]
    statuses: list[int] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            statuses.append(service.recognise(a_photo).status_code)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        replace_bundle(out, another_run)  # seen by looking
        expected = bundles.load(another_run)
        service.wait_until(lambda: service.recognise(a_photo).json()["model"]["identity"] == expected.identity)
    finally:
        done.set()
        asking.join()
    assert set(statuses) == {200}
    assert len(service.client.get("/v1/labels").json()["labels"]) == len(expected.labels)
    assert service.client.get(thumbnail).status_code == 200  # pages that are open still show the old one's
    assert f'identity="{expected.identity}"' in service.client.get("/metrics").text


def test_a_service_finds_the_bundle_that_another_one_already_answers_with(
    serve: Callable[..., Any], finished_run: Any, another_run: Path, a_photo: bytes, tmp_path: Path
) -> None:
    out = finished_run.copy_to(tmp_path)
    first, second = (serve("--rate", 0, "--watch", 3600, out=out) for _ in range(2))
    replace_bundle(out, another_run)
    first.signal(signal.SIGHUP)
    identity = bundles.load(another_run).identity
    first.wait_until(lambda: first.recognise(a_photo).json()["model"]["identity"] == identity)
    thumbnail = first.recognise(a_photo).json()["photos"][0]["similar"][0]["thumbnail"]
    assert second.client.get(thumbnail).content == first.client.get(thumbnail).content
    assert second.recognise(a_photo).json()["model"]["identity"] == identity
    assert second.client.get(f"/v1/gallery/{'0' * 16}/0.jpg").status_code == 404


def test_signal_takes_up_a_new_bundle_and_a_bad_one_changes_nothing(
    serve: Callable[..., Any], finished_run: Any, another_run: Path, a_photo: bytes, tmp_path: Path
) -> None:
    out = finished_run.copy_to(tmp_path)
    service = serve("--rate", 0, "--watch", 0, out=out)
    identity = service.recognise(a_photo).json()["model"]["identity"]
    bundle = (out / "bundle").resolve()
    weights = bundle / "weights.npy"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    service.signal(signal.SIGHUP)
    service.wait_until(lambda: bool(service.log("reload_failed")))
    assert "weights.npy" in service.log("reload_failed")[0]["reason"]
    assert service.recognise(a_photo).json()["model"]["identity"] == identity
    shutil.rmtree(bundle)
    service.signal(signal.SIGHUP)
    service.wait_until(lambda: len(service.log("reload_failed")) == 2)
    assert service.recognise(a_photo).status_code == 200
    shutil.copytree(another_run / "bundle", bundle)
    service.signal(signal.SIGHUP)
    service.wait_until(lambda: service.recognise(a_photo).json()["model"]["identity"] != identity)


def test_graceful_stop_finishes_what_it_has_and_refuses_the_rest(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--rate", 0, "--drain", 3)
    head = b"POST /v1/recognise HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as half:
        half.sendall(head % len(a_photo) + a_photo[:500])
        with ThreadPoolExecutor(16) as pool:
            begun = [pool.submit(service.recognise, a_photo) for _ in range(16)]
            service.wait_until(lambda: sum(one.done() for one in begun) >= 1)
            service.signal(signal.SIGTERM)
            service.wait_until(lambda: service.client.get("/readyz").status_code == 503)
            assert service.client.get("/healthz").status_code == 200
            refused = service.recognise(a_photo)
            assert (refused.status_code, code_of(refused)) == (503, "stopping")
            answers = [one.result() for one in begun]
        assert {answer.status_code for answer in answers} <= {200, 503}
        half.sendall(a_photo[500:])  # begun before, but not yet a photo: refused, not forgotten
        assert half.recv(1 << 16).startswith(b"HTTP/1.1 503 ")
    assert service.process.wait(60) == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", service.port), timeout=5)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_stopping_leaves_no_process_behind_and_says_who_stopped_it(
    serve: Callable[..., Any], a_photo: bytes, number: signal.Signals, code: int
) -> None:
    service = serve("--rate", 0)
    service.recognise(a_photo)
    children = list(_children(service.process.pid))
    assert children
    service.signal(number)
    assert service.process.wait(60) == code
    assert service.log("bug") == []
    service.wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_killed_service_leaves_no_decoder_behind(serve: Callable[..., Any], a_photo: bytes) -> None:
    service = serve("--rate", 0)
    service.recognise(a_photo)
    children = list(_children(service.process.pid))
    service.signal(signal.SIGKILL)
    service.process.wait(60)
    service.wait_until(lambda: not any(_alive(child) for child in children))


def test_counts_are_of_what_was_answered_and_refused(serve: Callable[..., Any], a_photo: bytes, tmp_path: Path) -> None:
    data = tmp_path / "data"
    service = serve("--rate", 0, "--data", data)
    service.recognise(b"no photo")
    files = [("photo", a_photo), ("photo", a_photo[:300]), ("photo", a_photo)]
    assert service.client.post("/v1/recognise", files=files).status_code == 200
    head = b"POST /v1/recognise HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as gone:
        gone.sendall(head % len(a_photo) + a_photo[:500])
        time.sleep(0.2)
    service.wait_until(lambda: any(line["status"] == 499 for line in service.log("request")))
    assert service.stop() == 0
    total = Statistics(Database.open(f"sqlite:///{data / 'service.db'}")).summary(1)["total"]
    assert (total["photos"], total["refused"]) == (2, {"damaged": 1, "not_an_image": 1})


def test_further_looks_at_a_photo_are_no_new_photos(serve: Callable[..., Any], a_photo: bytes, tmp_path: Path) -> None:
    data = tmp_path / "kept data"
    service = serve("--rate", 0, "--data", data)
    for query in (
        {},
        {"regions": "true"},
        {"regions": "true", "again": "true"},
        {"box": "0,0,0.5,1"},
        {"again": "true"},
    ):
        assert service.recognise(a_photo, **query).status_code == 200
    assert service.recognise(a_photo, again="yes").status_code == 422
    service.wait_until(lambda: "fruits_photos_again_total 3.0" in service.client.get("/metrics").text)
    assert service.stop() == 0
    total = Statistics(Database.open(f"sqlite:///{data / 'service.db'}")).summary(1)["total"]
    assert total["photos"] == sum(total["outcomes"].values()) == 2
    assert {counts.sum(axis=1).max() for counts in total["drift"].values()} <= {2}


def test_counts_survive_a_restart(serve: Callable[..., Any], a_photo: bytes, tmp_path: Path) -> None:
    data = tmp_path / "kept data"
    totals = []
    for _ in range(2):
        service = serve("--rate", 0, "--data", data)
        for _ in range(3):
            service.recognise(a_photo)
        assert service.stop() == 0
        totals.append(Statistics(Database.open(f"sqlite:///{data / 'service.db'}")).summary(1)["total"]["photos"])
    assert totals == [3, 6]


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def _alive(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


_BLAS_THREADS = """
import os, signal, sys
from threadpoolctl import threadpool_info
from fruits.service.http.server import serve
from fruits.service.settings import ServiceConfig

def listening(address):
    print(max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

serve(ServiceConfig(out=sys.argv[1], data=sys.argv[2], port=0, processes=1), listening=listening, quiet=True)
"""


def test_the_small_products_of_a_request_are_not_divided_among_threads(finished_run: Any, tmp_path: Path) -> None:
    # On one core BLAS has one thread anyway.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-c", _BLAS_THREADS, str(finished_run.out), str(tmp_path / "data")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


def test_a_file_that_cannot_be_cleaned_now_does_not_keep_the_service_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fruits.service.submissions.database._PATIENCE_S", 0.05)
    config = ServiceConfig(out=shipped.path(), data=str(tmp_path / "data"), workers=1)
    database = Database.open(config.database)
    with database.writing() as connection:
        database.request_scrub(connection)
    log = io.StringIO()
    telemetry = Telemetry(log)
    telemetry.start()
    with closing(sqlite3.connect(str(database.url).removeprefix("sqlite:///"))) as another:
        another.execute("begin immediate")
        resources = Resources(config, telemetry)
    telemetry.stop()
    assert "cannot be cleaned now" in log.getvalue()
    assert resources.submissions.recover() == 0
    assert not database.is_scrub_pending()
    resources._close()
    database.close()
