"""ECDSA over P-256 with SHA-256, as every enrolled key signs: the algorithm belongs to the key, never to a message."""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from guard.errors import ProofError, ProofInvalidError
from guard.ports import Factor
from guard.reasons import Code

ALGORITHM: Final = "ecdsa-p256-sha256"
SIGNATURE_BYTES: Final = 64


def public_key(spki: bytes) -> EllipticCurvePublicKey:
    """The P-256 key in a DER SubjectPublicKeyInfo (RFC 5480).

    Raises:
        ProofError: it is no such key (`factor_unsuitable`).
    """
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ProofError("not a public key", reason=Code.FACTOR_UNSUITABLE, detail=str(error)) from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ProofError("the key is not on the curve P-256", reason=Code.FACTOR_UNSUITABLE)
    return key


def check(key: EllipticCurvePublicKey, signature: bytes, signed: bytes) -> None:
    """Verify r‖s (64 bytes) over `signed`.

    Raises:
        ProofInvalidError: the signature is malformed or not by this key over these bytes.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise ProofInvalidError(detail=f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    half = SIGNATURE_BYTES // 2
    pair = encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
    try:
        key.verify(pair, signed, ECDSA(SHA256()))
    except InvalidSignature as error:
        raise ProofInvalidError(detail="the signature does not verify") from error


def spki(factor: Factor) -> bytes:
    """The enrolled key (DER); its algorithm is the one it was enrolled with or nothing.

    Raises:
        ProofInvalidError: the factor holds no such key.
    """
    found = factor.public.get("spki")
    if factor.public.get("algorithm") != ALGORITHM or not isinstance(found, str):
        raise ProofInvalidError(detail=f"factor {factor.id} is not an {ALGORITHM} key")
    return base64.b64decode(found)


def enrolled(factor: Factor) -> EllipticCurvePublicKey:
    """The public key of a factor.

    Raises:
        ProofError: the factor holds no such key.
    """
    return public_key(spki(factor))


def thumbprint(key: bytes) -> str:
    """Hex SHA-256 of a DER SubjectPublicKeyInfo: the name of a key, which its holder can compute too."""
    return sha256(key).hexdigest()


def decode(text: str) -> bytes:
    """The bytes of canonical base64, so that one signature has one spelling.

    Raises:
        ProofInvalidError: it is not canonical base64.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProofInvalidError(detail="the signature is not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise ProofInvalidError(detail="the signature is not canonical base64")
    return raw
