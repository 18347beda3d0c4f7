"""PostgreSQL logins of the service, with access to its own tables only.

A login is created with its password by a user with the right to create roles, before the service starts. The tables belong to a
role without login; the logins ``fruits_service_1``, ``fruits_service_2`` and so on act as that role. A password is rotated by
creating the next login while the previous one stays valid.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from fruits.errors import ConfigError, StoreError
from fruits.service.submissions.database import connected

#: Role that owns the tables.
OWNER: Final = "fruits_service"
_LOGIN: Final = re.compile(rf"{OWNER}_([1-9][0-9]{{0,5}})")
_LOCK: Final = 0x66727570
_SHORTEST: Final = 16


def prepare(url: str, login: str, password: str) -> list[str]:
    """Create or change a login of the service; return the older logins that were removed.

    Idempotent and safe to run concurrently; the login of the previous round stays.

    Parameters
    ----------
    url : str
        ``postgresql://...`` of a user who may create roles and owns the database's schema, such as RDS's master.
    login : str
        ``fruits_service_<round>``.
    password : str
        Only its SCRAM verifier is sent, so that it never appears in a log of statements.

    Raises
    ------
    ConfigError
        If the login has another name, the password is short, or the database is not PostgreSQL.
    StoreError
        If the database rejects a statement.
    """
    named = _LOGIN.fullmatch(login)
    if named is None:
        raise ConfigError(f"login '{login[:60]}': expected {OWNER}_1, {OWNER}_2 and so on")
    if len(password) < _SHORTEST:
        raise ConfigError(f"the login's password has {len(password)} characters; expected {_SHORTEST} or more")
    if not url.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        raise ConfigError("only PostgreSQL has logins; expected postgresql://user@host/database")
    with connected(url) as connection:
        try:
            return _prepared(connection, login, int(named[1]), password)
        except SQLAlchemyError as exc:
            reason = str(getattr(exc, "orig", exc)).strip().splitlines()[0]
            raise StoreError(
                f"login '{login}' cannot be prepared ({reason}); expected a user who may make roles"
            ) from exc


def _prepared(connection: Connection, login: str, number: int, password: str) -> list[str]:
    """Prepare a login in one transaction, one process at a time: it exists with all of its rights, or not at all."""
    connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    roles = set(
        connection.execute(text("select rolname from pg_roles where rolname like 'fruits\\_service%'")).scalars()
    )
    run = connection.exec_driver_sql
    if OWNER not in roles:
        run(f"create role {OWNER} nologin nosuperuser nocreatedb nocreaterole noinherit")
    run(f"grant {OWNER} to current_user")  # the creator needs it to assign tables to the role
    driver: Any = connection.connection.driver_connection
    verifier = driver.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
    run(f"{'alter' if login in roles else 'create'} role {login} login noinherit password '{verifier}'")
    run(f"grant {OWNER} to {login}")
    run(f"alter role {login} set role to {OWNER}")
    database = connection.execute(text("select quote_ident(current_database())")).scalar_one()
    run(f"grant connect, temporary on database {database} to {OWNER}, {login}")
    run(f"revoke connect, temporary on database {database} from public")
    run(f"grant usage, create on schema public to {OWNER}")
    # Tables of an older installation, where the service logged in as the master user.
    mine = "select quote_ident(tablename) from pg_tables where schemaname = 'public' and tableowner = current_user"
    for table in connection.execute(text(mine)).scalars().all():
        run(f"alter table public.{table} owner to {OWNER}")
    older = sorted(role for role in roles if (found := _LOGIN.fullmatch(role)) and int(found[1]) < number - 1)
    for role in older:
        run(f"revoke connect, temporary on database {database} from {role}")
        run(f"drop role {role}")
    return older
