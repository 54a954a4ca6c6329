"""One private key in one PKCS#11 token: one session, one lock, never shared with a forked child.

Modules are known to crash when several threads use several sessions, so every call into the module
happens under the lock of its `TokenKey`, and a process makes only one. After a token was pulled,
its old handles stay dead even when it is back; `open` therefore reinitialises the module.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import (
    MultipleObjectsReturned,
    MultipleTokensReturned,
    NoSuchKey,
    NoSuchToken,
    PinExpired,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
    TokenNotPresent,
    TokenNotRecognised,
)
from pkcs11.types import SignMixin
from pkcs11.util.ec import encode_ec_public_key

from guard.errors import ConfigError, FactorUnavailableError

_PIN_ERRORS: Final = (PinExpired, PinIncorrect, PinInvalid, PinLenRange, PinLocked)
_AWAY: Final = (NoSuchToken, TokenNotPresent, TokenNotRecognised)


@dataclass(frozen=True, slots=True)
class KeyAttributes:
    """What the token says about a private key (PKCS#11 v2.40 §4.8, §4.9)."""

    local: bool
    never_extractable: bool
    always_sensitive: bool
    extractable: bool


class TokenKey:
    """A private EC key, found by the labels of token and key; every method blocks."""

    def __init__(self, *, module: Path, token: str, key: str, pin_file: Path) -> None:
        """Nothing is loaded until `open`."""
        self._module, self._token, self._label, self._pin_file = module, token, key, pin_file
        self._lock = threading.Lock()
        self._session: pkcs11.Session | None = None
        self._key: pkcs11.PrivateKey | None = None
        self._signing: SignMixin | None = None

    @property
    def ready(self) -> bool:
        """Whether a session is open, as far as is known."""
        return self._key is not None

    def open(self) -> None:
        """Load the module afresh, log in and find the key; does nothing while a session is open.

        Raises:
            ConfigError: no such module, a wrong PIN, or no such key: trying again would not help, and with a
                wrong PIN it would lock the token.
            FactorUnavailableError: the token is not there now.
        """
        with self._lock:
            if self._key is None:
                self._open()

    def sign(self, message: bytes) -> bytes:
        """ECDSA over SHA-256 of the message: r‖s. After a failure the session counts as lost; `open` again.

        Raises:
            FactorUnavailableError: no open session, or the token did not sign.
        """
        with self._lock:
            if self._signing is None:
                raise FactorUnavailableError(f"the token {self._token!r} is not open")
            try:
                # CKM_ECDSA signs what it is given, so the digest is computed here.
                return self._signing.sign(sha256(message).digest(), mechanism=Mechanism.ECDSA)
            except PKCS11Error as error:
                self._session = self._key = self._signing = None
                raise FactorUnavailableError(f"the token {self._token!r} did not sign", detail=_say(error)) from error

    def attributes(self) -> KeyAttributes:
        """What the token says about the key.

        Raises:
            FactorUnavailableError: no open session, or the token does not say.
        """
        with self._lock:
            key = self._key
            if key is None:
                raise FactorUnavailableError(f"the token {self._token!r} is not open")
            try:
                return KeyAttributes(
                    local=bool(key[Attribute.LOCAL]),
                    never_extractable=bool(key[Attribute.NEVER_EXTRACTABLE]),
                    always_sensitive=bool(key[Attribute.ALWAYS_SENSITIVE]),
                    extractable=bool(key[Attribute.EXTRACTABLE]),
                )
            except PKCS11Error as error:
                raise FactorUnavailableError("the token does not describe the key", detail=_say(error)) from error

    def public_spki(self) -> bytes:
        """The DER SubjectPublicKeyInfo of the public key with the same label.

        Raises:
            ConfigError: the token has no such public key, or more than one.
            FactorUnavailableError: no open session.
        """
        with self._lock:
            if self._session is None:
                raise FactorUnavailableError(f"the token {self._token!r} is not open")
            try:
                found = self._session.get_key(ObjectClass.PUBLIC_KEY, KeyType.EC, self._label)
                assert isinstance(found, pkcs11.PublicKey)
                return encode_ec_public_key(found)
            except NoSuchKey as error:
                raise ConfigError(f"the token has no EC public key {self._label!r}") from error
            except MultipleObjectsReturned as error:
                raise ConfigError(f"the token has several public keys {self._label!r}") from error
            except PKCS11Error as error:
                raise FactorUnavailableError("the token gave no public key", detail=_say(error)) from error

    def close(self) -> None:
        """Log out, as far as the token still listens."""
        with self._lock:
            session, self._session, self._key, self._signing = self._session, None, None, None
            if session is not None:
                try:
                    session.close()
                except PKCS11Error:
                    return

    def _open(self) -> None:
        pin = self._pin()
        try:
            library = pkcs11.lib(str(self._module))
        except PKCS11Error as error:
            raise ConfigError(f"the PKCS#11 module {self._module} cannot be used: {_say(error)}") from error
        try:
            library.reinitialize()
            token = library.get_token(token_label=self._token)
            session = token.open(user_pin=pin)
        except _AWAY as error:
            raise FactorUnavailableError(f"there is no token {self._token!r} at this moment") from error
        except _PIN_ERRORS as error:
            raise ConfigError(
                f"the token {self._token!r} refuses the PIN in {self._pin_file} ({_say(error)})"
            ) from error
        except MultipleTokensReturned as error:
            raise ConfigError(f"there are several tokens {self._token!r}") from error
        except PKCS11Error as error:
            raise FactorUnavailableError(f"the token {self._token!r} does not open", detail=_say(error)) from error
        try:
            found = session.get_key(ObjectClass.PRIVATE_KEY, KeyType.EC, self._label)
        except (NoSuchKey, MultipleObjectsReturned) as error:
            how = "no" if isinstance(error, NoSuchKey) else "several"
            raise ConfigError(f"the token {self._token!r} has {how} EC private key {self._label!r}") from error
        except PKCS11Error as error:
            raise FactorUnavailableError(f"the token {self._token!r} does not answer", detail=_say(error)) from error
        if not isinstance(found, pkcs11.PrivateKey) or not isinstance(found, SignMixin):
            raise ConfigError(f"the key {self._label!r} may not sign (CKA_SIGN is false)")
        self._session, self._key, self._signing = session, found, found

    def _pin(self) -> str:
        try:
            pin = self._pin_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the PIN file cannot be read: {error}", file=self._pin_file) from error
        if not pin or not pin[0]:
            raise ConfigError("the PIN file is empty; its first line must be the PIN", file=self._pin_file)
        return pin[0]


def _say(error: PKCS11Error) -> str:
    """The name of the return value, for PKCS#11 errors carry no text of their own."""
    return f"{type(error).__name__}{f': {error}' if str(error) else ''}"
