"""Access tokens of programs (role ``api``) and of the owner.

A token is 256 random bits, shown once; only its sha256 is stored. It is valid until its expiry day or until it is revoked.
Independent of HTTP; rate limits are stored here and enforced in ``http/limits/access.py``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import Row, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from fruits.errors import ConfigError, NotFoundError, counted
from fruits.service.submissions.database import Database
from fruits.service.submissions.tables import TokenRow
from fruits.storage.sanitising import clean_line

Role = Literal["api", "owner"]
ROLES: Final[tuple[Role, ...]] = ("api", "owner")
PREFIX: Final = "fruits_"
#: Seconds for which a check is cached: a revoked token that was just used stays valid for that long.
CACHED_S: Final = 5.0
#: Default lifetime of a token, in days.
DAYS: Final = 365
_MOST_DAYS: Final = 36500
_TOKEN: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
_CACHED: Final = 1024
_ROW: Final = TokenRow


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """Record of a token, without the token itself.

    Attributes
    ----------
    id : str
        8 characters that identify the token.
    name : str
        Chosen when the token was created.
    role : {"api", "owner"}
    rate_per_minute : int, optional
        Requests per minute; None for the service's default.
    created_day, last_used_day : str
        ``2026-11-25``, UTC; ``last_used_day`` is None if the token was never used.
    expires_day : str
        Last day (UTC) on which it is valid; None if it is valid until revoked, as tokens of older versions are.
    revoked : bool
    """

    id: str
    name: str
    role: Role
    rate_per_minute: int | None
    created_day: str
    last_used_day: str | None
    expires_day: str | None
    revoked: bool

    @property
    def age_days(self) -> int:
        """Days since the token was created."""
        return (date.fromisoformat(_today()) - date.fromisoformat(self.created_day)).days

    @property
    def expired(self) -> bool:
        """Whether its expiry day has passed."""
        return self.expires_day is not None and self.expires_day < _today()


class Tokens:
    """The tokens of one service."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._cache: dict[bytes, tuple[TokenInfo, float]] = {}

    def add(self, name: str, role: Role = "api", *, rate_per_minute: int | None = None, days: int | None = DAYS) -> str:
        """Create a token and return it; it cannot be shown again.

        Raises
        ------
        ConfigError
            If the name is empty or taken, or the role, the rate or the number of days is invalid. The name of an expired
            token is free.
        """
        token = new_token()
        self.add_hashed(name, role, _hashed(token).hex(), rate_per_minute=rate_per_minute, days=days)
        return token

    def add_hashed(
        self, name: str, role: Role, digest: str, *, rate_per_minute: int | None = None, days: int | None = DAYS
    ) -> None:
        """Register a token created elsewhere (:func:`new_token`) by its sha256, ``digest``.

        The token itself then passes neither through the machine that can reach the database nor through its logs.

        Raises
        ------
        ConfigError
            As :meth:`add`; or if the digest is malformed or already registered.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ConfigError(
                "the sha256 of a token has 64 hexadecimal digits; give that of the token, never the token itself"
            )
        name = clean_line(name, 100)
        if not name:
            raise ConfigError("a token needs a name; expected one that says who uses it")
        if role not in ROLES:
            raise ConfigError(f"role is '{clean_line(str(role), 40)}'; expected {' or '.join(ROLES)}")
        if rate_per_minute is not None and not 1 <= rate_per_minute <= 1_000_000:
            raise ConfigError(f"rate is {rate_per_minute} per minute; expected 1 to 1,000,000")
        if days is not None and not 1 <= days <= _MOST_DAYS:
            raise ConfigError(f"a token of {counted(days, 'day')}; expected 1 to {_MOST_DAYS:,}")
        row = {
            "id": secrets.token_hex(4),
            "name": name,
            "token_sha256": bytes.fromhex(digest),
            "role": role,
            "rate_per_minute": rate_per_minute,
            "created_day": _today(),
            "expires_day": days and (date.fromisoformat(_today()) + timedelta(days=days)).isoformat(),
        }
        with self._database.writing() as connection:
            over = _ROW.name == name, _ROW.revoked_s.is_(None), _ROW.expires_day < _today()
            connection.execute(update(_ROW).where(*over).values(revoked_s=int(time.time())))
            taken = select(_ROW.id).where(_ROW.name == name, _ROW.revoked_s.is_(None))
            if connection.execute(taken).first() is None:
                try:
                    with connection.begin_nested():
                        connection.execute(insert(_ROW).values(row))
                    return
                except IntegrityError:
                    pass  # another process was faster
        raise ConfigError(f"there is a token '{name}' already; choose another name, or revoke that one first")

    def list(self) -> tuple[TokenInfo, ...]:
        """Return all tokens, including revoked ones, sorted by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_ROW.__table__).order_by(_ROW.name, _ROW.revoked_s, _ROW.id)).all()
        return tuple(map(_info, rows))

    def revoke(self, name_or_id: str) -> TokenInfo:
        """Revoke a token; programs that use it are refused within seconds.

        Raises
        ------
        NotFoundError
            If no valid token has this name or id.
        """
        valid = _ROW.revoked_s.is_(None)
        with self._database.writing() as connection:
            rows = connection.execute(
                select(_ROW.__table__).where(
                    valid, or_(_ROW.id == name_or_id, _ROW.name == clean_line(name_or_id, 100))
                )
            ).all()
            if rows:
                row = next((row for row in rows if row.id == name_or_id), rows[0])
                connection.execute(update(_ROW).where(_ROW.id == row.id).values(revoked_s=int(time.time())))
        with self._lock:
            self._cache.clear()
        if not rows:
            raise NotFoundError(f"no token '{clean_line(name_or_id, 100)}' is in use; see: fruits tokens list")
        return _info(row)

    def check(self, token: str) -> TokenInfo | None:
        """Return the record of a token; None if it is unknown, revoked or expired.

        The lookup is by hash, so that its duration reveals nothing about any token.
        """
        if not _TOKEN.fullmatch(token):
            return None
        digest = _hashed(token)
        with self._lock:
            known = self._cache.get(digest)
        if known is not None and time.monotonic() - known[1] < CACHED_S:
            return None if known[0].expired else known[0]
        with self._database.reading() as connection:
            row = connection.execute(
                select(_ROW.__table__).where(_ROW.token_sha256 == digest, _ROW.revoked_s.is_(None))
            ).one_or_none()
        if row is None or not hmac.compare_digest(row.token_sha256, digest) or _info(row).expired:
            with self._lock:
                self._cache.pop(digest, None)
            return None
        today = _today()
        if row.last_used_day != today:
            with self._database.writing() as connection:
                connection.execute(update(_ROW).where(_ROW.id == row.id).values(last_used_day=today))
        info = _info(row)
        with self._lock:
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[digest] = info, time.monotonic()
        return info


def new_token() -> str:
    """Return a new token: 256 random bits, in characters that need no quoting."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """Return the sha256 of a token, in hexadecimal, for :meth:`Tokens.add_hashed`."""
    return _hashed(token).hex()


def _info(row: Row[Any]) -> TokenInfo:
    names = ("id", "name", "role", "rate_per_minute", "created_day", "last_used_day", "expires_day")
    return TokenInfo(**{name: getattr(row, name) for name in names}, revoked=row.revoked_s is not None)


def _hashed(token: str) -> bytes:
    # 256 random bits cannot be guessed, so a slow hash is not needed.
    return hashlib.sha256(token.encode()).digest()


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
