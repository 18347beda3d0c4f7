"""Create the tables: submissions, tokens, counts, chores."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

#: PostgreSQL samples columns for its planner; the sample would keep deleted values.
_NOT_SAMPLED = (
    "secret_sha256", "kind", "variety", "label", "features", "said_label", "note", "reviewed_label", "reviewer",
)  # fmt: skip


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "submissions",
        sa.Column("id", sa.String(22), primary_key=True),
        sa.Column("secret_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("created_s", sa.BigInteger, nullable=False),
        sa.Column("has_photo", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("kind", sa.Text),
        sa.Column("variety", sa.Text),
        sa.Column("label", sa.Text),
        sa.Column("probability", sa.Float(53)),
        sa.Column("strangeness", sa.Float(53)),
        sa.Column("language", sa.String(8)),
        sa.Column("model", sa.String(64)),
        sa.Column("features", sa.LargeBinary),
        sa.Column("was_right", sa.Boolean),
        sa.Column("said_label", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("feedback_s", sa.BigInteger),
        sa.Column("decision", sa.String(16)),
        sa.Column("reviewed_label", sa.Text),
        sa.Column("reviewer", sa.Text),
        sa.Column("reviewed_s", sa.BigInteger),
    )
    for name, condition in (
        ("by_time", None),
        ("unfinished", "state <> 'kept'"),
        ("with_photo", "has_photo"),
        ("wrong", "was_right = false"),
        ("reviewed", "decision is not null"),
    ):
        where = sa.text(condition) if condition else None
        op.create_index(
            f"submissions_{name}", "submissions", ["created_s", "id"], sqlite_where=where, postgresql_where=where
        )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(8), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("rate_per_minute", sa.Integer),
        sa.Column("created_day", sa.String(10), nullable=False),
        sa.Column("last_used_day", sa.String(10)),
        sa.Column("revoked_s", sa.BigInteger),
    )
    valid = sa.text("revoked_s is null")
    op.create_index("tokens_one_name", "tokens", ["name"], unique=True, sqlite_where=valid, postgresql_where=valid)
    op.create_table(
        "counts",
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("count", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "chores",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        for column in _NOT_SAMPLED:
            op.execute(f"alter table submissions alter column {column} set statistics 0")
