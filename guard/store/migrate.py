"""Bringing a database to the schema this version knows.

Alembic is imported only when something has to be done: its modules would stay in memory for good.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from guard.errors import ConfigError
from guard.store.schema import REVISION

_SCRIPTS: Final = Path(__file__).with_name("migrations")


def revision(connection: Connection) -> str | None:
    """Read the schema revision of the database; None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return None if found is None else str(found)


def migrate(connection: Connection, where: str) -> None:
    """Run the migrations that are missing, in the transaction of `connection`; does nothing when none is.

    `where` names the database in messages. The caller sees to it that one process migrates at a time.

    Raises:
        ConfigError: a newer version wrote this database.
    """
    current = revision(connection)
    if current == REVISION:
        return
    from alembic import command  # noqa: PLC0415 - resident memory: needed once in the life of a database
    from alembic.config import Config  # noqa: PLC0415 - the same
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - the same

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise ConfigError(
            f"{where} was written by a newer guard (its schema is {current}, this version knows {REVISION}); "
            "start the newer version, or restore a backup made before it"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, REVISION)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the migration lock of a state directory: other processes wait for their turn.

    Raises:
        OSError: the lock file cannot be made.
    """
    descriptor = os.open(folder / "migrate.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # releases the lock
