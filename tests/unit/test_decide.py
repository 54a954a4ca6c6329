"""The decision point: Permit, Challenge or Deny, and what a grant still covers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.decide import Settings, decide
from guard.model import (
    Call,
    Challenge,
    Classification,
    Decision,
    Demand,
    Deny,
    Finding,
    Grant,
    Permit,
    Proof,
    Requirement,
    Sensitivity,
)
from guard.reasons import Code
from tests import nouns, reference

SETTINGS = Settings(irreversible=nouns.IRREVERSIBLE, expires=900)
TAGS = Classification(sensitivity=Sensitivity.CRITICAL, revision="r" * 64, rule="payments.yaml#tools.refund")
CALL = nouns.call()


def decided(
    call: Call = CALL,
    tags: Classification = TAGS,
    findings: tuple[Finding, ...] = (),
    grants: tuple[Grant, ...] = (),
    now: float = nouns.NOW,
) -> Decision:
    return decide(call, tags, findings, grants, now, settings=SETTINGS)


def grant_for(call: Call, *proofs: Proof) -> Grant:
    return Grant(
        id="g_1",
        challenge="c_1",
        digest=call.digest,
        credential=call.principal.credential,
        policy_revision=TAGS.revision,
        definition=call.definition,
        requirement=Requirement(frozenset({Demand.STEP_UP}), strict=True),
        proofs=proofs or (nouns.possession(),),
        expires=nouns.NOW + 60,
    )


def test_a_public_call_with_nothing_unusual_passes_and_says_why() -> None:
    decision = decided(tags=replace(TAGS, sensitivity=Sensitivity.PUBLIC))
    assert isinstance(decision, Permit)
    assert decision.grant is None
    assert [reason.code for reason in decision.reasons] == [Code.TAG_PUBLIC]


def test_a_critical_call_is_challenged_with_everything_an_approver_needs() -> None:
    decision = decided()
    assert isinstance(decision, Challenge)
    assert decision.id == "c_" + CALL.id[2:]
    assert decision.nonce == CALL.id[2:]
    assert decision.arguments == CALL.canonical
    assert decision.digest == CALL.digest
    assert decision.policy_revision == TAGS.revision
    assert decision.expires == nouns.NOW + 900
    assert decision.state.open


def test_a_grant_for_exactly_this_call_lets_it_pass() -> None:
    grant = grant_for(CALL)
    decision = decided(grants=(grant,))
    assert isinstance(decision, Permit)
    assert decision.grant == grant
    assert decision.reasons[0].code is Code.GRANTED


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "0" * 64},
        {"credential": "another"},
        {"policy_revision": "s" * 64},
        {"definition": "e" * 64},
        {"expires": nouns.NOW},
        {"proofs": ()},
        {"proofs": (nouns.consent("ann", "totp"),)},
        {"proofs": (nouns.possession(attestation=0),)},
        {"requirement": Requirement(frozenset({Demand.STEP_UP}), approvers="interns")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_grant_changed_in_any_bound_field_no_longer_covers_the_call(change: dict[str, object]) -> None:
    assert isinstance(decided(grants=(replace(grant_for(CALL), **change),)), Challenge)


@pytest.mark.parametrize(
    "call",
    [
        nouns.call(arguments={"amount": 13, "to": "ACME"}),
        nouns.call(arguments={"amount": 12, "to": "ACME", "cc": None}),
        nouns.call(name="refund_all"),
        nouns.call(principal=replace(nouns.PRINCIPAL, subject="other")),
        nouns.call(principal=replace(nouns.PRINCIPAL, credential="rotated")),
        nouns.call(definition="e" * 64),
    ],
    ids=["value", "member", "tool", "principal", "credential", "definition"],
)
def test_a_changed_call_after_approval_is_challenged_again(call: Call) -> None:
    assert isinstance(decided(call, grants=(grant_for(CALL),)), Challenge)


def test_the_order_of_keys_does_not_change_the_call() -> None:
    same = nouns.call(arguments={"to": "ACME", "amount": 12.0})
    assert isinstance(decided(same, grants=(grant_for(CALL),)), Permit)


def test_a_finding_after_the_approval_raises_the_bar_for_the_approval() -> None:
    grant = grant_for(CALL, nouns.consent("ann", "webauthn"))
    assert isinstance(decided(grants=(grant,)), Permit)
    assert isinstance(decided(grants=(grant,), findings=(nouns.finding(),)), Challenge)


@pytest.mark.parametrize(
    ("call", "now"),
    [
        (replace(CALL, id=""), nouns.NOW),
        (replace(CALL, id="k_short"), nouns.NOW),
        (replace(CALL, id="c_" + nouns.RANDOM), nouns.NOW),
        (replace(CALL, kind="sampling"), nouns.NOW),
        (CALL, float("nan")),
        (CALL, float("inf")),
    ],
)
def test_what_is_not_understood_is_denied(call: Call, now: float) -> None:
    assert isinstance(decided(call, now=now), Deny)
    assert isinstance(decided(call, replace(TAGS, sensitivity=Sensitivity.PUBLIC), now=now), Deny)


@given(nouns.classifications, st.lists(nouns.findings, max_size=3), st.lists(nouns.proofs, max_size=3))
def test_a_call_passes_only_if_nothing_is_required_or_everything_was_proven(
    tags: Classification, findings: list[Finding], proofs: list[Proof]
) -> None:
    tags = replace(tags, revision=TAGS.revision)
    grant = replace(grant_for(CALL), proofs=tuple(proofs))
    words = reference.demanded(tags, findings, nouns.IRREVERSIBLE)
    decision = decided(CALL, tags, tuple(findings), (grant,))
    if not words:
        assert isinstance(decision, Permit)
        assert decision.grant is None
    elif reference.met(words, proofs, critical=tags.sensitivity is Sensitivity.CRITICAL):
        assert isinstance(decision, Permit)
        assert decision.grant == grant
    else:
        assert isinstance(decision, Challenge)
        assert {str(demand) for demand in decision.requirement.demands} == words
