"""A passkey device in software: makes and uses P-256 passkeys, and can be told to do each thing wrongly."""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from fido2 import cbor
from fido2.cose import ES256

from guard.factors.webauthn import encode

ORIGIN = "http://localhost:7001"
DOMAIN = "localhost"


@dataclass
class Device:
    """One passkey; `counter` None is a synced one that never counts."""

    counter: int | None = None
    credential: bytes = field(default_factory=lambda: secrets.token_bytes(16))

    def __post_init__(self) -> None:
        self.key = generate_private_key(SECP256R1())

    def create(self, asked: Mapping[str, Any], **wrong: Any) -> dict[str, str]:  # noqa: ANN401 - each test its own mistake
        """Answer `navigator.credentials.create`."""
        cose = wrong["cose"] if "cose" in wrong else dict(ES256.from_cryptography_key(self.key.public_key()))
        credential = b"\0" * 16 + struct.pack(">H", len(self.credential)) + self.credential + cbor.encode(cose)
        data = self._data(wrong, flags=0x45 if not wrong.get("unverified") else 0x41, more=credential)
        made = cbor.encode({"fmt": "none", "authData": data, "attStmt": {}})
        client = self._client(asked["publicKey"]["challenge"], wrong, "webauthn.create")
        return {"once": asked["once"], "client_data": encode(client), "attestation": encode(made)}

    def get(self, asked: Mapping[str, Any], **wrong: Any) -> dict[str, str]:  # noqa: ANN401 - each test its own mistake
        """Answer `navigator.credentials.get`; `wrong` says what to do otherwise than asked."""
        if self.counter is not None:
            self.counter += 1
        flags = wrong.get("flags", 0x05)
        data = self._data(wrong, flags=flags)
        client = self._client(wrong.get("challenge", asked["publicKey"]["challenge"]), wrong, "webauthn.get")
        key = wrong.get("key", self.key)
        signature = key.sign(data + hashlib.sha256(client).digest(), ECDSA(SHA256()))
        return {
            "once": wrong.get("once", asked["once"]),
            "credential": encode(wrong.get("credential", self.credential)),
            "client_data": encode(client),
            "authenticator_data": encode(data),
            "signature": encode(wrong.get("signature", signature)),
        }

    def _data(self, wrong: Mapping[str, Any], *, flags: int, more: bytes = b"") -> bytes:
        domain = hashlib.sha256(wrong.get("domain", DOMAIN).encode()).digest()
        return domain + struct.pack(">BI", flags, wrong.get("counter", self.counter or 0)) + more

    @staticmethod
    def _client(challenge: str, wrong: Mapping[str, Any], kind: str) -> bytes:
        said = {
            "type": wrong.get("type", kind),
            "challenge": challenge,
            "origin": wrong.get("origin", ORIGIN),
            "crossOrigin": wrong.get("cross_origin", False),
            **wrong.get("client", {}),
        }
        return json.dumps(said).encode()
