"""How Alembic runs: on the connection that ``Database.open`` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from fruits.service.submissions.database import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
