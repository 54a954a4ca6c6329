"""Broken glass and its reviews. Every change is durable; the index decides that only one waits for a review."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import or_, select, update

from guard.ports import Emergency
from guard.store.database import Database
from guard.store.schema import emergencies as table


class SqlEmergencies:
    """`guard.ports.Emergencies` on SQL."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def add(self, emergency: Emergency) -> bool:
        """Insert; False when an earlier one is not reviewed yet, or when glass was broken for this call before."""
        statement = self._database.insert(table).values(asdict(emergency)).on_conflict_do_nothing()
        with self._database.write(durable=True) as connection:
            return connection.execute(statement).rowcount == 1

    def since(self, at: float) -> Sequence[Emergency]:
        """All that began after `at`, and all that are not reviewed, oldest first."""
        query = select(table).where(or_(table.c.at > at, table.c.reviewed == 0)).order_by(table.c.at)
        with self._database.read() as connection:
            return tuple(Emergency(**row) for row in connection.execute(query).mappings())

    def review(self, challenge_id: str, *, by: str, verdict: str, at: float) -> bool:
        """Note a review; False when there is none that waits for it."""
        statement = update(table).where(table.c.challenge == challenge_id, table.c.reviewed == 0)
        with self._database.write(durable=True) as connection:
            return connection.execute(statement.values(reviewed=at, reviewer=by, verdict=verdict)).rowcount == 1
