"""Add the identity that links a database to its photos, and the expiry day of tokens."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Draw the random identity once; backups carry the same one."""
    identities = op.create_table(
        "identities",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("value", sa.String(64), nullable=False),
    )
    op.bulk_insert(identities, [{"name": "store", "value": secrets.token_hex(16)}])
    op.add_column("tokens", sa.Column("expires_day", sa.String(10)))
