"""Opening, waiting, proving, spending: over two processes, with races proven and faults injected."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.from_thread
import pytest

from guard.audit.record import line
from guard.errors import (
    ChallengeClosedError,
    ChallengeError,
    IdentityError,
    IllegalTransitionError,
    LedgerUnavailableError,
    NotFoundError,
    ProofError,
    ProofInvalidError,
    ProofReplayedError,
    ProofWrongApproverError,
    StoreUnavailableError,
)
from guard.model import Challenge, Demand, Json, Proof, ProofClass, Quorum, Requirement, State
from guard.ports import Store
from guard.reasons import Code
from guard.stepup.ceremony import Ceremony
from guard.stepup.limits import Bounds
from guard.stepup.machine import Proven, step
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from tests import nouns
from tests.world_store import WorldClock, WorldLedger, WorldStore

pytestmark = pytest.mark.anyio
CONSENT = nouns.challenge(Demand.CONSENT)
R2 = "Z" * 22


class Spoken:
    """A factor whose evidence is the proof, spelled out; "wrong" does not verify."""

    def __init__(self, proof_class: ProofClass) -> None:
        self.proof_class = proof_class
        self.removed: set[str] = set()

    def stands(self, challenge: Challenge, proof: Proof) -> bool:
        del challenge
        return proof.subject not in self.removed

    def verify(self, challenge: Challenge, evidence: Mapping[str, Json], now: float) -> Proof:
        if evidence.get("code") == "wrong":
            raise ProofInvalidError
        who = str(evidence["as"])
        return Proof(
            proof_class=self.proof_class,
            kind="spoken",
            factor=f"{self.proof_class}-{who}-{challenge.nonce}",
            subject=who,
            at=now,
            attestation=1,
        )


@dataclass
class Process:
    store: WorldStore = field(default_factory=WorldStore)
    ledger: WorldLedger = field(default_factory=WorldLedger)
    clock: WorldClock = field(default_factory=lambda: WorldClock(nouns.NOW + 1, time.monotonic))

    def __post_init__(self) -> None:
        self.people = Spoken(ProofClass.CONSENT)
        self.ceremony = ceremony_of(self.store, self.ledger, self.clock, people=self.people)

    def other(self) -> Process:
        return Process(self.store.attach(), self.ledger, self.clock)


def ceremony_of(store: Store, ledger: WorldLedger, clock: WorldClock, *, people: Spoken | None = None) -> Ceremony:
    verifiers = {"person": people or Spoken(ProofClass.CONSENT), "workload": Spoken(ProofClass.POSSESSION)}
    return Ceremony(store, ledger, clock, verifiers=verifiers, cool_down=60, bounds=Bounds(pending=3))


ANN: Mapping[str, Json] = {"as": "ann"}


async def satisfied(process: Process, challenge: Challenge = CONSENT) -> Challenge:
    await process.ceremony.open(challenge)
    return await process.ceremony.prove(challenge.id, "person", ANN)


# ------------------------------------------------------------------ opening


async def test_opening_writes_the_why_record_before_the_challenge_exists() -> None:
    process = Process()
    opened = await process.ceremony.open(CONSENT, counterfactual=("tag: none",), call_id="k_1")
    assert opened == CONSENT
    record = process.ledger.last("challenge.opened")
    assert record["counterfactual"] == ["tag: none"]
    assert record["call_id"] == "k_1"
    assert record["requirement"] == "consent"
    assert "ACME" not in repr(record)


async def test_without_a_ledger_nothing_opens() -> None:
    process = Process()
    process.ledger.away = True
    with pytest.raises(LedgerUnavailableError):
        await process.ceremony.open(CONSENT)
    assert process.store.get(CONSENT.id) is None


async def test_the_same_call_on_the_same_terms_joins_the_open_challenge() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    joined = await process.other().ceremony.open(replace(CONSENT, id=f"c_{R2}", nonce=R2))
    assert joined.id == CONSENT.id
    assert process.ledger.events == ["challenge.opened", "challenge.joined"]


@pytest.mark.parametrize(
    "change",
    [
        {"principal": replace(nouns.PRINCIPAL, credential="rotated")},
        {"policy_revision": "s" * 64},
        {"definition": "e" * 64},
        {"requirement": Requirement(frozenset({Demand.CONSENT, Demand.POSSESSION}))},
        {"requirement": Requirement(frozenset({Demand.CONSENT}), strict=True)},
    ],
    ids=["credential", "policy", "definition", "demands", "strict"],
)
@pytest.mark.parametrize("approved", [False, True])
async def test_on_other_terms_the_old_challenge_is_stale_and_a_new_one_opens(
    change: dict[str, object], approved: bool
) -> None:
    process = Process()
    if approved:
        await satisfied(process)
    else:
        await process.ceremony.open(CONSENT)
    opened = await process.ceremony.open(replace(CONSENT, id=f"c_{R2}", nonce=R2, **change))
    assert opened.id == f"c_{R2}"
    assert process.store.get(CONSENT.id).state is State.STALE
    assert "challenge.staled" in process.ledger.events


def another(number: int) -> Challenge:
    random = f"{number:022d}"
    return replace(CONSENT, id=f"c_{random}", nonce=random, digest=f"{number:064d}")


async def test_one_agent_cannot_have_more_challenges_open_than_its_share() -> None:
    process = Process()
    for number in range(3):
        await process.ceremony.open(another(number))
    with pytest.raises(ChallengeError) as refused:
        await process.ceremony.open(another(3))
    assert refused.value.reason is Code.TOO_MANY_PENDING
    assert process.ledger.events == ["challenge.opened"] * 3 + ["challenge.flooded"]


async def test_calls_at_the_same_time_do_not_slip_past_the_share() -> None:
    process = Process()
    opened: list[str] = []

    async def attempt(number: int) -> None:
        with suppress(ChallengeError):
            opened.append((await process.ceremony.open(another(number))).id)

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(attempt, number)
    assert len(opened) <= 3


async def test_a_share_is_free_again_when_its_challenges_are_out_of_time() -> None:
    process = Process()
    for number in range(3):
        await process.ceremony.open(another(number))
    process.clock.wall += 901
    fresh = replace(another(3), opened=process.clock.wall, expires=process.clock.wall + 900)
    assert (await process.ceremony.open(fresh)).id == fresh.id


async def test_the_approval_of_somebody_who_was_removed_since_opens_nothing() -> None:
    process = Process()
    await satisfied(process)
    process.people.removed.add("ann")
    (grant,) = await process.ceremony.grants(CONSENT.digest)
    assert grant.proofs == ()


async def test_a_grant_is_not_spent_once_its_approver_was_removed() -> None:
    process = Process()
    grant = (await satisfied(process)).grant
    assert grant is not None
    process.people.removed.add("ann")
    assert not await process.ceremony.consume(grant)


async def test_a_grant_is_given_to_nobody_whose_key_ended_meanwhile() -> None:
    process = Process()
    asked = list[str]()

    def ended() -> None:
        asked.append("robot")
        raise IdentityError(detail="the key has ended")

    assert await process.ceremony.grants(CONSENT.digest, holder=ended) == ()
    await process.ceremony.open(CONSENT)
    assert await process.ceremony.grants(CONSENT.digest, holder=ended) == ()
    assert asked == []
    await process.ceremony.prove(CONSENT.id, "person", ANN)
    with pytest.raises(IdentityError):
        await process.ceremony.grants(CONSENT.digest, holder=ended)


async def test_what_a_waiter_is_told_is_no_grant() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    told = list[Challenge]()

    async def wait() -> None:
        told.append(await process.ceremony.settle(CONSENT.id, until=process.clock.mono() + 30))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await process.ceremony.prove(CONSENT.id, "person", ANN)
        await process.other().ceremony.revoke("g" + CONSENT.id[1:], by="ben")
    assert told[0].grant is not None
    assert await process.ceremony.grants(CONSENT.digest) == ()
    assert not await process.ceremony.consume(told[0].grant)


async def test_a_call_whose_approver_was_removed_is_asked_about_anew() -> None:
    process = Process()
    await satisfied(process)
    process.people.removed.add("ann")
    opened = await process.ceremony.open(replace(CONSENT, id=f"c_{R2}", nonce=R2))
    assert opened.id == f"c_{R2}"
    assert process.store.get(CONSENT.id).state is State.STALE


async def test_a_clock_that_is_set_back_gives_a_grant_no_second_life() -> None:
    process = Process()
    grant = (await satisfied(process)).grant
    assert grant is not None
    process.clock.wall = nouns.NOW - 3600
    assert not await process.ceremony.grants(CONSENT.digest)
    assert not await process.ceremony.consume(grant)


async def test_a_clock_that_is_corrected_by_seconds_costs_no_approval() -> None:
    process = Process()
    await satisfied(process)
    process.clock.wall = nouns.NOW - 5
    assert await process.ceremony.grants(CONSENT.digest)


async def test_an_expired_challenge_makes_room_for_a_new_one() -> None:
    process = Process()
    await satisfied(process)
    process.clock.wall = CONSENT.expires
    again = replace(CONSENT, id=f"c_{R2}", nonce=R2, expires=CONSENT.expires + 900)
    assert (await process.ceremony.open(again)).id == again.id
    assert process.store.get(CONSENT.id).state is State.EXPIRED


async def test_a_denied_call_stays_denied_for_the_cool_down_and_no_longer() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    await process.ceremony.deny(CONSENT.id, "person", ANN, "no\x1b[2J")
    again = replace(CONSENT, id=f"c_{R2}", nonce=R2)
    refused = await process.ceremony.open(again)
    assert (refused.id, refused.state) == (CONSENT.id, State.DENIED)
    assert refused.ended_because == "no⟨U+001B Cc⟩[2J"
    assert process.store.durable == [State.DENIED]
    process.clock.wall += 61
    assert (await process.ceremony.open(again)).id == again.id


async def test_the_loser_of_a_race_to_open_joins_and_its_record_is_closed() -> None:
    process = Process()
    rival = replace(CONSENT, id=f"c_{R2}", nonce=R2)
    ledger, real = process.ledger, process.ledger.append

    def append_late(event: str, fields: Mapping[str, Json]) -> int:
        process.store.attach().open_or_join(rival)  # the other process is faster by a hair
        return real(event, fields)

    ledger.append = append_late
    assert (await process.ceremony.open(CONSENT)).id == rival.id
    assert ledger.events == ["challenge.opened", "challenge.cancelled", "challenge.joined"]


# ------------------------------------------------------------------ proving and denying


async def test_enough_proofs_make_a_grant_for_exactly_this_call() -> None:
    process = Process()
    assert await process.ceremony.grants(CONSENT.digest) == ()
    after = await satisfied(process)
    assert await process.ceremony.grants(CONSENT.digest) == (after.grant,)
    assert process.ledger.last("proof.accepted")["proof"]["class"] == "consent"


async def test_a_rejected_proof_is_recorded_and_changes_nothing() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    for kind, evidence, error in [
        ("person", {"as": "ann\n", "code": "wrong"}, ProofInvalidError),
        ("smoke signal", {}, ProofInvalidError),
        ("person", {"as": "deployer"}, ProofWrongApproverError),
    ]:
        with pytest.raises(error):
            await process.ceremony.prove(CONSENT.id, kind, evidence)
        assert process.ledger.events[-1] == "proof.rejected"
    assert process.store.get(CONSENT.id) == CONSENT


async def test_the_record_of_a_rejected_proof_says_who_claimed_it_and_why_it_does_not_count() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    for said, subject in (({"as": "ann"}, "ann"), ({"as": 7}, ""), ({}, "")):
        with pytest.raises(ProofError):
            await process.ceremony.prove(CONSENT.id, "person", {**said, "code": "wrong"})
        record = process.ledger.last("proof.rejected")
        assert record["challenge_id"] == CONSENT.id
        assert record["proof"] == {"kind": "person", "subject": subject}
        assert record["reasons"] == [
            {"code": Code.PROOF_INVALID.value, "by": "", "evidence": Code.PROOF_INVALID.meaning}
        ]


async def test_evidence_of_a_kind_that_nobody_verifies_is_refused_and_on_record() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    with pytest.raises(ProofInvalidError):
        await process.ceremony.prove(CONSENT.id, "oracle", ANN)
    assert process.ledger.last("proof.rejected")["proof"] == {"kind": "oracle", "subject": "ann"}


async def test_a_proof_that_comes_after_the_same_persons_is_rejected_on_record() -> None:
    process, two = Process(), nouns.challenge(Demand.TWO_PEOPLE)
    await process.ceremony.open(two)
    await process.ceremony.prove(two.id, "person", ANN)
    with pytest.raises(ProofReplayedError):
        await process.ceremony.prove(two.id, "person", ANN)
    assert process.ledger.last("proof.rejected")["proof"] == {"kind": "person", "subject": "ann"}


async def test_whoever_made_a_call_takes_it_back_before_and_after_it_was_approved() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    denied = await process.ceremony.decline(CONSENT.id, by="deployer", because="enough")
    assert (denied.state, denied.ended_by, denied.ended_because) == (State.DENIED, "deployer", "enough")
    assert await process.ceremony.decline(CONSENT.id, by="deployer", because="again") == denied
    second = replace(CONSENT, id=f"c_{R2}", nonce=R2, digest="6" * 64)
    await satisfied(process, second)
    revoked = await process.ceremony.decline(second.id, by="deployer", because="enough")
    assert (revoked.state, revoked.ended_by, revoked.grant) == (State.REVOKED, "deployer", None)


async def test_a_call_that_is_approved_while_it_is_taken_back_is_taken_back() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    proven, _ = step(CONSENT, Proven(nouns.consent()), nouns.NOW + 1)
    process.store.before_swap = lambda: process.store.swap(CONSENT, proven, durable=False) and None
    assert (await process.ceremony.decline(CONSENT.id, by="deployer", because="enough")).state is State.REVOKED


async def test_a_person_whom_a_channel_vouches_for_may_refuse_and_nobody_may_refuse_what_ended() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    denied = await process.ceremony.refuse(CONSENT.id, by="ann", because="not today")
    assert (denied.state, denied.ended_by, denied.ended_because) == (State.DENIED, "ann", "not today")
    with pytest.raises(ChallengeClosedError):
        await process.ceremony.refuse(CONSENT.id, by="ann", because="not today")


async def test_a_call_that_was_closed_undecided_may_be_asked_again_at_once() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    closed = await process.ceremony.cancel(CONSENT.id, by="root", because="wrong window")
    assert (closed.state, closed.ended_by, closed.ended_because) == (State.CANCELLED, "root", "wrong window")
    again = await process.ceremony.open(replace(CONSENT, id=f"c_{R2}", nonce=R2))
    assert (again.id, again.state) == (f"c_{R2}", State.PENDING)


@pytest.mark.parametrize("approved", [False, True])
async def test_a_call_that_outgrew_its_challenge_leaves_no_grant_and_what_ended_stays_so(
    approved: bool,
) -> None:
    process = Process()
    await process.ceremony.outgrow(CONSENT.digest)
    assert not process.ledger.events
    await (satisfied(process) if approved else process.ceremony.open(CONSENT))
    await process.ceremony.outgrow(CONSENT.digest)
    ended = process.store.get(CONSENT.id)
    assert ended is not None
    assert (ended.state, ended.arguments) == (State.STALE, "")
    assert await process.ceremony.grants(CONSENT.digest) == ()
    before = len(process.ledger.events)
    await process.ceremony.outgrow(CONSENT.digest)
    assert (process.store.get(CONSENT.id), len(process.ledger.events)) == (ended, before)


async def test_only_an_unspent_grant_is_revoked_by_its_id() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    for wrong in (f"g_{nouns.RANDOM}", "g_" + "0" * 22, f"c_{nouns.RANDOM}", ""):
        with pytest.raises(NotFoundError):
            await process.ceremony.revoke(wrong, by="root")
    grant = (await process.ceremony.prove(CONSENT.id, "person", ANN)).grant
    assert grant is not None
    with pytest.raises(NotFoundError):
        await process.ceremony.revoke(f"x{grant.id[1:]}", by="root")
    assert (await process.ceremony.revoke(grant.id, by="root")).ended_by == "root"
    with pytest.raises(NotFoundError):
        await process.ceremony.revoke(grant.id, by="root")


async def test_a_caller_who_leaves_while_a_proof_is_counted_does_not_undo_it() -> None:
    process, two = Process(), nouns.challenge(Demand.TWO_PEOPLE)
    await process.ceremony.open(two)
    await process.ceremony.prove(two.id, "person", ANN)
    with anyio.CancelScope() as leaving:

        def stands(challenge: Challenge, proof: Proof) -> bool:
            anyio.from_thread.run_sync(leaving.cancel)
            return True

        process.people.stands = stands  # type: ignore[method-assign]
        await process.ceremony.prove(two.id, "person", {"as": "bob"})
    row = process.store.get(two.id)
    assert leaving.cancel_called
    assert row is not None
    assert row.state is State.SATISFIED


async def test_what_is_spent_is_on_record_with_the_call_it_was_spent_on() -> None:
    process = Process()
    grant = (await satisfied(process)).grant
    assert grant is not None
    assert await process.ceremony.consume(grant, call_id="k_1")
    assert process.ledger.last("grant.consumed")["call_id"] == "k_1"


async def test_a_call_that_joins_is_on_record_with_the_challenge_it_joined() -> None:
    process = Process()
    await process.ceremony.open(CONSENT, call_id="k_1")
    await process.ceremony.open(replace(CONSENT, id=f"c_{R2}", nonce=R2), call_id="k_2")
    record = process.ledger.last("challenge.joined")
    assert (record["challenge_id"], record["call_id"]) == (CONSENT.id, "k_2")


@pytest.mark.parametrize(("after", "denied"), [(59.5, True), (60.0, False)])
async def test_a_cool_down_ends_at_its_very_end(after: float, denied: bool) -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    await process.ceremony.refuse(CONSENT.id, by="ann", because="no")
    process.clock.wall += after
    again = await process.ceremony.open(
        replace(CONSENT, id=f"c_{R2}", nonce=R2, opened=process.clock.wall, expires=process.clock.wall + 900)
    )
    assert (again.id == CONSENT.id) is denied


async def test_a_proof_that_cannot_be_recorded_does_not_count() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    process.ledger.away = True
    with pytest.raises(LedgerUnavailableError):
        await process.ceremony.prove(CONSENT.id, "person", ANN)
    assert process.store.get(CONSENT.id) == CONSENT


async def test_a_refusal_holds_even_when_it_cannot_be_recorded() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    process.ledger.away = True
    with pytest.raises(LedgerUnavailableError):
        await process.ceremony.deny(CONSENT.id, "person", ANN, "no")
    assert process.store.get(CONSENT.id).state is State.DENIED


async def test_two_proofs_at_once_both_count() -> None:
    process = Process()
    two = nouns.challenge(Demand.TWO_PEOPLE)
    await process.ceremony.open(two)
    bob = replace(two, proofs=(nouns.consent("bob"),), version=1)
    process.store.before_swap = lambda: process.store.attach().swap(two, bob, durable=False)
    after = await process.ceremony.prove(two.id, "person", ANN)
    assert after.state is State.SATISFIED
    assert {proof.subject for proof in after.proofs} == {"ann", "bob"}
    assert process.ledger.events.count("proof.accepted") == 1


async def test_an_approval_that_loses_against_a_denial_is_worth_nothing() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    denied = replace(CONSENT, state=State.DENIED, arguments="", version=1)
    process.store.before_swap = lambda: process.store.attach().swap(CONSENT, denied, durable=False)
    with pytest.raises(ChallengeClosedError) as closed:
        await process.ceremony.prove(CONSENT.id, "person", ANN)
    assert closed.value.reason is Code.DENIED
    assert process.ledger.events[-2:] == ["proof.accepted", "proof.rejected"]


async def test_the_same_factor_does_not_fill_two_places() -> None:
    process = Process()
    two = nouns.challenge(Demand.TWO_PEOPLE)
    await satisfied(process, two)
    with pytest.raises(ProofReplayedError):
        await process.ceremony.prove(two.id, "person", ANN)


async def test_a_workload_cannot_deny_in_a_persons_place() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    with pytest.raises(ProofWrongApproverError):
        await process.ceremony.deny(CONSENT.id, "workload", {"as": "deployer"}, "no")
    assert process.store.get(CONSENT.id).state is State.PENDING


async def test_nothing_is_proven_for_a_challenge_that_ended() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    await process.ceremony.cancel(CONSENT.id, by="ann", because="the agent went home")
    with pytest.raises(ChallengeClosedError) as closed:
        await process.ceremony.prove(CONSENT.id, "person", ANN)
    assert closed.value.reason is Code.CANCELLED
    with pytest.raises(NotFoundError):
        await process.ceremony.prove("c_nowhere", "person", ANN)


async def test_an_approval_after_the_time_is_no_approval() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    process.clock.wall = CONSENT.expires
    with pytest.raises(ChallengeClosedError) as closed:
        await process.ceremony.prove(CONSENT.id, "person", ANN)
    assert closed.value.reason is Code.EXPIRED
    assert await process.ceremony.grants(CONSENT.digest) == ()


# ------------------------------------------------------------------ spending


async def test_a_grant_has_exactly_one_winner() -> None:
    process = Process()
    grant = (await satisfied(process)).grant
    won: list[bool] = []

    async def spend(spender: Process) -> None:
        won.append(await spender.ceremony.consume(grant, call_id="k_1"))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(spend, process.other())
    assert sum(won) == 1
    assert process.ledger.events.count("grant.consumed") == 1
    assert process.ledger.last("grant.consumed")["approvers"] == ["ann"]
    concluded = await process.ceremony.conclude(grant.challenge, State.COMPLETED)
    assert concluded.state is State.COMPLETED


async def test_a_grant_is_spent_on_disk() -> None:
    process = Process()
    grant = (await satisfied(process)).grant
    assert await process.ceremony.consume(grant)
    assert process.store.durable == [State.CONSUMED]
    assert process.store.get(CONSENT.id).arguments == ""


async def test_a_grant_that_differs_from_what_was_proven_is_not_spent() -> None:
    process = Process()
    grant = (await satisfied(process)).grant
    for change in ({"digest": "0" * 64}, {"credential": "x"}, {"proofs": ()}, {"expires": 1e12}, {"challenge": "c_x"}):
        assert not await process.ceremony.consume(replace(grant, **change))
    assert await process.ceremony.consume(grant)


async def test_an_expired_or_revoked_grant_is_not_spent() -> None:
    process = Process()
    grant = (await satisfied(process)).grant
    revoked = await process.ceremony.revoke(grant.id, by="ann")
    assert revoked.state is State.REVOKED
    assert not await process.ceremony.consume(grant)
    with pytest.raises(NotFoundError):
        await process.ceremony.revoke(grant.id, by="ann")
    late = Process()
    grant = (await satisfied(late)).grant
    late.clock.wall = grant.expires
    assert not await late.ceremony.consume(grant)
    assert late.store.get(CONSENT.id).state is State.EXPIRED


async def test_an_unspent_grant_has_no_outcome() -> None:
    process = Process()
    await satisfied(process)
    with pytest.raises(IllegalTransitionError):
        await process.ceremony.conclude(CONSENT.id, State.COMPLETED)


async def test_every_record_of_a_ceremony_is_one_the_ledger_takes() -> None:
    process = Process()
    two = nouns.challenge(Demand.TWO_PEOPLE, findings=(nouns.finding(),))
    await satisfied(process, two)
    await process.ceremony.open(replace(two, id=f"c_{R2}", nonce=R2))
    with pytest.raises(ProofInvalidError):
        await process.ceremony.prove(two.id, "person", {"as": "bob", "code": "wrong"})
    grant = (await process.ceremony.prove(two.id, "person", {"as": "bob"})).grant
    await process.ceremony.consume(grant, call_id="k_1")
    other = replace(two, id="c_" + "Y" * 22, digest="7" * 64)
    await process.ceremony.open(other)
    await process.ceremony.deny(other.id, "person", ANN, "no")
    for number, (event, fields) in enumerate(process.ledger.records):
        assert line(number, nouns.NOW, 0.0, "boot", event=event, fields=fields)


# ------------------------------------------------------------------ waiting


async def test_a_wait_ends_at_its_deadline_with_the_challenge_still_pending() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    with anyio.fail_after(15):
        challenge = await process.ceremony.settle(CONSENT.id, until=time.monotonic() + 0.02)
    assert challenge.state is State.PENDING


@pytest.mark.parametrize("end", ["prove", "deny", "cancel"])
async def test_a_waiter_hears_of_this_process_at_once(end: str) -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    async with anyio.create_task_group() as group:  # no poller runs
        with anyio.fail_after(15):
            group.start_soon(end_it, process.ceremony, end)
            challenge = await process.ceremony.settle(CONSENT.id, until=time.monotonic() + 60)
    assert challenge.state is not State.PENDING


async def end_it(ceremony: Ceremony, end: str) -> None:
    if end == "prove":
        await ceremony.prove(CONSENT.id, "person", ANN)
    elif end == "deny":
        await ceremony.deny(CONSENT.id, "person", ANN, "no")
    else:
        await ceremony.cancel(CONSENT.id, by="ann", because="enough")


async def test_a_waiter_hears_of_another_process(tmp_path: Path) -> None:
    ledger, clock = WorldLedger(), WorldClock(nouns.NOW + 1, time.monotonic)
    keyring = Keyring.open(tmp_path)
    here, there = SqlStore.open(tmp_path, keyring), SqlStore.open(tmp_path, keyring)
    waiting, approving = ceremony_of(here, ledger, clock), ceremony_of(there, ledger, clock)
    await waiting.open(CONSENT)
    try:
        async with anyio.create_task_group() as group:
            await group.start(waiting.run)
            with anyio.fail_after(10):
                group.start_soon(approving.prove, CONSENT.id, "person", ANN)
                challenge = await waiting.settle(CONSENT.id, until=time.monotonic() + 60)
            group.cancel_scope.cancel()
        assert challenge.state is State.SATISFIED
        grant = challenge.grant
        assert await approving.consume(grant)
        assert not await waiting.consume(grant)
    finally:
        here.close()
        there.close()


async def test_a_waiter_fails_closed_when_the_store_goes_away() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)

    async def lose() -> None:
        process.store.away = True

    with anyio.fail_after(15):
        async with anyio.create_task_group() as group:
            await group.start(process.ceremony.run)
            group.start_soon(lose)
            with pytest.raises(StoreUnavailableError):
                await process.ceremony.settle(CONSENT.id, until=time.monotonic() + 60)
            group.cancel_scope.cancel()


async def test_what_nobody_asks_for_expires_by_itself() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    process.clock.wall = CONSENT.expires
    recorded, real = anyio.Event(), process.ledger.append

    def append(event: str, fields: Mapping[str, Json]) -> int:
        recorded.set()
        return real(event, fields)

    process.ledger.append = append
    with anyio.fail_after(15):
        async with anyio.create_task_group() as group:
            await group.start(process.ceremony.run)
            await recorded.wait()
            group.cancel_scope.cancel()
    assert process.store.get(CONSENT.id).state is State.EXPIRED
    assert process.ledger.events == ["challenge.opened", "challenge.expired"]


async def test_housekeeping_survives_a_store_and_a_ledger_that_are_away_for_a_while() -> None:
    process = Process()
    await process.ceremony.open(CONSENT)
    process.clock.wall = CONSENT.expires
    process.ledger.away = True
    async with anyio.create_task_group() as group:
        await group.start(process.ceremony.run)
        with anyio.fail_after(15), pytest.raises((LedgerUnavailableError, ChallengeClosedError)):
            await process.ceremony.prove(CONSENT.id, "person", ANN)
        process.store.away = True
        with pytest.raises(StoreUnavailableError):
            await process.ceremony.grants(CONSENT.digest)
        process.store.away = process.ledger.away = False
        fresh = replace(CONSENT, id=f"c_{R2}", nonce=R2, expires=CONSENT.expires + 900)
        assert (await process.ceremony.open(fresh)).id == fresh.id
        group.cancel_scope.cancel()


# ------------------------------------------------------------------ votes that fell before the quorum


async def test_the_vote_of_somebody_removed_before_the_second_one_does_not_count() -> None:
    process, two = Process(), nouns.challenge(Demand.TWO_PEOPLE)
    await process.ceremony.open(two)
    await process.ceremony.prove(two.id, "person", ANN)
    process.people.removed.add("ann")
    after = await process.ceremony.prove(two.id, "person", {"as": "ben"})
    assert (after.state, [proof.subject for proof in after.proofs]) == (State.PENDING, ["ben"])
    assert (await process.ceremony.prove(two.id, "person", {"as": "cy"})).state is State.SATISFIED


async def test_a_vote_that_became_too_old_is_given_again() -> None:
    young = Quorum(proof_class=ProofClass.CONSENT, people=2, max_age=60)
    two = nouns.challenge(requirement=Requirement(frozenset({Demand.TWO_PEOPLE}), quorums=frozenset({young})))
    process = Process()
    await process.ceremony.open(two)
    await process.ceremony.prove(two.id, "person", ANN)
    process.clock.wall += 61
    after = await process.ceremony.prove(two.id, "person", {"as": "ben"})
    assert (after.state, [proof.subject for proof in after.proofs]) == (State.PENDING, ["ben"])
    assert (await process.ceremony.prove(two.id, "person", ANN)).state is State.SATISFIED
    assert len(await process.ceremony.grants(two.digest)) == 1


async def test_a_kind_of_proof_that_the_policy_does_not_take_is_refused() -> None:
    keys = Quorum(proof_class=ProofClass.CONSENT, kinds=frozenset({"webauthn"}))
    one = nouns.challenge(requirement=Requirement(frozenset({Demand.CONSENT}), quorums=frozenset({keys})))
    process = Process()
    await process.ceremony.open(one)
    with pytest.raises(ProofError) as refused:
        await process.ceremony.prove(one.id, "person", ANN)
    assert refused.value.reason is Code.NOT_TAKEN
    assert process.ledger.last("proof.rejected")["reasons"][0]["code"] == "not_taken"  # type: ignore[index,call-overload]
