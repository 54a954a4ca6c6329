"""A private key in a file: weaker than one in a token, for a copy of it signs as well as it does."""

from __future__ import annotations

import stat
from hashlib import sha256
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from guard.errors import ConfigError
from guard.factors.ecdsa import SIGNATURE_BYTES

_HALF = SIGNATURE_BYTES // 2


class FileKey:
    """A P-256 key from a PEM file."""

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        """Take a loaded key."""
        self._key = key

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read an unencrypted PEM file that its owner alone can read.

        Raises:
            ConfigError: it cannot be read, others can read it, or it is no P-256 key.
        """
        try:
            if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError("others can read this key; chmod 600 it, and think of who may have a copy", file=file)
            key = load_pem_private_key(file.read_bytes(), password=None)
        except OSError as error:
            raise ConfigError(f"cannot be read: {error}", file=file) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"not an unencrypted PEM private key: {error}", file=file) from error
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise ConfigError("not a key on the curve P-256", file=file)
        return cls(key)

    def sign(self, message: bytes) -> bytes:
        """ECDSA over SHA-256 of the message: r‖s."""
        der = self._key.sign(sha256(message).digest(), ECDSA(Prehashed(SHA256())))
        return b"".join(half.to_bytes(_HALF, "big") for half in decode_dss_signature(der))

    def public_spki(self) -> bytes:
        """The DER SubjectPublicKeyInfo."""
        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
