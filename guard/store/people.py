"""Tickets, logins and precedents. What opens a way is durable; what is kept for show is not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from sqlalchemy import Row, delete, func, insert, select

from guard.errors import StoreUnavailableError
from guard.people import Login, Precedent, Ticket
from guard.store.database import Database
from guard.store.schema import logins, precedents, tickets
from guard.store.seal import Keyring

_ATTRIBUTES: Final = ("approvers", "principal", "challenge", "digest", "approved", "expires")


class SqlPeople:
    """`guard.people.People` on SQL."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        """Take the database, and the keys that seal arguments."""
        self._database = database
        self.tickets = SqlTickets(database)
        self.logins = SqlLogins(database)
        self.precedents = SqlPrecedents(database, keyring)

    def sweep(self, now: float) -> int:
        """Erase what has run out of time; nothing is written when there is none."""
        tables = (tickets, logins, precedents)
        with self._database.read() as connection:
            due = [one for one in tables if connection.execute(select(one).where(one.c.expires <= now)).first()]
        if not due:
            return 0
        with self._database.write() as connection:
            return sum(connection.execute(delete(one).where(one.c.expires <= now)).rowcount for one in due)


class SqlTickets:
    """`guard.people.Tickets` on SQL."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def issue(self, ticket: Ticket, *, most: int) -> bool:
        """Insert, unless it exists or too many live; those that have run out make room first."""
        live = select(func.count()).select_from(tickets).where(tickets.c.purpose == ticket.purpose)
        with self._database.write() as connection:
            connection.execute(delete(tickets).where(tickets.c.expires <= ticket.created))
            if connection.execute(live).scalar_one() >= most:
                return False
            statement = self._database.insert(tickets).values(asdict(ticket)).on_conflict_do_nothing()
            return connection.execute(statement).rowcount == 1

    def peek(self, digest: str, purpose: str, now: float) -> Ticket | None:
        """The live ticket, left in place."""
        query = select(tickets).where(tickets.c.digest == digest, tickets.c.purpose == purpose, tickets.c.expires > now)
        with self._database.read() as connection:
            found = connection.execute(query).one_or_none()
        return None if found is None else _ticket(found)

    def take(self, digest: str, purpose: str, now: float) -> Ticket | None:
        """One DELETE with exactly one winner."""
        found = self.peek(digest, purpose, now)
        if found is None:
            return None
        gone = delete(tickets).where(tickets.c.digest == digest, tickets.c.purpose == purpose)
        with self._database.write(durable=True) as connection:
            return found if connection.execute(gone).rowcount == 1 else None

    def drop(self, purpose: str, subject: str) -> None:
        """Withdraw every ticket of this purpose for a subject."""
        with self._database.write(durable=True) as connection:
            connection.execute(delete(tickets).where(tickets.c.purpose == purpose, tickets.c.subject == subject))


def _ticket(row: Row[tuple[object, ...]]) -> Ticket:
    return Ticket(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it


class SqlLogins:
    """`guard.people.Logins` on SQL."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def open(self, login: Login) -> None:
        """Insert."""
        with self._database.write() as connection:
            connection.execute(insert(logins).values(asdict(login)))

    def get(self, digest: str, now: float) -> Login | None:
        """The login, if its time is not up."""
        query = select(logins).where(logins.c.digest == digest, logins.c.expires > now)
        with self._database.read() as connection:
            found = connection.execute(query).mappings().one_or_none()
        return None if found is None else Login(**found)

    def close(self, digest: str) -> None:
        """End one login, for good."""
        with self._database.write(durable=True) as connection:
            connection.execute(delete(logins).where(logins.c.digest == digest))

    def close_all(self, subject: str) -> int:
        """End every login of a person, for good."""
        with self._database.write(durable=True) as connection:
            return connection.execute(delete(logins).where(logins.c.subject == subject)).rowcount


class SqlPrecedents:
    """`guard.people.Precedents` on SQL; arguments are sealed to their row."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        """Take the database, and the keys that seal arguments."""
        self._database, self._keyring = database, keyring

    def put(self, precedent: Precedent) -> None:
        """Insert or replace the one of this tool."""
        key = {"server": precedent.server, "kind": precedent.kind, "name": precedent.name}
        sealed = self._keyring.seal(precedent.arguments.encode(), _place(**key))
        values = {name: getattr(precedent, name) for name in _ATTRIBUTES} | {"arguments": sealed}
        statement = (
            self._database.insert(precedents)
            .values(**key, **values)
            .on_conflict_do_update(
                index_elements=[precedents.c.server, precedents.c.kind, precedents.c.name], set_=values
            )
        )
        with self._database.write() as connection:
            connection.execute(statement)

    def get(self, server: str, kind: str, name: str, now: float) -> Precedent | None:
        """That of a tool, if its time is not up.

        Raises:
            StoreUnavailableError: the database cannot serve, or the row was not sealed by this deployment.
        """
        query = select(precedents).where(
            precedents.c.server == server,
            precedents.c.kind == kind,
            precedents.c.name == name,
            precedents.c.expires > now,
        )
        with self._database.read() as connection:
            found = connection.execute(query).mappings().one_or_none()
        if found is None:
            return None
        try:
            arguments = self._keyring.unseal(found["arguments"], _place(server, kind, name)).decode()
        except UnicodeDecodeError as error:
            raise StoreUnavailableError(detail=f"the precedent of {name} cannot be read") from error
        return Precedent(**{**found, "arguments": arguments})


def _place(server: str, kind: str, name: str) -> bytes:
    """Associated data of a precedent's arguments: this tool's row and no other."""
    return f"precedent\0{server}\0{kind}\0{name}".encode()
