"""What may be asked of people is bounded: per agent, per person, and by a wait that grows with every no."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import ChallengeError
from guard.model import Challenge, Demand, Deny, Proof, ProofClass, State
from guard.ports import Approver
from guard.proxy.pause import refused_text
from guard.reasons import Code, Reason
from guard.stepup.ceremony import Ceremony
from guard.stepup.limits import LONGEST, Bounds, duration, least_busy, refused_in_a_row, wait_after
from tests import nouns
from tests.world_store import WorldClock, WorldLedger, WorldStore

YES, NO = State.COMPLETED, State.DENIED


def ended(number: int, state: State, at: float, *demands: Demand, **changes: object) -> Challenge:
    random = f"{number:022d}"
    return nouns.challenge(*demands, random=random, digest=f"{number:064x}", state=state, decided=at, **changes)


# ------------------------------------------------------------------ pure

states = st.lists(st.sampled_from([s for s in State if s not in {State.PENDING, State.SATISFIED}]), max_size=20)


@given(states)
def test_only_refusals_and_silence_since_the_last_yes_count(seen: list[State]) -> None:
    count, last = refused_in_a_row([ended(n, state, nouns.NOW + n) for n, state in enumerate(seen)])
    expected = 0
    for state in reversed(seen):
        if state in {State.CONSUMED, State.COMPLETED, State.FAILED, State.UNKNOWN}:
            break
        expected += state in {State.DENIED, State.EXPIRED}
    assert count == expected
    assert (last > 0) == (count > 0)


@pytest.mark.parametrize("neither", [State.CANCELLED, State.STALE, State.REVOKED])
def test_what_was_closed_for_another_reason_neither_counts_nor_ends_a_row(neither: State) -> None:
    row = [ended(n, state, nouns.NOW + n) for n, state in enumerate([YES, NO, neither, State.EXPIRED, neither])]
    assert refused_in_a_row(row) == (2, nouns.NOW + 3)


@pytest.mark.parametrize(
    ("count", "seconds"), [(9, 0.0), (10, 0.5), (11, 1.0), (12, 2.0), (22, 2048.0), (23, 3600.0), (10_000, 3600.0)]
)
def test_a_first_wait_of_less_than_a_second_is_one(count: int, seconds: float) -> None:
    assert wait_after(count, Bounds(back_off=0.5)) == seconds


def test_what_only_a_machine_could_have_answered_says_nothing_about_people() -> None:
    assert refused_in_a_row([ended(1, State.EXPIRED, nouns.NOW, Demand.POSSESSION)]) == (0, 0.0)


def test_what_was_approved_and_not_used_was_no_refusal() -> None:
    unused = ended(2, State.EXPIRED, nouns.NOW + 2, proofs=(nouns.consent(),))
    assert refused_in_a_row([unused, ended(1, NO, nouns.NOW + 1)]) == (0, 0.0)


@given(
    st.integers(0, 200),
    st.builds(Bounds, back_off_after=st.integers(1, 9), back_off=st.just(0.0) | st.floats(0.001, 3600)),
)
def test_a_wait_begins_at_the_bound_doubles_and_ends_at_an_hour(count: int, bounds: Bounds) -> None:
    wait = wait_after(count, bounds)
    assert 0 <= wait <= wait_after(count + 1, bounds) <= LONGEST
    if count < bounds.back_off_after:
        assert wait == 0
    elif 0 < 2 * wait < LONGEST:
        assert wait_after(count + 1, bounds) == pytest.approx(2 * wait)


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "1 s"), (59.1, "1 min"), (61, "1 min 1 s"), (3600, "60 min")])
def test_a_wait_is_said_rounded_up(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_least_busy_person_of_the_group_counts() -> None:
    waiting = {"a": 3, "b": 5}
    assert least_busy(waiting, [{"a", "b"}, {"a"}, {"b"}], "a") == 3
    assert least_busy(waiting, [{"a", "b"}], "a") == 8
    assert least_busy(waiting, [], "b") == 5
    assert least_busy(waiting, [{"a", "c"}], "c") == 3, "nothing waits for a group that is not counted"
    assert least_busy(waiting, [], "c") == 0


# ------------------------------------------------------------------ in the ceremony


class Place:
    def __init__(self, **bounds: float) -> None:
        self.store, self.ledger = WorldStore(), WorldLedger()
        self.clock = WorldClock(nouns.NOW + 1, time.monotonic)
        chosen = Bounds(**bounds)  # type: ignore[arg-type]  # each test changes some by name
        self.ceremony = Ceremony(self.store, self.ledger, self.clock, verifiers={}, cool_down=0, bounds=chosen)

    async def ask(self, number: int, *demands: Demand, **changes: object) -> Challenge:
        now = self.clock.wall
        made = nouns.challenge(
            *demands, random=f"{number:022d}", digest=f"{number:064x}", opened=now, expires=now + 900, **changes
        )
        return await self.ceremony.open(made)

    async def refused(self, number: int, *demands: Demand, **changes: object) -> ChallengeError:
        with pytest.raises(ChallengeError) as error:
            await self.ask(number, *demands, **changes)
        return error.value

    async def answer(self, number: int, state: State, *demands: Demand, proofs: tuple[Proof, ...] = ()) -> None:
        self.clock.wall += 1
        pending = await self.ask(number, *demands)
        ended = replace(pending, state=state, arguments="", version=1, decided=self.clock.wall, proofs=proofs)
        assert self.store.swap(pending, ended, durable=False)


@pytest.mark.anyio
async def test_an_agent_that_is_refused_again_and_again_waits_longer_each_time_and_is_told_how_long() -> None:
    place = Place(back_off_after=3, back_off=60)
    for number in range(3):
        await place.answer(number, State.DENIED if number else State.EXPIRED)
    error = await place.refused(3)
    assert error.reason is Code.BACKING_OFF
    said = refused_text(Deny(reasons=(Reason(error.reason, evidence=error.public),)))
    assert "REFUSED, not executed" in said
    assert "3 in a row; it may ask again in 1 min. Do not repeat it before then" in said
    place.clock.wall += 60
    await place.answer(4, State.DENIED)
    place.clock.wall += 60
    assert "in 1 min" in (await place.refused(5)).public
    place.clock.wall += 60
    await place.answer(6, State.COMPLETED)
    await place.ask(7)


def proof(proof_class: ProofClass, kind: str) -> Proof:
    return Proof(proof_class=proof_class, kind=kind, factor="f", subject="somebody", at=nouns.NOW, attestation=1)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answered", "waits"),
    [
        (proof(ProofClass.POSSESSION, "signature"), True),
        (proof(ProofClass.CONSENT, "intent"), True),
        (proof(ProofClass.CONSENT, "given"), True),
        (proof(ProofClass.CONSENT, "totp"), False),
        (proof(ProofClass.EMERGENCY, "break_glass"), False),
    ],
)
async def test_only_the_yes_of_somebody_who_looked_ends_a_row_of_refusals(answered: Proof, waits: bool) -> None:
    place = Place(back_off_after=2)
    await place.answer(0, State.DENIED)
    await place.answer(1, State.COMPLETED, Demand.STEP_UP, proofs=(answered,))
    await place.answer(2, State.DENIED)
    if waits:
        assert (await place.refused(3)).reason is Code.BACKING_OFF
    else:
        await place.ask(3)


@pytest.mark.anyio
async def test_refusals_do_not_hide_behind_calls_that_nobody_was_asked_about() -> None:
    place = Place(back_off_after=3)
    for number in range(2):
        await place.answer(number, State.DENIED)
    for number in range(2, 42):
        await place.answer(number, State.COMPLETED, Demand.POSSESSION)
    await place.answer(42, State.DENIED)
    assert (await place.refused(43)).reason is Code.BACKING_OFF


@pytest.mark.anyio
async def test_a_wait_may_begin_after_as_many_refusals_as_the_settings_allow() -> None:
    place = Place(back_off_after=100)
    for number in range(100):
        await place.answer(number, State.DENIED)
    assert (await place.refused(100)).reason is Code.BACKING_OFF


@pytest.mark.anyio
async def test_a_waiting_agent_may_still_join_what_is_open_prove_possession_and_be_approved() -> None:
    place = Place(back_off_after=2)
    pending = await place.ask(0)
    await place.answer(1, State.DENIED)
    await place.answer(2, State.DENIED)
    assert (await place.refused(3)).reason is Code.BACKING_OFF
    assert (await place.ask(0)).id == pending.id
    await place.ask(4, Demand.POSSESSION)
    await place.ask(5, principal=replace(nouns.PRINCIPAL, subject="another"))


@pytest.mark.anyio
async def test_one_person_has_only_so_many_calls_waiting_whichever_agents_ask() -> None:
    place = Place(per_approver=2)
    place.store.put(Approver(name="ann", groups=frozenset({"approvers"}), created=0))
    for number in range(2):
        await place.ask(number, principal=replace(nouns.PRINCIPAL, subject=f"agent{number}"))
    assert (await place.refused(2)).reason is Code.APPROVERS_BUSY
    place.store.put(Approver(name="ben", groups=frozenset({"oncall"}), created=0))
    wanted = replace(nouns.challenge().requirement, approvers="oncall")
    await place.ask(3, requirement=wanted)
    await place.ask(4, Demand.POSSESSION)


@pytest.mark.anyio
async def test_a_flood_is_on_record_once_a_minute() -> None:
    place = Place(pending=2)
    for number in range(2):
        await place.ask(number)
    for number in range(2, 6):
        assert (await place.refused(number)).reason is Code.TOO_MANY_PENDING
    assert place.ledger.events.count("challenge.flooded") == 1
    assert place.ledger.last("challenge.flooded") == {"principal": "deployer", "limit": "too_many_pending"}


@pytest.mark.anyio
async def test_a_flood_is_on_record_again_after_a_minute_and_each_agents_by_itself() -> None:
    place, moment = Place(pending=1), [1000.0]
    place.clock.mono = lambda: moment[0]
    others = [replace(nouns.PRINCIPAL, subject=name) for name in ("deployer", "other")]
    for number, principal in enumerate(others):
        await place.ask(number, principal=principal)
    for at, told in ((1000.0, 2), (1000.0, 2), (1059.9, 2), (1060.0, 4), (1060.0, 4), (1119.9, 4), (1120.0, 6)):
        moment[0] = at
        for number, principal in enumerate(others):
            await place.refused(10 + number, principal=principal)
        assert place.ledger.events.count("challenge.flooded") == told, at


@pytest.mark.anyio
async def test_whoever_was_removed_has_no_time_for_anybody() -> None:
    place = Place(per_approver=1)
    place.store.put(Approver(name="ann", groups=frozenset({"approvers"}), created=0))
    place.store.put(Approver(name="ben", groups=frozenset({"approvers", "oncall"}), created=0, removed=1))
    await place.ask(0, requirement=replace(nouns.challenge().requirement, approvers="oncall"))
    await place.ask(1)
    assert (await place.refused(2)).reason is Code.APPROVERS_BUSY
