"""The service's login on a real PostgreSQL: it works on its own tables, as nobody's master, and its password can be changed."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from fruits.errors import ConfigError, StoreError
from fruits.service.submissions.database import Database
from fruits.service.submissions.logins import prepare
from fruits.service.submissions.repository import NewSubmission, Submissions
from fruits.service.submissions.tokens import Tokens, digest_of, new_token
from fruits.storage.objects import Objects

FIRST, SECOND = "first-password-of-24-chars", "second-password-of-24-char"


class Managed:
    """A database as RDS makes one: its master may make roles and is no superuser."""

    def __init__(self, server: Any) -> None:
        self._server, self._word = server, secrets.token_hex(12)
        self.erase()
        server.execute(f"create role master login createrole password '{self._word}'")
        server.execute("create database managed owner master")

    def url(self, user: str = "master", password: str = "") -> str:
        return f"postgresql://{user}:{password or self._word}@127.0.0.1:{self._server.port}/managed"

    def ask(self, statement: str) -> list[Any]:
        return self._server.execute(statement, "managed")

    def erase(self) -> None:
        self._server.execute("drop database if exists managed with (force)")
        for (role,) in self._server.execute("select rolname from pg_roles where rolname ~ '^(fruits_service|master)'"):
            self._server.execute(f"drop role if exists {role}")


@pytest.fixture
def managed(postgres: Any) -> Iterator[Managed]:
    made = Managed(postgres)
    yield made
    made.erase()


def test_the_service_works_as_its_own_login_and_may_do_nothing_else(
    managed: Managed, tmp_path: Path, new: Callable[..., NewSubmission]
) -> None:
    assert prepare(managed.url(), "fruits_service_1", FIRST) == []
    prepare(managed.url(), "fruits_service_1", FIRST)  # every task does
    database = Database.open(managed.url("fruits_service_1", FIRST))
    submissions = Submissions(database, Objects(str(tmp_path / "kept")), keep_days=30)
    receipt = submissions.add(new(b"jpeg"))
    submissions.delete(receipt.id, receipt.secret)
    assert database.scrub(thorough=True), "it may rewrite its tables"
    owners = {owner for (owner,) in managed.ask("select tableowner from pg_tables where schemaname = 'public'")}
    assert owners == {"fruits_service"}
    assert (
        managed.ask("select rolsuper, rolcreatedb, rolcreaterole from pg_roles where rolname ~ '^fruits_service'")
        == [(False, False, False)] * 2
    )
    for statement in ("create role another", "drop schema public cascade", "set role master", "create schema another"):
        with (
            pytest.raises(StoreError, match=r"permission denied|must be owner|not permitted"),
            database.writing() as connection,
        ):
            connection.execute(text(statement))
    database.close()


def test_the_password_of_the_next_round_works_beside_the_one_before_and_the_one_before_that_is_gone(
    managed: Managed,
) -> None:
    prepare(managed.url(), "fruits_service_1", FIRST)
    Database.open(managed.url("fruits_service_1", FIRST)).close()
    assert prepare(managed.url(), "fruits_service_2", SECOND) == []
    for login, password in (("fruits_service_1", FIRST), ("fruits_service_2", SECOND)):
        Database.open(managed.url(login, password)).close()
    assert prepare(managed.url(), "fruits_service_3", FIRST) == ["fruits_service_1"]
    Database.open(managed.url("fruits_service_2", SECOND)).close()
    with pytest.raises(StoreError, match="password authentication failed"):
        Database.open(managed.url("fruits_service_1", FIRST))


def test_tables_that_the_master_made_before_are_handed_over(managed: Managed) -> None:
    Database.open(managed.url()).close()
    prepare(managed.url(), "fruits_service_1", FIRST)
    database = Database.open(managed.url("fruits_service_1", FIRST))
    with database.writing() as connection:
        connection.execute(text("insert into chores (name, number) values ('x', 1)"))
    database.close()


def test_tasks_that_start_at_once_all_find_the_login(managed: Managed) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: prepare(managed.url(), "fruits_service_1", FIRST), range(8)))
    Database.open(managed.url("fruits_service_1", FIRST)).close()


def test_no_statement_that_could_be_logged_holds_the_password(
    managed: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    seen: list[str] = []
    execute = psycopg.Cursor.execute

    def watched(self: Any, query: Any, *given: Any, **named: Any) -> Any:
        seen.append(f"{query} {given}")
        return execute(self, query, *given, **named)

    monkeypatch.setattr(psycopg.Cursor, "execute", watched)
    prepare(managed.url(), "fruits_service_1", FIRST)
    assert any("SCRAM-SHA-256$" in statement for statement in seen)
    assert not any(FIRST in statement for statement in seen)


@pytest.mark.parametrize(("login", "password", "words"), [
    ("fruits", FIRST, "expected fruits_service_1"), ("fruits_service_1; drop role x", FIRST, "expected fruits_service_1"),
    ("fruits_service_1", "short", "expected 16 or more"),
])  # fmt: skip
def test_a_login_that_is_none_is_refused(managed: Managed, login: str, password: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(managed.url(), login, password)


def test_a_login_that_may_not_make_roles_is_told(managed: Managed) -> None:
    prepare(managed.url(), "fruits_service_1", FIRST)
    with pytest.raises(StoreError, match="expected a user who may make roles"):
        prepare(managed.url("fruits_service_1", FIRST), "fruits_service_2", SECOND)


def test_a_server_that_cannot_show_its_certificate_is_not_spoken_to(managed: Managed) -> None:
    authority = Path(__file__).parents[3] / "docker/rds-ca.pem"
    url = f"{managed.url()}?sslmode=verify-full&sslrootcert={authority}"
    with pytest.raises(StoreError, match="SSL"):
        Database.open(url)


def test_nothing_needs_two_connections_at_once(
    database_url: str, tmp_path: Path, new: Callable[..., NewSubmission]
) -> None:
    """With one connection to give, a request that held one and asked for another would wait in vain."""
    database = Database.open(database_url, connections=1)
    submissions = Submissions(database, Objects(str(tmp_path / "kept")), keep_days=30)
    tokens = Tokens(database)

    def visit(number: int) -> None:
        receipt = submissions.add(new(b"jpeg"))
        submissions.feedback(receipt.id, receipt.secret, False, "Apple")
        submissions.review(receipt.id, "confirmed", reviewer="me")
        submissions.delete(receipt.id, receipt.secret)
        tokens.check(tokens.add(f"program {number}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(visit, range(8)))
    submissions.recover()
    assert submissions.purge(datetime.now(UTC) + timedelta(days=31), thorough=True) == 0
    database.close()


def test_of_many_instances_one_does_what_is_done_once_an_hour(database_url: str) -> None:
    instances = [Database.open(database_url) for _ in range(4)]
    begin = threading.Barrier(4)

    def ask(instance: Database) -> bool:
        begin.wait(30)
        return instance.claim_interval("sweep", 3600)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(ask, instances)) == [False, False, False, True]
    assert not instances[0].claim_interval("sweep", 3600)
    assert instances[0].claim_interval("other", 0), "of other work it says nothing"
    assert instances[1].claim_interval("other", 3600), "a turn ends, also of a process that is no more"
    assert not instances[2].is_scrub_pending()
    for instance in instances:
        instance.close()


def test_two_instances_do_not_rewrite_a_table_at_once(postgres: Any) -> None:
    database = Database.open(postgres.empty_database())
    with database.writing() as connection:
        database.request_scrub(connection)
    with database.reading() as other:
        other.execute(text("select pg_advisory_lock(1718777206)"))  # as another instance holds it: "fruv"
        assert not database.scrub()
        other.execute(text("select pg_advisory_unlock(1718777206)"))
    assert database.scrub()
    database.close()


def test_lock_of_a_table_is_free_when_the_next_one_is_rewritten(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    database, held, invalidate = Database.open(postgres.empty_database()), list[int](), Connection.invalidate

    def looked(self: Connection) -> None:  # the server may notice late that a connection is closed
        own = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        held.append(self.execute(text(own)).scalar_one())
        invalidate(self)

    monkeypatch.setattr(Connection, "invalidate", looked)
    assert database.scrub(thorough=True)
    assert len(held) > 1
    assert set(held) == {0}
    database.close()


def test_a_token_made_elsewhere_works_and_is_known_by_its_hash_alone(database: Database) -> None:
    tokens, token = Tokens(database), new_token()
    tokens.add_hashed("owner", "owner", digest_of(token))
    found = tokens.check(token)
    assert (found.name, found.role) == ("owner", "owner")
    for digest in (token, "", "0" * 63, "G" * 64):
        with pytest.raises(ConfigError, match="64 hexadecimal digits"):
            tokens.add_hashed("other", "api", digest)
    with pytest.raises(ConfigError, match="there is a token"):
        tokens.add_hashed("other", "api", digest_of(token))
