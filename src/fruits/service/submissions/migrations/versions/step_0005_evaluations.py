"""Add the split of reviewed photos, the consent mark, and the answers of later bundles to stored photos."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Photos that were reviewed before may have been trained on already: none of them becomes a test photo."""
    op.add_column("submissions", sa.Column("split", sa.String(8)))
    op.add_column("submissions", sa.Column("marked", sa.Boolean))
    op.execute("update submissions set split = 'train' where decision is not null")
    unknown = sa.text("outcome = 'unknown'")
    op.create_index(
        "submissions_unknown", "submissions", ["created_s", "id"], sqlite_where=unknown, postgresql_where=unknown
    )
    op.create_table(
        "evaluations",
        sa.Column("submission_id", sa.String(22), primary_key=True),
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("outcome", sa.String(16)),
        sa.Column("kind", sa.Text),
        sa.Column("label", sa.Text),
        sa.Column("probability", sa.Float(53)),
        sa.Column("ood_score", sa.Float(53)),
        sa.Column("features", sa.LargeBinary),
        sa.Column("evaluated_s", sa.BigInteger, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        # As in the first step: the planner's sample would keep deleted values.
        for column in ("kind", "label", "features"):
            op.execute(f"alter table evaluations alter column {column} set statistics 0")
