"""Instances on one PostgreSQL tell each other what they let through: one limit for all of them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fruits.errors import StoreError
from fruits.service.http.limits import rate_exchange
from fruits.service.http.limits.rate_exchange import RateExchange
from fruits.service.http.limits.rate_limits import Limits, SharedBuckets, place_of
from fruits.service.submissions import database as database_module
from fruits.service.submissions.database import Database
from fruits.service.telemetry import Telemetry

RATE = 40
#: The longest that a use is unknown elsewhere, in exchanges.
DELAY = 2


class Clock:
    """Time that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Of all instances."""
    return Clock()


@pytest.fixture
def shared(postgres: Any) -> Iterator[Database]:
    """The database of all instances."""
    database = Database.open(postgres.empty_database())
    yield database
    database.close()


class Instance:
    """The limits of an instance and its part in the exchange, which has begun."""

    def __init__(self, database: Database, clock: Clock, buckets: Any = None, *, hears: bool = True) -> None:
        self.limits = Limits(clock, buckets)
        self.exchange = RateExchange(database, self.limits, Telemetry(io.StringIO()), hears=hears)
        self.step()

    def step(self) -> None:
        """Exchange once."""
        asyncio.run(self.exchange.step())

    def takes(self, key: str, count: int, rate: int = RATE) -> int:
        """How many of so many requests are let through."""
        return sum(self.limits.take(key, rate) == 0 for _ in range(count))


def round_and_round(instances: list[Instance], *, exchanging: bool) -> int:
    """One client asks each in turn until all refuse; return how many requests passed."""
    passed = 0
    while more := sum(one.takes("a client", 1) for one in instances):
        passed += more
        for one in instances if exchanging else ():
            one.step()
    return passed


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 20])
def test_client_that_goes_round_all_instances_gets_one_limit(shared: Database, clock: Clock, n: int) -> None:
    instances = [Instance(shared, clock) for _ in range(n)]
    passed = round_and_round(instances, exchanging=True)
    assert passed >= RATE
    assert passed <= RATE + DELAY * n
    # In the long run it is the rate: what was too much is waited for.
    for _ in range(30):
        clock.now += 4
        passed += sum(one.takes("a client", 1) for one in instances)
        for one in instances:
            one.step()
    assert 3 * RATE - 1 <= passed <= 3 * RATE + DELAY * n


def test_without_the_exchange_it_gets_a_limit_of_each(shared: Database, clock: Clock) -> None:
    """What the test above would count if nothing were exchanged."""
    assert round_and_round([Instance(shared, clock) for _ in range(4)], exchanging=False) == 4 * RATE


def test_all_that_was_let_through_before_an_exchange_is_waited_for(shared: Database, clock: Clock) -> None:
    instances = [Instance(shared, clock) for _ in range(4)]
    assert sum(one.takes("a client", 2 * RATE) for one in instances) == 4 * RATE
    for _ in range(DELAY):
        for one in instances:
            one.step()
    for one in instances:
        assert one.limits.take("a client", RATE) == pytest.approx(60 * (3 * RATE + 1) / RATE)
        assert one.takes("another", RATE) == RATE
        one.limits.charge("a client", RATE, 1)
        assert one.limits.take("a client", RATE) > 60 * 3, "work charged here does not lift the debt"
    clock.now += 60 * 60
    assert instances[0].takes("a client", 2 * RATE) == RATE


def test_uses_at_another_rate_are_no_debt(shared: Database, clock: Clock) -> None:
    """While instances with a lower rate replace others, a client that kept to the limit of these is not locked out for hours."""
    old, new = Instance(shared, clock), Instance(shared, clock)
    assert old.takes("a client", 600, 600) == 600
    old.step()
    new.step()
    assert new.takes("a client", RATE, RATE) == RATE


@pytest.mark.slow
def test_locked_table_keeps_no_connection_from_requests(
    clock: Clock, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor from the end of the service."""
    monkeypatch.setattr(database_module, "_PATIENCE_S", 8)  # for a connection of the pool; for a lock it is 15
    url = postgres.empty_database()
    with closing(Database.open(url, connections=1)) as database, ThreadPoolExecutor(1) as thread:
        instance = Instance(database, clock)
        instance.takes("a client", 1)
        with psycopg.connect(url) as other:
            other.execute("lock table rate_uses in access exclusive mode")
            for exchange, expected in ((instance.step, "lock timeout"), (instance.exchange.close, None)):
                instance.exchange._has_tables = True
                done = thread.submit(exchange)
                while not other.execute("select 1 from pg_locks where not granted").fetchall():
                    assert not done.done()
                assert database.identity()
                failure = done.exception()
                assert failure is None if expected is None else expected in str(failure)


def all_bytes(postgres: Any, table: str) -> bytes:
    """All that a table has."""
    with (
        psycopg.connect(postgres.url("fruits_tests")) as connection,
        connection.cursor().copy(f"copy {table} to stdout (format binary)") as copy,  # type: ignore[arg-type]
    ):
        return b"".join(bytes(part) for part in copy)


def test_nothing_of_an_address_is_in_the_database(shared: Database, clock: Clock, postgres: Any) -> None:
    place, family = "203.0.113.77", place_of("2001:db8:aaaa:bbbb::1")
    instance, other = Instance(shared, clock), Instance(shared, clock)
    assert instance.takes(place, 3) + instance.takes(f"{family} reads", 3) == 6
    instance.step()
    with shared.reading() as connection:
        ((stored,),) = connection.exec_driver_sql("select uses from rate_uses").all()
        ((day_key,),) = connection.exec_driver_sql("select key from rate_keys").all()
    names = {name for name, _, _ in rate_exchange._USE.iter_unpack(stored)}
    password = postgres.url("").split(":")[2].rpartition("@")[0]

    def name_by(key: bytes) -> bytes:
        return hashlib.blake2b(f"{RATE} {place}".encode(), key=key, digest_size=8).digest()

    assert name_by(hashlib.scrypt(password.encode(), salt=day_key, n=16384, r=8, p=1, dklen=32)) in names
    assert name_by(day_key) not in names, "who has the database alone cannot try addresses"
    tables = all_bytes(postgres, "rate_uses") + all_bytes(postgres, "rate_keys")
    assert stored in tables
    assert day_key in tables
    # A checkpoint writes the journal and all tables but these two, which are not in the journal.
    files = b"".join(postgres.table_files().values())
    journal = b"".join(path.read_bytes() for path in (postgres.data / "pg_wal").iterdir() if path.is_file())
    packed = bytes.fromhex("20010db8aaaabbbb")
    for traces in (place.encode(), family.encode(), b"2001:db8:aaaa", packed):
        assert traces not in tables + files + journal
    assert stored not in journal
    assert day_key not in journal
    name = postgres.url("fruits_tests").rpartition("/")[2]
    kinds = "select distinct relpersistence from pg_class where relname in ('rate_uses', 'rate_keys')"
    assert postgres.execute(kinds, name) == [("u",)], "empty after a crash of the server"
    # Old rows go, also those of an instance that was killed.
    with shared.writing() as connection:
        connection.exec_driver_sql("update rate_uses set told = told - interval '1 minute'")
    for _ in range(rate_exchange._SWEEP):
        other.step()
    assert postgres.execute("select * from rate_uses", name) == []


def test_one_that_stops_takes_its_rows_with_it(shared: Database, clock: Clock, postgres: Any) -> None:
    staying, leaving = Instance(shared, clock), Instance(shared, clock)
    for one in (staying, leaving):
        one.takes("a client", 1)
        one.step()
    leaving.exchange.close()
    assert postgres.execute("select process from rate_uses", "fruits_tests") == [(staying.exchange._process,)]


def test_key_is_another_one_each_day_and_the_exchange_goes_on(shared: Database, clock: Clock, postgres: Any) -> None:
    instances = [Instance(shared, clock) for _ in range(4)]
    (before,) = {one.exchange._key for one in instances}
    instances[0].takes("a client", 1)
    postgres.execute("update rate_keys set day = day - 1", "fruits_tests")
    for one in instances:
        one.step()
    (after,) = {one.exchange._key for one in instances}
    assert after != before
    ((days,),) = postgres.execute("select count(*) from rate_keys", "fruits_tests")
    assert days == 1
    assert RATE <= round_and_round(instances, exchanging=True) <= RATE + DELAY * 4


def test_processes_of_a_machine_tell_others_and_one_of_them_hears(
    shared: Database, clock: Clock, tmp_path: Path
) -> None:
    SharedBuckets.create(tmp_path / "limits")
    with closing(SharedBuckets(tmp_path / "limits")) as first, closing(SharedBuckets(tmp_path / "limits")) as second:
        here = [Instance(shared, clock, first), Instance(shared, clock, second, hears=False)]
        elsewhere = Instance(shared, clock)
        assert [one.takes("a client", 10) for one in here] == [10, 10]
        for one in (*here, elsewhere, *here):
            one.step()
        assert elsewhere.takes("a client", RATE) == RATE - 20
        for one in (elsewhere, *here, *here):
            one.step()
        assert here[1].limits.take("a client", RATE) == pytest.approx(60 / RATE), "each was charged once"


def test_only_the_clients_that_used_most_are_told_of(
    shared: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_exchange, "MOST", 2)
    here, elsewhere = Instance(shared, clock), Instance(shared, clock)
    here.takes("little", 2, 4)
    here.takes("most", 4, 4)
    here.takes("least of all, by its limit", 9, 1000)
    here.takes("nothing", 0)
    here.step()
    elsewhere.step()
    left = {
        key: elsewhere.takes(key, rate, rate)
        for key, rate in (("little", 4), ("most", 4), ("least of all, by its limit", 1000))
    }
    assert left == {"little": 2, "most": 0, "least of all, by its limit": 1000}


def test_instances_with_another_password_say_so(shared: Database, clock: Clock) -> None:
    here, elsewhere = Instance(shared, clock), Instance(shared, clock)
    elsewhere.exchange._password = "another"
    elsewhere.step()

    def both() -> None:
        elsewhere.takes("a client", 1, 1000)
        elsewhere.step()
        here.step()

    for _ in range(rate_exchange._STRANGE - 1):
        both()
    with pytest.raises(StoreError, match="the same password"):
        both()
    assert here.takes("a client", RATE) == RATE


@pytest.mark.slow
def test_a_database_that_is_away_leaves_limits_here_and_is_said_once(
    shared: Database, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_exchange, "EVERY_S", 0.02)
    stream = io.StringIO()
    telemetry, limits, tries = Telemetry(stream), Limits(), list[int]()
    exchange = RateExchange(shared, limits, telemetry)
    step = exchange.step

    async def counted() -> None:
        tries.append(1)
        await step()

    monkeypatch.setattr(exchange, "step", counted)

    async def several(most: int = 5) -> None:
        before = len(tries)
        while len(tries) < before + most:
            await asyncio.sleep(0.02)

    async def away() -> None:
        running = asyncio.create_task(exchange.run())
        await several()
        await asyncio.to_thread(postgres.execute, "alter database fruits_tests with allow_connections false")
        backends = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'fruits_tests'"
        await asyncio.to_thread(postgres.execute, backends)
        try:
            await several()
            assert [limits.take("a client", 2) == 0 for _ in range(3)] == [True, True, False]
        finally:
            await asyncio.to_thread(postgres.execute, "alter database fruits_tests with allow_connections true")
        await several()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    telemetry.start()
    asyncio.run(away())
    telemetry.stop()
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == ["limits_local", "limits_shared"]


def test_tables_are_no_step_of_the_migrations(shared: Database, clock: Clock, postgres: Any) -> None:
    """An older version refuses a database with later steps; it must start beside this one while one replaces the other."""
    before = postgres.execute("select * from alembic_version", "fruits_tests")
    Instance(shared, clock)
    assert postgres.execute("select * from alembic_version", "fruits_tests") == before
    postgres.execute("drop table rate_uses, rate_keys", "fruits_tests")
    instance = Instance(shared, clock)
    assert instance.exchange._key is not None
