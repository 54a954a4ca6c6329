"""The outside memory of the ledger: how far each lane is known to reach.

Written every few milliseconds under load, so without an fsync of its own: a power cut may take back the
last moments, which reads as a ledger that is ahead, and never as one that was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import and_, or_, select

from guard.ports import Lane
from guard.store.database import Database
from guard.store.schema import lanes as table


class SqlLanes:
    """`guard.ports.Lanes` on SQL."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database
        insert = database.insert(table)
        given = insert.excluded
        grows = or_(given.size > table.c.size, and_(given.size == table.c.size, given.root == table.c.root))
        self._put = insert.on_conflict_do_update(
            index_elements=[table.c.name], set_={"size": given.size, "root": given.root}, where=grows
        )

    def get(self, name: str) -> Lane | None:
        """What is known of a lane."""
        with self._database.read() as connection:
            found = connection.execute(select(table).where(table.c.name == name)).mappings().one_or_none()
        return None if found is None else Lane(**found)

    def all(self) -> Sequence[Lane]:
        """Every lane by name."""
        with self._database.read() as connection:
            return tuple(Lane(**row) for row in connection.execute(select(table).order_by(table.c.name)).mappings())

    def put(self, lane: Lane) -> None:
        """Remember that the lane reaches this far.

        Raises:
            StoreUnavailableError: the database cannot serve.
            ValueError: more records are known, or as many with another root.
        """
        if self._database.write_unnoticed(self._put, asdict(lane)) != 1:
            raise ValueError(f"lane {lane.name}: a history that is known is neither shortened nor rewritten")
