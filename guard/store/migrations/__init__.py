"""Alembic's scripts. They run through `guard.store.migrate`, never by hand."""
