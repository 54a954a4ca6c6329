"""A workload's proof that comes with its call: what it binds, and that it counts once."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from guard.errors import (
    ProofError,
    ProofExpiredError,
    ProofInvalidError,
    ProofLockedError,
    ProofReplayedError,
    ProofWrongCallError,
)
from guard.factors import register
from guard.factors.ecdsa import enrolled
from guard.factors.signature import CallSignatureFactor, SignatureFactor, workload_factor
from guard.model import Challenge, Json, ProofClass
from guard.stepup.binding import call_proof_bytes
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from tests.nouns import NOW, PRINCIPAL, challenge

KEY = generate_private_key(SECP256R1())
AT = int(NOW * 1_000_000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = SqlStore.open(tmp_path, Keyring.open(tmp_path))
    spki = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    opened.factors.add(workload_factor(identifier="f_1", subject="deployer", spki=spki, attestation=1, now=NOW))
    yield opened
    opened.close()


def header(made_for: Challenge, *, at: int = AT, audience: str = "guard") -> str:
    r, s = decode_dss_signature(KEY.sign(call_proof_bytes(made_for, audience=audience, at=at), ECDSA(SHA256())))
    signature = base64.b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).decode()
    return f"factor=f_1, at={at}, signature={signature}"


def refusal(store: SqlStore, proof: str, now: float = NOW) -> type[ProofError]:
    with pytest.raises(ProofError) as caught:
        CallSignatureFactor(store.factors, audience="guard").verify(challenge(), {"proof": proof}, now)
    return caught.type


def test_a_signature_over_the_call_is_possession_of_the_enrolled_key(store: SqlStore) -> None:
    proof = CallSignatureFactor(store.factors, audience="guard").verify(
        challenge(), {"proof": header(challenge())}, NOW
    )
    assert (proof.proof_class, proof.factor, proof.subject) == (ProofClass.POSSESSION, "f_1", "deployer")
    assert proof.attestation == 1


def test_a_proof_counts_once_and_none_that_is_older_counts_after_it(store: SqlStore) -> None:
    factor = CallSignatureFactor(store.factors, audience="guard")
    factor.verify(challenge(), {"proof": header(challenge())}, NOW)
    assert refusal(store, header(challenge())) is ProofReplayedError
    assert refusal(store, header(challenge(), at=AT - 1)) is ProofReplayedError
    factor.verify(challenge(), {"proof": header(challenge(), at=AT + 1)}, NOW)


@pytest.mark.parametrize(
    "other",
    [
        {"arguments": '{"amount":13,"to":"ACME"}'},
        {"name": "wipe"},
        {"server": "other"},
        {"method": "prompts/get"},
        {"principal": replace(PRINCIPAL, subject="robot")},
    ],
    ids=["arguments", "tool", "server", "method", "principal"],
)
def test_a_proof_made_for_another_call_does_not_verify(store: SqlStore, other: dict[str, object]) -> None:
    assert refusal(store, header(challenge(**other))) is ProofInvalidError  # type: ignore[arg-type]


def test_a_proof_made_for_another_installation_does_not_verify(store: SqlStore) -> None:
    assert refusal(store, header(challenge(), audience="elsewhere")) is ProofInvalidError


@pytest.mark.parametrize("away", [-61, 61])
def test_a_proof_that_is_a_minute_old_or_early_has_expired(store: SqlStore, away: int) -> None:
    assert refusal(store, header(challenge()), NOW + away) is ProofExpiredError


@pytest.mark.parametrize("away", [-60, 60])
def test_a_proof_counts_for_a_minute_either_way_and_makes_a_new_version_of_its_factor(
    store: SqlStore, away: int
) -> None:
    before = store.factors.get("f_1")
    CallSignatureFactor(store.factors, audience="guard").verify(challenge(), {"proof": header(challenge())}, NOW + away)
    after = store.factors.get("f_1")
    assert before is not None
    assert after == replace(before, counter=AT, version=before.version + 1)


def test_what_undoes_a_proof_that_came_with_its_call_is_for_the_factor_of_its_key_to_say(store: SqlStore) -> None:
    by_call, by_key = CallSignatureFactor(store.factors, audience="guard"), SignatureFactor(store.factors, audience="g")
    proof = by_call.verify(challenge(), {"proof": header(challenge())}, NOW)
    assert by_call.stands(challenge(), proof)
    assert by_key.stands(challenge(), proof)
    key = store.factors.get("f_1")
    assert key is not None
    assert register.revoke(store.factors, key, NOW)
    assert by_call.stands(challenge(), proof)
    assert not by_key.stands(challenge(), proof)


def test_a_workload_is_enrolled_with_its_key_and_algorithm() -> None:
    spki = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    made = workload_factor(identifier="f_9", subject="deployer", spki=spki, attestation=2, now=NOW)
    assert (made.id, made.kind, made.subject, made.created, made.attestation) == (
        "f_9",
        "signature",
        "deployer",
        NOW,
        2,
    )
    assert made.public == {"algorithm": "ecdsa-p256-sha256", "spki": base64.b64encode(spki).decode()}


@pytest.mark.parametrize("public", [{"algorithm": "rsa"}, {"algorithm": None}, {"spki": None}, {"spki": 7}])
def test_a_factor_of_another_algorithm_or_without_a_key_verifies_nothing(public: dict[str, Json]) -> None:
    spki = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    made = workload_factor(identifier="f_9", subject="deployer", spki=spki, attestation=2, now=NOW)
    assert enrolled(made).public_numbers() == KEY.public_key().public_numbers()
    with pytest.raises(ProofInvalidError):
        enrolled(replace(made, public={**made.public, **public}))


@pytest.mark.parametrize(
    "proof",
    ["", "x", "factor=f_1, at=1", "factor=f_1, at=\u0661, signature=" + "A" * 86 + "==", "factor=f_1;at=1;signature=A"],
    ids=["empty", "word", "short", "digits", "semicolons"],
)
def test_a_malformed_proof_does_not_verify(store: SqlStore, proof: str) -> None:
    assert refusal(store, proof) is ProofInvalidError


def test_a_revoked_locked_or_foreign_key_proves_nothing(store: SqlStore) -> None:
    working = store.factors.get("f_1")
    assert working is not None
    locked = replace(working, locked=NOW, version=working.version + 1)
    assert store.factors.swap(working, locked)
    assert refusal(store, header(challenge())) is ProofLockedError
    revoked = replace(locked, locked=0.0, revoked=NOW, version=locked.version + 1)
    assert store.factors.swap(locked, revoked)
    assert refusal(store, header(challenge())) is ProofInvalidError
    spki = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    store.factors.add(workload_factor(identifier="f_2", subject="robot", spki=spki, attestation=1, now=NOW))
    assert refusal(store, header(challenge()).replace("f_1", "f_2")) is ProofWrongCallError
