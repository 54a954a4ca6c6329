"""Keys, principals, and the life of agents and approvers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from guard.errors import IdentityError, NotFoundError
from guard.identity.keys import KeyIdentifier, key_digest, new_key, well_formed
from guard.identity.lifecycle import Lifecycle, NameRefusedError
from guard.model import Json
from guard.ports import Credential, Factor
from guard.reasons import Code
from guard.store.seal import Keyring
from guard.store.sql import SqlStore


@dataclass
class HandClock:
    """Time stands still until a test moves it."""

    at: float = 1_700_000_000.0
    tokens: int = 0

    def now(self) -> float:
        return self.at

    def mono(self) -> float:
        return self.at

    def token(self, prefix: str) -> str:
        self.tokens += 1
        return f"{prefix}_{self.tokens:022d}"


@dataclass
class Journal:
    """A ledger in memory."""

    records: list[tuple[str, Mapping[str, Json]]] = field(default_factory=list)

    def append(self, event: str, fields: Mapping[str, Json]) -> int:
        self.records.append((event, fields))
        return len(self.records)

    async def append_durably(self, event: str, fields: Mapping[str, Json]) -> int:
        return self.append(event, fields)

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.records]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = SqlStore.open(tmp_path / "state", Keyring.open(tmp_path / "state"))
    yield opened
    opened.close()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def ledger() -> Journal:
    return Journal()


@pytest.fixture
def lifecycle(store: SqlStore, ledger: Journal, clock: HandClock) -> Lifecycle:
    return Lifecycle(store, ledger, clock)


def test_keys_are_well_formed_and_never_repeat() -> None:
    keys = {new_key() for _ in range(200)}
    assert len(keys) == 200
    assert all(well_formed(key) and key.startswith("grd_") and key.isascii() for key in keys)


@given(st.integers(0, 41), st.sampled_from("ABCxyz019_-é"))
def test_one_changed_character_breaks_a_key(position: int, character: str) -> None:
    key = new_key()
    changed = key[:position] + character + key[position + 1 :]
    assert well_formed(changed) == (changed == key)


@given(st.text(max_size=60))
def test_arbitrary_text_is_not_a_key(text: str) -> None:
    assert not well_formed(text)


@pytest.mark.anyio
async def test_a_key_proves_its_agent(lifecycle: Lifecycle, store: SqlStore, clock: HandClock) -> None:
    key = lifecycle.add_agent("robot", owner="oli")
    principal = await KeyIdentifier(store, clock).identify(key)
    assert (principal.subject, principal.owner) == ("robot", "oli")
    assert principal.credential == key_digest(key)[:16]


@pytest.mark.anyio
@pytest.mark.parametrize("credential", ["", "robot", "grd_" + "0" * 38, "é" * 42])
async def test_what_is_no_key_proves_nobody(credential: str, store: SqlStore, clock: HandClock) -> None:
    with pytest.raises(IdentityError) as refused:
        await KeyIdentifier(store, clock).identify(credential)
    assert refused.value.reason is (Code.BAD_CREDENTIAL if credential else Code.NO_CREDENTIAL)


@pytest.mark.anyio
async def test_an_unknown_key_is_refused_and_works_once_it_is_known(
    lifecycle: Lifecycle, store: SqlStore, clock: HandClock
) -> None:
    lifecycle.add_agent("robot")
    identifier, key = KeyIdentifier(store, clock), new_key()
    with pytest.raises(IdentityError):
        await identifier.identify(key)
    store.agents.add_credential(Credential(digest=key_digest(key), agent="robot", created=clock.now()))
    assert (await identifier.identify(key)).subject == "robot"


@pytest.mark.anyio
async def test_a_revoked_agent_is_refused_as_soon_as_the_cache_is_invalidated(
    lifecycle: Lifecycle, store: SqlStore, clock: HandClock
) -> None:
    identifier, key = KeyIdentifier(store, clock), lifecycle.add_agent("robot")
    await identifier.identify(key)
    lifecycle.revoke_agent("robot")
    identifier.invalidate()
    with pytest.raises(IdentityError):
        await identifier.identify(key)


@pytest.mark.anyio
async def test_calls_that_need_the_same_key_at_once_ask_the_store_once(
    lifecycle: Lifecycle, store: SqlStore, clock: HandClock
) -> None:
    identifier, key = KeyIdentifier(store, clock), lifecycle.add_agent("robot")
    transactions: list[object] = []
    event.listen(store._database._engine, "checkout", lambda *connection: transactions.append(connection))
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(identifier.identify, key)
    assert len(transactions) == 2  # the credential, and its agent


@pytest.mark.anyio
async def test_a_forgotten_invalidation_is_healed_by_time(
    lifecycle: Lifecycle, store: SqlStore, clock: HandClock
) -> None:
    identifier, key = KeyIdentifier(store, clock), lifecycle.add_agent("robot")
    await identifier.identify(key)
    lifecycle.revoke_agent("robot")
    clock.at += 31
    with pytest.raises(IdentityError):
        await identifier.identify(key)


@pytest.mark.anyio
async def test_after_a_rotation_the_old_key_works_for_the_overlap_and_not_longer(
    lifecycle: Lifecycle, store: SqlStore, clock: HandClock
) -> None:
    identifier, old = KeyIdentifier(store, clock), lifecycle.add_agent("robot")
    new = lifecycle.rotate_agent("robot", overlap=10)
    identifier.invalidate()
    clock.at += 9
    assert (await identifier.identify(old)).subject == "robot"
    clock.at += 1
    with pytest.raises(IdentityError):
        await identifier.identify(old)
    assert (await identifier.identify(new)).subject == "robot"


def test_every_step_of_an_agent_is_recorded_without_its_key(lifecycle: Lifecycle, ledger: Journal) -> None:
    keys = [lifecycle.add_agent("robot"), lifecycle.rotate_agent("robot")]
    lifecycle.revoke_agent("robot")
    assert ledger.events == ["agent.added", "agent.rotated", "agent.revoked"]
    assert not any(key in str(ledger.records) or key_digest(key) in str(ledger.records) for key in keys)


@pytest.mark.anyio
async def test_a_principal_carries_what_is_enrolled_about_its_agent(
    lifecycle: Lifecycle, store: SqlStore, clock: HandClock, ledger: Journal
) -> None:
    key = lifecycle.add_agent("robot", groups=["release"], claims={"posture": "managed"})
    identifier = KeyIdentifier(store, clock)
    made, clock.at = clock.at, clock.at + 10
    robot = await identifier.identify(key)
    assert (robot.groups, robot.claims, robot.since) == ({"release"}, (("posture", "managed"),), made)
    lifecycle.describe_agent("robot", groups=[], claims={"posture": "lost"})
    identifier.invalidate()
    assert (await identifier.identify(key)).claims == (("posture", "lost"),)
    assert ledger.records[-1] == (
        "agent.described", {"agent": "robot", "groups": [], "claims": {"posture": "lost"}},
    )  # fmt: skip


@pytest.mark.anyio
async def test_a_call_that_was_judged_with_other_groups_does_not_go_on(
    lifecycle: Lifecycle, store: SqlStore, clock: HandClock
) -> None:
    identifier, key = KeyIdentifier(store, clock), lifecycle.add_agent("robot", groups=["release"])
    robot = await identifier.identify(key)
    identifier.recheck(robot)
    lifecycle.describe_agent("robot", groups=["retired"], claims={})
    with pytest.raises(IdentityError, match="changed since") as caught:
        identifier.recheck(robot)
    assert caught.value.reason is Code.STALE


@pytest.mark.parametrize(
    ("groups", "claims"),
    [
        (["a b"], {}),
        ([""], {}),
        ([], {"a-b": "x"}),
        ([], {"a": ""}),
        ([], {"a": "x\n"}),
        ([], {"a": "x" * 257}),
        ([f"g{number}" for number in range(65)], {}),
    ],
)
def test_a_malformed_group_or_claim_is_refused_before_anything_is_enrolled(
    groups: list[str], claims: dict[str, str], lifecycle: Lifecycle, store: SqlStore
) -> None:
    with pytest.raises(NameRefusedError):
        lifecycle.add_agent("robot", groups=groups, claims=claims)
    assert store.agents.get("robot") is None
    with pytest.raises(NotFoundError):
        lifecycle.describe_agent("robot", groups=[], claims={})


def test_an_agents_name_is_never_used_again(lifecycle: Lifecycle) -> None:
    lifecycle.add_agent("robot")
    lifecycle.revoke_agent("robot")
    for name in ("robot", "Robot"):
        with pytest.raises(NameRefusedError):
            lifecycle.add_agent(name)
    with pytest.raises(NotFoundError):
        lifecycle.rotate_agent("robot")


def test_an_agent_and_a_person_never_share_a_name(lifecycle: Lifecycle) -> None:
    lifecycle.add_agent("robot")
    lifecycle.add_approver("ann")
    with pytest.raises(NameRefusedError):
        lifecycle.add_approver("ROBOT")
    with pytest.raises(NameRefusedError):
        lifecycle.add_agent("Ann")


def test_one_person_cannot_be_two_by_spelling(lifecycle: Lifecycle) -> None:
    lifecycle.add_approver("ann")
    with pytest.raises(NameRefusedError):
        lifecycle.add_approver("Ann")


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a/b", "a\nb", "x" * 65, "ànn"])
def test_a_malformed_name_is_refused(name: str, lifecycle: Lifecycle) -> None:
    with pytest.raises(NameRefusedError):
        lifecycle.add_agent(name)
    with pytest.raises(NameRefusedError):
        lifecycle.add_approver(name)


def test_a_person_gains_groups_and_loses_them_all_on_removal(lifecycle: Lifecycle, store: SqlStore) -> None:
    assert lifecycle.add_approver("ann").groups == {"approvers"}
    assert lifecycle.add_approver("ann", groups=["oncall"]).groups == {"approvers", "oncall"}
    store.factors.add(Factor(id="f_1", kind="totp", subject="ann", created=1.0, public={}, secret=b"sealed"))
    lifecycle.remove_approver("ann")
    factor = store.factors.get("f_1")
    assert factor is not None
    assert factor.revoked
    assert factor.secret == b""
    assert lifecycle.add_approver("ann", groups=["oncall"]).groups == {"oncall"}
