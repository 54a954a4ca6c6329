"""People who may consent. Every change is durable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, select

from guard.errors import StoreUnavailableError
from guard.ports import Approver
from guard.store.database import Database
from guard.store.prepared import Found
from guard.store.schema import approvers as table
from guard.store.strict import RowError, each, from_json, text, to_json

_BY_NAME: Final = select(table).where(table.c.name == bindparam("wanted"))


class SqlApprovers:
    """`guard.ports.Approvers` on SQL."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def put(self, approver: Approver) -> None:
        """Insert or replace."""
        values = {
            "groups": to_json(sorted(approver.groups)),
            "created": approver.created,
            "removed": approver.removed,
        }
        statement = (
            self._database.insert(table)
            .values(name=approver.name, **values)
            .on_conflict_do_update(index_elements=[table.c.name], set_=values)
        )
        with self._database.write(durable=True) as connection:
            connection.execute(statement)

    def get(self, name: str) -> Approver | None:
        """One approver, removed or not."""
        return next(map(_read, self._database.rows(_BY_NAME, {"wanted": name})), None)

    def all(self) -> Sequence[Approver]:
        """Every approver by name."""
        with self._database.read() as connection:
            found = connection.execute(select(table).order_by(table.c.name)).mappings().all()
        return tuple(_read(row) for row in found)


def _read(row: Found) -> Approver:
    try:
        groups = frozenset(each(text)(from_json(row["groups"])))
    except RowError as error:
        raise StoreUnavailableError(detail=f"approver {row['name']} cannot be read: {error}") from error
    return Approver(name=row["name"], groups=groups, created=row["created"], removed=row["removed"])
