from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from fruits.errors import ConfigError, StoreError
from fruits.service.submissions.database import Database
from fruits.service.submissions.repository import Submissions
from fruits.service.submissions.reviewed.manifest import manifest_of
from fruits.service.submissions.tables import Base
from fruits.storage.objects import Objects


def raw(url: str) -> Any:
    """An engine of our own, without what Database sets up."""
    parsed = make_url(url)
    return create_engine(parsed.set(drivername="postgresql+psycopg") if "postgres" in parsed.drivername else parsed)


def test_migrations_make_the_tables_that_the_classes_describe(database: Database, database_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    engine = raw(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_opened_again_a_database_has_what_it_had(database: Database, database_url: str) -> None:
    with database.writing() as connection:
        connection.execute(text("insert into chores (name, number) values ('kept', 7)"))
    again = Database.open(database_url)
    with again.reading() as connection:
        assert connection.execute(text("select number from chores")).scalar() == 7
    again.close()


@pytest.mark.slow
def test_processes_that_open_a_new_database_at_once_all_succeed(database_url: str) -> None:
    program = "import sys; from fruits.service.submissions.database import Database; Database.open(sys.argv[1]).close()"
    started = [
        subprocess.Popen([sys.executable, "-c", program, database_url], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said


def before_evaluations(connection: Any) -> None:
    """Take the tables back to version 0004."""
    for statement in (
        "drop table evaluations",
        "drop index submissions_unknown",
        "alter table submissions drop column split",
        "alter table submissions drop column marked",
        "update alembic_version set version_num = '0004'",
    ):
        connection.execute(text(statement))


def test_photos_that_were_reviewed_before_the_upgrade_never_get_into_the_test_set(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:022}" for number in range(3)]
    with database.writing() as connection:
        before_evaluations(connection)
        for name, decision in zip(names, ("confirmed", "refused", None), strict=True):
            connection.execute(
                text(
                    "insert into submissions (id, secret_sha256, state, created_s, has_photo, label, decision, reviewed_label) "
                    "values (:id, :secret, 'kept', 1800000123, :has, 'apple', :decision, :label)"
                ),
                {"id": name, "secret": bytes(32), "has": True, "decision": decision, "label": decision and "apple"},
            )
    Database.open(database_url).close()
    submissions = Submissions(database, Objects(str(tmp_path / "kept")), keep_days=30)
    monkeypatch.setattr("fruits.service.submissions.repository.split_of", lambda _: "test")
    found = {name: submissions.review(name, "confirmed", reviewer="me") for name in names}
    assert [found[name].split for name in names] == ["train", "train", "test"]
    assert {one.id for one in submissions.for_training()} == set(names[:2])
    assert [found[name].marked for name in names] == [None] * 3
    assert manifest_of(submissions, "train").left_out == 2, "whether they may be shown is not in the files"


def test_a_database_of_before_loses_what_was_stored_without_consent(database: Database, database_url: str) -> None:
    with database.writing() as connection:
        before_evaluations(connection)
        connection.execute(text("alter table submissions drop column may_show"))
        connection.execute(text("alter table tokens drop column expires_day"))
        connection.execute(text("drop table identities"))
        connection.execute(text("alter table submissions rename column ood_score to strangeness"))
        connection.execute(text("update alembic_version set version_num = '0001'"))
        for name, has_photo in (("n" * 22, False), ("y" * 22, True)):
            connection.execute(
                text(
                    "insert into submissions (id, secret_sha256, state, created_s, has_photo, outcome, label, probability, "
                    "language, feedback_s) values (:id, :secret, 'kept', 1800000123, :has, 'kind', 'apple', 0.5, 'fr', "
                    "1800000200)"
                ),
                {"id": name, "secret": bytes(32), "has": has_photo},
            )
    Database.open(database_url).close()
    with database.reading() as connection:
        rows = connection.execute(text("select * from submissions order by id")).mappings().all()
    without, kept = rows
    assert (without["created_s"], without["feedback_s"]) == (1_800_000_123 // 86_400 * 86_400,) * 2
    assert [without[name] for name in ("outcome", "label", "probability", "language")] == [None] * 4
    assert (kept["created_s"], kept["label"], kept["may_show"]) == (1_800_000_123, "apple", None)
    assert database.is_scrub_pending(), "the files still hold what was emptied"


def test_a_database_of_before_keeps_its_out_of_distribution_scores(database: Database, database_url: str) -> None:
    with database.writing() as connection:
        before_evaluations(connection)
        connection.execute(text("alter table submissions rename column ood_score to strangeness"))
        connection.execute(text("update alembic_version set version_num = '0003'"))
        connection.execute(
            text(
                "insert into submissions (id, secret_sha256, state, created_s, has_photo, strangeness) "
                "values (:id, :secret, 'kept', 1800000123, :has, 1.25)"
            ),
            {"id": "y" * 22, "secret": bytes(32), "has": True},
        )
    Database.open(database_url).close()
    with database.reading() as connection:
        assert connection.execute(text("select ood_score from submissions")).scalar() == 1.25


def test_a_database_of_a_later_version_is_refused(database: Database, database_url: str) -> None:
    with database.writing() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(StoreError, match=r"version 9999.*later"):
        Database.open(database_url)


def test_a_block_that_fails_writes_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.writing() as connection:  # noqa: PT012
        connection.execute(text("insert into chores (name, number) values ('half', 1)"))
        raise ZeroDivisionError
    with database.reading() as connection:
        assert connection.execute(text("select count(*) from chores")).scalar() == 0


def test_a_refusal_of_the_database_is_ours_and_names_no_value(database: Database) -> None:
    with pytest.raises(StoreError) as refused, database.writing() as connection:
        connection.execute(text("insert into chores (name, nonsense) values (:v, 1)"), {"v": "a visitor's words"})
    assert "visitor" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://root:secret-word@localhost/x", "begins with 'mysql'"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("not a url; secret-word", "cannot be read"),
    ],
)
def test_urls_of_no_use_are_refused_without_telling_secrets(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        Database.open(url)
    assert "secret-word" not in str(refused.value)


def test_an_absent_server_is_a_clear_error_without_the_password() -> None:
    from faults.s3_server import free_port

    with pytest.raises(StoreError, match="cannot be read") as refused:
        Database.open(f"postgresql://someone:secret-word@127.0.0.1:{free_port()}/fruits")
    assert "secret-word" not in str(refused.value)


def test_the_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/made/service.db")
    with database.writing() as connection:
        connection.execute(text("insert into chores (name, number) values ('x', 1)"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "made").iterdir()}
    database.close()
    assert modes.pop("service.db") == 0o600
    assert set(modes.values()) == {0o600}, modes
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "service.db").write_bytes(b"something else entirely, and long enough to be looked at" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Database.open(f"sqlite:///{tmp_path}/service.db")


def test_with_a_reader_in_the_way_scrub_says_so_and_the_next_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fruits.service.submissions.database._PATIENCE_S", 0.05)
    monkeypatch.setattr("time.sleep", lambda _: None)
    database = Database.open(f"sqlite:///{tmp_path}/service.db")
    with database.reading() as reader:
        reader.execute(text("select * from chores")).all()
        with database.writing() as connection:
            connection.execute(text("insert into chores (name, number) values ('planted', 1)"))
        with database.writing() as connection:
            connection.execute(text("delete from chores where name = 'planted'"))
            database.request_scrub(connection)
        assert not database.scrub()
        assert b"planted" in (tmp_path / "service.db-wal").read_bytes()
    assert database.scrub()
    assert not any(b"planted" in path.read_bytes() for path in tmp_path.iterdir())
    with database.reading() as reader:
        assert reader.execute(text("select number from chores where name = 'scrub'")).scalar() is None
    database.close()


@pytest.mark.parametrize("more", [0, 1, 4, 8])
def test_what_is_deleted_is_in_no_file(
    database: Database, database_url: str, request: pytest.FixtureRequest, more: int
) -> None:
    # Rows of all sizes, so that pages split, merge and get holes; SQLite leaves copies of rows at some of these lengths.
    rows = [
        {
            "id": f"{number:022}",
            "secret": bytes(32),
            "note": f"planted-{number:04}-" + "x" * more + "long words " * (number % 70),
        }
        for number in range(600)
    ]
    insert = text(
        "insert into submissions (id, secret_sha256, state, created_s, has_photo, note) "
        "values (:id, :secret, 'kept', 1, false, :note)"
    )
    with database.writing() as connection:
        connection.execute(insert, rows)
    with database.writing() as connection:
        connection.execute(
            text("update submissions set note = note || ' and more' where substr(id, 22, 1) in ('1', '2')")
        )
    with database.writing() as connection:
        connection.execute(text("delete from submissions where substr(id, 22, 1) <> '7'"))
        database.request_scrub(connection)
    assert database.scrub()

    if database.is_sqlite:
        folder = Path(database_url.removeprefix("sqlite:///")).parent
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    else:
        files = request.getfixturevalue("postgres").table_files()
    found = {number for number in range(600) for data in files.values() if f"planted-{number:04}-".encode() in data}
    assert found == set(range(7, 600, 10)), "those that stay are there to be found, and no other"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the option is Linux's")
def test_postgresql_that_vanishes_is_given_up_within_seconds(postgres: Any) -> None:
    """Or requests and the end of the service would wait until Linux gives up the connection."""
    with closing(Database.open(postgres.empty_database())) as database, database.reading() as connection:
        handle: Any = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(handle.fileno())) as line:
            assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
            assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
