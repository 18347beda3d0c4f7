"""The service's database: engine, transactions and migrations; ``tables.py`` has the tables.

SQLite by default (one local file, any number of processes), PostgreSQL by URL. Alembic (``migrations/``) creates and upgrades the
tables whenever the database is opened. Deleted data must not be readable in the database's files either: see
:meth:`Database.scrub`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, create_engine, delete, event, exists, select, text
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from fruits.errors import ConfigError, StoreError
from fruits.service.submissions.tables import Base, ChoreRow
from fruits.storage.disk.private import make_private_folder

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
#: Key of the advisory lock that prevents concurrent migrations.
MIGRATION_LOCK: Final = 0x66727569
#: Seconds to wait for another writer (SQLite), a lock or a connection.
_PATIENCE_S: Final = 15
#: A server that vanished without a word, as in a failover, is given up after this; Linux would wait a quarter of an hour.
_VANISHED_S: Final = 20
#: Rewriting a table of this size locks it for a second or two; larger tables are rewritten only on request.
_REWRITE_BYTES: Final = 64 << 20
#: A file of SQLite of this size is rewritten in some hundredths of a second.
_QUICK_BYTES: Final = 8 << 20
#: Tables that hold what visitors may have deleted.
_ERASED_TABLES: Final = ("submissions", "evaluations")
#: Key of the advisory lock that allows one process at a time to rewrite tables of PostgreSQL.
_REWRITE_LOCK: Final = 0x66727576
#: Default maximum of connections to PostgreSQL per process: 20 processes fit into the 112 of a small instance.
CONNECTIONS: Final = 4


class NotCleanedError(StoreError):
    """What was deleted may still be readable in the database's file, as another process writes it or the disk is full."""


class Database:
    """An open database with up-to-date tables; thread-safe.

    Attributes
    ----------
    url : str
        URL without the password.
    is_sqlite : bool
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(fruits_writes=True)
        self.url = engine.url.render_as_string(hide_password=True)
        self.is_sqlite = engine.dialect.name == "sqlite"
        # SQLite allows one writer at a time. Threads of this process queue on a lock and continue at once; SQLite's own wait,
        # for other processes, is to sleep and retry.
        self._turn: threading.Lock | nullcontext[None] = threading.Lock() if self.is_sqlite else nullcontext()

    @classmethod
    def open(cls, url: str, *, make: bool = True, connections: int = CONNECTIONS) -> Database:
        """Open a database and bring its tables up to date.

        Parameters
        ----------
        url : str
            ``sqlite:////folder/service.db`` (folder and file are created if absent, readable by this user only) or
            ``postgresql://user:password@host/database``.
        make : bool
            Whether to create a file that is absent.
        connections : int
            Maximum number of connections to PostgreSQL; further operations wait. No operation needs two at once.

        Raises
        ------
        ConfigError
            If the URL is not supported, or the file is absent and must not be created.
        StoreError
            If the database cannot be opened, or was written by a later version of fruits.
        """
        parsed = _parse(url)
        if parsed.get_backend_name() == "sqlite":
            file = Path(str(parsed.database))
            if not make and not file.is_file():
                raise ConfigError(
                    f"no service has kept anything in '{file}'; start 'fruits serve', or give the OUT, --data or --database "
                    "that it was given"
                )
            _make_private(file)
        database = cls(_engine(parsed, connections))
        try:
            database._migrate()
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection for reading, in one transaction: a consistent snapshot."""
        with _translated(f"database '{self.url}' cannot be read"), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection for writing, in one transaction: committed at the end of the block, rolled back on error."""
        with _translated(f"database '{self.url}' cannot be written"), self._turn, self._writer.begin() as connection:
            yield connection

    def add_up(self, connection: Connection, table: type[Base], rows: list[dict[str, Any]], column: str) -> None:
        """Insert rows; if the key exists, add to its ``column`` instead."""
        own = table.__table__.c[column]
        self._insert(connection, table, rows, lambda given: {column: own + given[column]})

    def replace(self, connection: Connection, table: type[Base], rows: list[dict[str, Any]]) -> None:
        """Insert rows; one whose key exists replaces it, also if another process inserts it at the same moment."""
        others = [column.name for column in table.__table__.columns if not column.primary_key]
        self._insert(connection, table, rows, lambda given: {name: given[name] for name in others})

    def _insert(
        self,
        connection: Connection,
        table: type[Base],
        rows: list[dict[str, Any]],
        changed: Callable[[Any], dict[str, Any]],
    ) -> None:
        """Insert rows; where the key exists, set what ``changed`` makes of the columns that were given."""
        if rows:
            insert: Any = sqlite_insert if self.is_sqlite else postgresql_insert
            statement = insert(table)
            keys = [key.name for key in table.__table__.primary_key]
            connection.execute(
                statement.on_conflict_do_update(index_elements=keys, set_=changed(statement.excluded)), rows
            )

    def drop(self, table: type[Base], which: ColumnElement[bool]) -> int:
        """Delete rows and what they leave in the files; return how many. Nothing is written if there are none."""
        with self.reading() as connection:
            if not connection.execute(select(exists().where(which))).scalar():
                return 0
        with self.writing() as connection:
            self.request_scrub(connection)
            return connection.execute(delete(table).where(which)).rowcount

    def claim_interval(self, name: str, seconds: float) -> bool:
        """Claim a periodic task that only one of all processes on this database should run per interval; return whether claimed.

        A row stores the end of the current interval. No lock is held meanwhile, and a killed process delays the others by one
        interval at most.

        Parameters
        ----------
        name : str
            Name of the task, at most 16 characters.
        seconds : float
            Interval.
        """
        now = int(time.time())
        insert: Any = sqlite_insert if self.is_sqlite else postgresql_insert
        statement = insert(ChoreRow).values(name=name, number=now + int(seconds))
        column = ChoreRow.__table__.c.number
        with self.writing() as connection:
            taken = connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["name"], set_={"number": statement.excluded.number}, where=column <= now
                ).returning(column)
            )
            return taken.first() is not None

    def request_scrub(self, connection: Connection) -> None:
        """Record, in the deleting transaction, that the database's files must be scrubbed."""
        self.add_up(connection, ChoreRow, [{"name": "scrub", "number": 1}], "number")

    def is_scrub_pending(self) -> bool:
        """Return whether the files may still contain deleted data."""
        return self._wanted() is not None

    def scrub(self, *, thorough: bool = False) -> bool:
        """Make deleted data unreadable in the database's files as well; return whether nothing is left to do.

        SQLite overwrites deleted data (``secure_delete``), but not copies of rows that lie where its pages were rearranged; its
        write-ahead log is written back and truncated. PostgreSQL keeps old rows in the table's file until it is rewritten.
        Files and tables up to 64 MB are rewritten at once, larger ones only if ``thorough`` (until then PostgreSQL's plain
        ``VACUUM`` frees the space, and later rows overwrite it). PostgreSQL's write-ahead log and backups are out of reach. If a
        reader prevents it now, the next call does it.
        """
        wanted = self._wanted()
        if wanted is None and not thorough:
            return True
        if self.is_sqlite and (thorough or self._file_bytes() <= _REWRITE_BYTES):
            self._rewrite_file()
        if not (self._cut_log() if self.is_sqlite else self._rewrite(thorough)):
            return False
        with self.writing() as connection:
            connection.execute(text("delete from chores where name = 'scrub' and number = :number"), {"number": wanted})
        return True

    def identity(self) -> str:
        """Return the identity shared by this database and its backups only."""
        with self.reading() as connection:
            return str(connection.execute(text("select value from identities where name = 'store'")).scalar_one())

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _wanted(self) -> int | None:
        with self.reading() as connection:
            return connection.execute(text("select number from chores where name = 'scrub'")).scalar()

    @property
    def is_quickly_scrubbed(self) -> bool:
        """Whether scrubbing takes so little that every deletion may wait for it: a small file of SQLite."""
        return self.is_sqlite and self._file_bytes() <= _QUICK_BYTES

    def _file_bytes(self) -> int:
        with suppress(OSError):
            return Path(str(self._engine.url.database)).stat().st_size
        return 0

    def _rewrite_file(self) -> None:
        """Rewrite SQLite's file by its rows alone; its intermediate copy is in memory (``temp_store``)."""
        with _translated(f"database '{self.url}' cannot be cleaned"), self._turn:
            pooled = self._engine.raw_connection()
            try:
                pooled.cursor().execute("vacuum").close()
            except sqlite3.OperationalError as exc:
                raise NotCleanedError(
                    f"database '{self.url}' cannot be cleaned now ({exc}); it is tried again"
                ) from exc
            finally:
                pooled.close()

    def _cut_log(self) -> bool:
        """Write SQLite's write-ahead log back and truncate it; False if a reader blocks it for a second."""
        for attempt in range(5):
            with self._plain() as connection:
                # While it waits for readers, writes are blocked: wait only briefly at a time.
                connection.execute(text("pragma busy_timeout = 100"))
                busy = connection.execute(text("pragma wal_checkpoint(truncate)")).one()[0]
                connection.execute(text(f"pragma busy_timeout = {1000 * _PATIENCE_S}"))
            if not busy:
                return True
            time.sleep(0.05 * (attempt + 1))
        return False

    def _rewrite(self, thorough: bool) -> bool:
        """Vacuum PostgreSQL's tables; False if they stay locked, or another process is doing it."""
        done = [self._rewrite_table(table, thorough) for table in _ERASED_TABLES]
        return all(done)

    def _rewrite_table(self, table: str, thorough: bool) -> bool:
        with self._plain() as connection:
            if not connection.execute(text("select pg_try_advisory_lock(:key)"), {"key": _REWRITE_LOCK}).scalar_one():
                return False
            size = connection.execute(text("select pg_total_relation_size(cast(:name as regclass))"), {"name": table})
            if thorough or int(size.scalar_one()) <= _REWRITE_BYTES:
                how = "vacuum (full)"
                # A waiting request for an exclusive lock blocks all later ones: wait only briefly.
                connection.execute(text(f"set lock_timeout = {60_000 if thorough else 2_000}"))
            else:
                how = "vacuum"
            connection.execute(text("set statement_timeout = 0"))
            try:
                connection.execute(text(f"{how} {table}"))
            except DBAPIError as exc:
                if getattr(exc.orig, "sqlstate", None) != "55P03":  # lock not available
                    raise
                return False
            finally:
                # The server notices a closed connection a moment later: until then the next table would find the lock taken.
                with suppress(SQLAlchemyError):
                    connection.execute(text("select pg_advisory_unlock(:key)"), {"key": _REWRITE_LOCK})
                connection.invalidate()  # discards its settings
        return True

    @contextmanager
    def _plain(self) -> Iterator[Connection]:
        """Yield a connection in autocommit mode."""
        with (
            _translated(f"database '{self.url}' cannot be cleaned"),
            self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            yield connection

    def _migrate(self) -> None:
        """Create or upgrade the tables; one process at a time."""
        # Imported late: Alembic takes half a second to load. How to write a migration: docstring of migrations/__init__.py.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415
        from alembic.runtime.migration import MigrationContext  # noqa: PLC0415
        from alembic.script import ScriptDirectory  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        scripts = ScriptDirectory.from_config(config)
        head = scripts.get_current_head()
        with self.reading() as connection:
            if MigrationContext.configure(connection).get_current_revision() == head:
                return
        with self.writing() as connection:
            if not self.is_sqlite:
                connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            current = MigrationContext.configure(connection).get_current_revision()
            if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
                raise StoreError(
                    f"database '{self.url}' is of version {current}, which this fruits does not know; expected one up to "
                    f"{head}: use the version of fruits that last opened it, or a later one"
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """Yield a connection in a transaction, without creating or upgrading tables."""
    engine = _engine(_parse(url), 1)
    try:
        shown = engine.url.render_as_string(hide_password=True)
        with _translated(f"database '{shown}' cannot be used"), engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _parse(url: str) -> URL:
    expected = "expected sqlite:////folder/service.db or postgresql://user:password@host/database"
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise ConfigError(f"the database url cannot be read; {expected}") from exc
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "sqlite":
        raise ConfigError(f"the database url begins with '{parsed.drivername}'; {expected}")
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigError(f"a database in memory is lost at the end; {expected}")
    return parsed


def _make_private(path: Path) -> None:
    """Create the file if absent, readable by this user only; SQLite gives its log the same permissions."""
    try:
        make_private_folder(path.parent)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        for file in (path, *(path.with_name(f"{path.name}-{log}") for log in ("wal", "shm"))):
            with suppress(FileNotFoundError, PermissionError):  # another user's file: its permissions stay
                if file.stat().st_mode & 0o077:
                    file.chmod(0o600)
    except OSError as exc:
        raise StoreError(
            f"database '{path}' cannot be made ({exc.strerror}); check the folder and its permissions, or give "
            "another one with --data"
        ) from exc


def _engine(url: URL, connections: int) -> Engine:
    # Parameter values must not appear in messages or logs.
    common: dict[str, Any] = {"hide_parameters": True, "pool_timeout": _PATIENCE_S}
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url,
            connect_args={"timeout": _PATIENCE_S, "check_same_thread": False},
            pool_size=8,
            max_overflow=32,
            **common,
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    watched = {"tcp_user_timeout": 1000 * _VANISHED_S, "keepalives_idle": 5, "keepalives_interval": 5}
    engine = create_engine(
        url,
        connect_args={"connect_timeout": 5, **watched},
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=True,
        **common,
    )
    event.listen(engine, "connect", _set_up_postgresql)
    return engine


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin explicitly, not where the driver guesses
    # When several processes open a new file at once, the change of journal mode may find it locked despite the timeout.
    for attempt in range(100):
        try:
            connection.execute("pragma journal_mode = wal").close()
            break
        except Exception as exc:
            if "locked" not in str(exc) or attempt == 99:
                raise
            time.sleep(0.02)
    for setting in ("secure_delete = on", "foreign_keys = on", "synchronous = normal", "temp_store = memory"):
        connection.execute(f"pragma {setting}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that starts with a read and then writes fails if another one wrote meanwhile; so writers lock at the start.
    writes = connection.get_execution_options().get("fruits_writes")
    connection.exec_driver_sql("begin immediate" if writes else "begin")


def _set_up_postgresql(connection: Any, _: Any) -> None:
    before, connection.autocommit = connection.autocommit, True
    connection.execute("set lock_timeout = '15s'")
    connection.execute("set statement_timeout = '60s'")
    connection.execute("set client_encoding = 'UTF8'")
    connection.autocommit = before


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Translate driver errors into StoreError; the message contains no value and no statement."""
    try:
        yield
    except SQLAlchemyError as exc:
        reason: object = exc.orig if isinstance(exc, DBAPIError) else exc
        first = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
        raise StoreError(f"{what} ({first}); check that it is there, its rights and its space") from exc
    except ImportError as exc:
        raise StoreError(f"{what} ({exc}); its driver comes with: pip install 'fruits[serve]'") from exc
