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
from guard.factors.signature import CallSignatureFactor, workload_factor
from guard.model import Challenge, ProofClass
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


@pytest.mark.parametrize(
    "proof",
    ["", "x", "factor=f_1, at=1", "factor=f_1, at=\u0661, signature=" + "A" * 86 + "==", "factor=f_1;at=1;signature=A"],
    ids=["empty", "word", "short", "digits", "semicolons"],
)
def test_a_malformed_proof_does_not_verify(store: SqlStore, proof: str) -> None:
    assert refusal(store, proof) is ProofInvalidError


def test_a_revoked_locked_or_foreign_key_proves_nothing(store: SqlStore) -> None:
    enrolled = store.factors.get("f_1")
    assert enrolled is not None
    locked = replace(enrolled, locked=NOW, version=enrolled.version + 1)
    assert store.factors.swap(enrolled, locked)
    assert refusal(store, header(challenge())) is ProofLockedError
    revoked = replace(locked, locked=0.0, revoked=NOW, version=locked.version + 1)
    assert store.factors.swap(locked, revoked)
    assert refusal(store, header(challenge())) is ProofInvalidError
    spki = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    store.factors.add(workload_factor(identifier="f_2", subject="robot", spki=spki, attestation=1, now=NOW))
    assert refusal(store, header(challenge()).replace("f_1", "f_2")) is ProofWrongCallError
