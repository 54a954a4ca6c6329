"""Published intents. What they say is sealed at rest, for their constraints may hold arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, RowMapping, delete, select, update

from guard.intents import Intent
from guard.store.database import Database
from guard.store.schema import intents as table
from guard.store.seal import Keyring

_PLAIN: Final = ("id", "agent", "server", "tool", "ends", "published", "signature", "used", "revoked")


class SqlIntents:
    """`guard.ports.Intents` on SQL."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        """Take the database, and the keys that seal payloads."""
        self._database, self._keyring = database, keyring

    def add(self, intent: Intent) -> bool:
        """Insert durably; False when the id was used before."""
        values = {column: getattr(intent, column) for column in _PLAIN}
        values["payload"] = self._keyring.seal(intent.payload, _place(intent.id))
        statement = self._database.insert(table).values(values).on_conflict_do_nothing()
        with self._database.write(durable=True) as connection:
            return connection.execute(statement).rowcount == 1

    def get(self, intent_id: str) -> Intent | None:
        """One intent.

        Raises:
            StoreUnavailableError: the database cannot serve, or the payload does not open.
        """
        with self._database.read() as connection:
            found = connection.execute(select(table).where(table.c.id == intent_id)).mappings().one_or_none()
        return None if found is None else self._read(found)

    def find(self, *, agent: str = "", server: str = "", tool: str = "", limit: int) -> Sequence[Intent]:
        """At most `limit` intents by what finds them (empty: any), newest first.

        Raises:
            StoreUnavailableError: the database cannot serve, or a payload does not open.
        """
        named = {"agent": agent, "server": server, "tool": tool}
        wanted: list[ColumnElement[bool]] = [table.c[column] == value for column, value in named.items() if value]
        query = select(table).where(*wanted).order_by(table.c.seq.desc()).limit(limit)
        with self._database.read() as connection:
            found = connection.execute(query).mappings().all()
        return tuple(self._read(row) for row in found)

    def revoke(self, intent_id: str, at: float) -> bool:
        """Revoke durably; False when there is no such intent, or it was revoked before."""
        statement = update(table).where(table.c.id == intent_id, table.c.revoked == 0).values(revoked=at)
        with self._database.write(durable=True) as connection:
            return connection.execute(statement).rowcount == 1

    def purge(self, before: float) -> int:
        """Erase the intents whose window ended before that moment; how many there were.

        Raises:
            StoreUnavailableError: the database cannot serve.
        """
        with self._database.write() as connection:
            return connection.execute(delete(table).where(table.c.ends < before)).rowcount

    def _read(self, row: RowMapping) -> Intent:
        payload = self._keyring.unseal(row["payload"], _place(row["id"]))
        return Intent(**{column: row[column] for column in _PLAIN}, payload=payload)


def _place(intent_id: str) -> bytes:
    """Associated data of a sealed payload: this row of this table and no other."""
    return b"intent:" + intent_id.encode()
