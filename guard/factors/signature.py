"""Possession: the call comes from the workload whose key lives in a token.

The algorithm belongs to the enrolled key and is never read from a message: ECDSA over P-256 with
SHA-256. A signature is the 64 bytes r‖s of PKCS#11 (IEEE P1363), in canonical base64. The bytes signed are
those of `guard.stepup.binding`; the challenge's nonce, not the signature, makes a proof unique.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from guard.errors import (
    ProofExpiredError,
    ProofInvalidError,
    ProofLockedError,
    ProofReplayedError,
    ProofWrongCallError,
)
from guard.factors.ecdsa import ALGORITHM, check, decode, enrolled, public_key
from guard.model import Challenge, Json, Proof, ProofClass
from guard.ports import Factor, Factors
from guard.stepup.binding import SKEW, call_proof_bytes, challenge_bytes

KIND: Final = "signature"


def workload_factor(*, identifier: str, subject: str, spki: bytes, attestation: int, now: float) -> Factor:
    """An enrolled workload key. `attestation` is the level that enrolment established.

    Raises:
        ProofError: the key is not P-256 (`factor_unsuitable`).
    """
    encoded = public_key(spki).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Factor(
        id=identifier,
        kind=KIND,
        subject=subject,
        created=now,
        attestation=attestation,
        public={"algorithm": ALGORITHM, "spki": base64.b64encode(encoded).decode()},
    )


class SignatureFactor:
    """Verifies a workload's signature over a challenge (a `guard.ports.FactorVerifier`).

    Evidence: `factor` (its id) and `signature` (base64 of r‖s). `audience` names this installation.
    """

    __slots__ = ("_audience", "_factors")

    def __init__(self, factors: Factors, *, audience: str) -> None:
        self._factors, self._audience = factors, audience

    def verify(self, challenge: Challenge, evidence: Mapping[str, Json], now: float) -> Proof:
        """The workload's possession of its key, at `now` (Unix seconds).

        Raises:
            ProofInvalidError: unknown or revoked factor, or the signature does not verify.
            ProofWrongCallError: the factor belongs to another principal than the challenge.
            ProofLockedError: the factor is locked.
        """
        identifier, signature = evidence.get("factor"), evidence.get("signature")
        if not isinstance(identifier, str) or not isinstance(signature, str):
            raise ProofInvalidError(detail="evidence lacks factor or signature")
        factor = _working(self._factors, identifier, challenge)
        signed = challenge_bytes(challenge, audience=self._audience)
        check(enrolled(factor), decode(signature), signed)
        return _possession(factor, now)

    def stands(self, challenge: Challenge, proof: Proof) -> bool:
        """Whether the workload's key was not revoked since."""
        if proof.proof_class is not ProofClass.POSSESSION:
            return True
        factor = self._factors.get(proof.factor)
        return factor is not None and factor.subject == challenge.principal.subject and not factor.revoked


class CallSignatureFactor:
    """Verifies a workload's signature that came with the call itself (a `guard.ports.FactorVerifier`).

    Evidence: `proof`, the header `Guard-Proof: factor=ID, at=MICROSECONDS, signature=BASE64` over
    `guard.stepup.binding.call_proof_bytes`. Each proof of a factor must be later than the last one that counted, by
    compare-and-swap in the store: the same proof never counts twice, whoever sends it again and to whichever replica.
    """

    __slots__ = ("_audience", "_factors")

    _FORM: Final = re.compile(r"factor=([0-9A-Za-z_-]{1,64}), ?at=([0-9]{1,16}), ?signature=([0-9A-Za-z+/]{86}==)")
    _MICROSECONDS: Final = 1_000_000

    def __init__(self, factors: Factors, *, audience: str) -> None:
        self._factors, self._audience = factors, audience

    def verify(self, challenge: Challenge, evidence: Mapping[str, Json], now: float) -> Proof:
        """The workload's possession of its key, at `now` (Unix seconds).

        Raises:
            ProofInvalidError: malformed, unknown or revoked factor, or the signature does not verify.
            ProofWrongCallError: the factor belongs to another principal than the challenge.
            ProofLockedError: the factor is locked.
            ProofExpiredError: it was signed more than a minute ago, or in the future.
            ProofReplayedError: this or a later proof of the factor counted already.
        """
        proof = evidence.get("proof")
        form = self._FORM.fullmatch(proof) if isinstance(proof, str) else None
        if form is None:
            raise ProofInvalidError(detail="the header is not of the form factor=, at=, signature=")
        identifier, at, signature = form[1], int(form[2]), form[3]
        factor = _working(self._factors, identifier, challenge)
        signed = call_proof_bytes(challenge, audience=self._audience, at=at)
        check(enrolled(factor), decode(signature), signed)
        if not abs(now - at / self._MICROSECONDS) <= SKEW:
            raise ProofExpiredError
        while factor.counter < at:
            if self._factors.swap(factor, replace(factor, counter=at, version=factor.version + 1)):
                return _possession(factor, now)
            factor = _working(self._factors, identifier, challenge)
        raise ProofReplayedError

    def stands(self, challenge: Challenge, proof: Proof) -> bool:
        """True: the key behind it is looked after by `SignatureFactor`, which its proof names."""
        del challenge, proof
        return True


def _working(factors: Factors, identifier: str, challenge: Challenge) -> Factor:
    """The factor, if it may answer for the challenge's principal."""
    factor = factors.get(identifier)
    if factor is None or factor.kind != KIND or factor.revoked:
        raise ProofInvalidError(detail=f"there is no working {KIND} factor {identifier!r}")
    if factor.subject != challenge.principal.subject:
        raise ProofWrongCallError(detail=f"factor {identifier} belongs to {factor.subject}")
    if factor.locked:
        raise ProofLockedError(detail=f"factor {identifier}")
    return factor


def _possession(factor: Factor, now: float) -> Proof:
    return Proof(
        proof_class=ProofClass.POSSESSION,
        kind=KIND,
        factor=factor.id,
        subject=factor.subject,
        at=now,
        attestation=factor.attestation,
    )
