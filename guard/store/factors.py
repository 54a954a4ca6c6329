"""Enrolled factors. Secrets arrive sealed by their factor and are kept as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from sqlalchemy import ColumnElement, bindparam, insert, select, update

from guard.errors import StoreUnavailableError
from guard.ports import Factor
from guard.store.database import Database
from guard.store.prepared import Found
from guard.store.schema import factors as table
from guard.store.strict import RowError, each, from_json, mapping, number, to_json

_Values: TypeAlias = dict[str, str | int | float | bytes]

_PLAIN: Final = ("id", "kind", "subject", "created", "attestation", "secret", "counter", "locked", "revoked", "version")

_BY_ID: Final = select(table).where(table.c.id == bindparam("wanted"))


class SqlFactors:
    """`guard.ports.Factors` on SQL."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def add(self, factor: Factor) -> None:
        """Insert durably; an id that exists already is refused by the database."""
        with self._database.write(durable=True) as connection:
            connection.execute(insert(table).values(_values(factor)))

    def get(self, factor_id: str) -> Factor | None:
        """One factor."""
        return next(map(_read, self._database.rows(_BY_ID, {"wanted": factor_id})), None)

    def of(self, subject: str, kind: str = "") -> Sequence[Factor]:
        """All factors of a subject (everyone's when empty), newest first, optionally of one kind."""
        wanted: list[ColumnElement[bool]] = []
        if subject:
            wanted.append(table.c.subject == subject)
        if kind:
            wanted.append(table.c.kind == kind)
        with self._database.read() as connection:
            query = select(table).where(*wanted).order_by(table.c.seq.desc())
            found = connection.execute(query).mappings().all()
        return tuple(_read(row) for row in found)

    def swap(self, old: Factor, new: Factor) -> bool:
        """Durable compare-and-swap on `old.version`; the version becomes `old.version + 1`.

        Raises:
            StoreUnavailableError: the database cannot serve.
            ValueError: `new` is another factor.
        """
        if new.id != old.id:
            raise ValueError("a swap changes one factor")
        values: _Values = {**_values(new), "version": old.version + 1}
        statement = update(table).where(table.c.id == old.id, table.c.version == old.version).values(values)
        with self._database.write(durable=True) as connection:
            return connection.execute(statement).rowcount == 1


def _values(factor: Factor) -> _Values:
    return {
        **{column: getattr(factor, column) for column in _PLAIN},
        "public": to_json(factor.public),
        "failures": to_json(factor.failures),
    }


def _read(row: Found) -> Factor:
    try:
        return Factor(
            **{column: row[column] for column in _PLAIN},
            public=mapping(from_json(row["public"])),
            failures=each(number)(from_json(row["failures"])),
        )
    except RowError as error:
        raise StoreUnavailableError(detail=f"factor {row['id']} cannot be read: {error}") from error
