"""Tool definitions trusted on first use.

Durable: after a power cut, a definition that was pinned must not be trusted anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, and_, case, select, update

from guard.ports import Pin
from guard.store.database import Database
from guard.store.schema import pins as table


class SqlPins:
    """`guard.ports.Pins` on SQL."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def see(self, server: str, definitions: Mapping[str, str], texts: Mapping[str, str] | None = None) -> Sequence[Pin]:
        """Record the listed definitions, pinning new tools; every pin of the server that differs now.

        A list that says nothing new is only read, so that listing tools costs no write. A text that a pin lacks, for
        it was made before texts were kept, is added to the digest it belongs to.
        """
        known, texts = self.all(server), texts or {}
        seen = {pin.tool: (pin.seen, bool(pin.seen_text)) for pin in known}
        news = {
            tool: definition
            for tool, definition in definitions.items()
            if seen.get(tool) not in {(definition, True), (definition, tool in texts)}
        }
        if news:
            with self._database.write(durable=True) as connection:
                for tool, definition in news.items():
                    self._record(connection, server, tool, definition, texts.get(tool, ""))
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
            return connection.execute(statement.values(pinned=table.c.seen, pinned_text=table.c.seen_text)).rowcount

    def _record(self, connection: Connection, server: str, tool: str, definition: str, text: str) -> None:
        same = and_(table.c.pinned == definition, table.c.pinned_text == "")
        connection.execute(
            self._database.insert(table)
            .values(server=server, tool=tool, pinned=definition, seen=definition, pinned_text=text, seen_text=text)
            .on_conflict_do_update(
                index_elements=[table.c.server, table.c.tool],
                set_={
                    "seen": definition,
                    "seen_text": text,
                    "pinned_text": case((same, text), else_=table.c.pinned_text),
                },
            )
        )


def _pins(connection: Connection, server: str) -> Sequence[Pin]:
    query = select(table).where(table.c.server == server).order_by(table.c.tool)
    return tuple(Pin(**row) for row in connection.execute(query).mappings())
