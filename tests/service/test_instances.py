"""Several instances of the service on one PostgreSQL and one photo store, as behind a load balancer."""

from __future__ import annotations

import asyncio
import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from fruits.recogniser import bundle as bundles
from fruits.service.resources import Resources
from fruits.service.settings import ServiceConfig
from fruits.service.telemetry import Telemetry
from fruits.storage.objects import Objects
from fruits.storage.outputs import publishing
from fruits.storage.outputs.runs import stored_pointer

INSTANCES, CONNECTIONS, RATE, VISITS = 4, 2, 40, 16
#: Between two rounds of a client.
PAUSE_S = 0.25


class Instances:
    """Four services, and the database that they share."""

    def __init__(self, services: list[Any], postgres: Any, url: str, out: Path) -> None:
        self.services, self.postgres, self.url, self.out = services, postgres, url, out
        self.deleted: list[str] = []

    def __getitem__(self, number: int) -> Any:
        return self.services[number % INSTANCES]

    def connections(self, beside: psycopg.Connection) -> int:
        """How many connections the instances have to the database now, as told to one that is not to it."""
        name = self.url.rpartition("/")[2]
        row = beside.execute("select count(*) from pg_stat_activity where datname = %s", (name,)).fetchone()
        assert row is not None
        return int(row[0])

    def token(self, role: str, *options: str) -> dict[str, str]:
        """A new token, as a header."""
        name = f"{role} {time.monotonic_ns()}"
        words = ("tokens", "add", name, "--role", role, "--data", self[0].data, "--database", self.url)
        return {"Authorization": f"Bearer {self[0].command(*words, *options).strip()}"}


@pytest.fixture(scope="module")
def four(
    finished_run: Any, postgres: Any, tmp_path_factory: pytest.TempPathFactory, start_service: Callable[..., Any]
) -> Iterator[Instances]:
    """Started at the same moment on an empty database, each with a data folder of its own, as on four machines."""
    folder, url = tmp_path_factory.mktemp("instances"), postgres.empty_database()
    out = finished_run.copy_to(folder)
    options = ("--database", url, "--photos", folder / "photos", "--database-connections", CONNECTIONS, "--rate", 0)

    def start(number: int) -> Any:
        return start_service(folder / str(number), *options, "--workers", 1, "--watch", 0.5, out=out)

    with ThreadPoolExecutor(INSTANCES) as pool:
        services = list(pool.map(start, range(INSTANCES)))
    yield Instances(services, postgres, url, out)
    for service in services:
        assert service.stop() == 0
        assert service.log("bug") + service.log("library") + service.log("chore_failed") == []


def test_one_is_migrated_and_swept_for_all(four: Instances) -> None:
    """All of them began at once on an empty database."""
    name = four.url.rpartition("/")[2]
    assert len(four.postgres.execute("select * from identities", name)) == 1
    assert len(four.postgres.execute("select * from alembic_version", name)) == 1
    four[0].wait_until(lambda: bool(four.postgres.execute("select * from chores where name = 'sweep'", name)))
    assert len(four.postgres.execute("select * from chores where name = 'sweep'", name)) == 1


def test_pools_keep_to_their_size_and_what_one_stored_another_finds_and_deletes(
    four: Instances, a_photo: bytes
) -> None:
    most, done = [0], threading.Event()

    def look() -> None:
        # One connection for all looks: to make one takes as long as an answer.
        with psycopg.connect(four.postgres.url("postgres"), autocommit=True) as beside:
            while not done.wait(0.005):
                most[0] = max(most[0], four.connections(beside))

    looking = threading.Thread(target=look)
    looking.start()

    def visit(number: int) -> str:
        """Recognise at one, tell another whether it was right, look at a third, delete at a fourth."""
        answer = four[number].recognise(a_photo, keep="true").json()["photos"][0]
        about = {"id": answer["id"], "secret": answer["secret"]}
        note = {**about, "right": False, "note": f"planted-{number:04}"}
        assert four[number + 1].client.post("/v1/feedback", json=note).status_code == 204
        header = {"X-Fruits-Secret": answer["secret"]}
        place = f"/v1/submissions/{answer['id']}"
        assert four[number + 2].client.get(place, headers=header).json()["note"] == f"planted-{number:04}"
        assert four[number + 2].client.get(f"{place}/photo", headers=header).status_code == 200
        assert four[number + 3].client.delete(place, headers=header).status_code == 204
        assert four[number].client.get(place, headers=header).status_code == 404
        return str(answer["id"])

    try:
        with ThreadPoolExecutor(VISITS) as pool:
            ids = list(pool.map(visit, range(VISITS)))
    finally:
        done.set()
        looking.join()
    four.deleted += ids
    assert len(set(ids)) == VISITS
    assert 1 <= most[0] <= INSTANCES * CONNECTIONS


def go_round(four: Instances, photo: bytes) -> tuple[int, int, float]:
    """One client asks each instance in turn until all of them refuse: requests that passed, requests, seconds."""
    header = {**four.token("api", "--rate", str(RATE)), "Content-Type": "application/octet-stream"}
    passed, asked, began = 0, 0, time.monotonic()
    while True:
        statuses = [
            one.client.post("/v1/recognise", content=photo, headers=header).status_code for one in four.services
        ]
        assert set(statuses) <= {200, 429}
        passed, asked = passed + statuses.count(200), asked + INSTANCES
        if 200 not in statuses:
            return passed, asked, time.monotonic() - began
        time.sleep(PAUSE_S)


def test_client_that_goes_round_all_instances_gets_one_limit(four: Instances, a_photo: bytes) -> None:
    """As docs/service.md says: the rate, and once what is let through while instances do not know of each other's uses."""
    passed, asked, seconds = go_round(four, a_photo)
    # Two intervals of a second, and as much again because this machine may be busy.
    assert RATE <= passed <= RATE * (1 + seconds / 60) + 4 * asked / seconds


def test_limits_are_of_each_instance_while_the_database_is_slow_and_no_request_fails(
    four: Instances, a_photo: bytes
) -> None:
    """The negative control of the test above, too: what a client gets if nothing is exchanged."""
    with psycopg.connect(four.url) as connection:
        connection.execute("lock table rate_uses in access exclusive mode")
        passed, _, _ = go_round(four, a_photo)
        assert passed >= INSTANCES * RATE
        for service in four.services:
            service.wait_until(lambda one=service: one.log("limits_local") != [])
        connection.rollback()
    for service in four.services:
        service.wait_until(lambda one=service: one.log("limits_shared") != [])
        assert len(service.log("limits_local")) == 1
    passed, asked, seconds = go_round(four, a_photo)
    assert RATE <= passed <= RATE * (1 + seconds / 60) + 4 * asked / seconds


def test_new_bundle_is_taken_without_a_moment_in_which_a_thumbnail_is_missing(
    four: Instances, another_run: Path, a_photo: bytes
) -> None:
    """Whichever instance answers, each of the others has the thumbnails that the answer names, before, amid and after."""
    name = (another_run / "current").resolve().name
    before, after = bundles.load(four.out).identity, bundles.load(another_run).identity
    shutil.copytree(another_run / "runs" / name, four.out / "runs" / name)
    seen: set[str] = set()
    gone: list[str] = []
    done = threading.Event()

    def visit(number: int) -> None:
        with httpx.Client(timeout=60) as client:
            while not done.is_set():
                number += 1
                asked = four[number].address
                sent = {"Content-Type": "application/octet-stream"}
                answer = client.post(f"{asked}/v1/recognise", content=a_photo, headers=sent).json()
                seen.add(answer["model"]["identity"])
                thumbnail = answer["photos"][0]["similar"][0]["thumbnail"]
                for other in four.services:
                    status = client.get(f"{other.address}{thumbnail}").status_code
                    if status != 200:
                        gone.append(f"{status} of {thumbnail} at {other.port} after an answer of {asked}")

    with ThreadPoolExecutor(3) as pool:
        visits = [pool.submit(visit, number) for number in range(3)]
        try:
            four[0].wait_until(lambda: bool(seen))
            publishing.point(Objects(str(four.out)), name, "", stored_pointer(str(four.out)))
            for service in four.services:
                service.wait_until(lambda one=service: one.log("reload") != [], 120)
        finally:
            done.set()
        for visited in visits:
            visited.result()
    assert gone == []
    assert seen <= {before, after}
    for service in four.services:
        assert service.recognise(a_photo).json()["model"]["identity"] == after


def test_of_what_was_deleted_nothing_is_left_a_minute_later(four: Instances) -> None:
    """Maintenance of all four at once: no row, no photo and no byte. The tests in between take most of the minute."""
    if not four.deleted:
        pytest.skip("nothing was deleted: run the tests before this one, too")
    name = four.url.rpartition("/")[2]
    with psycopg.connect(four.url, autocommit=True) as beside:
        four[0].wait_until(lambda: not beside.execute("select * from chores where name = 'scrub'").fetchall(), 180)
    assert four.postgres.execute("select count(*) from submissions where note is not null", name) == [(0,)]
    files = four.postgres.table_files().values()
    assert not [number for number in range(VISITS) if any(f"planted-{number:04}".encode() in data for data in files)]
    store = four[0].data.parent.parent / "photos"
    assert not [path for path in store.rglob("*") if path.suffix in (".jpg", ".jpeg", ".webp")]


def test_who_asks_for_an_unknown_bundle_waits_for_the_next_look_which_all_share(
    finished_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pointer changes a moment after the last look: nobody is told that there is no such bundle."""
    config = ServiceConfig(out=str(finished_run.out), data=str(tmp_path / "data"), watch=3600, workers=1)
    resources = Resources(config, Telemetry(io.StringIO()))
    current, looks, loaded = [resources._seen], list[object](), list[object]()

    def look() -> object:
        looks.append(current[0])
        return current[0]

    def reload() -> bool:
        loaded.append(current[0])
        return True

    async def ask() -> None:
        await resources.look_for_a_new_bundle()  # nothing new
        current[0] = "another"
        await asyncio.gather(*(resources.look_for_a_new_bundle() for _ in range(50)))
        assert loaded == ["another"]
        loading = asyncio.create_task(resources.reload())
        await asyncio.gather(resources.look_for_a_new_bundle(), loading)
        await resources.stop()

    monkeypatch.setattr(resources, "_look", look)
    monkeypatch.setattr(resources.recogniser, "reload", reload)
    asyncio.run(ask())
    assert looks[1:3] == ["another", "another"], "one look for fifty, and one by what it loads"
