"""The life of a challenge: which events it takes in which state, and what no sequence of them can do."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from guard.errors import (
    ChallengeClosedError,
    ChallengeError,
    IllegalTransitionError,
    ProofError,
    ProofReplayedError,
    ProofWrongApproverError,
    ProofWrongCallError,
)
from guard.model import Challenge, Demand, Proof, Requirement, State
from guard.reasons import Code
from guard.stepup.machine import (
    Cancelled,
    Concluded,
    Consumed,
    Denied,
    Event,
    Expired,
    Proven,
    Record,
    Revoked,
    Staled,
    Wake,
    changed_terms,
    step,
)
from tests import nouns, reference

NOW = nouns.NOW
PENDING = nouns.challenge(Demand.CONSENT)
SATISFIED, _ = step(PENDING, Proven(nouns.consent("ann")), NOW + 1)
CONSUMED, _ = step(SATISFIED, Consumed(), NOW + 2)

EVENTS: dict[str, Event] = {
    "proven": Proven(nouns.consent("bob")),
    "denied": Denied("ann", "no"),
    "expired": Expired(),
    "cancelled": Cancelled("ann", "enough"),
    "staled": Staled("the policy changed"),
    "revoked": Revoked("ann"),
    "consumed": Consumed(),
    "completed": Concluded(State.COMPLETED),
}
LEGAL = {
    (State.PENDING, "proven"): State.SATISFIED,
    (State.PENDING, "denied"): State.DENIED,
    (State.PENDING, "cancelled"): State.CANCELLED,
    (State.PENDING, "staled"): State.STALE,
    (State.SATISFIED, "staled"): State.STALE,
    (State.SATISFIED, "revoked"): State.REVOKED,
    (State.SATISFIED, "consumed"): State.CONSUMED,
    (State.CONSUMED, "completed"): State.COMPLETED,
}


def in_state(state: State) -> Challenge:
    if state is State.PENDING:
        return PENDING
    if state is State.SATISFIED:
        return SATISFIED
    return nouns.challenge(Demand.CONSENT, state=state, arguments="", proofs=SATISFIED.proofs, version=3)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", State)
def test_every_pair_of_state_and_event_is_legal_or_refused(state: State, event: str) -> None:
    challenge = in_state(state)
    if (state, event) not in LEGAL:
        with pytest.raises(ChallengeError):
            step(challenge, EVENTS[event], NOW + 3)
        return
    after, _ = step(challenge, EVENTS[event], NOW + 3)
    assert after.state is LEGAL[state, event]
    assert after.version == challenge.version + 1
    assert bool(after.arguments) is after.state.open


@pytest.mark.parametrize("challenge", [PENDING, SATISFIED], ids=["pending", "satisfied"])
@pytest.mark.parametrize("event", sorted(EVENTS.keys() - {"expired", "completed"}))
@pytest.mark.parametrize("late", [NOW + 900, NOW + 1e9, float("nan")])
def test_past_its_time_a_challenge_can_only_expire(challenge: Challenge, event: str, late: float) -> None:
    with pytest.raises(ChallengeClosedError) as refused:
        step(challenge, EVENTS[event], late)
    assert refused.value.reason is Code.EXPIRED
    expired, effects = step(challenge, Expired(), late)
    assert expired.state is State.EXPIRED
    assert expired.grant is None
    assert [effect.event for effect in effects if isinstance(effect, Record)] == ["challenge.expired"]


def test_a_challenge_does_not_expire_before_its_time() -> None:
    with pytest.raises(IllegalTransitionError):
        step(PENDING, Expired(), NOW + 899)


def test_a_denial_is_terminal_and_carries_its_words() -> None:
    denied, effects = step(PENDING, Denied("ann", "not on a friday"), NOW + 5)
    assert (denied.state, denied.ended_by, denied.ended_because) == (State.DENIED, "ann", "not on a friday")
    assert denied.decided == NOW + 5
    assert Wake(PENDING.id) in effects
    with pytest.raises(ChallengeClosedError) as refused:
        step(denied, Proven(nouns.consent("bob")), NOW + 6)
    assert refused.value.reason is Code.DENIED


def test_one_of_two_people_leaves_the_challenge_pending() -> None:
    challenge = nouns.challenge(Demand.TWO_PEOPLE)
    first, effects = step(challenge, Proven(nouns.consent("ann")), NOW)
    assert first.state is State.PENDING
    assert not any(isinstance(effect, Wake) for effect in effects)
    again, _ = step(first, Proven(nouns.consent("ann", "webauthn")), NOW)
    assert again.state is State.PENDING
    second, _ = step(again, Proven(nouns.consent("bob")), NOW)
    assert second.state is State.SATISFIED


def test_a_factor_answers_a_challenge_once() -> None:
    first, _ = step(nouns.challenge(Demand.TWO_PEOPLE), Proven(nouns.consent("ann", factor="f")), NOW)
    with pytest.raises(ProofReplayedError):
        step(first, Proven(nouns.consent("bob", factor="f")), NOW)


@pytest.mark.parametrize("subject", ["deployer", "olga", ""])
def test_neither_the_agent_nor_its_owner_nor_nobody_may_approve(subject: str) -> None:
    with pytest.raises(ProofWrongApproverError):
        step(PENDING, Proven(nouns.consent(subject)), NOW)


def test_the_owner_may_approve_where_the_installation_says_so() -> None:
    proof = nouns.consent("olga")
    solo = Proof(proof_class=proof.proof_class, kind="totp", factor="totp-olga", subject="olga", at=NOW, solo=True)
    after, effects = step(PENDING, Proven(solo), NOW)
    assert after.state is State.SATISFIED
    assert next(e for e in effects if isinstance(e, Record)).fields["proof"]["solo"] is True


def test_the_key_of_another_workload_proves_nothing() -> None:
    with pytest.raises(ProofWrongCallError):
        step(nouns.challenge(Demand.POSSESSION), Proven(nouns.possession("other")), NOW)


def test_a_record_of_a_proof_names_its_class() -> None:
    _, effects = step(PENDING, Proven(nouns.consent("ann")), NOW)
    (record,) = (effect for effect in effects if isinstance(effect, Record))
    assert record.event == "proof.accepted"
    assert record.fields["proof"]["class"] == "consent"
    assert record.fields["missing"] == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"principal": replace(nouns.PRINCIPAL, credential="rotated")}, "the credential"),
        ({"policy_revision": "s" * 64}, "the policy"),
        ({"definition": "e" * 64}, "the tool's definition"),
        ({"requirement": Requirement(frozenset({Demand.POSSESSION}))}, "the requirement"),
        ({"policy_revision": "s" * 64, "definition": "e" * 64}, "the policy and the tool's definition"),
    ],
)
def test_what_a_challenge_no_longer_agrees_with_is_said_in_words(changes: dict[str, object], said: str) -> None:
    assert changed_terms(PENDING, replace(PENDING, **changes)) == said


def test_a_demand_that_another_one_includes_changes_no_terms() -> None:
    two = nouns.challenge(Demand.TWO_PEOPLE)
    assert changed_terms(two, nouns.challenge(Demand.TWO_PEOPLE, Demand.CONSENT)) == ""


def test_no_record_holds_an_argument() -> None:
    challenge = nouns.challenge(Demand.CONSENT, arguments='{"password":"hunter2"}')
    for event in (EVENTS["proven"], EVENTS["denied"], EVENTS["staled"]):
        _, effects = step(challenge, event, NOW)
        assert "hunter2" not in repr(effects)


class Lives(RuleBasedStateMachine):
    """Several processes drive several challenges through a store that compares and swaps."""

    challenges: Bundle[str] = Bundle("challenges")

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.rows: dict[str, Challenge] = {}
        self.stale: dict[str, Challenge] = {}  # what a slower process read a while ago
        self.forwards: Counter[str] = Counter()
        self.refused: set[str] = set()

    @rule(
        target=challenges,
        demands=st.frozensets(st.sampled_from(Demand), min_size=1),
        strict=st.booleans(),
        life=st.integers(1, 50),
    )
    def open(self, demands: frozenset[Demand], strict: bool, life: int) -> str:
        made = nouns.challenge(
            random=f"{len(self.rows):022d}",
            requirement=Requirement(demands, strict=strict),
            opened=self.now,
            expires=self.now + life,
        )
        self.rows[made.id] = self.stale[made.id] = made
        return made.id

    @rule(challenge=challenges)
    def read(self, challenge: str) -> None:
        self.stale[challenge] = self.rows[challenge]

    @rule(seconds=st.integers(0, 30))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(
        challenge=challenges,
        slow=st.booleans(),
        event=st.one_of(
            st.builds(Proven, nouns.proofs),
            st.sampled_from([event for name, event in EVENTS.items() if name != "consumed"]),
        ),
    )
    def apply(self, challenge: str, slow: bool, event: Event) -> None:
        self._swap(challenge, event, slow=slow)
        if isinstance(event, Denied | Revoked | Cancelled) and not self.rows[challenge].state.open:
            self.refused.add(challenge)

    @rule(challenge=challenges, slow=st.booleans())
    def consume_then_forward(self, challenge: str, slow: bool) -> None:
        before = self.stale[challenge] if slow else self.rows[challenge]
        if self._swap(challenge, Consumed(), slow=slow):
            words = (str(demand) for demand in before.requirement.demands)
            assert reference.met(words, before.proofs, critical=before.requirement.strict)
            assert self.now < before.expires
            assert challenge not in self.refused
            self.forwards[challenge] += 1

    def _swap(self, challenge: str, event: Event, *, slow: bool) -> bool:
        old = self.stale[challenge] if slow else self.rows[challenge]
        try:
            new, _ = step(old, event, self.now)
        except (ChallengeError, ProofError):
            return False
        row = self.rows[challenge]
        if (row.version, row.state) != (old.version, old.state):
            return False
        self.rows[challenge] = new
        return True

    @invariant()
    def a_grant_causes_at_most_one_forward(self) -> None:
        assert all(count == 1 for count in self.forwards.values())

    @invariant()
    def only_satisfied_challenges_carry_grants_and_only_open_ones_arguments(self) -> None:
        for row in self.rows.values():
            assert (row.grant is not None) is (row.state is State.SATISFIED)
            assert bool(row.arguments) is row.state.open


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
