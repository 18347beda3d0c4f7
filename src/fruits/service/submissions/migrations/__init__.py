"""The steps from each version of the tables to the next, run by ``Database.open``.

To change a table: change its class in ``database.py``, add ``versions/step_NNNN_what.py`` with the next number, its
``down_revision`` the last one, and ``upgrade()`` for SQLite and PostgreSQL (SQLite alters tables by ``op.batch_alter_table``).
There is no way back: a database is copied before. A test compares what all steps make with the classes.
"""
