"""Is this key fit to speak for a workload? Asked once, when it is enrolled.

Level 1 rests on what the token says of the key (made inside, never extractable, always sensitive) and
on a signature over a fresh nonce. It is no remote proof, for a module may lie; but an imported key, which
may have copies anywhere, is told from one that was made in the token.
"""

from __future__ import annotations

import secrets
from typing import Final

from guard.errors import ProofError, ProofInvalidError
from guard.factors import ecdsa
from guard.reasons import Code
from guard.signer.token import KeyAttributes, TokenKey

ATTESTATION: Final = 1
_NONCE_TYPE: Final = b"guard.signer-test.v1\0"  # keeps a test's signature from being a challenge's


def attest(key: TokenKey) -> bytes:
    """Examine an open key and have it sign a nonce; return its DER SubjectPublicKeyInfo.

    Raises:
        ProofError: the key was not made in the token, could leave it, is not P-256, or does not sign what its
            public half verifies (`factor_unsuitable`).
        ConfigError: the token has no public key of the same label.
        FactorUnavailableError: the token does not answer.
    """
    if flaws := _flaws(key.attributes()):
        raise ProofError(f"the key {' and '.join(flaws)}", reason=Code.FACTOR_UNSUITABLE)
    spki = key.public_spki()
    try:
        try_out(key, spki)
    except ProofInvalidError as error:
        message = "the private and the public key of this label do not belong together"
        raise ProofError(message, reason=Code.FACTOR_UNSUITABLE) from error
    return spki


def try_out(key: TokenKey, spki: bytes) -> None:
    """Let the open key sign a fresh nonce and verify the signature.

    Raises:
        ProofError: the public key is not P-256, or the signature is not by its private half.
        FactorUnavailableError: the token did not sign.
    """
    public = ecdsa.public_key(spki)
    nonce = _NONCE_TYPE + secrets.token_bytes(32)
    ecdsa.check(public, key.sign(nonce), nonce)


def _flaws(found: KeyAttributes) -> list[str]:
    """Why the key is unfit, in words that continue "the key ..."."""
    checks = {
        "was not made in the token (CKA_LOCAL is false: it was imported)": not found.local,
        "could be taken out of the token (CKA_EXTRACTABLE)": found.extractable,
        "was extractable once (CKA_NEVER_EXTRACTABLE is false)": not found.never_extractable,
        "was readable once (CKA_ALWAYS_SENSITIVE is false)": not found.always_sensitive,
    }
    return [words for words, flawed in checks.items() if flawed]
