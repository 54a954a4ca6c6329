"""Snapshots of drift profiles by key. Losing the last moments costs a little learning, so no fsync."""

from __future__ import annotations

from sqlalchemy import select

from guard.store.database import Database
from guard.store.schema import baselines as table


class SqlBaselines:
    """`guard.ports.Baselines` on SQL."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def get(self, key: str) -> str | None:
        """The snapshot, or None."""
        with self._database.read() as connection:
            found: str | None = connection.execute(
                select(table.c.snapshot).where(table.c.key == key)
            ).scalar_one_or_none()
        return found

    def put(self, key: str, snapshot: str) -> None:
        """Insert or replace."""
        statement = (
            self._database.insert(table)
            .values(key=key, snapshot=snapshot)
            .on_conflict_do_update(index_elements=[table.c.key], set_={"snapshot": snapshot})
        )
        with self._database.write() as connection:
            connection.execute(statement)
