"""Alembic environment: migrations run on the connection and in the transaction of ``Database.open``."""

from __future__ import annotations

from alembic import context

from fruits.service.submissions.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
