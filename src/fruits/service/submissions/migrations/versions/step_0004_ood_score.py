"""Call the out-of-distribution score of an answer ``ood_score``."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Rename the column; SQLite and PostgreSQL do it in place."""
    op.execute("alter table submissions rename column strangeness to ood_score")
