"""One database, and the two kinds of transaction everything in the store is made of.

SQLite runs in WAL mode. Writers take the write lock at once (`BEGIN IMMEDIATE`), so no transaction ever
fails because it began as a reader. A commit that must outlive a power cut runs with `synchronous=FULL`,
which costs one fsync of the log; all others with `NORMAL`, which costs none and can lose the last moments
to a power cut, never to a crash of the process. PostgreSQL takes the same statements; there
`synchronous_commit` plays that part.
"""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import Connection, Engine, QueuePool, Select, Table, Update, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from guard import faults
from guard.errors import StoreUnavailableError
from guard.store.prepared import DURABLE, KIND, READ, WRITE, Found, Prepared, Values, begin

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

BUSY_SECONDS: Final = 5.0
"""How long a transaction waits for another one, in this process or elsewhere, before the store is unavailable."""

_CONNECTIONS: Final = 5


class Watch(Protocol):
    """Tells cheaply whether somebody else committed."""

    def changed(self) -> int:
        """A number that moves whenever another connection committed."""

    def close(self) -> None:
        """Release what it holds."""


class _NotOneError(Exception):
    """Somebody else was first; takes the transaction back."""


class Database:
    """An engine with fail-closed transactions; safe to use from any number of threads."""

    def __init__(self, engine: Engine, watch: Watch) -> None:
        """Take an engine of either dialect and its watch; the database becomes the owner of both."""
        self._engine = engine
        self._watch = watch
        # Threads of one process queue here, in order, instead of polling SQLite's file lock.
        self._turn: threading.Lock | None = threading.Lock() if engine.dialect.name == "sqlite" else None
        self._prepared = Prepared(engine) if engine.dialect.name == "sqlite" else None
        event.listen(engine, "begin", _begin)

    @classmethod
    def embedded(cls, file: Path) -> Database:
        """A database file that exists already."""
        return cls(_sqlite_engine(file), SqliteWatch(file))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads: one snapshot with SQLite, read committed with PostgreSQL.

        Raises:
            StoreUnavailableError: the database cannot serve.
        """
        with self._transaction(READ) as connection:
            faults.point("store.read")
            yield connection

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Connection]:
        """One transaction that commits at the end, and is on disk then when `durable`.

        Raises:
            StoreUnavailableError: the database cannot serve. Nothing was written, unless the error came from
                the disk during the commit itself; then the write may or may not be found later.
        """
        with self._in_turn(), self._transaction(DURABLE if durable else WRITE) as connection:
            yield connection
            faults.point("store.write")

    def rows(self, statement: Select[Any], values: Values) -> Sequence[Found]:
        """What one query finds, by one that is made once for the program.

        Raises:
            StoreUnavailableError: the database cannot serve.
        """
        if self._prepared is None:
            with self.read() as connection:
                return connection.execute(statement, values).mappings().all()
        with _unavailable():
            return self._prepared.rows(statement, values)

    def change(self, steps: Sequence[tuple[Update, Values]], *, durable: bool) -> bool:
        """One transaction in which every statement changes exactly one row, or nothing changes; whether it did.

        Raises:
            StoreUnavailableError: as `write`.
        """
        if self._prepared is None:
            with suppress(_NotOneError), self.write(durable=durable) as connection:
                for statement, values in steps:
                    if connection.execute(statement, values).rowcount != 1:
                        raise _NotOneError
                return True
            return False
        with self._in_turn(), _unavailable():
            return self._prepared.change(steps, durable=durable)

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """`INSERT` that knows `ON CONFLICT`, which both dialects spell alike and generic SQL has not."""
        if self._engine.dialect.name == "sqlite":
            return sqlite.insert(table)
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - 3 MB that an embedded database never needs

        return postgresql.insert(table)

    def write_unnoticed(self, statement: sqlite.Insert | postgresql.Insert, values: Mapping[str, object]) -> int:
        """One small write, not durable by itself, that `changed` need not count here; the number of rows.

        With SQLite it goes over the watch's own connection: what a process writes many times a second then
        neither wakes its own pollers nor costs SQLAlchemy's 0.3 ms.

        Raises:
            StoreUnavailableError: as `write`.
        """
        if not isinstance(self._watch, SqliteWatch) or self._prepared is None:
            with self.write() as connection:
                return connection.execute(statement, values).rowcount
        text, parameters = self._prepared.bound(statement, values)
        with self._in_turn(), _unavailable():
            return self._watch.execute(text, parameters)

    def use_wal(self) -> None:
        """Make SQLite keep a write-ahead log, for good. One process at a time: it takes the whole file.

        Raises:
            StoreUnavailableError: the database cannot serve.
        """
        with (
            _unavailable(),
            closing(self._engine.raw_connection()) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.fetchall()

    def changed(self) -> int:
        """A number that moves whenever another connection committed.

        Raises:
            StoreUnavailableError: the database cannot serve.
        """
        with _unavailable():
            faults.point("store.read")
            return self._watch.changed()

    def close(self) -> None:
        """Release every connection."""
        self._watch.close()
        self._engine.dispose()

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=BUSY_SECONDS):
            raise StoreUnavailableError(detail=f"other threads kept writing for {BUSY_SECONDS} s")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[Connection]:
        with _unavailable(), self._engine.connect() as connection:
            try:
                # Row counts decide who won; SQLAlchemy keeps those of an INSERT only when told to.
                with connection.execution_options(preserve_rowcount=True, **{KIND: kind}).begin():
                    yield connection
            except (DBAPIError, OSError) as error:
                # A full disk or a broken file may leave the connection in any state: the next one starts afresh.
                connection.invalidate(error)
                raise


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        # The driver's own words: SQLAlchemy adds the statement and a link, over three lines.
        said = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        raise StoreUnavailableError(detail=f"{type(said).__name__}: {said}") from error


def _begin(connection: Connection) -> None:
    """Start the transaction in the way its kind asks for."""
    kind = connection.get_execution_options().get(KIND, READ)
    if connection.dialect.name != "sqlite":
        if kind == WRITE:
            connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
        return
    begin(connection.info, connection.exec_driver_sql, kind)


def _sqlite_engine(file: Path) -> Engine:
    # mode=rw: SQLite must never make the file itself, with whatever permissions the umask gives.
    address = f"{file.absolute().as_uri()}?mode=rw"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            address,
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,  # transactions are begun by _begin only
            check_same_thread=False,  # the pool hands a connection to one thread at a time
        )

    return create_engine(
        "sqlite+pysqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
        pool_use_lifo=True,  # the warmest; a connection's first durable commit syncs the folder, too
        hide_parameters=True,  # errors go to the log, and what people and calls are named does not
    )


class SqliteWatch:
    """Polls SQLite's `data_version` on a connection of its own.

    It costs a few microseconds: SQLite looks at the shared header of the log. The pooled connections of
    this process count as others; what `execute` writes does not count.
    """

    def __init__(self, file: Path) -> None:
        """Remember the file; the connection is made by the first poll."""
        self._address = f"{file.absolute().as_uri()}?mode=rw"
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._epoch = 0

    def changed(self) -> int:
        """Read the version; a new connection counts as a change, for its numbers start anew.

        Raises:
            sqlite3.Error: the database cannot serve; the next poll makes a new connection.
        """
        with self._connected() as connection:
            found = connection.execute("PRAGMA data_version").fetchone()
            return (self._epoch << 32) + int(found[0])

    def execute(self, statement: str, values: Sequence[object]) -> int:
        """Commit one statement without an fsync; the number of rows.

        Raises:
            sqlite3.Error, OSError: nothing was written.
        """
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            rows = connection.execute(statement, values).rowcount
            faults.point("store.write")
            connection.execute("COMMIT")
            return rows

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; after an error the next one starts afresh."""
        with self._lock:
            if self._connection is None:
                self._connection = sqlite3.connect(
                    self._address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                self._connection.execute("PRAGMA synchronous=NORMAL")
                self._epoch += 1
            try:
                yield self._connection
            except (sqlite3.Error, OSError):
                self._release()
                raise

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._release()

    def _release(self) -> None:
        if self._connection is not None:
            with closing(self._connection):
                self._connection = None


class RestlessWatch:
    """For databases without a cheap sign of change: every poll counts as one, so that waiters always look."""

    def __init__(self) -> None:
        """Start counting."""
        self._polls = itertools.count(1)

    def changed(self) -> int:
        """Give another number every time."""
        return next(self._polls)

    def close(self) -> None:
        """Hold nothing."""
