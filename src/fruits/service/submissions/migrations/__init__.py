"""Alembic migrations between versions of the tables, run by ``Database.open``.

To change a table: change its class in ``tables.py``; add ``versions/step_NNNN_what.py`` with the next number, with the last
step as ``down_revision`` and an ``upgrade()`` for SQLite and PostgreSQL (SQLite alters tables by ``op.batch_alter_table``).
There are no downgrades: copy the database before an upgrade. A test compares the result of all steps with the classes.
"""
