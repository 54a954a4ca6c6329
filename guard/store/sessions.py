"""Which principal a legacy MCP session belongs to."""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, delete, select

from guard.store.database import Database
from guard.store.schema import sessions as table

_OWNER: Final = select(table.c.subject).where(
    table.c.server == bindparam("server"), table.c.session == bindparam("session")
)


class SqlSessions:
    """`guard.ports.Sessions` on SQL."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def bind(self, server: str, session: str, subject: str, at: float) -> None:
        """Remember the owner of a new session id; the first owner stays, whoever is given the id again."""
        statement = (
            self._database.insert(table)
            .values(server=server, session=session, subject=subject, bound=at)
            .on_conflict_do_nothing()
        )
        with self._database.write() as connection:
            connection.execute(statement)

    def owner(self, server: str, session: str) -> str | None:
        """The owner's subject, or None when the session is unknown."""
        with self._database.read() as connection:
            found: str | None = connection.execute(_OWNER, {"server": server, "session": session}).scalar_one_or_none()
        return found

    def drop(self, server: str, session: str) -> None:
        """Forget a session."""
        with self._database.write() as connection:
            connection.execute(delete(table).where(table.c.server == server, table.c.session == session))
