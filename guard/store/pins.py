"""Tool definitions trusted on first use.

Durable: after a power cut, a definition that was pinned must not be trusted anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select, update

from guard.ports import Pin
from guard.store.database import Database
from guard.store.schema import pins as table


class SqlPins:
    """`guard.ports.Pins` on SQL."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def see(self, server: str, definitions: Mapping[str, str]) -> Sequence[Pin]:
        """Record the listed definitions, pinning new tools; every pin of the server that differs now.

        A list that says nothing new is only read, so that listing tools costs no write.
        """
        known = self.all(server)
        seen = {pin.tool: pin.seen for pin in known}
        news = {tool: definition for tool, definition in definitions.items() if seen.get(tool) != definition}
        if news:
            with self._database.write(durable=True) as connection:
                for tool, definition in news.items():
                    self._record(connection, server, tool, definition)
                known = _pins(connection, server)
        return tuple(pin for pin in known if pin.pinned != pin.seen)

    def all(self, server: str) -> Sequence[Pin]:
        """Every pin of a server by tool."""
        with self._database.read() as connection:
            return _pins(connection, server)

    def accept(self, server: str, tool: str = "") -> int:
        """Pin what was seen last, for one tool or all; how many changed."""
        statement = update(table).where(table.c.server == server, table.c.pinned != table.c.seen)
        if tool:
            statement = statement.where(table.c.tool == tool)
        with self._database.write(durable=True) as connection:
            return connection.execute(statement.values(pinned=table.c.seen)).rowcount

    def _record(self, connection: Connection, server: str, tool: str, definition: str) -> None:
        connection.execute(
            self._database.insert(table)
            .values(server=server, tool=tool, pinned=definition, seen=definition)
            .on_conflict_do_update(index_elements=[table.c.server, table.c.tool], set_={"seen": definition})
        )


def _pins(connection: Connection, server: str) -> Sequence[Pin]:
    query = select(table).where(table.c.server == server).order_by(table.c.tool)
    return tuple(Pin(**row) for row in connection.execute(query).mappings())
