"""Withheld results: sealed, bounded, and erased when they are delivered, refused or out of time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from sqlalchemy import RowMapping, delete, exists, func, insert, or_, select, update

from guard.model import State
from guard.results import Kept
from guard.store.database import Database
from guard.store.schema import challenges
from guard.store.schema import results as table
from guard.store.seal import Keyring

_REFUSED: Final = (State.DENIED.value, State.CANCELLED.value, State.REVOKED.value)
_THERE: Final = func.length(table.c.answer) > 0
"""Its bytes are kept; later only that it was there is, so that the same call can be told."""
_COLUMNS: Final = tuple(column for column in table.c if column.name != "answer")


class SqlResults:
    """`guard.results.Results` on SQL."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        """Take the database, and the keys that seal what is kept."""
        self._database, self._keyring = database, keyring

    def keep(self, kept: Kept, answer: bytes, *, each: int, most: int) -> bool:
        """Insert, durably, unless there is no room."""
        own = select(func.count()).where(table.c.principal == kept.principal, _THERE)
        whole = select(func.coalesce(func.sum(func.length(table.c.answer)), 0))
        sealed = self._keyring.seal(answer, _place(kept.digest))
        with self._database.write(durable=True) as connection:
            if connection.execute(own).scalar_one() >= each:
                return False
            if connection.execute(whole).scalar_one() + len(answer) > most:
                return False
            values = {name: getattr(kept, name) for name in (column.name for column in _COLUMNS)}
            values |= {"limits": json.dumps(kept.limits), "answer": sealed}
            connection.execute(insert(table).values(values))
        return True

    def digests(self) -> frozenset[str]:
        """The call digests of everything that is kept."""
        with self._database.read() as connection:
            return frozenset(connection.execute(select(table.c.call_digest)).scalars())

    def oldest(self, call_digest: str) -> Kept | None:
        """The first that is kept for a call."""
        query = select(*_COLUMNS).where(table.c.call_digest == call_digest).order_by(table.c.at, table.c.digest)
        with self._database.read() as connection:
            found = connection.execute(query.limit(1)).mappings().one_or_none()
        return None if found is None else _kept(found)

    def answer(self, digest: str) -> bytes | None:
        """The bytes of one."""
        with self._database.read() as connection:
            sealed = connection.execute(select(table.c.answer).where(table.c.digest == digest)).scalar_one_or_none()
        return None if not sealed else self._keyring.unseal(sealed, _place(digest))

    def erase(self, digest: str) -> bool:
        """One UPDATE with one winner."""
        empty = update(table).where(table.c.digest == digest, _THERE).values(answer=b"")
        with self._database.write(durable=True) as connection:
            return connection.execute(empty).rowcount == 1

    def drop(self, digest: str) -> bool:
        """One DELETE with one winner."""
        with self._database.write(durable=True) as connection:
            return connection.execute(delete(table).where(table.c.digest == digest)).rowcount == 1

    def due(self, now: float) -> Sequence[Kept]:
        """Those that are to be erased."""
        refused = exists().where(challenges.c.digest == table.c.digest, challenges.c.state.in_(_REFUSED))
        query = select(*_COLUMNS).where(_THERE, or_(table.c.expires <= now, refused))
        with self._database.read() as connection:
            found = connection.execute(query).mappings().all()
        return [_kept(row) for row in found]

    def bury(self, before: float) -> int:
        """Forget; nothing is written when there is nothing to forget."""
        old = table.c.expires < before
        with self._database.read() as connection:
            if connection.execute(select(table.c.digest).where(old).limit(1)).first() is None:
                return 0
        with self._database.write() as connection:
            return connection.execute(delete(table).where(old)).rowcount


def _place(digest: str) -> bytes:
    """What a sealed result is bound to: a text moved to another row does not open."""
    return b"results:" + digest.encode()


def _kept(row: RowMapping) -> Kept:
    values = {column.name: row[column] for column in _COLUMNS}
    return Kept(**{**values, "limits": tuple(json.loads(values["limits"]))})
