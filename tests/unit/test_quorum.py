"""Quorums: who is one voice, which places voices fill, how old and how strong a proof must be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.model import Demand, Proof, ProofClass, Quorum, Requirement
from guard.quorum import counts, stale, unfilled, voices, welcome
from guard.requirement import missing, satisfied, wants_consent
from tests import nouns

NOW = nouns.NOW
CONSENT, POSSESSION = ProofClass.CONSENT, ProofClass.POSSESSION
ONCALL = Quorum(proof_class=CONSENT, group="oncall")
AUDIT = Quorum(proof_class=CONSENT, group="audit")


def need(*quorums: Quorum, demands: Sequence[Demand] = (Demand.CONSENT,), **more: object) -> Requirement:
    return replace(Requirement(frozenset(demands), quorums=frozenset(quorums)), **more)  # type: ignore[arg-type]


def vote(
    name: str, *groups: str, kind: str = "totp", at: float = NOW, attestation: int = 0, solo: bool = False
) -> Proof:
    proof = nouns.consent(name, kind)
    return replace(proof, groups=frozenset(groups), at=at, attestation=attestation, solo=solo)


def intent(signer: str = "releases", number: int = 1, attestation: int = 1) -> Proof:
    return replace(nouns.consent(signer, "intent", f"i_{number}"), attestation=attestation)


# ------------------------------------------------------------------ places


def test_one_person_in_two_groups_fills_one_place() -> None:
    both = vote("ann", "oncall", "audit")
    assert not satisfied(need(ONCALL, AUDIT), [both], NOW)
    assert satisfied(need(ONCALL, AUDIT), [both, vote("ben", "oncall")], NOW)
    assert satisfied(need(ONCALL, AUDIT), [both, vote("ben", "audit")], NOW)
    assert not satisfied(need(ONCALL, AUDIT), [both, vote("ben")], NOW)


def test_one_person_with_two_factors_fills_one_place() -> None:
    two = replace(ONCALL, people=2)
    assert not satisfied(need(two), [vote("ann", "oncall"), vote("ann", "oncall", kind="webauthn")], NOW)
    assert not satisfied(need(two), [vote("ann", "oncall"), vote("ANN", "oncall", kind="webauthn")], NOW)
    assert satisfied(need(two), [vote("ann", "oncall"), vote("ben", "oncall")], NOW)


def test_more_votes_than_asked_for_still_count() -> None:
    votes = [vote(name, "oncall") for name in ("ann", "ben", "cy", "dan")]
    assert satisfied(need(ONCALL), votes, NOW)
    assert satisfied(need(replace(ONCALL, people=2), AUDIT), [*votes, vote("eve", "audit", "oncall")], NOW)


def test_what_several_rules_ask_of_one_group_the_same_people_answer() -> None:
    strong = replace(ONCALL, kinds=frozenset({"webauthn"}))
    assert satisfied(need(ONCALL, strong), [vote("ann", "oncall", kind="webauthn")], NOW)
    assert not satisfied(need(ONCALL, strong), [vote("ann", "oncall")], NOW)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.frozensets(st.sampled_from(["oncall", "audit", "x"])))))
def test_places_are_filled_as_by_trying_every_way(people: list[tuple[str, frozenset[str]]]) -> None:
    wanted = {"oncall": 2, "audit": 1, "x": 1}
    requirement = need(*(Quorum(proof_class=CONSENT, group=group, people=n) for group, n in wanted.items()))
    groups: dict[str, frozenset[str]] = {}
    for name, member in people:
        groups[name] = groups.get(name, frozenset()) | member
    expected = any(
        all(sum(place == group for place in places) >= n for group, n in wanted.items())
        for places in itertools.product(*([*sorted(member), ""] for member in groups.values()))
    )
    votes = [vote(name, *member) for name, member in groups.items()]
    assert satisfied(requirement, votes, NOW) is expected


# ------------------------------------------------------------------ the conjunction

quorums = st.builds(
    Quorum,
    proof_class=st.sampled_from(ProofClass),
    people=st.integers(1, 3),
    group=st.sampled_from(["", "oncall", "audit"]),
    kinds=st.frozensets(st.sampled_from(["totp", "webauthn", "intent", "signature"]), max_size=2),
    attestation=st.integers(0, 2),
    max_age=st.sampled_from([0.0, 60.0, 600.0]),
)
requirements = st.builds(
    Requirement,
    demands=st.frozensets(st.sampled_from(Demand)),
    approvers=st.just("approvers"),
    strict=st.booleans(),
    quorums=st.frozensets(quorums, max_size=3),
    barred=st.frozensets(st.sampled_from(["ann", "Ben"])),
)
given_proofs = st.lists(
    st.builds(
        replace,
        st.one_of(nouns.proofs, st.builds(intent, st.sampled_from(["releases", "ann"]), st.integers(1, 3))),
        groups=st.frozensets(st.sampled_from(["oncall", "audit"])),
        attestation=st.integers(0, 2),
        at=st.sampled_from([NOW, NOW - 100, NOW - 1000, NOW + 1000]),
    ),
    max_size=6,
)


@given(requirements, requirements, given_proofs)
def test_a_joined_requirement_is_met_only_by_what_meets_both(
    one: Requirement, other: Requirement, proofs: list[Proof]
) -> None:
    if satisfied(one | other, proofs, NOW):
        assert satisfied(one, proofs, NOW)
        assert satisfied(other, proofs, NOW)


@given(requirements, given_proofs)
def test_what_is_satisfied_misses_nothing_and_wants_no_consent(requirement: Requirement, proofs: list[Proof]) -> None:
    if satisfied(requirement, proofs, NOW):
        assert missing(requirement, proofs) == ""
        assert not wants_consent(requirement, proofs, NOW)
    else:
        assert missing(requirement, proofs) or any(stale(requirement, one, NOW) or one.at > NOW for one in proofs)


@given(requirements, given_proofs, nouns.proofs)
def test_one_more_proof_of_a_person_never_hurts(requirement: Requirement, proofs: list[Proof], more: Proof) -> None:
    if more.proof_class is CONSENT and satisfied(requirement, proofs, NOW):
        assert satisfied(requirement, [*proofs, more], NOW)


# ------------------------------------------------------------------ intents


def test_an_intent_is_consent_also_on_critical_calls() -> None:
    assert satisfied(need(strict=True), [intent()], NOW)


def test_intents_alone_are_never_two_people() -> None:
    two = need(demands=(Demand.TWO_PEOPLE,))
    assert not satisfied(two, [intent("releases", 1), intent("changes", 2)], NOW)
    assert satisfied(two, [intent(), vote("ann")], NOW)
    assert not satisfied(two, [intent("ann"), vote("ann")], NOW)
    assert not satisfied(need(Quorum(proof_class=CONSENT, people=2)), [intent("a", 1), intent("b", 2)], NOW)


def test_an_intent_is_never_possession() -> None:
    assert not satisfied(need(demands=(Demand.POSSESSION,)), [intent(attestation=2)], NOW)


def test_an_intent_is_no_member_of_a_group_unless_the_policy_names_intents() -> None:
    assert not satisfied(need(ONCALL), [intent()], NOW)
    assert satisfied(need(replace(ONCALL, kinds=frozenset({"webauthn", "intent"}))), [intent()], NOW)


def test_an_intent_signed_with_a_key_in_a_file_is_too_weak_where_attestation_is_asked_for() -> None:
    strong = Quorum(proof_class=CONSENT, attestation=1)
    assert not satisfied(need(strong), [intent(attestation=0)], NOW)
    assert satisfied(need(strong), [intent(attestation=1)], NOW)


# ------------------------------------------------------------------ who does not count


def test_whoever_changed_the_policy_is_nobody_whatever_the_spelling() -> None:
    assert not satisfied(need(barred=frozenset({"Olga"})), [vote("olga")], NOW)
    assert not satisfied(need(barred=frozenset({"releases"})), [intent()], NOW)
    assert satisfied(need(barred=frozenset({"Olga"})), [vote("olga", solo=True)], NOW)
    assert satisfied(need(barred=frozenset({"Olga"})), [vote("ann")], NOW)


def test_a_voice_is_its_name_without_regard_to_case() -> None:
    assert set(voices(need(), [vote("Ann"), vote("ANN", kind="webauthn"), vote("ben")])) == {"ann", "ben"}


# ------------------------------------------------------------------ age, kind and attestation


@pytest.mark.parametrize(("age", "fresh"), [(0, True), (600, True), (601, False), (-60, True), (-61, False)])
def test_a_proof_counts_until_it_is_too_old_and_never_from_the_future(age: float, fresh: bool) -> None:
    young = Quorum(proof_class=CONSENT, max_age=600)
    assert satisfied(need(young), [vote("ann", at=NOW - age)], NOW) is fresh
    assert stale(need(young), vote("ann", at=NOW - age), NOW) is not fresh
    assert not stale(need(), vote("ann", at=NOW - age), NOW)


def test_possession_may_have_to_be_of_higher_attestation_and_recent() -> None:
    key = Quorum(proof_class=POSSESSION, attestation=2, max_age=60)
    owned = need(key, demands=(Demand.POSSESSION,))
    assert not satisfied(owned, [nouns.possession(attestation=1)], NOW)
    assert satisfied(owned, [nouns.possession(attestation=2)], NOW)
    assert not satisfied(owned, [nouns.possession(attestation=2)], NOW + 61)
    assert not satisfied(need(replace(key, attestation=0), demands=()), [nouns.possession(attestation=0)], NOW)


@pytest.mark.parametrize(
    ("proof_class", "kind", "attestation", "taken"),
    [
        (CONSENT, "webauthn", 1, True),
        (CONSENT, "webauthn", None, True),
        (CONSENT, "webauthn", 0, False),
        (CONSENT, "totp", 2, False),
        (POSSESSION, "signature", 0, True),
    ],
)
def test_a_proof_that_no_quorum_of_its_class_takes_is_not_welcome(
    proof_class: ProofClass, kind: str, attestation: int | None, taken: bool
) -> None:
    asked = need(Quorum(proof_class=CONSENT, kinds=frozenset({"webauthn"}), attestation=1))
    assert welcome(asked, proof_class, kind, attestation) is taken


@pytest.mark.parametrize(
    ("demands", "quorums", "groups", "able"),
    [
        ((Demand.CONSENT,), (), (), True),
        ((Demand.CONSENT,), (AUDIT,), ("audit",), True),
        ((Demand.CONSENT,), (AUDIT,), ("oncall",), False),
        ((Demand.TWO_PEOPLE,), (AUDIT,), ("oncall",), True),
        ((Demand.TWO_PEOPLE,), (AUDIT, ONCALL), (), False),
        ((Demand.TWO_PEOPLE,), (replace(AUDIT, people=2),), ("oncall",), False),
        ((Demand.TWO_PEOPLE,), (AUDIT, replace(AUDIT, max_age=60)), ("oncall",), True),
        ((Demand.TWO_PEOPLE,), (AUDIT, Quorum(proof_class=CONSENT)), ("oncall",), True),
        ((Demand.CONSENT,), (Quorum(proof_class=POSSESSION, attestation=2),), (), True),
    ],
)
def test_a_voice_counts_where_a_place_may_be_its_own(
    demands: Sequence[Demand], quorums: Sequence[Quorum], groups: Sequence[str], able: bool
) -> None:
    asked = need(*quorums, demands=demands)
    assert counts(asked, vote("ann", *groups)) is able
    assert counts(asked, replace(vote("ann"), proof_class=ProofClass.EMERGENCY))


def test_a_signature_below_what_is_asked_stands_for_nothing() -> None:
    asked = need(Quorum(proof_class=POSSESSION, attestation=2), demands=(Demand.POSSESSION,))
    signed = replace(vote("robot"), proof_class=POSSESSION, kind="signature")
    assert not counts(asked, replace(signed, attestation=1))
    assert counts(asked, replace(signed, attestation=2))


def test_what_is_missing_names_the_quorum() -> None:
    asked = need(replace(ONCALL, people=2, kinds=frozenset({"webauthn"}), max_age=600, attestation=1))
    assert missing(asked, [vote("ann", "oncall")]) == (
        "consent of 2 people of group oncall, by webauthn, of attestation 1 or more, at most 600 s old"
    )
    assert [one.group for one in unfilled(need(ONCALL, AUDIT), [vote("ann", "oncall", "audit")], NOW)] == [
        "audit",
        "oncall",
    ]


@pytest.mark.parametrize(
    ("requirement", "proofs", "wanted"),
    [
        (need(), [], True),
        (need(), [vote("ann")], False),
        (need(demands=(Demand.POSSESSION,)), [], False),
        (need(demands=(Demand.STEP_UP,)), [], True),
        (need(demands=(Demand.STEP_UP,)), [nouns.possession()], False),
        (need(ONCALL), [vote("ann")], True),
        (need(Quorum(proof_class=POSSESSION, attestation=2), demands=()), [], False),
    ],
)
def test_consent_is_wanted_only_where_it_would_help(
    requirement: Requirement, proofs: list[Proof], wanted: bool
) -> None:
    assert wants_consent(requirement, proofs, NOW) is wanted
