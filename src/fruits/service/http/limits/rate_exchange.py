"""Exchange of counted requests between the instances on one PostgreSQL, so that a rate limit holds over all of them.

Each instance has its buckets in memory. Once a second it writes what it let through since, by client, and reads what the others
wrote, which it charges to its own buckets. No request waits for that: while the database is slow or away, limits are those of
each instance. A use is known everywhere after two intervals: beyond the limit a client gets what the others let through in that
time, and only once, because it is a debt that is waited for.

No address is written, only hashes. Their key is drawn in the database each day and completed by the password of the connection:
who has the database, or a copy of it, cannot try all addresses, and can try passwords only slowly (scrypt). Rows live for
seconds, in tables that are neither in the write-ahead log nor kept by a server that crashes. The tables are no step of the
migrations: they hold nothing to carry over, and an older version must be able to start beside this one.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import secrets
import struct
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from fruits.errors import FruitsError, StoreError
from fruits.service.http.limits.rate_limits import NAME_BYTES, Limits
from fruits.service.submissions.database import MIGRATION_LOCK, Database
from fruits.service.telemetry import Telemetry

#: Interval of the exchange.
EVERY_S: Final = 1.0
#: Clients that one process tells of in one exchange, at most: those that used the most of their limit.
MOST: Final = 500
#: Exchanges between two deletions of old rows, and in a row with rows by another key until that is said.
_SWEEP: Final = 5
_STRANGE: Final = 10
#: Charges without a pause for requests: a millisecond or two.
_AT_ONCE: Final = 200
#: Name of the bucket, its rate per minute, tokens.
_USE: Final = struct.Struct(f"<{NAME_BYTES}sII")
_LARGEST: Final = (1 << 32) - 1
#: Written into the tag of a row, so that a later format is not misread.
_FORMAT: Final = b"1"
#: An exchange gives up early: it holds one of the connections that requests and the end of the service need, too.
_PATIENCE: Final = "select set_config('lock_timeout', '1s', true), set_config('statement_timeout', '3s', true)"

_TABLES: Final = (
    "create unlogged table if not exists rate_keys (day date primary key, key bytea not null)",
    """
    create unlogged table if not exists rate_uses (
        process bytea, number bigint, place bytea not null, tag bytea not null, told timestamptz not null default now(),
        uses bytea not null, primary key (process, number)
    )
    """,
    # PostgreSQL samples columns for its planner; the sample would keep deleted values.
    "alter table rate_keys alter column key set statistics 0",
    "alter table rate_uses alter column uses set statistics 0",
)
_DRAW: Final = (
    "insert into rate_keys (day, key) values (cast(now() at time zone 'utc' as date), :key) on conflict do nothing"
)
_OUTDATED: Final = "delete from rate_keys where day < cast(now() at time zone 'utc' as date)"
_WRITE_USES: Final = (
    "insert into rate_uses (process, number, place, tag, uses) values (:process, :number, :place, :tag, :uses)"
)
#: At least one row. A row is committed some milliseconds after its time, so the last two seconds are read again.
_READ_USES: Final = """
    select now() as moment, keys.key, uses.process, uses.number, uses.tag, uses.uses
    from (select 1) as one
    left join rate_keys as keys on keys.day = cast(now() at time zone 'utc' as date)
    left join rate_uses as uses
    on :hears and uses.place <> :place and uses.told > coalesce(cast(:since as timestamptz), now()) - interval '2 seconds'
"""
#: Instances that delete at once leave each other's rows alone: no deadlock.
_DELETE_OLD: Final = """
    delete from rate_uses where (process, number) in
    (select process, number from rate_uses where told < now() - interval '15 seconds' for update skip locked)
"""


class _Exchange(NamedTuple):
    """What one exchange brought: the key of the day, what others used, and whether some of them have another key."""

    key: bytes
    uses: dict[tuple[str, int], int]
    strange: bool


class RateExchange:
    """The part of one process in the exchange.

    Parameters
    ----------
    database : Database
        PostgreSQL.
    limits : Limits
        Of this process, or of all processes of this machine.
    telemetry : Telemetry
    hears : bool
        Whether this process charges what others used: of several that share buckets, one does.
    """

    def __init__(self, database: Database, limits: Limits, telemetry: Telemetry, *, hears: bool = True) -> None:
        self._database, self._limits, self._telemetry, self._hears = database, limits, telemetry, hears
        self._process = secrets.token_bytes(8)
        self._number = 0
        self._key: bytes | None = None
        self._password: str | None = None
        self._has_tables = False
        self._since: datetime | None = None
        self._seen: dict[bytes, int] = {}
        self._strange = 0
        self._is_local = False

    async def run(self) -> None:
        """Exchange for ever; what keeps this instance alone is logged when it begins and when it is over."""
        while True:
            try:
                await self.step()
            except Exception as exc:
                if not self._is_local:
                    self._is_local = True
                    if not isinstance(exc, FruitsError):
                        self._telemetry.log_bug("", exc)
                    self._telemetry.log("limits_local", level="warning", reason=str(exc)[:500])
            else:
                if self._is_local:
                    self._telemetry.log("limits_shared")
                self._is_local = False
            await asyncio.sleep(EVERY_S)

    async def step(self) -> None:
        """Tell the others once, and hear them once.

        Raises
        ------
        StoreError
            If the database cannot be used, or other instances have another password; limits hold in this instance.
        """
        exchanged = await asyncio.to_thread(self._swap, self._limits.uses())
        if exchanged.key != self._key:
            self._key = exchanged.key
            self._limits.hash_with(exchanged.key)
        for at, ((name, per_minute), count) in enumerate(exchanged.uses.items(), 1):
            self._limits.charge_elsewhere(name, per_minute, count)
            if at % _AT_ONCE == 0:
                await asyncio.sleep(0)
        self._strange = self._strange + 1 if exchanged.strange else 0
        if self._strange >= _STRANGE:
            raise StoreError(
                "other instances hash with another key, so rate limits are not shared with them; give all instances the same "
                "password of the database"
            )

    def close(self) -> None:
        """Delete what this process wrote."""
        if self._has_tables:
            with suppress(StoreError), self._database.writing() as connection:
                connection.execute(text(_PATIENCE))
                connection.execute(text("delete from rate_uses where process = :process"), {"process": self._process})

    def _swap(self, used: dict[tuple[str, int], int]) -> _Exchange:
        """Write and read, in one transaction."""
        self._number += 1
        uses = _packed(used)
        try:
            with self._database.writing() as connection:
                connection.execute(text(_PATIENCE))
                if not self._has_tables:
                    _make_tables(connection)
                    self._password = self._password or _password_of(connection)
                about = {"process": self._process, "number": self._number, "place": self._limits.origin}
                if uses and self._key is not None:
                    connection.execute(text(_WRITE_USES), {**about, "tag": _tag(self._key), "uses": uses})
                if not self._has_tables or self._number % _SWEEP == 0:
                    connection.execute(text(_DELETE_OLD))
                rows = self._read_uses(connection)
                if rows[0].key is None:  # the first exchange of the day
                    connection.execute(text(_DRAW), {"key": secrets.token_bytes(32)})
                    connection.execute(text(_OUTDATED))
                    rows = self._read_uses(connection)
        except StoreError:
            self._has_tables = False  # they may be gone
            raise
        self._has_tables, self._since = True, rows[0].moment
        return self._parsed(rows)

    def _read_uses(self, connection: Connection) -> Any:
        asked = {"hears": self._hears, "place": self._limits.origin, "since": self._since}
        return connection.execute(text(_READ_USES), asked).all()

    def _parsed(self, rows: Any) -> _Exchange:
        key = key_of(self._password or "", rows[0].key)
        tag, uses, strange = _tag(key), dict[tuple[str, int], int](), False
        for row in rows:
            if row.process is None or row.number <= self._seen.get(row.process, 0):
                continue
            self._seen[row.process] = row.number
            if row.tag != tag:
                strange = True
                continue
            for name, per_minute, count in _USE.iter_unpack(row.uses):
                use = name.hex(), per_minute
                uses[use] = uses.get(use, 0) + count
        return _Exchange(key, uses, strange)


@lru_cache(maxsize=2)
def key_of(password: str, drawn: bytes) -> bytes:
    """Return the key of a day: slow, because tags of rows tell whether a guess of the password is right."""
    return hashlib.scrypt(password.encode(), salt=drawn, n=1 << 14, r=8, p=1, dklen=32)


def _make_tables(connection: Connection) -> None:
    if connection.execute(text("select to_regclass('rate_uses')")).scalar() is None:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        for statement in _TABLES:
            connection.execute(text(statement))


def _password_of(connection: Connection) -> str:
    """Return the password that the connection was made with, wherever it came from; empty if it needs none."""
    driver: Any = connection.connection.driver_connection
    return str(driver.info.password)


def _tag(key: bytes) -> bytes:
    return hashlib.blake2b(_FORMAT, key=key, digest_size=8).digest()


def _packed(uses: dict[tuple[str, int], int]) -> bytes:
    most = heapq.nlargest(MOST, uses.items(), key=lambda use: use[1] / use[0][1])
    return b"".join(
        _USE.pack(bytes.fromhex(name), per_minute, min(count, _LARGEST))
        for (name, per_minute), count in most
        if count > 0
    )
