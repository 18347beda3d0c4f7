from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import select, text

from fruits.errors import ConfigError, NotFoundError
from fruits.service.submissions import tokens as module
from fruits.service.submissions.database import Database
from fruits.service.submissions.tables import TokenRow
from fruits.service.submissions.tokens import Tokens


@pytest.fixture
def tokens(database: Database) -> Tokens:
    return Tokens(database)


def test_a_token_is_known_and_only_its_hash_is_stored(tokens: Tokens, database: Database) -> None:
    token = tokens.add("  the\u202e app\n", "owner", rate_per_minute=30)
    assert token.startswith("fruits_")
    assert len(token) == len("fruits_") + 43
    known = tokens.check(token)
    assert known is not None
    assert (known.name, known.role, known.rate_per_minute, known.revoked) == ("the app", "owner", 30, False)
    with database.reading() as connection:
        (row,) = connection.execute(select(TokenRow.__table__)).all()
    assert token not in repr(row)
    assert token.removeprefix("fruits_").encode() not in row.token_sha256
    assert tokens.add("another") != token


def test_what_is_no_token_is_not_known(tokens: Tokens) -> None:
    tokens.add("app")
    for token in ("", "fruits_", "fruits_" + "A" * 43, "A" * 50, "fruits_" + "A" * 42 + "\n", "\ud800", "x" * 100_000):
        assert tokens.check(token) is None


def test_every_letter_counts(tokens: Tokens) -> None:
    token = tokens.add("app")
    for at in range(len("fruits_"), len(token)):
        assert tokens.check(token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]) is None
    assert tokens.check(token) is not None


def test_a_revoked_token_is_refused_here_at_once_and_elsewhere_within_seconds(
    tokens: Tokens, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Tokens(database)
    token = tokens.add("app")
    assert tokens.check(token) is not None
    assert elsewhere.check(token) is not None
    tokens.revoke("app")
    assert tokens.check(token) is None
    clock = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: clock + module.CACHED_S)
    assert elsewhere.check(token) is None
    with pytest.raises(NotFoundError, match="fruits tokens list"):
        tokens.revoke("app")


def test_a_token_that_was_just_made_elsewhere_works(tokens: Tokens, database: Database) -> None:
    assert tokens.check("fruits_" + "A" * 43) is None
    assert tokens.check(Tokens(database).add("new")) is not None


def test_names_are_of_one_token_at_a_time_and_ids_revoke_too(tokens: Tokens) -> None:
    first = tokens.add("app")
    with pytest.raises(ConfigError, match="already"):
        tokens.add("app")
    (info,) = tokens.list()
    assert tokens.revoke(info.id).name == "app"
    second = tokens.add("app")
    assert tokens.check(first) is None
    assert tokens.check(second) is not None
    assert [one.revoked for one in tokens.list()] in ([True, False], [False, True])


def test_impossible_tokens_are_refused(tokens: Tokens) -> None:
    for name, role, rate in (
        ("", "api", None), ("\x00\u202e", "api", None), ("a", "admin", None), ("a", "api", 0), ("a", "api", 10**9),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            tokens.add(name, role, rate_per_minute=rate)  # type: ignore[arg-type]
        assert tokens.list() == ()


def test_the_day_of_last_use_is_kept_and_written_once_a_day(
    tokens: Tokens, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tokens.add("app")
    assert tokens.list()[0].last_used_day is None
    tokens.check(token)
    assert tokens.list()[0].last_used_day == tokens.list()[0].created_day
    with database.writing() as connection:
        connection.execute(text("update tokens set last_used_day = '2020-01-01'"))
    Tokens(database).check(token)
    assert tokens.list()[0].last_used_day == tokens.list()[0].created_day
    monkeypatch.setattr(Database, "writing", None)  # a second use on the same day must not write
    assert Tokens(database).check(token) is not None


def test_a_process_of_its_own_revokes_for_all(
    tokens: Tokens, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tokens.add("app")
    command = [sys.executable, "-W", "error", "-m", "fruits", "tokens", "revoke", "app", "--database", database_url]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert tokens.check(token) is None  # never asked before: nothing is remembered


def test_a_token_has_an_age_a_last_use_and_a_last_day(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    today = ["2026-11-28"]
    monkeypatch.setattr(module, "_today", lambda: today[0])
    usual, short, endless = tokens.add("usual"), tokens.add("short", days=7), tokens.add("endless", days=None)
    assert {one.name: one.expires_day for one in tokens.list()} == {
        "usual": "2027-11-28",
        "short": "2026-12-05",
        "endless": None,
    }
    today[0] = "2026-12-05"
    assert all(tokens.check(token) is not None for token in (usual, short, endless)), "its last day is a day"
    today[0] = "2026-12-06"
    assert tokens.check(short) is None, "though it was used a moment ago"
    assert Tokens(tokens._database).check(short) is None
    today[0] = "2126-12-06"
    assert tokens.check(usual) is None
    assert tokens.check(endless) is not None
    assert [(one.name, one.expired, one.age_days) for one in tokens.list()] == [
        ("endless", False, 36532),
        ("short", True, 36532),
        ("usual", True, 36532),
    ]


def test_the_name_of_an_expired_token_is_free(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    today = ["2026-11-28"]
    monkeypatch.setattr(module, "_today", lambda: today[0])
    first = tokens.add("app", days=1)
    with pytest.raises(ConfigError, match="already"):
        tokens.add("app")
    today[0] = "2026-11-30"
    second = tokens.add("app")
    assert tokens.check(first) is None
    assert tokens.check(second) is not None


def test_tokens_of_older_versions_work_until_they_are_revoked(tokens: Tokens, database: Database) -> None:
    token = tokens.add("app")
    with database.writing() as connection:
        connection.execute(text("update tokens set expires_day = null, created_day = '2020-01-01'"))
    assert Tokens(database).check(token) is not None


def test_impossible_days_are_refused(tokens: Tokens) -> None:
    for days in (0, -1, 10**9):
        with pytest.raises(ConfigError, match="days"):
            tokens.add("app", days=days)
