"""The bytes a proof signs, and what a signer accepts before it signs them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import ProofError, ProofExpiredError, ProofInvalidError, ProofWrongCallError
from guard.model import Demand, Json, Principal, ProofClass, Quorum, Requirement, Sensitivity, State
from guard.reasons import Code, Reason
from guard.stepup.binding import (
    CONTENT_TYPE,
    SKEW,
    call_proof_bytes,
    challenge_bytes,
    document,
    document_bytes,
    list_digest,
    pae,
    parse_document,
)
from guard.stepup.view import render
from guard.stepup.vote import Vote
from guard.wire.canonical import digest
from tests import nouns

CHALLENGE = nouns.challenge(Demand.POSSESSION)
AUDIENCE = "guard"


def travelled() -> dict[str, Json]:
    """The document as a signer decodes it."""
    return dict(json.loads(json.dumps(document(CHALLENGE, audience=AUDIENCE))))


def parsed(value: object, *, audience: str = AUDIENCE, principal: str = "deployer", now: float = nouns.NOW) -> object:
    return parse_document(value, audience=audience, principal=principal, now=now)


def test_the_encoding_is_that_of_the_dsse_specification() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def encoded(content_type: str, value: Mapping[str, Json]) -> bytes:
    """The DSSE encoding of a document, written down here once more, as another implementation would."""
    body = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f"DSSEv1 {len(content_type)} {content_type} {len(body)} {body}".encode()


def test_a_challenge_is_signed_in_the_form_of_version_1() -> None:
    made = nouns.challenge(
        principal=replace(nouns.PRINCIPAL, on_behalf_of="oli"),
        effects=frozenset({"move_money", "destroy"}),
        requirement=Requirement(
            frozenset({Demand.POSSESSION, Demand.CONSENT}),
            quorums=frozenset({Quorum(proof_class=ProofClass.CONSENT, group="oncall")}),
            barred=frozenset({"zoe", "cy"}),
            strict=True,
        ),
    )
    assert challenge_bytes(made, audience="guard") == encoded(
        "application/vnd.guard.stepup-challenge.v1+json",
        {
            "v": 1,
            "typ": "guard.stepup-challenge",
            "aud": "guard",
            "challenge_id": f"c_{nouns.RANDOM}",
            "nonce": nouns.RANDOM,
            "iat": int(nouns.NOW),
            "exp": int(nouns.NOW) + 900,
            "principal": {"id": "deployer", "cred_thumbprint": "1a2b3c4d5e6f7a8b"},
            "on_behalf_of": "oli",
            "upstream": "payments",
            "method": "tools/call",
            "kind": "tool",
            "tool": "refund",
            "tool_schema_digest": "d" * 64,
            "args_digest": digest('{"amount":12,"to":"ACME"}'),
            "call_digest": "5" * 64,
            "view_digest": render(made).digest,
            "policy": {"revision": "r" * 64, "rule": "payments.yaml#tools.refund"},
            "tier": "sensitive",
            "effects": ["destroy", "move_money"],
            "reasons": ["tag_sensitive"],
            "requirement": {
                "demands": ["consent", "possession"],
                "approvers": "approvers",
                "strict": True,
                "quorums": list(made.requirement.terms),
                "barred": ["cy", "zoe"],
            },
        },
    )


def test_a_call_is_signed_with_its_proof_in_the_form_of_version_1() -> None:
    assert call_proof_bytes(CHALLENGE, audience="guard", at=17) == encoded(
        "application/vnd.guard.call-proof.v1+json",
        {
            "v": 1,
            "typ": "guard.call-proof",
            "aud": "guard",
            "principal": "deployer",
            "upstream": "payments",
            "method": "tools/call",
            "tool": "refund",
            "args_digest": digest('{"amount":12,"to":"ACME"}'),
            "at": 17,
        },
    )


def test_a_list_is_approved_in_the_form_of_version_1() -> None:
    text = '{"items":[["c_1","5","7"],["c_2","6","8"]],"typ":"guard.approval-list","v":1}'
    assert list_digest([("c_1", "5", "7"), ("c_2", "6", "8")]) == digest(text)


@pytest.mark.parametrize("also", ["", "allows 1 further call"])
def test_a_passkey_signs_a_vote_in_the_form_of_version_1(also: str) -> None:
    vote = Vote(challenge=CHALLENGE, approver="ann", decision="deny", view_digest="7" * 64, evidence={}, also=also)
    document = {
        "v": 1,
        "typ": "guard.vote",
        "aud": "guard",
        "once": "secret",
        "challenge_id": CHALLENGE.id,
        "nonce": CHALLENGE.nonce,
        "call_digest": CHALLENGE.digest,
        "approver": "ann",
        "decision": "deny",
        "view_digest": "7" * 64,
        **({"also": also} if also else {}),
    }
    expected = sha256(encoded("application/vnd.guard.passkey.v1+json", document)).digest()
    assert vote.signed(once="secret", audience="guard") == expected


def test_guard_and_signer_build_the_same_bytes() -> None:
    value = travelled()
    shuffled = dict(sorted(value.items(), reverse=True))
    bound = challenge_bytes(CHALLENGE, audience=AUDIENCE)
    assert document_bytes(parse_document(shuffled, audience=AUDIENCE, principal="deployer", now=nouns.NOW)) == bound
    assert bound.startswith(b"DSSEv1 %d %b " % (len(CONTENT_TYPE), CONTENT_TYPE.encode()))


def test_a_signer_and_a_person_are_told_that_it_is_the_result_they_are_asked_for() -> None:
    about = replace(CHALLENGE, kind="result")
    value = json.loads(json.dumps(document(about, audience=AUDIENCE)))
    assert parse_document(value, audience=AUDIENCE, principal="deployer", now=nouns.NOW)["kind"] == "result"
    assert "what came back from refund, which ran" in render(about).text
    assert challenge_bytes(about, audience=AUDIENCE) != challenge_bytes(CHALLENGE, audience=AUDIENCE)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "c_" + "Z" * 22},
        {"nonce": "Z" * 22},
        {"principal": Principal(subject="other", credential="1a2b3c4d5e6f7a8b", owner="olga")},
        {"principal": replace(nouns.PRINCIPAL, credential="rotated")},
        {"principal": replace(nouns.PRINCIPAL, on_behalf_of="carl")},
        {"server": "payments2"},
        {"method": "resources/read"},
        {"kind": "resource"},
        {"name": "refund_all"},
        {"arguments": '{"amount":13,"to":"ACME"}'},
        {"definition": "e" * 64},
        {"digest": "6" * 64},
        {"policy_revision": "s" * 64},
        {"rule": "payments.yaml#tools.other"},
        {"sensitivity": Sensitivity.CRITICAL},
        {"effects": frozenset({"read"})},
        {"requirement": Requirement(frozenset({Demand.POSSESSION, Demand.CONSENT}))},
        {"requirement": Requirement(frozenset({Demand.POSSESSION}), approvers="interns")},
        {"requirement": Requirement(frozenset({Demand.POSSESSION}), strict=True)},
        {"reasons": (Reason(Code.UNTAGGED),)},
        {"opened": nouns.NOW + 1},
        {"expires": nouns.NOW + 901},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_bound_field_changes_the_bytes(change: dict[str, object]) -> None:
    assert challenge_bytes(replace(CHALLENGE, **change), audience=AUDIENCE) != challenge_bytes(
        CHALLENGE, audience=AUDIENCE
    )


def test_another_installation_gets_other_bytes() -> None:
    assert challenge_bytes(CHALLENGE, audience="a") != challenge_bytes(CHALLENGE, audience="b")


def test_a_proof_that_came_meanwhile_does_not_change_the_bytes() -> None:
    voted = replace(CHALLENGE, proofs=(nouns.consent(),), version=1)
    assert challenge_bytes(voted, audience=AUDIENCE) == challenge_bytes(CHALLENGE, audience=AUDIENCE)


def test_the_document_holds_the_digest_of_the_arguments_and_never_the_arguments() -> None:
    secret = nouns.challenge(Demand.POSSESSION, arguments='{"password":"hunter2"}')
    made = document(secret, audience=AUDIENCE)
    assert made["args_digest"] == digest('{"password":"hunter2"}')
    assert "hunter2" not in json.dumps(made)


@pytest.mark.parametrize("state", [State.DENIED, State.CONSUMED, State.EXPIRED])
def test_nothing_is_signed_for_a_challenge_that_has_ended(state: State) -> None:
    with pytest.raises(ProofExpiredError):
        challenge_bytes(replace(CHALLENGE, state=state, arguments=""), audience=AUDIENCE)


@pytest.mark.parametrize("name", document(CHALLENGE, audience=AUDIENCE).keys())
@pytest.mark.parametrize("value", [None, True, -1, 1.5, "", [], [[]], {}, "\x00" * 5000], ids=repr)
def test_the_signer_refuses_a_member_of_the_wrong_form(name: str, value: object) -> None:
    original = travelled()
    changed = {**original, name: value}
    if value == original[name] or (value in ("", []) and name in {"on_behalf_of", "method", "effects", "reasons"}):
        return  # these members may be empty
    if name == "tool_schema_digest" and value == "":
        return  # resources and prompts have no definition
    with pytest.raises(ProofError):
        parsed(changed)


def test_the_signer_refuses_missing_and_unknown_members() -> None:
    value = travelled()
    with pytest.raises(ProofInvalidError):
        parsed({**value, "alg": "none"})
    for name in value:
        with pytest.raises(ProofInvalidError):
            parsed({key: member for key, member in value.items() if key != name})
    with pytest.raises(ProofInvalidError):
        parsed({**value, "requirement": {"demands": ["consent"], "approvers": "a", "strict": False, "skip": True}})


def test_the_signer_signs_only_for_its_own_installation_and_principal() -> None:
    with pytest.raises(ProofWrongCallError):
        parsed(travelled(), audience="other")
    with pytest.raises(ProofWrongCallError):
        parsed(travelled(), principal="other")


@pytest.mark.parametrize("now", [nouns.NOW - 61, nouns.NOW + 960, float("nan")])
def test_the_signer_refuses_what_is_not_fresh(now: float) -> None:
    with pytest.raises(ProofExpiredError):
        parsed(travelled(), now=now)


@pytest.mark.parametrize(
    ("now", "fresh"),
    [
        (nouns.NOW - SKEW - 0.5, False),
        (nouns.NOW - SKEW, True),
        (nouns.NOW + 900 + SKEW - 0.5, True),
        (nouns.NOW + 900 + SKEW, False),
    ],
)
def test_a_document_is_fresh_with_a_minute_for_clocks_that_differ(now: float, fresh: bool) -> None:
    if fresh:
        assert parsed(travelled(), now=now)
        return
    with pytest.raises(ProofExpiredError):
        parsed(travelled(), now=now)


def test_an_id_that_does_not_carry_its_nonce_is_refused() -> None:
    with pytest.raises(ProofInvalidError):
        parsed({**travelled(), "nonce": "Z" * 22})


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(travelled())), _json)
def test_the_signer_accepts_or_refuses_and_never_fails(name: str, value: object) -> None:
    with suppress(ProofError):
        parsed({**travelled(), name: value})
