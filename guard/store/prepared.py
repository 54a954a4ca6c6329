"""Statements that a held call waits for: compiled to text once, and run by SQLite's own driver.

SQLAlchemy takes several times as long for one row as SQLite does. The text is SQLAlchemy's all the same, and
PostgreSQL gets the same statements the usual way (`guard.store.database`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import Engine, PoolProxiedConnection, RowMapping, Select, Update
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from guard import faults

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

READ: Final = "read"
WRITE: Final = "write"
DURABLE: Final = "durable"
KIND: Final = "guard_transaction"

Statement: TypeAlias = "Select[Any] | Update | sqlite.Insert | postgresql.Insert"
Values: TypeAlias = Mapping[str, object]
Found: TypeAlias = RowMapping | Mapping[str, Any]
"""One row, by column."""


class Prepared:
    """The statements of one SQLite engine; safe to use from any number of threads."""

    def __init__(self, engine: Engine) -> None:
        """Take an engine whose connections begin no transactions by themselves."""
        self._engine = engine
        self._texts: dict[tuple[object, ...], tuple[str, tuple[str, ...], Mapping[str, object]]] = {}

    def bound(self, statement: Statement, values: Values) -> tuple[str, list[object]]:
        """The text of a statement that lives as long as the program, and its parameters in order."""
        key = statement, *values
        if (known := self._texts.get(key)) is None:
            names = None if isinstance(statement, Select) else list(values)
            compiled = statement.compile(
                dialect=self._engine.dialect, column_keys=names, compile_kwargs={"render_postcompile": True}
            )
            assert isinstance(compiled, SQLCompiler)
            known = self._texts[key] = str(compiled), tuple(compiled.positiontup or ()), dict(compiled.params)
        text, order, constants = known
        return text, [values[name] if name in values else constants[name] for name in order]

    def rows(self, statement: Select[Any], values: Values) -> Sequence[Mapping[str, Any]]:
        """What one query finds, which is a snapshot of its own.

        Raises:
            sqlite3.Error, OSError, SQLAlchemyError: the database cannot serve.
        """
        text, parameters = self.bound(statement, values)
        with self._connection() as (_, connection):
            faults.point("store.read")
            cursor = connection.execute(text, parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def change(self, steps: Sequence[tuple[Update, Values]], *, durable: bool) -> bool:
        """One transaction in which every statement changes exactly one row, or nothing changes; whether it did.

        Raises:
            sqlite3.Error, OSError, SQLAlchemyError: as `guard.store.database.Database.write`.
        """
        with self._connection() as (borrowed, connection):
            begin(borrowed.info, connection.execute, DURABLE if durable else WRITE)
            for statement, values in steps:
                text, parameters = self.bound(statement, values)
                if connection.execute(text, parameters).rowcount != 1:
                    connection.execute("ROLLBACK")
                    return False
            faults.point("store.write")
            connection.execute("COMMIT")
            return True

    @contextmanager
    def _connection(self) -> Iterator[tuple[PoolProxiedConnection, sqlite3.Connection]]:
        """A connection of the pool; after an error the next one starts afresh."""
        borrowed = self._engine.raw_connection()
        try:
            driver = borrowed.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            yield borrowed, driver
        except (sqlite3.Error, OSError) as error:
            borrowed.invalidate(error)
            raise
        finally:
            borrowed.close()  # which takes back what was begun and not committed


def begin(info: dict[Any, Any], execute: Callable[[str], object], kind: str) -> None:
    """Start a transaction of SQLite in the way its kind asks for; `info` goes with the connection."""
    if kind == READ:
        execute("BEGIN")
        return
    if info.get(KIND) != kind:  # the setting cannot be changed inside a transaction, and it stays
        execute(f"PRAGMA synchronous={'FULL' if kind == DURABLE else 'NORMAL'}")
        info[KIND] = kind
    execute("BEGIN IMMEDIATE")
