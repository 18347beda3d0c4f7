"""Without consent, store only a receipt and the day; separate consent to show a photo from consent to store it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_EMPTIED = """
update submissions set outcome = null, kind = null, variety = null, label = null, probability = null, strangeness = null,
    language = null, model = null, features = null,
    created_s = created_s - created_s % 86400, feedback_s = feedback_s - feedback_s % 86400
where not has_photo
"""
_SCRUB = """
insert into chores (name, number) values ('scrub', 1) on conflict (name) do update set number = chores.number + 1
"""


def upgrade() -> None:
    """Add the column; clear the answers of photos that were not stored, in the database's files, too."""
    op.add_column("submissions", sa.Column("may_show", sa.Boolean))
    if op.get_bind().execute(sa.text(_EMPTIED)).rowcount:
        op.execute(_SCRUB)
