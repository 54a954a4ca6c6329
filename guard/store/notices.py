"""Who was told what. Not durable by itself: after a power cut people may be told once more."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import BindParameter, ColumnElement, Double, TextClause, bindparam, exists, or_, select, text, update

from guard.model import Challenge, State
from guard.notices import Stage
from guard.store.challenges import ALL, SqlChallenges
from guard.store.database import Database
from guard.store.schema import WAITING_SQL, challenges, emergencies
from guard.store.schema import notices as table

LEASE: Final = 120.0
"""Seconds after which somebody else takes on what a process began to tell, and perhaps did not live to finish."""

_NOW: Final[BindParameter[float]] = bindparam("now", type_=Double())
_WAITS: Final = (text(WAITING_SQL), challenges.c.expires > _NOW)
_UNTOLD: Final = ~exists().where(
    table.c.challenge == challenges.c.id,
    table.c.stage == bindparam("stage"),
    or_(table.c.told > 0, table.c.taken > _NOW - LEASE),
)
_DUE: Final[dict[Stage, tuple[ColumnElement[bool] | TextClause, ...]]] = {
    Stage.OPENED: (*_WAITS, challenges.c.opened <= _NOW - bindparam("after", type_=Double())),
    Stage.ESCALATED: (*_WAITS, challenges.c.opened + challenges.c.expires <= 2 * _NOW),
    Stage.BREAK_GLASS: (
        challenges.c.state != State.PENDING.value,
        challenges.c.id.in_(select(emergencies.c.challenge)),
    ),
}


class SqlNotices:
    """`guard.notices.Notices` on SQL."""

    def __init__(self, database: Database, known: SqlChallenges) -> None:
        """Take the database, and what reads challenges."""
        self._database, self._known = database, known

    def due(
        self, stage: Stage, now: float, *, after: float, limit: int, without: Collection[str] = (), since: float = 0.0
    ) -> Sequence[Challenge]:
        """Challenges about which people are still to be told at `now`, oldest first."""
        query = ALL.where(*_DUE[stage], _UNTOLD).order_by(challenges.c.seq).limit(limit)
        if since:
            query = query.where(challenges.c.opened >= since)
        if without:
            query = query.where(challenges.c.principal.not_in(sorted(without)))
        values = {"now": now, "stage": stage.value} | ({"after": after} if stage is Stage.OPENED else {})
        with self._database.read() as connection:
            found = connection.execute(query, values).mappings().all()
        return tuple(self._known.read(row) for row in found)

    def claim(self, challenge_id: str, stage: Stage, now: float) -> bool:
        """Take on telling people; False when it was done, or when somebody else is at it."""
        statement = (
            self._database.insert(table)
            .values(challenge=challenge_id, stage=stage.value, taken=now, told=0.0)
            .on_conflict_do_update(
                index_elements=[table.c.challenge, table.c.stage],
                set_={"taken": now},
                where=(table.c.told == 0) & (table.c.taken <= now - LEASE),
            )
        )
        with self._database.write() as connection:
            return connection.execute(statement).rowcount == 1

    def told(self, challenge_id: str, stage: Stage, now: float) -> None:
        """Nothing more is to be told."""
        statement = update(table).where(table.c.challenge == challenge_id, table.c.stage == stage.value)
        with self._database.write() as connection:
            connection.execute(statement.values(told=now))
