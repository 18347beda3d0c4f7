"""A real PostgreSQL on this machine's loopback, for tests and trials: in a folder of its own, gone afterwards.

It refuses to run as root; root starts it as another user. Nothing is installed here and no server that runs already is
touched.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from faults.s3_server import free_port

_USER = "fruits"
_DATABASE = "fruits_tests"
#: Durable writes are not what is tried: processes of ours die, never this server or the machine. No statistics, no
#: vacuum of its own accord: what is found in its files is what we left there.
_SETTINGS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",
    "shared_buffers=16MB",
    "max_connections=60",
    "log_min_error_statement=panic",
    "autovacuum=off",
)


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; None if there are none."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True
    )
    return next((one for one in folders if (one / "initdb").exists() and (one / "postgres").exists()), None)


def why_not() -> str | None:
    """Return why no server can run on this machine, with what to do about it; None if one can."""
    if programs() is None:
        return "no PostgreSQL: its programs are not installed; run: apt-get install postgresql"
    return None


class PostgresServer:
    """A server, started by ``start`` or ``with``.

    Attributes
    ----------
    data : Path
        Its files.
    """

    def __init__(self) -> None:
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> PostgresServer:
        """Make a server and wait until it answers."""
        bin_folder = programs()
        assert bin_folder is not None
        # Not below pytest's folder: that is closed to the user who runs the server.
        self.folder = Path(tempfile.mkdtemp(prefix="fruits-postgres-"))
        self.data = self.folder / "data"
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = _other_user()
            as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        password = self.folder / "password"
        password.write_text(self._password)
        password.chmod(0o644)  # the folder is closed
        try:
            subprocess.run(
                [bin_folder / "initdb", "-D", self.data, "-U", _USER, "-A", "scram-sha-256", f"--pwfile={password}",
                 "--no-sync", "--encoding=UTF8", "--locale=C"],
                check=True, capture_output=True, cwd=self.folder, **as_user,
            )  # fmt: skip
            for _ in range(5):  # another program may take the port before us
                self.port = free_port()
                with (self.folder / "log").open("ab") as log:
                    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
                    self._process = subprocess.Popen(
                        [bin_folder / "postgres", "-D", self.data, "-p", str(self.port), *settings],
                        stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, start_new_session=True, **as_user,
                    )  # fmt: skip
                if self._answers():
                    return self
        except BaseException:
            self.stop()
            raise
        last = " ".join((self.folder / "log").read_text(errors="replace").splitlines()[-3:])
        self.stop()
        raise RuntimeError(f"PostgreSQL did not start: {last}")

    def url(self, database: str) -> str:
        """Return the url of a database."""
        return f"postgresql://{_USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def empty_database(self) -> str:
        """Give the database of the tests, emptied; return its url. One for all: making one writes 8 MB."""
        if not self.execute(f"select 1 from pg_database where datname = '{_DATABASE}'"):
            self.execute(f"create database {_DATABASE}")
        self.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{_DATABASE}'")
        self.execute("drop schema public cascade", _DATABASE)
        self.execute("create schema public", _DATABASE)
        return self.url(_DATABASE)

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run a statement outside a transaction; return its rows."""
        import psycopg  # noqa: PLC0415 - comes with an extra

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def table_files(self) -> dict[str, bytes]:
        """Return what lies on the disk of the tests' database: tables and indexes, without the write-ahead log."""
        self.execute("checkpoint")
        ((oid,),) = self.execute(f"select oid from pg_database where datname = '{_DATABASE}'")
        return {path.name: path.read_bytes() for path in (self.data / "base" / str(oid)).iterdir() if path.is_file()}

    def stop(self) -> None:
        """End the server and delete all it had."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        import psycopg  # noqa: PLC0415

        assert self._process is not None
        for _ in range(300):
            if self._process.poll() is not None:
                return False
            with suppress(psycopg.OperationalError):
                self.execute("select 1")
                return True
            time.sleep(0.1)
        return False

    def __enter__(self) -> PostgresServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _other_user() -> pwd.struct_passwd:
    """Return the user that PostgreSQL's package made, or nobody."""
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL refuses to run as root and there is neither a user 'postgres' nor 'nobody'")
