"""The requirement table, what satisfies it, and what would have changed it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.model import Band, Classification, Demand, Doubt, Finding, Proof, ProofClass, Requirement, Sensitivity
from guard.quorum import voices
from guard.reasons import Code, Reason
from guard.requirement import counterfactual, missing, parse, required, satisfied
from tests import nouns, reference

C, P, TWO, UP = Demand.CONSENT, Demand.POSSESSION, Demand.TWO_PEOPLE, Demand.STEP_UP


def need(*demands: Demand, strict: bool = False) -> Requirement:
    return Requirement(frozenset(demands), strict=strict)


@given(nouns.classifications, st.lists(nouns.findings, max_size=4))
def test_what_is_required_is_what_the_table_says(classification: Classification, findings: list[Finding]) -> None:
    requirement, reasons = required(classification, findings, irreversible=nouns.IRREVERSIBLE)
    assert requirement.demands == reference.demanded(classification, findings, nouns.IRREVERSIBLE)
    assert requirement.strict is (classification.sensitivity is Sensitivity.CRITICAL)
    assert reasons


@given(nouns.classifications, st.lists(nouns.findings, max_size=3), nouns.findings)
def test_one_more_finding_never_lowers_the_requirement(
    classification: Classification, findings: list[Finding], one_more: Finding
) -> None:
    before, why = required(classification, findings, irreversible=nouns.IRREVERSIBLE)
    after, more = required(classification, [*findings, one_more], irreversible=nouns.IRREVERSIBLE)
    assert before.demands <= after.demands
    assert set(why) <= set(more)


@given(nouns.classifications, nouns.classifications, st.lists(nouns.findings, max_size=3))
def test_one_more_tag_never_lowers_the_requirement(
    one: Classification, other: Classification, findings: list[Finding]
) -> None:
    both = Classification(
        sensitivity=max(one.sensitivity, other.sensitivity),
        effects=one.effects | other.effects,
        demands=one.demands | other.demands,
        tagged=one.tagged and other.tagged,
    )
    low, _ = required(one, findings, irreversible=nouns.IRREVERSIBLE)
    high, _ = required(both, findings, irreversible=nouns.IRREVERSIBLE)
    assert low.demands <= high.demands
    assert low.strict <= high.strict


@given(st.frozensets(st.sampled_from(Demand)), st.booleans(), st.lists(nouns.proofs, max_size=4))
def test_proofs_are_counted_as_by_hand(demands: frozenset[Demand], strict: bool, proofs: list[Proof]) -> None:
    requirement = Requirement(demands, strict=strict)
    expected = reference.met((str(demand) for demand in demands), proofs, critical=strict)
    assert satisfied(requirement, proofs, nouns.NOW) is expected
    assert bool(missing(requirement, proofs)) is not expected


@given(st.frozensets(st.sampled_from(Demand)), st.booleans(), st.lists(nouns.proofs, max_size=4))
def test_an_emergency_meets_every_requirement_and_is_nobodys_consent(
    demands: frozenset[Demand], strict: bool, proofs: list[Proof]
) -> None:
    requirement = Requirement(demands, strict=strict)
    emergency = replace(nouns.consent("max", "break_glass"), proof_class=ProofClass.EMERGENCY)
    assert satisfied(requirement, [*proofs, emergency], nouns.NOW)
    assert voices(requirement, [*proofs, emergency]) == voices(requirement, proofs)


@given(st.frozensets(st.sampled_from(Demand)), st.sampled_from(Demand), st.booleans(), st.lists(nouns.proofs))
def test_whatever_meets_a_requirement_meets_every_lower_one(
    demands: frozenset[Demand], more: Demand, strict: bool, proofs: list[Proof]
) -> None:
    if satisfied(Requirement(demands | {more}, strict=strict), proofs, nouns.NOW):
        assert satisfied(Requirement(demands, strict=strict), proofs, nouns.NOW)
        assert satisfied(Requirement(demands, strict=False), proofs, nouns.NOW)


def test_one_person_with_two_factors_is_one_person() -> None:
    assert not satisfied(need(TWO), [nouns.consent("ann", "totp"), nouns.consent("ann", "webauthn")], nouns.NOW)
    assert satisfied(need(TWO), [nouns.consent("ann"), nouns.consent("bob")], nouns.NOW)


def test_whoever_signs_as_the_workload_is_not_someone_else() -> None:
    assert not satisfied(need(C, P), [nouns.possession("deployer"), nouns.consent("deployer")], nouns.NOW)


def test_a_bare_key_is_no_possession() -> None:
    assert not satisfied(need(P), [nouns.possession(attestation=0)], nouns.NOW)


@pytest.mark.parametrize("demand", [UP, C])
def test_a_code_alone_never_satisfies_a_critical_call(demand: Demand) -> None:
    assert not satisfied(need(demand, strict=True), [nouns.consent("ann", "totp")], nouns.NOW)
    assert satisfied(need(demand, strict=True), [nouns.consent("ann", "totp"), nouns.possession()], nouns.NOW)
    assert satisfied(need(demand, strict=True), [nouns.consent("ann", "webauthn")], nouns.NOW)


def test_a_signature_answers_a_step_up_but_not_a_demand_for_consent() -> None:
    assert satisfied(need(UP, strict=True), [nouns.possession()], nouns.NOW)
    assert not satisfied(need(C, strict=True), [nouns.possession()], nouns.NOW)


@pytest.mark.parametrize(
    ("requirement", "proofs", "words"),
    [
        (need(P), [], "the workload's signature"),
        (need(C), [], "a person of group approvers"),
        (need(UP), [], "the workload's signature or a person of group approvers"),
        (need(TWO), [], "two people of group approvers"),
        (need(TWO), [nouns.consent("ann")], "a second person of group approvers"),
        (need(P, C), [nouns.consent("ann")], "the workload's signature"),
        (need(P, C), [nouns.possession()], "a person of group approvers"),
        (
            need(C, strict=True),
            [nouns.consent("ann")],
            "the workload's signature, without which the one-time code of ann does not count",
        ),
        (need(C), [nouns.consent("ann")], ""),
    ],
)
def test_what_is_missing_is_said_in_words(requirement: Requirement, proofs: list[Proof], words: str) -> None:
    assert missing(requirement, proofs) == words


def test_every_named_requirement_is_understood_and_nothing_else() -> None:
    assert parse("both") == {P, C}
    assert {parse(name) for name in ("step_up", "possession", "consent", "two_people")} == {
        frozenset({demand}) for demand in Demand
    }
    with pytest.raises(ValueError, match="'approval' is not a requirement"):
        parse("approval")


def test_an_irreversible_effect_matters_on_critical_calls_only() -> None:
    tags = Classification(sensitivity=Sensitivity.SENSITIVE, effects=frozenset({"destroy"}))
    assert not required(tags, (), irreversible=nouns.IRREVERSIBLE)[0]
    requirement, reasons = required(
        replace(tags, sensitivity=Sensitivity.CRITICAL), (), irreversible=nouns.IRREVERSIBLE
    )
    assert requirement.irreducible == {C}
    assert Reason(Code.IRREVERSIBLE, evidence="destroy") in reasons


def test_a_finding_that_changes_nothing_is_no_reason() -> None:
    tags = Classification(sensitivity=Sensitivity.PUBLIC)
    _, reasons = required(tags, [nouns.finding()], irreversible=nouns.IRREVERSIBLE)
    assert [reason.code for reason in reasons] == [Code.TAG_PUBLIC]


def test_the_owners_own_reasons_are_not_repeated() -> None:
    said = (Reason(Code.TAG_CRITICAL, "payments-team", "real money"),)
    tags = Classification(sensitivity=Sensitivity.CRITICAL, owner="payments-team", reasons=said)
    assert required(tags, (), irreversible=nouns.IRREVERSIBLE)[1] == said


def test_the_counterfactual_names_what_would_have_passed() -> None:
    tags = Classification(sensitivity=Sensitivity.INTERNAL)
    lines = counterfactual(tags, [nouns.finding()], nouns.IRREVERSIBLE)
    assert "drift: would be permitted without new_network" in lines
    assert "tag: would be permitted if it were public" in lines


def test_the_counterfactual_of_a_critical_call_says_that_it_always_steps_up() -> None:
    tags = Classification(sensitivity=Sensitivity.CRITICAL, effects=frozenset({"destroy"}))
    lines = counterfactual(tags, [nouns.finding(Doubt.INTENT, Band.ALARMING)], nouns.IRREVERSIBLE)
    assert "tag: critical always steps up" in lines
    assert "drift: would need consent without new_network" in lines
    assert not any("permitted without" in line for line in lines)


@given(nouns.classifications, st.lists(nouns.findings, max_size=3))
def test_a_call_that_needs_nothing_has_no_counterfactual_and_every_other_has_one(
    tags: Classification, findings: list[Finding]
) -> None:
    requirement, _ = required(tags, findings, irreversible=nouns.IRREVERSIBLE)
    assert bool(counterfactual(tags, findings, nouns.IRREVERSIBLE)) is bool(requirement)
