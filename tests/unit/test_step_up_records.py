"""What the records of a step-up hold: an auditor who has only the ledger finds who, what, why and on whose word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guard.model import (
    Band,
    Challenge,
    Demand,
    Doubt,
    Finding,
    Json,
    Principal,
    ProofClass,
    Quorum,
    Requirement,
    State,
)
from guard.reasons import Code, Reason
from guard.stepup import records
from guard.stepup.binding import list_digest
from guard.stepup.machine import Cancelled, Consumed, Denied, Event, Expired, Proven, Record, Revoked, Staled, step
from tests import nouns

NOW = nouns.NOW
CALL = nouns.challenge(
    principal=Principal(subject="deployer", credential="1a2b3c4d5e6f7a8b", owner="olga", on_behalf_of="oli"),
    requirement=Requirement(
        frozenset({Demand.CONSENT}),
        quorums=frozenset({Quorum(proof_class=ProofClass.CONSENT, people=1, group="oncall")}),
        barred=frozenset({"zoe", "cy"}),
    ),
    effects=frozenset({"move_money", "destroy"}),
    findings=(
        Finding(
            signal="tools",
            cause=Doubt.INTENT,
            band=Band.ALARMING,
            reason=Reason(Code.NEW_NETWORK, "drift", "never before"),
            nats=7.5,
        ),
    ),
)
WHICH: dict[str, Json] = {
    "challenge_id": CALL.id,
    "principal": "deployer",
    "on_behalf_of": "oli",
    "cred_thumbprint": "1a2b3c4d5e6f7a8b",
    "server": "payments",
    "method": "tools/call",
    "kind": "tool",
    "tool": "refund",
    "args_digest": "5" * 64,
}
SIMPLE = replace(CALL, requirement=Requirement(frozenset({Demand.CONSENT})))
ANN = replace(nouns.consent("ann", "webauthn"), note="planned", view_digest="7" * 64, attestation=1)
PROOF: dict[str, Json] = {
    "class": "consent",
    "kind": "webauthn",
    "factor": "webauthn-ann",
    "subject": "ann",
    "attestation": 1,
    "view_digest": "7" * 64,
    "note": "planned",
    "solo": False,
}


def told(challenge: Challenge, event: Event, now: float = NOW + 5) -> dict[str, dict[str, Json]]:
    """The records of this event by name, without what every record of a challenge says."""
    _, effects = step(challenge, event, now)
    found = {one.event: dict(one.fields) for one in effects if isinstance(one, Record)}
    for fields in found.values():
        assert {name: fields.pop(name) for name in WHICH} == WHICH
    return found


SATISFIED, _ = step(SIMPLE, Proven(ANN), NOW + 5)


def test_the_record_of_an_opening_says_which_call_of_whom_why_and_what_must_be_proven() -> None:
    assert records.opened(CALL, ["a signed intent"]) == WHICH | {
        "tool_def_hash": "d" * 64,
        "policy_revision": "r" * 64,
        "rule_id": "payments.yaml#tools.refund",
        "sensitivity": "sensitive",
        "effects": ["destroy", "move_money"],
        "reasons": [{"code": "tag_sensitive", "by": "payments-team", "evidence": ""}],
        "findings": [
            {
                "signal": "tools",
                "cause": "intent",
                "band": "alarming",
                "code": "new_network",
                "evidence": "never before",
                "nats": 7.5,
            }
        ],
        "requirement": CALL.requirement.label,
        "approver_group": "approvers",
        "quorums": list(CALL.requirement.terms),
        "barred": ["cy", "zoe"],
        "expires": int(NOW) + 900,
        "counterfactual": ["a signed intent"],
    }


def test_the_long_form_of_a_requirement_is_on_record_only_where_there_is_one() -> None:
    assert records.opened(SIMPLE, ()).keys().isdisjoint({"quorums", "barred"})


def test_the_record_of_a_proof_says_whose_of_which_class_and_what_is_missing_still() -> None:
    two = replace(SIMPLE, requirement=Requirement(frozenset({Demand.TWO_PEOPLE})))
    accepted = told(two, Proven(ANN))["proof.accepted"]
    assert accepted.pop("missing")
    assert accepted == {"requirement": two.requirement.label, "proof": PROOF}
    assert told(SIMPLE, Proven(ANN))["proof.accepted"]["missing"] == ""


@pytest.mark.parametrize(("after", "hurried"), [(0.0, True), (1.25, True), (1.999, True), (2.0, False), (90, False)])
def test_an_approval_within_two_seconds_of_the_opening_is_on_record_with_its_time(after: float, hurried: bool) -> None:
    found = told(SIMPLE, Proven(ANN), NOW + after).get("proof.hurried")
    assert found == ({"subject": "ann", "decide_ms": round(after * 1000)} if hurried else None)


def test_a_machine_and_a_person_who_was_shown_nothing_are_in_no_hurry() -> None:
    machine = replace(SIMPLE, requirement=Requirement(frozenset({Demand.POSSESSION})))
    assert "proof.hurried" not in told(machine, Proven(replace(nouns.possession(), view_digest="7" * 64)), NOW)
    assert "proof.hurried" not in told(SIMPLE, Proven(replace(ANN, view_digest="")), NOW)


def test_the_record_of_broken_glass_says_who_and_why() -> None:
    glass = replace(ANN, proof_class=ProofClass.EMERGENCY, kind="break_glass", note="INC-7: production is down")
    after, _ = step(SIMPLE, Proven(glass), NOW + 5)
    assert told(SIMPLE, Proven(glass))["glass.broken"] == {"by": "ann", "because": "INC-7: production is down"}
    assert after.expires == min(SIMPLE.expires, NOW + 5 + 900)


def test_the_record_of_a_spent_grant_names_the_grant_the_proofs_and_how_long_it_took() -> None:
    assert SATISFIED.grant is not None
    assert told(SATISFIED, Consumed(), NOW + 9) == {
        "grant.consumed": {
            "grant_id": SATISFIED.grant.id,
            "policy_revision": "r" * 64,
            "requirement": SIMPLE.requirement.label,
            "factors": [PROOF],
            "approvers": ["ann"],
            "decide_ms": 5_000,
        }
    }


@pytest.mark.parametrize(
    ("event", "name", "state", "by", "because"),
    [
        (Denied("ann", "not today"), "challenge.denied", State.DENIED, "ann", "not today"),
        (Cancelled("bob", "enough"), "challenge.cancelled", State.CANCELLED, "bob", "enough"),
        (Staled("the policy changed"), "challenge.staled", State.STALE, "", "the policy changed"),
    ],
    ids=["denied", "cancelled", "staled"],
)
def test_the_record_of_an_end_says_who_ended_it_and_why(
    event: Event, name: str, state: State, by: str, because: str
) -> None:
    assert told(SIMPLE, event) == {name: {"outcome": state.value, "by": by, "because": because}}
    ended, _ = step(SIMPLE, event, NOW + 5)
    assert (ended.state, ended.ended_by, ended.ended_because, ended.decided) == (state, by, because, NOW + 5)


@pytest.mark.parametrize(
    ("event", "name", "by", "why", "now"),
    [
        (Revoked("ann"), "grant.revoked", "ann", Code.REVOKED, NOW + 9),
        (Expired(), "challenge.expired", "", Code.EXPIRED, NOW + 900),
    ],
    ids=["revoked", "expired"],
)
def test_the_record_of_a_grant_that_was_never_spent_names_it(
    event: Event, name: str, by: str, why: Code, now: float
) -> None:
    assert SATISFIED.grant is not None
    outcome = "revoked" if by else "expired"
    expected = {"outcome": outcome, "by": by, "because": why.meaning, "grant_id": SATISFIED.grant.id}
    assert told(SATISFIED, event, now) == {name: expected}
    ended, _ = step(SATISFIED, event, now)
    assert ended.decided == NOW + 5  # when it was approved, not when it ended


def test_the_record_of_a_list_names_the_person_and_every_item_by_call_and_view() -> None:
    second = replace(CALL, id="c_" + "Z" * 22, nonce="Z" * 22, digest="6" * 64)
    shown = replace(ANN, view_digest="8" * 64)
    assert records.listed([CALL, second], [ANN, shown]) == {
        "subject": "ann",
        "factor": "webauthn-ann",
        "list_digest": list_digest([(CALL.id, "5" * 64, "7" * 64), (second.id, "6" * 64, "8" * 64)]),
        "items": [
            {"challenge_id": CALL.id, "args_digest": "5" * 64, "view_digest": "7" * 64},
            {"challenge_id": second.id, "args_digest": "6" * 64, "view_digest": "8" * 64},
        ],
    }
