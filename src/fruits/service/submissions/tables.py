"""Tables of the service's database: submissions, evaluations, tokens, counts, chores, the identity.

To change one, see the docstring of ``migrations/__init__.py``. Knows nothing of connections and transactions.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Float, Index, Integer, LargeBinary, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base class of all tables."""


class SubmissionRow(Base):
    """A submission: what is stored about a photo that was sent, never the upload itself.

    With consent: the answer, the visitor's feedback, the owner's review. Without: a receipt (id, hash of the secret, day) and
    the feedback; all other columns are null.
    """

    __tablename__ = "submissions"

    id: Mapped[str] = mapped_column(String(22), primary_key=True)
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    #: writing: the photo may not be written yet; kept; deleting: a tombstone, never returned by a query for submissions.
    state: Mapped[str] = mapped_column(String(8))
    #: In seconds since 1970: exact with a photo, otherwise the start of the day (UTC).
    created_s: Mapped[int] = mapped_column(BigInteger)
    has_photo: Mapped[bool] = mapped_column(Boolean)
    #: Whether the visitor consented to show a thumbnail to others: beside answers and in reports.
    may_show: Mapped[bool | None] = mapped_column(Boolean)
    outcome: Mapped[str | None] = mapped_column(String(16))
    kind: Mapped[str | None] = mapped_column(Text)
    variety: Mapped[str | None] = mapped_column(Text)
    label: Mapped[str | None] = mapped_column(Text)
    probability: Mapped[float | None] = mapped_column(Float(53))
    ood_score: Mapped[float | None] = mapped_column(Float(53))
    language: Mapped[str | None] = mapped_column(String(8))
    model: Mapped[str | None] = mapped_column(String(64))
    features: Mapped[bytes | None] = mapped_column(LargeBinary)
    was_right: Mapped[bool | None] = mapped_column(Boolean)
    said_label: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(Text)
    feedback_s: Mapped[int | None] = mapped_column(BigInteger)
    decision: Mapped[str | None] = mapped_column(String(16))
    reviewed_label: Mapped[str | None] = mapped_column(Text)
    reviewer: Mapped[str | None] = mapped_column(Text)
    reviewed_s: Mapped[int | None] = mapped_column(BigInteger)
    #: train or test, from the first review on: see ``test_set.py``.
    split: Mapped[str | None] = mapped_column(String(8))
    #: Whether the stored photo carries the visitor's consent in itself, so that a manifest may name it.
    marked: Mapped[bool | None] = mapped_column(Boolean)


# By time, for the owner's lists and for expiry; partial indexes cover only the rows that they are used for.
Index("submissions_by_time", SubmissionRow.created_s, SubmissionRow.id)
for _name, _condition in (
    ("submissions_unfinished", "state <> 'kept'"),
    ("submissions_with_photo", "has_photo"),
    ("submissions_wrong", "was_right = false"),
    ("submissions_reviewed", "decision is not null"),
    ("submissions_unknown", "outcome = 'unknown'"),
):
    Index(
        _name,
        SubmissionRow.created_s,
        SubmissionRow.id,
        sqlite_where=text(_condition),
        postgresql_where=text(_condition),
    )


class EvaluationRow(Base):
    """What a bundle answers to a stored photo when the service asks it again; deleted together with the submission."""

    __tablename__ = "evaluations"

    #: Not a foreign key: SQLite would delete submissions in another way, which leaves copies of them in free pages.
    submission_id: Mapped[str] = mapped_column(String(22), primary_key=True)
    #: Identity of the bundle.
    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: None if the photo could not be read; it is not asked about again.
    outcome: Mapped[str | None] = mapped_column(String(16))
    #: The most probable kind and label, named or not.
    kind: Mapped[str | None] = mapped_column(Text)
    label: Mapped[str | None] = mapped_column(Text)
    #: Of the kind.
    probability: Mapped[float | None] = mapped_column(Float(53))
    ood_score: Mapped[float | None] = mapped_column(Float(53))
    #: Only of photos that the bundle does not know.
    features: Mapped[bytes | None] = mapped_column(LargeBinary)
    evaluated_s: Mapped[int] = mapped_column(BigInteger)


class TokenRow(Base):
    """A token of a program or of the owner; only its hash is stored."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(8), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    token_sha256: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    role: Mapped[str] = mapped_column(String(8))
    rate_per_minute: Mapped[int | None] = mapped_column(Integer)
    created_day: Mapped[str] = mapped_column(String(10))
    last_used_day: Mapped[str | None] = mapped_column(String(10))
    revoked_s: Mapped[int | None] = mapped_column(BigInteger)
    #: Last day (UTC) on which it is valid.
    expires_day: Mapped[str | None] = mapped_column(String(10))


Index(
    "tokens_one_name",
    TokenRow.name,
    unique=True,
    sqlite_where=text("revoked_s is null"),
    postgresql_where=text("revoked_s is null"),
)


class CountRow(Base):
    """A count of events per day (UTC); no personal data."""

    __tablename__ = "counts"

    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    bucket: Mapped[int] = mapped_column(Integer, primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)


class ChoreRow(Base):
    """Pending maintenance that survives a killed process; the number shows whether more was requested meanwhile."""

    __tablename__ = "chores"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class IdentityRow(Base):
    """Random identity, drawn when the database is created; the photo store carries the same one."""

    __tablename__ = "identities"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[str] = mapped_column(String(64))
