"""WebAuthn (Level 3): checking one registration or one assertion. Nothing here is remembered.

`fido2` reads the structures and verifies the signature. On top of what it checks (type, challenge, relying party,
presence) stand: the origin as a whole and not only its domain, no cross-origin use, user verification always, and
the few algorithms that are enrolled here, never one that a message names. `fido2` is imported when the first passkey
is looked at: most processes of a guard never see one, and it takes longer to load than they take to start.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from guard.errors import ProofError, ProofInvalidError
from guard.reasons import Code

if TYPE_CHECKING:
    from fido2.cose import CoseKey
    from fido2.webauthn import AuthenticatorData, CollectedClientData

KIND: Final = "webauthn"
ALGORITHMS: Final = (-7, -8, -257)
"""COSE: ES256, EdDSA, RS256 (Windows Hello). In the order of preference."""

_RSA_BITS: Final = 2048
_EDWARDS: Final = 6  # COSE curve Ed25519
_P256: Final = 1  # COSE curve P-256
_LONGEST: Final = 16 * 1024
_MALFORMED: Final = (
    ValueError,  # fido2's own refusals, JSON, UTF-8 and CBOR; binascii
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    RecursionError,
    struct.error,
    UnsupportedAlgorithm,
    NotImplementedError,
)
"""What reading a structure that is none may raise."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where passkeys are used: the origin of the console and the domain (relying party id) in it."""

    origin: str
    domain: str

    @classmethod
    def of(cls, public_url: str) -> Site | None:
        """The site of a console; None where browsers have no passkeys: an address, or http beyond localhost."""
        parts = urlsplit(public_url)
        host = (parts.hostname or "").lower()
        local = host == "localhost" or host.endswith(".localhost")
        named = host.rpartition(".")[2].isalpha() and ":" not in host
        if not named or (parts.scheme != "https" and not local):
            return None
        return cls(f"{parts.scheme}://{parts.netloc.lower()}", host)

    @property
    def domain_hash(self) -> bytes:
        """What an authenticator signs of the domain."""
        return sha256(self.domain.encode()).digest()


@dataclass(frozen=True, slots=True)
class Registration:
    """A new passkey: its id, its COSE key as CBOR, its signature counter, and whether it is synced."""

    credential: bytes
    key: bytes
    counter: int
    synced: bool


def register(site: Site, *, challenge: bytes, client_data: str, attestation: str) -> Registration:
    """Check a registration (`navigator.credentials.create`); texts are base64url.

    Attestation statements are not asked for and not looked at.

    Raises:
        ProofInvalidError: it is malformed, for another site or challenge, or without user verification.
        ProofError: the key is of a kind that is not taken (`factor_unsuitable`).
    """
    from fido2 import cbor  # noqa: PLC0415 - see above
    from fido2.webauthn import AttestationObject  # noqa: PLC0415 - see above

    try:
        _client(site, decode(client_data), "webauthn.create", challenge)
        made = AttestationObject(decode(attestation)).auth_data
        _flags(site, made)
        if made.credential_data is None:
            raise ProofInvalidError(detail="no credential in the registration")
        key = made.credential_data.public_key
        _require_sound(key)
        encoded = cbor.encode(dict(key))
        return Registration(made.credential_data.credential_id, encoded, made.counter, made.is_backup_eligible())
    except _MALFORMED as error:
        raise ProofInvalidError(detail=f"malformed registration: {type(error).__name__} {error}") from error


def check(
    site: Site, *, key: bytes, challenge: bytes, client_data: str, authenticator_data: str, signature: str
) -> int:
    """Verify an assertion (`navigator.credentials.get`) by this key; its signature counter. Texts are base64url.

    Raises:
        ProofInvalidError: it is malformed, for another site or challenge, without user verification, or not signed
            by this key.
    """
    from fido2 import cbor  # noqa: PLC0415 - see above
    from fido2.cose import CoseKey  # noqa: PLC0415 - see above
    from fido2.webauthn import AuthenticatorData  # noqa: PLC0415 - see above

    try:
        client = _client(site, decode(client_data), "webauthn.get", challenge)
        data = AuthenticatorData(decode(authenticator_data))
        _flags(site, data)
        public = CoseKey.parse(cast("Mapping[int, object]", cbor.decode(key)))
        _require_sound(public)
        public.verify(data + client.hash, decode(signature))
    except InvalidSignature as error:
        raise ProofInvalidError(detail="the assertion is not signed by this passkey") from error
    except _MALFORMED as error:
        raise ProofInvalidError(detail=f"malformed assertion: {type(error).__name__} {error}") from error
    return data.counter


def _client(site: Site, raw: bytes, kind: str, challenge: bytes) -> CollectedClientData:
    """What the browser says it did: this kind of ceremony, here, for this challenge, and not inside another page."""
    from fido2.webauthn import CollectedClientData  # noqa: PLC0415 - see above

    client = CollectedClientData(raw)
    if client.type != kind:
        raise ProofInvalidError(detail=f"client data of type {client.type!r}")
    if client.challenge != challenge:
        raise ProofInvalidError(detail="made for another challenge")
    if client.origin != site.origin:
        raise ProofInvalidError(detail=f"made on {client.origin!r}")
    if client.cross_origin is not False or "topOrigin" in client._data:  # noqa: SLF001 - fido2 has no other way
        raise ProofInvalidError(detail="made inside a page of another origin")
    return client


def _flags(site: Site, data: AuthenticatorData) -> None:
    if data.rp_id_hash != site.domain_hash:
        raise ProofInvalidError(detail="made for another domain")
    if not data.is_user_present() or not data.is_user_verified():
        raise ProofInvalidError(detail="the device did not verify its user")


def _require_sound(key: CoseKey) -> None:
    """One of our algorithms, with a key that belongs to it."""
    algorithm = key.get(3)
    sound = algorithm in ALGORITHMS and (
        (algorithm == -7 and key.get(-1) == _P256)  # noqa: PLR2004 - COSE numbers, named above
        or (algorithm == -8 and key.get(-1) == _EDWARDS)  # noqa: PLR2004
        or (algorithm == -257 and int.from_bytes(key[-1], "big").bit_length() >= _RSA_BITS)  # noqa: PLR2004
    )
    if not sound:
        raise ProofError(f"passkeys of COSE algorithm {algorithm} are not taken", reason=Code.FACTOR_UNSUITABLE)


def encode(raw: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Read base64url without padding, in its one spelling.

    Raises:
        ProofInvalidError: it is not.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProofInvalidError(detail="not base64url") from error
    if len(text) > _LONGEST or encode(raw) != text:
        raise ProofInvalidError(detail="too long, or not the one spelling of base64url")
    return raw
