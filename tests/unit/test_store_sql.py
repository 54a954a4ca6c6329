"""The SQL store keeps the contract, and what only a file on a disk can promise."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from guard import faults
from guard.errors import ConfigError, StoreUnavailableError
from guard.model import ProofClass, Quorum, State
from guard.people import Range
from guard.ports import Approver, Credential, Lane, Store
from guard.store import migrate as migration
from guard.store.database import Database, RestlessWatch
from guard.store.schema import METADATA, REVISION
from guard.store.seal import Keyring
from guard.store.sql import DATABASE, SqlStore
from guard.testing import StoreContract, consumed, example_challenge, race, satisfied
from tests.console_contract import ConsoleContract

POSTGRES = os.environ.get("GUARD_TEST_POSTGRES_URL", "")


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory as a first start leaves it; copied, for migrating takes longer than most tests."""
    state = tmp_path_factory.mktemp("migrated") / "state"
    SqlStore.open(state, Keyring.open(state)).close()
    return state


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(state: Path, migrated: Path) -> Iterator[SqlStore]:
    shutil.copytree(migrated, state)
    opened = SqlStore.open(state, Keyring.open(state))
    yield opened
    opened.close()


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A fault of the store's writes that is there while the file is."""
    switch = tmp_path / "fault"
    monkeypatch.setenv("GUARD_TESTING", "1")
    monkeypatch.setenv("GUARD_FAULT", "store.write:enospc")
    monkeypatch.setenv("GUARD_FAULT_FILE", str(switch))
    faults.arm()
    yield switch
    monkeypatch.delenv("GUARD_FAULT")
    faults.arm()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def raw(state: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Look into the database, or spoil it, behind the store's back."""
    connection = sqlite3.connect(state / DATABASE)
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


class TestSqlite(StoreContract, ConsoleContract):
    @pytest.fixture
    def store(self, state: Path, migrated: Path) -> Iterator[Store]:
        shutil.copytree(migrated, state)
        opened = SqlStore.open(state, Keyring.open(state))
        yield opened
        opened.close()


@pytest.mark.skipif(not POSTGRES, reason="GUARD_TEST_POSTGRES_URL names no PostgreSQL database to empty and use")
class TestPostgres(StoreContract, ConsoleContract):
    @pytest.fixture
    def store(self, state: Path) -> Iterator[Store]:
        engine = create_engine(POSTGRES, pool_size=10)
        with engine.begin() as connection:
            METADATA.drop_all(connection)
            connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
            migration.migrate(connection, "the test database")
        opened = SqlStore(Database(engine, RestlessWatch()), Keyring.open(state))
        yield opened
        opened.close()


def test_state_is_private_to_its_owner_whatever_the_umask(state: Path) -> None:
    before = os.umask(0)
    try:
        opened = SqlStore.open(state, Keyring.open(state))
        opened.sessions.bind("git", "s", "robot", 1.0)
    finally:
        os.umask(before)
    assert mode(state) == 0o700
    assert {path.name for path in state.iterdir()} >= {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"}
    assert {mode(path) for path in state.iterdir() if path.is_file()} == {0o600}
    opened.close()


def test_any_name_of_a_directory_will_do(tmp_path: Path) -> None:
    state = tmp_path / "state of ?mode=memory#1 100% é"
    opened = SqlStore.open(state, Keyring.open(state))
    opened.baselines.put("k", "{}")
    opened.close()
    assert (state / DATABASE).stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [state.name]


def test_a_database_others_could_read_is_made_private(state: Path, store: SqlStore) -> None:
    store.close()
    (state / DATABASE).chmod(0o644)
    SqlStore.open(state, Keyring.open(state)).close()
    assert mode(state / DATABASE) == 0o600


def test_the_migrations_build_exactly_the_schema(state: Path, store: SqlStore) -> None:
    engine = create_engine(f"sqlite:///{state / DATABASE}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        migrated = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'index'")).all()
    engine.dispose()
    declared = create_engine("sqlite://")
    with declared.connect() as connection:
        METADATA.create_all(connection)
        expected = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'index'")).all()
    declared.dispose()
    assert {row for row in migrated if "alembic" not in row[0]} == set(expected)


def test_the_revision_of_the_schema_is_the_head_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migration.__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_a_database_of_a_newer_version_is_refused_with_a_sentence(state: Path, store: SqlStore) -> None:
    store.close()
    raw(state, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="written by a newer guard") as refused:
        SqlStore.open(state, Keyring.open(state))
    assert "9999" in refused.value.public
    assert raw(state, "SELECT version_num FROM alembic_version") == [("9999",)]


def test_opening_a_current_database_does_not_load_alembic(state: Path, store: SqlStore) -> None:
    script = (
        "import sys; from pathlib import Path; state = Path(sys.argv[1])\n"
        "from guard.store.seal import Keyring; from guard.store.sql import SqlStore\n"
        "SqlStore.open(state, Keyring.open(state)).close(); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(state)], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_a_file_that_is_no_database_is_unavailable_not_overwritten(state: Path) -> None:
    state.mkdir()
    (state / DATABASE).write_bytes(b"not a database, but somebody's" * 100)
    with pytest.raises(StoreUnavailableError, match="cannot be opened"):
        SqlStore.open(state, Keyring.open(state))
    assert (state / DATABASE).read_bytes().startswith(b"not a database")


def test_a_state_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    keyring = Keyring.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailableError, match="cannot be opened"):
        SqlStore.open(tmp_path / "file" / "state", keyring)


def test_a_deleted_database_is_not_made_anew_under_a_running_guard(state: Path, store: SqlStore) -> None:
    for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
        (state / name).unlink()
    store._database._engine.dispose()
    with pytest.raises(StoreUnavailableError):
        store.agents.all()
    assert not (state / DATABASE).exists()


def test_arguments_are_nowhere_on_disk_in_the_clear(state: Path, store: SqlStore) -> None:
    challenge = store.challenges.open_or_join(replace(example_challenge(), arguments='{"password":"hunter2-canary"}'))
    assert store.challenges.get(challenge.id) == challenge
    store.close()
    assert not [path for path in state.rglob("*") if path.is_file() and b"hunter2-canary" in path.read_bytes()]


def test_sealed_arguments_do_not_open_in_another_row(state: Path, store: SqlStore) -> None:
    first = store.challenges.open_or_join(example_challenge(1))
    second = store.challenges.open_or_join(example_challenge(2))
    raw(
        state,
        "UPDATE challenges SET arguments = (SELECT arguments FROM challenges WHERE id = ?) WHERE id = ?",
        first.id,
        second.id,
    )
    with pytest.raises(StoreUnavailableError):
        store.challenges.get(second.id)


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE challenges SET body = '{}'",
        "UPDATE challenges SET body = substr(body, 1, 20)",
        "UPDATE challenges SET body = replace(body, '\"strict\":true', '\"strict\":1')",
        "UPDATE challenges SET body = replace(body, '\"tag_critical\"', '\"of_tomorrow\"')",
        "UPDATE challenges SET arguments = x'00'",
        "UPDATE challenges SET arguments = zeroblob(64)",
    ],
)
def test_a_challenge_that_cannot_be_read_fails_closed_and_never_vanishes(
    state: Path, store: SqlStore, spoil: str
) -> None:
    challenge = store.challenges.open_or_join(example_challenge(1, digest="same"))
    raw(state, spoil)
    for look in (
        lambda: store.challenges.get(challenge.id),
        lambda: store.challenges.by_digest("same"),
        lambda: store.challenges.open_or_join(example_challenge(2, digest="same")),
        store.challenges.find,
    ):
        with pytest.raises(StoreUnavailableError) as unavailable:
            look()
        assert "hunter" not in unavailable.value.public
    assert raw(state, "SELECT count(*) FROM challenges") == [(1,)]


def test_the_database_itself_refuses_a_second_open_challenge(state: Path, store: SqlStore) -> None:
    first = store.challenges.open_or_join(example_challenge(1))
    store.challenges.open_or_join(example_challenge(2))
    with pytest.raises(sqlite3.IntegrityError, match=r"challenges\.digest"):
        raw(state, "UPDATE challenges SET digest = ?", first.digest)
    with pytest.raises(sqlite3.IntegrityError, match="arguments_while_open"):
        raw(state, "UPDATE challenges SET state = 'denied'")


def test_a_full_disk_is_unavailable_and_passes_without_a_restart(store: SqlStore, fault: Path) -> None:
    challenge = store.challenges.open_or_join(example_challenge())
    proven = satisfied(challenge)
    fault.touch()
    for write in (
        lambda: store.challenges.swap(challenge, proven, durable=True),
        lambda: store.challenges.open_or_join(example_challenge(2)),
        lambda: store.lanes.put(Lane(name="a", size=1, root="r")),
        lambda: store.pins.see("git", {"push": "p1"}),
    ):
        with pytest.raises(StoreUnavailableError) as unavailable:
            write()
        assert "ENOSPC" in unavailable.value.detail or "Errno 28" in unavailable.value.detail
    assert store.challenges.find() == (challenge,)
    fault.unlink()
    assert store.challenges.swap(challenge, proven, durable=True)
    assert not store.pins.all("git")


def test_reads_that_fail_are_unavailable(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_TESTING", "1")
    monkeypatch.setenv("GUARD_FAULT", "store.read:error")
    faults.arm()
    for read in (store.agents.all, store.challenges.find, store.changed, lambda: store.pins.see("git", {})):
        with pytest.raises(StoreUnavailableError):
            read()
    monkeypatch.delenv("GUARD_FAULT")
    faults.arm()
    assert store.challenges.find() == ()


def test_a_lock_that_is_never_released_is_unavailable(
    state: Path, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guard.store.database.BUSY_SECONDS", 0.05)
    impatient = SqlStore.open(state, Keyring.open(state))
    blocker = sqlite3.connect(state / DATABASE, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="state database"):
        impatient.sessions.bind("git", "s", "robot", 1.0)
    assert impatient.sessions.owner("git", "s") is None  # readers do not wait for writers
    blocker.execute("ROLLBACK")
    blocker.close()
    impatient.sessions.bind("git", "s", "robot", 1.0)
    assert impatient.sessions.owner("git", "s") == "robot"
    impatient.close()


def test_what_the_log_is_told_of_an_error_names_no_values(store: SqlStore) -> None:
    key = Credential(digest="digest-of-a-key", agent="robot", created=1.0)
    store.agents.add_credential(key)
    with pytest.raises(StoreUnavailableError) as refused:
        store.agents.add_credential(key)
    assert "IntegrityError" in refused.value.detail
    assert "digest-of-a-key" not in refused.value.detail
    assert store.agents.credentials("robot") == (key,)


def test_many_threads_share_few_connections(store: SqlStore) -> None:
    def work(racer: int) -> int:
        store.approvers.put(Approver(name=f"p{racer}", groups=frozenset(), created=1.0))
        return len(store.approvers.all())

    assert max(race(work, 60)) == 60


def test_a_store_notices_the_commits_of_another_and_only_those(state: Path, store: SqlStore) -> None:
    other = SqlStore.open(state, Keyring.open(state))
    first = store.changed()
    assert store.changed() == first
    other.agents.all()
    assert store.changed() == first
    other.baselines.put("k", "{}")
    assert store.changed() != first
    other.close()


def test_a_ledger_head_is_news_to_other_processes_and_not_to_its_own(state: Path, store: SqlStore) -> None:
    other = SqlStore.open(state, Keyring.open(state))
    own, others = store.changed(), other.changed()
    store.lanes.put(Lane(name="a", size=1, root="r"))
    assert store.changed() == own
    assert other.changed() != others
    other.close()


def test_a_change_by_another_is_not_lost_behind_a_ledger_head(state: Path, store: SqlStore) -> None:
    other = SqlStore.open(state, Keyring.open(state))
    before = store.changed()
    other.baselines.put("k", "{}")
    store.lanes.put(Lane(name="a", size=1, root="r"))
    assert store.changed() != before
    other.close()


def test_a_poller_needs_no_other_connection(store: SqlStore) -> None:
    store.agents.all()
    store._database._engine.dispose()
    first = store.changed()
    store.baselines.put("k", "{}")
    assert store.changed() != first


def test_polling_for_changes_is_safe_from_any_thread(store: SqlStore) -> None:
    assert len(set(race(lambda _: store.changed(), 20))) == 1


def test_a_durable_commit_is_fully_synchronous_and_a_cheap_one_is_not(store: SqlStore) -> None:
    def level(*, durable: bool) -> object:
        with store._database.write(durable=durable) as connection:
            return connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

    order = [True, False, False, True, True, False]
    assert [level(durable=durable) for durable in order] == [2 if durable else 1 for durable in order]


def test_a_failed_transaction_leaves_nothing_behind(store: SqlStore) -> None:
    def fail_half_way() -> None:
        with store._database.write() as connection:
            connection.execute(text("INSERT INTO baselines (key, snapshot) VALUES ('k', '{}')"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert store.baselines.get("k") is None
    store.baselines.put("k", "{}")


def test_two_stores_in_one_process_do_not_drop_each_others_locks(state: Path, store: SqlStore) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with store._database.write():
            entered.set()
            leave.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(10)
    SqlStore.open(state, Keyring.open(state)).close()
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n"
        "try: c.execute('BEGIN IMMEDIATE'); print('entered')\n"
        "except sqlite3.OperationalError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(state / DATABASE)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    leave.set()
    holder.join()
    assert told == "database is locked\n"


def test_a_consumed_grant_stays_consumed_for_a_store_opened_later(state: Path, store: SqlStore) -> None:
    challenge = store.challenges.open_or_join(example_challenge())
    proven = satisfied(challenge)
    assert store.challenges.swap(challenge, proven, durable=False)
    assert store.challenges.swap(proven, consumed(proven), durable=True)
    store.close()
    later = SqlStore.open(state, Keyring.open(state))
    assert not later.challenges.swap(proven, consumed(proven), durable=True)
    assert later.challenges.states([challenge.id]) == {challenge.id: (State.CONSUMED, 2)}
    later.close()


def test_a_database_of_a_version_before_learns_which_groups_each_challenge_asks(state: Path) -> None:
    keyring = Keyring.open(state)
    store = SqlStore.open(state, keyring)
    audit = Quorum(proof_class=ProofClass.CONSENT, group="audit")
    for number in (1, 2):
        made = example_challenge(number)
        wanted = replace(made.requirement, quorums=frozenset({audit}))
        challenge = store.challenges.open_or_join(replace(made, requirement=wanted))
    assert store.challenges.swap(challenge, satisfied(challenge), durable=False)
    store.close()
    with sqlite3.connect(state / DATABASE) as connection:
        for statement in (
            "DROP TABLE notices",
            "DROP TABLE emergencies",
            "DROP TABLE intents",
            "DROP TABLE results",
            "ALTER TABLE agents DROP COLUMN groups",
            "ALTER TABLE agents DROP COLUMN claims",
            "DROP TABLE challenge_groups",
            "DROP INDEX challenges_listed",
            "CREATE INDEX challenges_by_group ON challenges (approvers, state, expires, version)",
            "DROP INDEX challenges_by_principal",
            "DROP INDEX challenges_waiting",
            "ALTER TABLE challenges DROP COLUMN asked",
            "ALTER TABLE pins DROP COLUMN pinned_text",
            "ALTER TABLE pins DROP COLUMN seen_text",
            "UPDATE alembic_version SET version_num = '0002'",
        ):
            connection.execute(statement)
    connection.close()
    store = SqlStore.open(state, keyring)
    assert store.challenges.waiting(challenge.opened) == {"payments-oncall": 1}
    groups = "payments-oncall", "audit", "elsewhere"
    listed = [len(store.challenges.page(Range(groups=frozenset({group})))) for group in groups]
    assert listed == [2, 2, 0]
    store.close()
