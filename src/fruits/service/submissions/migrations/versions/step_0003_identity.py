"""Which photos belong to this database; how long a token lasts."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Draw the identity, once: the copy that a backup has is the same."""
    identities = op.create_table(
        "identities",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("value", sa.String(64), nullable=False),
    )
    op.bulk_insert(identities, [{"name": "store", "value": secrets.token_hex(16)}])
    op.add_column("tokens", sa.Column("expires_day", sa.String(10)))
