"""One code approves a list only as it was shown: every item, no other, and all or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import (
    ChallengeClosedError,
    NotFoundError,
    ProofError,
    ProofInvalidError,
    ProofReplayedError,
    ProofWrongApproverError,
)
from guard.factors.approval import ApprovalFactor
from guard.factors.totp import TotpFactor
from guard.model import Challenge, Json, State
from guard.ports import Approver
from guard.stepup.binding import list_digest
from guard.stepup.ceremony import TOGETHER, Ceremony
from guard.stepup.view import render
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from tests import nouns
from tests.world_store import WorldClock, WorldLedger

pytestmark = pytest.mark.anyio


class Room:
    def __init__(self, folder: Path) -> None:
        keyring = Keyring.open(folder)
        self.store, self.ledger = SqlStore.open(folder, keyring), WorldLedger()
        self.clock = WorldClock(nouns.NOW + 1, lambda: 0.0)
        codes = TotpFactor(self.store.factors, keyring, self.ledger, self.clock)
        self.store.approvers.put(Approver(name="ann", groups=frozenset({"approvers"}), created=0))
        phone = pyotp.parse_uri(codes.enroll("ann", issuer="guard").uri)
        assert isinstance(phone, pyotp.TOTP)
        self.phone = phone
        factor = ApprovalFactor(
            self.store.approvers, self.store.agents, {"totp": codes}, solo=False, escalate={"oncall": "approvers"}
        )
        self.ceremony = Ceremony(self.store, self.ledger, self.clock, verifiers={"approval": factor}, cool_down=0)

    async def pause(self, number: int, **changes: object) -> Challenge:
        made = nouns.challenge(random=f"{number:022d}", digest=f"{number:064x}", **changes)
        return await self.ceremony.open(made)

    async def three(self) -> list[Challenge]:
        return [await self.pause(number) for number in (1, 2, 3)]

    def evidence(self, found: Sequence[Challenge], **changes: Json) -> dict[str, Json]:
        views = [render(one).digest for one in found]
        bound = list_digest([(one.id, one.digest, view) for one, view in zip(found, views, strict=True)])
        code = self.phone.at(self.clock.wall)
        return {"as": "ann", "code": code, "view_digests": views, "list_digest": bound, **changes}

    async def approve(self, found: Sequence[Challenge], **changes: Json) -> Sequence[object]:
        return await self.ceremony.prove_list([one.id for one in found], "approval", self.evidence(found) | changes)

    def states(self) -> set[State]:
        return {one.state for one in self.store.challenges.find()}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.store.close()


async def test_one_code_approves_every_call_of_the_list_and_the_list_is_on_record(room: Room) -> None:
    found = await room.three()
    done = await room.approve(found)
    assert [one.state for one in done if isinstance(one, Challenge)] == [State.SATISFIED] * 3
    record = room.ledger.last("list.proven")
    assert record["list_digest"] == room.evidence(found)["list_digest"]
    items = record["items"]
    assert isinstance(items, list)
    assert [item["challenge_id"] for item in items if isinstance(item, dict)] == [one.id for one in found]
    assert room.ledger.events.index("list.proven") < room.ledger.events.index("proof.accepted")
    assert room.ledger.events.count("proof.accepted") == 3


async def test_a_list_that_is_not_the_one_shown_approves_nothing_and_spends_no_code(room: Room) -> None:
    one, two, three = await room.three()
    shown = room.evidence([one, two])
    for other, changes in (
        ([one, three], shown),
        ([two, one], shown),
        ([one, two, three], shown),
        ([one, two], shown | {"view_digests": list(reversed(shown["view_digests"]))}),  # type: ignore[arg-type]
        ([one, two], shown | {"view_digests": "all"}),
        ([one, two], shown | {"list_digest": "*"}),
    ):
        with pytest.raises(ProofError):
            await room.ceremony.prove_list([each.id for each in other], "approval", changes)
    assert room.states() == {State.PENDING}
    assert "list.proven" not in room.ledger.events
    await room.approve([one, two])


async def test_if_one_item_may_not_be_decided_none_is(room: Room) -> None:
    mine = await room.pause(1)
    theirs = await room.pause(2, requirement=replace(nouns.challenge().requirement, approvers="managers"))
    with pytest.raises(ProofWrongApproverError):
        await room.approve([mine, theirs])
    ended = await room.pause(3)
    await room.ceremony.refuse(ended.id, by="ben", because="no")
    with pytest.raises(ChallengeClosedError):
        await room.approve([mine, ended])
    with pytest.raises(NotFoundError):
        await room.approve([mine, replace(mine, id="c_none")])
    assert room.store.challenges.get(mine.id) == mine


async def test_the_code_of_a_list_counts_once_and_a_person_once_for_each_call(room: Room) -> None:
    one, two, three = await room.three()
    evidence = room.evidence([one, two])
    await room.ceremony.prove_list([one.id, two.id], "approval", evidence)
    alone = {"as": "ann", "code": str(evidence["code"]), "view_digest": render(three).digest}
    with pytest.raises(ProofReplayedError):
        await room.ceremony.prove(three.id, "approval", alone)


@pytest.mark.parametrize("ids", [[], ["one"], ["one", "one"], ["one"] * (TOGETHER + 1)])
async def test_a_list_has_two_to_twenty_different_calls(ids: list[str], room: Room) -> None:
    found = await room.pause(1)
    with pytest.raises(ProofInvalidError, match="2 to 20 different"):
        await room.ceremony.prove_list([found.id for _ in ids], "approval", room.evidence([found]))


async def test_a_machines_factor_approves_no_list(room: Room) -> None:
    found = await room.three()
    with pytest.raises(ProofInvalidError):
        await room.ceremony.prove_list([one.id for one in found], "signature", room.evidence(found))


async def test_the_group_asked_at_half_time_may_decide_only_then_and_its_vote_stands(room: Room) -> None:
    wanted = replace(nouns.challenge().requirement, approvers="oncall")
    pending = await room.pause(1, requirement=wanted)
    evidence = {"as": "ann", "view_digest": render(pending).digest}
    with pytest.raises(ProofWrongApproverError, match="not in the group oncall"):
        await room.ceremony.prove(pending.id, "approval", evidence | {"code": room.phone.at(room.clock.wall)})
    room.clock.wall = nouns.NOW + 450
    code = room.phone.at(room.clock.wall)
    proven = await room.ceremony.prove(pending.id, "approval", evidence | {"code": code})
    assert proven.state is State.SATISFIED
    room.clock.wall += 300
    assert len((await room.ceremony.grants(pending.digest))[0].proofs) == 1


async def test_an_approval_within_two_seconds_is_counted_and_noted(room: Room) -> None:
    quick = await room.pause(1)
    room.clock.wall = nouns.NOW + 1.9
    await room.ceremony.prove(
        quick.id,
        "approval",
        {"as": "ann", "code": room.phone.at(room.clock.wall), "view_digest": render(quick).digest},
    )
    hurried = room.ledger.last("proof.hurried")
    assert (hurried["subject"], hurried["decide_ms"]) == ("ann", 1900)
    slow = await room.pause(2)
    room.clock.wall += 60
    await room.ceremony.prove(
        slow.id,
        "approval",
        {"as": "ann", "code": room.phone.at(room.clock.wall), "view_digest": render(slow).digest},
    )
    assert room.ledger.events.count("proof.hurried") == 1


items = st.lists(
    st.tuples(st.text("abc", max_size=3), st.text("abc", max_size=3), st.text("abc", max_size=3)), max_size=4
)


@given(items, items)
def test_two_lists_have_one_digest_only_if_they_are_the_same(
    one: list[tuple[str, str, str]], other: list[tuple[str, str, str]]
) -> None:
    assert (list_digest(one) == list_digest(other)) == (one == other)
