"""Consent to further calls: what a person may allow while approving one, what it covers, and what ends it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pyotp
import pytest

from guard.decide import Settings, decide
from guard.errors import ProofError, ProofInvalidError
from guard.factors import register
from guard.factors.approval import ApprovalFactor
from guard.factors.given import GivenFactor
from guard.factors.intent import IntentFactor
from guard.factors.totp import TotpFactor
from guard.model import (
    Band,
    Challenge,
    Classification,
    Demand,
    Doubt,
    Finding,
    Further,
    Json,
    Principal,
    ProofClass,
    Quorum,
    Requirement,
    Sensitivity,
    State,
)
from guard.ports import Agent, Approver
from guard.quorum import GIVEN, INTENT
from guard.reasons import Code, Reason
from guard.stepup import given
from guard.stepup.ceremony import Ceremony
from guard.stepup.intent import Manifest
from guard.stepup.view import render
from guard.stepup.vote import Vote
from guard.store.codec import decode, encode
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.wire.canonical import canonical, digest
from tests import nouns
from tests.world_store import WorldClock, WorldLedger

pytestmark = pytest.mark.anyio

LIMIT = Further(3, 3600)
FIRST: Mapping[str, Json] = {"environment": "staging", "amount": 5}
UNUSUAL = Finding(
    signal="tools", cause=Doubt.INTENT, band=Band.ALARMING, reason=Reason(Code.NEW_NETWORK, "drift", "never before")
)

SEQUENCE = replace(UNUSUAL, signal="sequence", reason=Reason(Code.DEFINITION_CHANGED, "drift"))


class Clock(WorldClock):
    def __init__(self) -> None:
        super().__init__(nouns.NOW + 1, lambda: 0.0)
        self.drawn = 0

    def token(self, prefix: str) -> str:
        self.drawn += 1
        return f"{prefix}_{self.drawn:022d}"


class Room:
    def __init__(self, folder: Path, *, solo: bool = False) -> None:
        keyring = Keyring.open(folder)
        self.store, self.ledger = SqlStore.open(folder, keyring), WorldLedger()
        self.clock = Clock()
        codes = TotpFactor(self.store.factors, keyring, self.ledger, self.clock)
        self.phones = {}
        for name in ("ann", "ben"):
            self.store.approvers.put(Approver(name=name, groups=frozenset({"approvers"}), created=0))
            phone = pyotp.parse_uri(codes.enroll(name, issuer="guard").uri)
            assert isinstance(phone, pyotp.TOTP)
            self.phones[name] = phone
        factor = ApprovalFactor(
            self.store.approvers, self.store.agents, {"totp": codes}, solo=solo, escalate={"oncall": "approvers"}
        )
        self.given = GivenFactor(
            self.store.intents,
            self.store.challenges,
            self.store.factors,
            self.ledger,
            self.clock,
            audience="guard",
        )
        signed = IntentFactor(
            self.store.intents, self.store.factors, self.store.agents, self.ledger, self.clock, audience="guard"
        )
        self.ceremony = Ceremony(
            self.store,
            self.ledger,
            self.clock,
            verifiers={"approval": factor, GIVEN: self.given, INTENT: signed},
            beforehand={INTENT: signed, GIVEN: self.given},
            giver=self.given,
            cool_down=0,
        )
        self.number = 0

    async def ask(self, arguments: Mapping[str, Json] = FIRST, **changes: object) -> Challenge:
        self.number += 1
        text = canonical(arguments)
        made = nouns.challenge(
            Demand.CONSENT, random=f"{self.number:022d}", arguments=text, digest=digest(f"{self.number}{text}")
        )
        return await self.ceremony.open(replace(made, **{"further": LIMIT, "definition": "d" * 64, **changes}))

    def evidence(self, asked: Challenge, name: str = "ann", **also: Json) -> dict[str, Json]:
        code = self.phones[name].at(self.clock.wall)
        return {"as": name, "code": code, "view_digest": render(asked).digest, **also}

    async def allow(self, asked: Challenge, name: str = "ann", **also: Json) -> str:
        """Approve with this wish; the id of what was given."""
        said = {"also_uses": "2", "also_minutes": "10", **also}
        proven = await self.ceremony.prove(asked.id, "approval", self.evidence(asked, name, **said))
        assert proven.state is State.SATISFIED
        return str(self.ledger.last("intent.given")["intent"])

    async def spend(self, asked: Challenge) -> bool:
        grant = asked.grant
        return grant is not None and await self.ceremony.consume(grant)

    def unspent(self, name: str = "ann") -> bool:
        [factor] = self.store.factors.of(name, "totp")
        return factor.counter == 0


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory as a first start leaves it."""
    state = tmp_path_factory.mktemp("migrated") / "state"
    SqlStore.open(state, Keyring.open(state)).close()
    return state


@pytest.fixture
def folder(tmp_path: Path, migrated: Path) -> Path:
    shutil.copytree(migrated, tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def room(folder: Path) -> Iterator[Room]:
    made = Room(folder)
    yield made
    made.store.close()


async def test_a_person_allows_further_calls_with_the_same_arguments_and_each_is_spent_and_recorded(room: Room) -> None:
    first = await room.ask()
    identifier = await room.allow(first)
    record = room.ledger.last("intent.given")
    assert (record["signer"], record["uses"], record["challenge_id"]) == ("ann", 2, first.id)
    assert record["ends"] == int(room.clock.wall) + 600
    for left in (1, 0):
        again = await room.ask()
        [proof] = again.proofs
        assert (again.state, proof.kind, proof.subject, proof.factor) == (State.SATISFIED, GIVEN, "ann", identifier)
        assert await room.spend(again)
        found = room.store.intents.get(identifier)
        assert found is not None
        assert found.used == 2 - left
        assert room.ledger.last("grant.consumed")["approvers"] == ["ann"]
    assert (await room.ask()).state is State.PENDING


async def test_the_first_call_uses_nothing_of_what_is_allowed_further(room: Room) -> None:
    first = await room.ask()
    identifier = await room.allow(first)
    opened = await room.ceremony.settle(first.id, until=0)
    assert await room.spend(opened)
    found = room.store.intents.get(identifier)
    assert found is not None
    assert found.used == 0


async def test_two_calls_race_for_the_last_use_and_one_gets_it(room: Room) -> None:
    await room.allow(await room.ask(), also_uses="1")
    one, other = await room.ask(), await room.ask()
    assert one.state is other.state is State.SATISFIED
    assert [await room.spend(one), await room.spend(other)] == [True, False]


OTHERS: list[Mapping[str, object]] = [
    {"principal": Principal(subject="other", credential="k")},
    {"principal": replace(nouns.PRINCIPAL, on_behalf_of="zoe")},
    {"server": "other"},
    {"name": "other"},
    {"kind": "prompt"},
    {"definition": "e" * 64},
    {"definition": ""},
    {"findings": (UNUSUAL,)},
    {"further": Further()},
    {"further": Further(1, 3600)},
    {"further": Further(3, 599)},
    {"requirement": Requirement(frozenset({Demand.TWO_PEOPLE}))},
    {"requirement": Requirement(frozenset({Demand.CONSENT}), approvers="elsewhere")},
    {"requirement": Requirement(frozenset({Demand.CONSENT}), barred=frozenset({"ann"}))},
    {"principal": replace(nouns.PRINCIPAL, owner="ann")},
]


async def test_nothing_but_such_a_call_is_covered(room: Room) -> None:
    await room.allow(await room.ask())
    for other in OTHERS:
        assert (await room.ask(**other)).state is State.PENDING, other
    assert (await room.ask()).state is State.SATISFIED, "the next proper one is"


WHY: list[tuple[Mapping[str, object], Code, str]] = [
    (
        {"principal": replace(nouns.PRINCIPAL, on_behalf_of="zoe")},
        Code.PROOF_WRONG_CALL,
        "it was allowed on behalf of another",
    ),
    ({"definition": "e" * 64}, Code.PROOF_WRONG_CALL, "the tool changed since it was allowed"),
    (
        {"findings": (UNUSUAL, SEQUENCE)},
        Code.PROOF_WRONG_CALL,
        "there is something that nobody saw who allowed it: definition_changed, new_network",
    ),
    ({"further": Further(1, 3600)}, Code.PROOF_EXPIRED, "the policy no longer lets this be allowed in advance"),
    (
        {"requirement": Requirement(frozenset({Demand.CONSENT}), approvers="elsewhere")},
        Code.PROOF_WRONG_APPROVER,
        "ann may not decide about this call any more",
    ),
]


async def test_why_it_does_not_cover_a_call_is_on_record_in_words(room: Room) -> None:
    identifier = await room.allow(await room.ask())
    for other, code, said in WHY:
        await room.ask(**other)
        [reason] = room.ledger.last("proof.rejected")["reasons"]  # type: ignore[union-attr]
        assert reason == {"code": code.value, "by": "", "evidence": f"{identifier}: {said}"}


async def test_exactly_what_the_policy_lets_be_allowed_is_covered(room: Room) -> None:
    await room.allow(await room.ask())
    assert (await room.ask(further=Further(2, 600))).state is State.SATISFIED


async def test_what_was_given_refuses_nothing_and_answers_by_its_id_alone(room: Room) -> None:
    identifier = await room.allow(await room.ask())
    asked = await room.ask(further=Further())
    for evidence in ({"intent": identifier, "decision": "deny"}, {"intent": 1}, {}, {"intent": "i_" + "9" * 22}):
        with pytest.raises(ProofInvalidError):
            await room.ceremony.prove(asked.id, GIVEN, evidence)
    with pytest.raises(ProofInvalidError):
        await room.ceremony.deny(asked.id, GIVEN, {"intent": identifier, "decision": "deny"}, "no")
    assert (await room.ceremony.settle(asked.id, until=0)).state is State.PENDING


async def test_other_arguments_are_covered_only_where_the_condition_says_so(room: Room) -> None:
    when = 'args.environment == "staging" && args.amount < 10'
    await room.allow(await room.ask(), also_when=when, also_uses="3")
    assert (await room.ask({"environment": "staging", "amount": 9})).state is State.SATISFIED
    for outside in (
        {"environment": "staging", "amount": 10},
        {"environment": "prod", "amount": 1},
        {"environment": "staging", "amount": 1, "force": True},
    ):
        assert (await room.ask(outside)).state is State.PENDING


async def test_the_window_ends_what_was_allowed(room: Room) -> None:
    await room.allow(await room.ask())
    room.clock.wall += 599
    late = await room.ask(opened=room.clock.wall, expires=room.clock.wall + 900)
    assert late.state is State.SATISFIED
    room.clock.wall += 2
    assert not await room.spend(late), "neither does a grant that rests on it outlive it"
    assert (await room.ask(opened=room.clock.wall, expires=room.clock.wall + 900)).state is State.PENDING


async def test_what_was_allowed_falls_with_the_person_the_factor_and_its_revocation(room: Room) -> None:
    identifier = await room.allow(await room.ask())
    held = await room.ask()
    assert held.state is State.SATISFIED
    room.store.approvers.put(Approver(name="ann", groups=frozenset({"elsewhere"}), created=0))
    assert not await room.spend(held)
    assert (await room.ask()).state is State.PENDING
    room.store.approvers.put(Approver(name="ann", groups=frozenset({"approvers"}), created=0))
    held = await room.ask()
    [factor] = room.store.factors.of("ann", "totp")
    assert register.lock(room.store.factors, factor, room.clock.wall)
    assert not await room.spend(held)
    assert (await room.ask()).state is State.PENDING
    await room.allow(await room.ask(), "ben")
    held = await room.ask()
    assert held.state is State.SATISFIED
    mine = str(room.ledger.last("intent.given")["intent"])
    assert mine != identifier
    assert room.store.intents.revoke(mine, room.clock.wall)
    assert not await room.spend(held)
    assert (await room.ask()).state is State.PENDING


WRONG: list[tuple[Mapping[str, Json], Mapping[str, object], str]] = [
    ({"also_uses": "4", "also_minutes": "10"}, {}, "at most 3 further calls within 60 minutes"),
    ({"also_uses": "1", "also_minutes": "61"}, {}, "at most 3 further calls within 60 minutes"),
    ({"also_uses": "1", "also_minutes": "10"}, {"further": Further()}, "lets nobody allow further calls"),
    ({"also_uses": "0", "also_minutes": "10"}, {}, "say how many"),
    ({"also_uses": "1"}, {}, "say how many"),
    ({"also_when": "true"}, {}, "say how many"),
    ({"also_uses": "\uff11", "also_minutes": "10"}, {}, "say how many"),
    ({"also_uses": 1, "also_minutes": 10}, {}, "in texts"),
    ({"also_uses": "1", "also_minutes": "10", "also_when": "args.amount > 5"}, {}, "does not hold"),
    ({"also_uses": "1", "also_minutes": "10", "also_when": "args.amount > 1"}, {}, "does not name"),
    ({"also_uses": "1", "also_minutes": "10", "also_when": "args.amount >"}, {}, "in the condition"),
    (
        {"also_uses": "1", "also_minutes": "10"},
        {
            "requirement": Requirement(
                frozenset({Demand.CONSENT}),
                quorums=frozenset({Quorum(proof_class=ProofClass.CONSENT, kinds=frozenset({"totp"}))}),
            )
        },
        "lets nobody allow further calls",
    ),
]


async def test_what_may_not_be_allowed_is_refused_before_the_code_is_spent(room: Room) -> None:
    for also, changes, why in WRONG:
        asked = await room.ask(**changes)
        with pytest.raises(ProofError, match=why):
            await room.ceremony.prove(asked.id, "approval", room.evidence(asked, **also))
        assert room.unspent(), why
        assert room.ledger.events[-1] == "proof.rejected"
    assert "intent.given" not in room.ledger.events
    asked = await room.ask()
    assert (await room.ceremony.prove(asked.id, "approval", room.evidence(asked))).state is State.SATISFIED


async def test_a_refusal_a_list_and_a_group_asked_late_allow_nothing_further(room: Room) -> None:
    asked = await room.ask()
    wish = {"also_uses": "1", "also_minutes": "10"}
    with pytest.raises(ProofInvalidError, match="only who approves"):
        await room.ceremony.deny(asked.id, "approval", room.evidence(asked, decision="deny", **wish), "no")
    more = await room.ask()
    with pytest.raises(ProofInvalidError, match="not a list"):
        await room.ceremony.prove_list([asked.id, more.id], "approval", room.evidence(asked, **wish))
    late = await room.ask(
        requirement=Requirement(frozenset({Demand.CONSENT}), approvers="oncall"), opened=nouns.NOW - 1000
    )
    with pytest.raises(ProofInvalidError, match="asked from the beginning"):
        await room.ceremony.prove(late.id, "approval", room.evidence(late, **wish))
    assert room.unspent()


async def test_a_vote_that_does_not_count_allows_nothing(room: Room) -> None:
    asked = await room.ask()
    wish = {"also_uses": "1", "also_minutes": "10"}
    with pytest.raises(ProofError):
        await room.ceremony.prove(asked.id, "approval", room.evidence(asked, **wish, code="000000"))
    assert room.store.intents.find(limit=9) == ()


async def test_the_record_and_the_view_say_what_was_allowed(room: Room) -> None:
    asked = await room.ask()
    assert "up to 3 further calls of this tool, within 60 minutes" in render(asked).text
    await room.allow(asked, note="weekly run", also_when="args.amount < 9 && args.environment != 'prod'")
    proof = room.ledger.last("proof.accepted")["proof"]
    assert isinstance(proof, Mapping)
    said = "weekly run (allows 2 further calls within 10 min, where args.amount < 9 && args.environment != 'prod')"
    assert proof["note"] == said


async def test_with_solo_the_owner_may_allow_and_every_use_says_so(folder: Path) -> None:
    room = Room(folder, solo=True)
    mine = replace(nouns.PRINCIPAL, owner="ann")
    await room.allow(await room.ask(principal=mine))
    again = await room.ask(principal=mine)
    assert [proof.solo for proof in again.proofs] == [True]
    room.store.agents.add(Agent(name="deployer", owner="ann", created=0))
    room.store.close()


async def test_a_doubt_that_was_on_the_page_is_answered_by_what_was_allowed_on_it(room: Room) -> None:
    await room.allow(await room.ask(findings=(UNUSUAL,)))
    assert (await room.ask(findings=(UNUSUAL,))).state is State.SATISFIED


async def test_a_graver_doubt_than_the_one_on_the_page_is_not_answered_and_a_lesser_one_is(room: Room) -> None:
    lesser = replace(UNUSUAL, band=Band.UNUSUAL)
    await room.allow(await room.ask(findings=(lesser,)))
    assert (await room.ask(findings=(UNUSUAL,))).state is State.PENDING
    assert (await room.ask(findings=(lesser,))).state is State.SATISFIED


async def test_a_limit_that_was_reached_later_is_not_answered_by_what_was_allowed_before(room: Room) -> None:
    over = Reason(Code.OVER_LIMIT, "ann", "10 calls in 3600 s (payments.yaml)")
    await room.allow(await room.ask())
    assert (await room.ask(reasons=(over,))).state is State.PENDING


async def test_a_limit_that_was_on_the_page_is_answered(room: Room) -> None:
    over = Reason(Code.OVER_LIMIT, "ann", "10 calls in 3600 s (payments.yaml)")
    await room.allow(await room.ask(reasons=(over,)))
    assert (await room.ask(reasons=(over,))).state is State.SATISFIED


async def test_what_was_given_is_on_record_with_whose_word_it_rests_on(room: Room) -> None:
    asked = await room.ask()
    identifier = await room.allow(asked)
    found = room.store.intents.get(identifier)
    assert found is not None
    assert room.ledger.last("intent.given") == {
        "intent": identifier,
        "signer": "ann",
        "factor": room.store.factors.of("ann", "totp")[0].id,
        "challenge_id": asked.id,
        "agent": "deployer",
        "server": "payments",
        "tool": "refund",
        "manifest_digest": digest(found.payload),
        "begins": int(room.clock.wall),
        "ends": int(room.clock.wall) + 600,
        "uses": 2,
    }


async def test_a_passkey_signs_what_it_allows(room: Room) -> None:
    vote = Vote(challenge=await room.ask(), approver="ann", decision="approve", view_digest="v", evidence={})
    wished = given.Also(1, 10)
    signed = {one.signed(once="o", audience="g") for one in (vote, replace(vote, also=wished.label))}
    assert len(signed | {replace(vote, also=replace(wished, uses=2).label).signed(once="o", audience="g")}) == 3


async def test_what_is_kept_is_read_back_strictly(room: Room) -> None:
    identifier = await room.allow(await room.ask())
    found = room.store.intents.get(identifier)
    assert found is not None
    kept = given.parse(found.payload)
    assert given.payload(kept) == found.payload
    assert given.stated(found.payload) == kept.manifest
    for spoiled in (b"{", b"[]", b"{}", found.payload.replace(b'"v":1', b'"v":2'), found.payload[:-1] + b',"x":1}'):
        with pytest.raises(ProofInvalidError):
            given.stated(spoiled)


@pytest.mark.parametrize(
    "said",
    [
        {"also_uses": "2"},
        {"also_minutes": "10"},
        {"also_when": "true"},
        {"also_uses": "2", "also_when": "true"},
        {"also_minutes": "10", "also_when": "true"},
        {"also_uses": "0", "also_minutes": "10"},
        {"also_uses": "2", "also_minutes": "0"},
        {"also_uses": "1000000", "also_minutes": "10"},
        {"also_uses": "2", "also_minutes": "-1"},
        {"also_uses": "2 ", "also_minutes": "10"},
        {"also_uses": "٢", "also_minutes": "10"},
        {"also_uses": 2, "also_minutes": "10"},
        {"also_uses": "2", "also_minutes": 10},
        {"also_uses": "2", "also_minutes": "10", "also_when": None},
    ],
    ids=str,
)
def test_half_a_wish_is_none(said: Mapping[str, Json]) -> None:
    with pytest.raises(ProofInvalidError):
        given.wanted(said)


def test_a_whole_wish_is_read_and_none_is_none() -> None:
    assert given.wanted({"also_uses": "2", "also_minutes": "10"}) == given.Also(2, 10)
    assert given.wanted({"also_uses": "999999", "also_minutes": "1", "also_when": " x > 1 "}) == given.Also(
        999_999, 1, "x > 1"
    )
    assert given.wanted({}) is given.wanted({"also_uses": "", "also_minutes": "", "also_when": ""}) is None


@pytest.mark.parametrize(
    ("also", "label"),
    [
        (given.Also(1, 10), "allows 1 further call within 10 min, with the same arguments"),
        (given.Also(3, 1, "args.n < 2"), "allows 3 further calls within 1 min, where args.n < 2"),
    ],
)
def test_a_wish_has_one_wording_which_is_shown_recorded_and_signed(also: given.Also, label: str) -> None:
    assert also.label == label


@pytest.mark.parametrize(
    ("also", "allowed"),
    [
        (given.Also(3, 60), True),
        (given.Also(4, 1), False),
        (given.Also(1, 61), False),
        (given.Also(1, 60, "args.amount == 12 && args.to == 'ACME'"), True),
        (given.Also(1, 60, "args.amount == 13 && args.to == 'ACME'"), False),
    ],
    ids=str,
)
def test_a_wish_stays_within_the_policy_and_includes_the_call_that_is_looked_at(
    also: given.Also, allowed: bool
) -> None:
    call = nouns.challenge(Demand.CONSENT, further=LIMIT)

    def made() -> object:
        return given.manifest(also, call, identifier=f"i_{nouns.RANDOM}", person="ann", audience="guard", now=12.75)

    if not allowed:
        with pytest.raises(ProofError) as refused:
            made()
        if not also.when:
            assert refused.value.reason is Code.NOT_TAKEN
            assert refused.value.public.endswith("at most 3 further calls within 60 minutes")
        return
    assert made() == Manifest(
        id=f"i_{nouns.RANDOM}",
        audience="guard",
        signer="ann",
        key="",
        agent="deployer",
        server="payments",
        tool="refund",
        issued=12,
        begins=12,
        ends=12 + also.minutes * 60,
        uses=also.uses,
        definition="d" * 64,
        exact="" if also.when else digest(call.arguments),
        when=also.when,
        reason=f"given while approving {call.short_digest}",
    )


def test_nothing_further_is_allowed_where_the_policy_names_no_limit() -> None:
    with pytest.raises(ProofError) as refused:
        given.manifest(
            given.Also(1, 1), nouns.challenge(), identifier="i", person="ann", audience="guard", now=nouns.NOW
        )
    assert refused.value.reason is Code.NOT_TAKEN


async def test_nothing_is_offered_for_what_is_no_tool_or_has_no_limit_nor_what_is_over_or_revoked(room: Room) -> None:
    identifier = await room.allow(await room.ask())
    call = nouns.challenge(Demand.CONSENT, arguments=canonical(FIRST), further=LIMIT)
    assert room.given.evidence(call) == ({"intent": identifier},)
    stranger = replace(nouns.PRINCIPAL, subject="stranger")
    assert room.given.evidence(replace(call, principal=stranger)) == ()
    proof = room.given.verify(call, {"intent": identifier}, room.clock.wall)
    assert room.given.stands(call, proof)
    assert not room.given.stands(replace(call, further=Further()), proof)
    for other in (replace(call, kind="prompt"), replace(call, further=Further()), replace(call, name="other")):
        assert room.given.evidence(other) == ()
    room.clock.wall += 600
    assert room.given.evidence(call) == ()
    room.clock.wall -= 300
    room.store.intents.revoke(identifier, room.clock.wall)
    assert room.given.evidence(call) == ()


# ------------------------------------------------------------------ where the policy lets it be


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"sensitivity": Sensitivity.CRITICAL}, False),
        ({"effects": frozenset({"destroy"})}, False),
        ({"effects": frozenset({"write"})}, True),
        ({"tagged": False}, False),
        ({"demands": frozenset({Demand.TWO_PEOPLE})}, False),
        ({"quorums": frozenset({Quorum(proof_class=ProofClass.CONSENT, people=2)})}, False),
        ({"quorums": frozenset({Quorum(proof_class=ProofClass.CONSENT, group="a")})}, True),
        ({"quorums": frozenset({Quorum(proof_class=ProofClass.POSSESSION, attestation=2)})}, True),
        ({"further": Further()}, False),
    ],
)
def test_only_what_can_be_undone_and_one_person_may_decide_can_be_allowed_in_advance(
    changes: Mapping[str, object], allowed: bool
) -> None:
    tags = Classification(sensitivity=Sensitivity.SENSITIVE, demands=frozenset({Demand.CONSENT}), further=LIMIT)
    settings = Settings(irreversible=nouns.IRREVERSIBLE, expires=900)
    decided = decide(nouns.call(), replace(tags, **changes), (), (), nouns.NOW, settings=settings)
    assert isinstance(decided, Challenge)
    assert decided.further == (LIMIT if allowed else Further())
    assert decode(encode(decided), decided.arguments) == decided


@pytest.mark.parametrize("end", ["revoked", "denied", "taken back"])
async def test_what_was_allowed_falls_with_the_call_it_was_allowed_on(end: str, room: Room) -> None:
    """Whoever withdraws an approval does not leave behind what its giver allowed beyond it."""
    both = Requirement(frozenset({Demand.CONSENT, Demand.POSSESSION}))
    first = await room.ask(requirement=both) if end == "denied" else await room.ask()
    wish = {"also_uses": "2", "also_minutes": "10"}
    proven = await room.ceremony.prove(first.id, "approval", room.evidence(first, **wish))
    held = await room.ask()
    assert held.state is State.SATISFIED
    if end == "denied":
        evidence = room.evidence(proven, "ben", decision="deny")
        await room.ceremony.deny(first.id, "approval", evidence, "not today")
    elif end == "revoked":
        await room.ceremony.revoke("g" + first.id[1:], by="ben")
    else:
        await room.ceremony.decline(first.id, by="client of deployer", because="a slip")
    assert not await room.spend(held)
    assert (await room.ask()).state is State.PENDING
    [reason] = room.ledger.last("proof.rejected")["reasons"]  # type: ignore[union-attr]
    assert reason["evidence"].endswith("the call it was allowed on was refused, or its approval taken back")
