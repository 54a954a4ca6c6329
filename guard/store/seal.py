"""The key ring of one deployment: what is sealed at rest, and the key of keyed digests.

Keys are 32 random bytes each, in files of `state/keys/` that only the guard's own user may read. They are
made on first use; when two processes start at once, both end up with the same keys.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guard.errors import ConfigError, StoreUnavailableError

KEY_BYTES: Final = 32
_VERSION: Final = b"\x01"  # AES-256-GCM, 12 byte random nonce, 16 byte tag at the end
_NONCE_BYTES: Final = 12
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Keyring:
    """Seals small secrets (AES-256-GCM) and holds the key of keyed digests.

    A sealed text is one version byte, a 12-byte nonce, the ciphertext and a 16-byte tag. The associated
    data names the row a text belongs to, so that a sealed text moved to another row does not open.
    """

    __slots__ = ("_aead", "digest_key")

    digest_key: bytes
    """32 bytes for HMAC-SHA256 over values that records must not show."""

    def __init__(self, *, seal_key: bytes, digest_key: bytes) -> None:
        """Take two independent keys of 32 bytes.

        Raises:
            ValueError: a key has another length.
        """
        if len(seal_key) != KEY_BYTES or len(digest_key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self._aead = AESGCM(seal_key)
        self.digest_key = digest_key

    @classmethod
    def open(cls, state: Path) -> Self:
        """Read the keys below `state`, making what is missing (directories 0700, files 0600).

        Raises:
            ConfigError: somebody else could read or exchange a key, or a file is not a key.
            StoreUnavailableError: the directory cannot be read or written.
        """
        folder = state / "keys"
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            _require_private(folder, folder.stat(), "directory", "0700")
            return cls(seal_key=_key(folder / "seal.key"), digest_key=_key(folder / "digest.key"))
        except OSError as error:
            raise StoreUnavailableError(f"the keys in {folder} cannot be read", detail=str(error)) from error

    def seal(self, plain: bytes, aad: bytes) -> bytes:
        """Encrypt and authenticate; the same text never seals to the same bytes twice."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._aead.encrypt(nonce, plain, aad)

    def unseal(self, sealed: bytes, aad: bytes) -> bytes:
        """What was sealed with the same associated data.

        Raises:
            StoreUnavailableError: another key, other associated data, changed bytes, or an unknown version.
        """
        start = len(_VERSION) + _NONCE_BYTES
        if sealed[: len(_VERSION)] != _VERSION:
            raise StoreUnavailableError(detail="a sealed value has an unknown version")
        try:
            return self._aead.decrypt(sealed[len(_VERSION) : start], sealed[start:], aad)
        except (InvalidTag, ValueError) as error:  # ValueError: too short to hold a nonce and a tag
            raise StoreUnavailableError(detail="a sealed value does not open with this key ring") from error


def _key(file: Path) -> bytes:
    """Read a key file, or make it; whoever links it first decides for everybody."""
    if not file.exists():
        _make(file)
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as source:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError("a key must be a regular file", file=file)
        _require_private(file, status, "key", "0600")
        key = source.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise ConfigError(f"expected exactly {KEY_BYTES} bytes of key; restore it from a backup", file=file)
    return key


def _make(file: Path) -> None:
    """Write a complete key beside its place and link it in: a reader never sees half of it."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as target:
            target.write(secrets.token_bytes(KEY_BYTES))
            target.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was first: its key counts
            os.link(draft, file)
    finally:
        draft.unlink(missing_ok=True)
    _sync_directory(file.parent)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_private(path: Path, status: os.stat_result, noun: str, mode: str) -> None:
    if status.st_mode & _OTHERS:
        raise ConfigError(
            f"other users may read this {noun}: chmod {mode} it, and exchange what it protected", file=path
        )
    if status.st_uid not in {os.geteuid(), 0}:
        raise ConfigError(
            f"this {noun} belongs to another user; run the guard as its owner (uid {status.st_uid})", file=path
        )
