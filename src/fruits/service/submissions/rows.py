"""Submissions as rows of their table: receipts, rows of answers, and submissions read from rows. Independent of the database."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from sqlalchemy import Row

from fruits.service.submissions.types import NewSubmission, Receipt, Submission
from fruits.storage.sanitising import clean_line

#: Random bytes of an id and of a secret.
_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 24
_DAY_S: Final = 86_400


def new_receipts(count: int) -> list[Receipt]:
    """Draw ids and secrets."""
    drawn = secrets.token_bytes(count * (_ID_BYTES + _SECRET_BYTES))  # at once: each draw is a system call
    names = [
        (drawn[start : start + _ID_BYTES], drawn[start + _ID_BYTES : start + _ID_BYTES + _SECRET_BYTES])
        for start in range(0, len(drawn), _ID_BYTES + _SECRET_BYTES)
    ]
    return [Receipt(_as_text(identity), _as_text(secret)) for identity, secret in names]


def _as_text(drawn: bytes) -> str:
    return base64.urlsafe_b64encode(drawn).rstrip(b"=").decode()


def row_of(receipt: Receipt, answer: NewSubmission, *, marked: bool) -> dict[str, Any]:
    """Return the row of an answer: all of it with a photo, else only a receipt and the day."""
    kept = answer.photo is not None
    row: dict[str, Any] = {
        "id": receipt.id,
        "secret_sha256": hashed(receipt.secret),
        "state": "writing" if kept else "kept",
        "created_s": int(time.time()) if kept else day_s(time.time()),
        "has_photo": kept,
    }
    if not kept:
        return row
    return row | {
        "may_show": answer.may_show,
        "marked": marked,
        "outcome": answer.outcome,
        # Labels come from the bundle, but they are names of folders and may contain any character.
        **{name: clean_line(getattr(answer, name) or "") or None for name in ("kind", "variety", "label")},
        "probability": float(answer.probability),
        # SQLite and PostgreSQL store infinity, but JSON has no such number.
        "ood_score": float(answer.ood_score) if np.isfinite(answer.ood_score) else None,
        "language": clean_line(answer.language, 8),
        "model": answer.model,
        "features": None if answer.features is None else np.asarray(answer.features, "<f4").tobytes(),
    }


def submission_of(row: Row[Any]) -> Submission:
    """Return the submission that a row of the table holds."""
    values = row._mapping
    given = {name: values[name] for name in Submission.__slots__ if name in values}
    given |= {
        "created": datetime.fromtimestamp(row.created_s, UTC),
        "right": row.was_right,
        "may_show": bool(row.may_show),
    }
    return Submission(**given)


def hashed(secret: str) -> bytes:
    """Return what is stored of a secret."""
    # 192 random bits cannot be guessed, so a slow hash is not needed.
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def day_s(seconds: float) -> int:
    """Return the start of a timestamp's day (UTC), in seconds since 1970."""
    return int(seconds) // _DAY_S * _DAY_S
