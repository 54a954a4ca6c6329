"""The store on SQL: an embedded SQLite database by default, the same statements on PostgreSQL."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from guard import ports
from guard.errors import StoreUnavailableError
from guard.intents import Intents
from guard.notices import Notices
from guard.people import People
from guard.results import Results
from guard.store.agents import SqlAgents
from guard.store.approvers import SqlApprovers
from guard.store.baselines import SqlBaselines
from guard.store.challenges import SqlChallenges
from guard.store.database import Database
from guard.store.emergencies import SqlEmergencies
from guard.store.factors import SqlFactors
from guard.store.intents import SqlIntents
from guard.store.lanes import SqlLanes
from guard.store.migrate import alone, migrate, revision
from guard.store.notices import SqlNotices
from guard.store.people import SqlPeople
from guard.store.pins import SqlPins
from guard.store.results import SqlResults
from guard.store.schema import REVISION
from guard.store.seal import Keyring
from guard.store.sessions import SqlSessions

DATABASE: Final = "guard.db"
"""Name of the database file in the state directory."""


class SqlStore:
    """`guard.ports.Store` on SQL. Its methods block; they are safe to call from many threads and processes."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        """Take a database whose schema is at `guard.store.schema.REVISION`."""
        self._database = database
        self._agents = SqlAgents(database)
        self._approvers = SqlApprovers(database)
        self._factors = SqlFactors(database)
        self._challenges = SqlChallenges(database, keyring)
        self._notices = SqlNotices(database, self._challenges)
        self._emergencies = SqlEmergencies(database)
        self._intents = SqlIntents(database, keyring)
        self._lanes = SqlLanes(database)
        self._baselines = SqlBaselines(database)
        self._sessions = SqlSessions(database)
        self._pins = SqlPins(database)
        self._people = SqlPeople(database, keyring)
        self._results = SqlResults(database, keyring)

    @classmethod
    def open(cls, state: Path, keyring: Keyring) -> Self:
        """Open the SQLite database of a state directory, made and migrated as needed (0700, file 0600).

        Raises:
            ConfigError: a newer version wrote the database.
            StoreUnavailableError: it cannot be read or written.
        """
        file = state / DATABASE
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(file)
            database = Database.embedded(file)
            try:
                _bring_up_to_date(database, file)
            except BaseException:
                database.close()
                raise
        except (OSError, StoreUnavailableError) as error:
            detail = error.detail if isinstance(error, StoreUnavailableError) else str(error)
            raise StoreUnavailableError(f"the state database {file} cannot be opened", detail=detail) from error
        return cls(database, keyring)

    @property
    def agents(self) -> ports.Agents:
        """Agents and credentials."""
        return self._agents

    @property
    def approvers(self) -> ports.Approvers:
        """People."""
        return self._approvers

    @property
    def factors(self) -> ports.Factors:
        """Factors."""
        return self._factors

    @property
    def challenges(self) -> ports.Challenges:
        """Challenges and grants."""
        return self._challenges

    @property
    def notices(self) -> Notices:
        """Who was told what."""
        return self._notices

    @property
    def emergencies(self) -> ports.Emergencies:
        """Broken glass."""
        return self._emergencies

    @property
    def intents(self) -> Intents:
        """Published intents."""
        return self._intents

    @property
    def lanes(self) -> ports.Lanes:
        """Ledger heads."""
        return self._lanes

    @property
    def baselines(self) -> ports.Baselines:
        """Drift snapshots."""
        return self._baselines

    @property
    def sessions(self) -> ports.Sessions:
        """Legacy sessions."""
        return self._sessions

    @property
    def pins(self) -> ports.Pins:
        """Tool definitions."""
        return self._pins

    @property
    def people(self) -> People:
        """What the console remembers."""
        return self._people

    @property
    def results(self) -> Results:
        """Withheld results."""
        return self._results

    def changed(self) -> int:
        """A number that moves whenever another connection committed; the store's own pool counts as others."""
        return self._database.changed()

    def close(self) -> None:
        """Release every connection."""
        self._database.close()


def _make_private(file: Path) -> None:
    """Have the file there with mode 0600, which SQLite gives its log and index as well.

    A file that exists is never opened here: closing any descriptor of it would drop the locks of every
    SQLite connection this process already has to it (POSIX advisory locks).
    """
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return
    if file.stat().st_mode & 0o077:
        file.chmod(0o600)


def _bring_up_to_date(database: Database, file: Path) -> None:
    with database.read() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        if mode == "wal" and revision(connection) == REVISION:
            return
    with alone(file.parent):
        database.use_wal()
        with database.write(durable=True) as connection:
            migrate(connection, str(file))
